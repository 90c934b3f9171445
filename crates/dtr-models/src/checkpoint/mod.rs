//! Hugging Face directories in and out: every tensor accounted for, files complete or absent.

mod atomic;
mod fit;
pub(crate) mod names;
mod numbers;
mod raw;
mod read;
mod source;
mod tensors;
mod write;

use std::path::Path;

use burn::prelude::*;
use burn::tensor::FloatDType;
use serde_json::Value;

use crate::config::{DecoderConfig, Head};
use crate::decoder::Decoder;
use crate::error::CheckpointError;

pub use atomic::write as write_file;
pub use fit::parameters;
pub(crate) use raw::{Raw, read_raw, write_raw};
pub use read::load_module;
pub use source::{Stored, has_weights, shards, stored};
pub use tensors::{HostTensor, Tensors};
pub use write::save_module;

/// What a model is.
pub const CONFIGURATION: &str = "config.json";
/// Its tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Weights of one model.
pub const WEIGHTS: &str = "model.safetensors";
/// List of shards and which tensor lies where.
pub const INDEX: &str = "model.safetensors.index.json";
/// Weights that only a program can read which runs what stands in them.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Files that travel unchanged from a parent to what is made of it.
pub const COMPANIONS: [&str; 10] = [
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Reads the configuration of the model in `directory`.
///
/// # Errors
/// If it cannot be read or cannot be honoured.
pub fn load_config(directory: &Path) -> Result<DecoderConfig, CheckpointError> {
    let path = directory.join(CONFIGURATION);
    let text = read_text(&path)?;
    let json: Value =
        serde_json::from_str(&text).map_err(|source| CheckpointError::Config { path: path.clone(), source: source.into() })?;
    DecoderConfig::from_json(&json).map_err(|source| CheckpointError::Config { path, source })
}

/// Reads the model in `directory`, a parent or a hybrid.
///
/// # Errors
/// If a file is missing or damaged, or if configuration and weights do not match exactly.
pub fn load<B: Backend>(directory: &Path, device: &B::Device) -> Result<(DecoderConfig, Decoder<B>), CheckpointError> {
    read_model(directory, None, device)
}

/// The same with weights in another element type; they are brought into it one by one.
///
/// # Errors
/// As [`load`].
pub fn load_in<B: Backend>(
    directory: &Path,
    dtype: FloatDType,
    device: &B::Device,
) -> Result<(DecoderConfig, Decoder<B>), CheckpointError> {
    read_model(directory, Some(dtype), device)
}

fn read_model<B: Backend>(
    directory: &Path,
    dtype: Option<FloatDType>,
    device: &B::Device,
) -> Result<(DecoderConfig, Decoder<B>), CheckpointError> {
    let config = load_config(directory)?;
    let (stock, shown) = source::of_model(directory)?;
    let model = Decoder::new(&config, device);
    let model = read::load(model, config.naming, stock, &shown, |name| ignored(&config, name), dtype, device)?;
    Ok((config, model))
}

/// Checks the model in `directory` as [`load`] does, without reading a weight.
///
/// # Errors
/// As [`load`].
pub fn check<B: Backend>(directory: &Path, device: &B::Device) -> Result<(), CheckpointError> {
    let config = load_config(directory)?;
    let (stock, shown) = source::of_model(directory)?;
    fit::require(&Decoder::<B>::new(&config, device), config.naming, &stock, &shown, |name| ignored(&config, name)).map(drop)
}

/// Tensors that some files hold and no model needs.
fn ignored(config: &DecoderConfig, name: &str) -> bool {
    config.naming.ignores(name) || (config.head == Head::Tied && name == "lm_head.weight")
}

/// The weights of `model` in host memory, under their names in files.
pub fn tensors<B: Backend>(config: &DecoderConfig, model: &Decoder<B>) -> Tensors {
    write::tensors(model, config.naming)
}

/// Writes `model` into `directory`, with the companions (tokenizer and the like) of the model in `parent`.
///
/// # Errors
/// If a file cannot be read or written.
pub fn save<B: Backend>(directory: &Path, config: &DecoderConfig, model: &Decoder<B>, parent: &Path) -> Result<(), CheckpointError> {
    write_directory(directory, &config.to_json(), &tensors(config, model), parent)
}

/// Writes a directory of this configuration and these weights, with the companions of the model in `parent`.
pub(crate) fn write_directory(directory: &Path, config: &Value, weights: &Tensors, parent: &Path) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(directory).map_err(|source| CheckpointError::Io { action: "create", path: directory.into(), source })?;
    for name in COMPANIONS {
        let path = parent.join(name);
        if path.exists() {
            let bytes = std::fs::read(&path).map_err(|source| CheckpointError::Io { action: "read", path, source })?;
            let target = directory.join(name);
            let folder = target.parent().unwrap_or(directory);
            std::fs::create_dir_all(folder).map_err(|source| CheckpointError::Io { action: "create", path: folder.into(), source })?;
            atomic::write(&target, &bytes)?;
        }
    }
    write::write(&directory.join(WEIGHTS), weights)?;
    // Last, so that a directory with a configuration is a complete one.
    atomic::write(&directory.join(CONFIGURATION), format!("{config:#}\n").as_bytes())
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    std::fs::read_to_string(path).map_err(|source| CheckpointError::Io { action: "read", path: path.into(), source })
}
