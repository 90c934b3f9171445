//! Hugging Face directories in and out: every tensor accounted for, files complete or absent.

mod atomic;
pub(crate) mod names;
mod read;
mod write;

use std::path::Path;

use burn::prelude::*;
use serde_json::Value;

use crate::config::{DecoderConfig, Head};
use crate::decoder::Decoder;
use crate::error::CheckpointError;

pub use atomic::write as write_file;
pub use read::load_module;
pub use write::save_module;

/// Weights of one model.
const WEIGHTS: &str = "model.safetensors";
/// List of shards and which tensor lies where.
const INDEX: &str = "model.safetensors.index.json";
/// Files that travel unchanged from a parent to what is made of it.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
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
    let path = directory.join("config.json");
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
    let config = load_config(directory)?;
    let model = Decoder::new(&config, device);
    let (files, shown) = weight_files(directory)?;
    let ignored = |name: &str| config.naming.ignores(name) || (config.head == Head::Tied && name == "lm_head.weight");
    let model = read::load(model, config.naming, &files, &shown, ignored, device)?;
    Ok((config, model))
}

/// Writes `model` into `directory`, with the companions (tokenizer and the like) of the model in `parent`.
///
/// # Errors
/// If a file cannot be read or written.
pub fn save<B: Backend>(directory: &Path, config: &DecoderConfig, model: &Decoder<B>, parent: &Path) -> Result<(), CheckpointError> {
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
    write::save(&directory.join(WEIGHTS), model, config.naming)?;
    // Last, so that a directory with a configuration is a complete one.
    atomic::write(&directory.join("config.json"), format!("{:#}\n", config.to_json()).as_bytes())
}

/// The weight files of a model, and the path that names them in errors.
fn weight_files(directory: &Path) -> Result<(Vec<std::path::PathBuf>, std::path::PathBuf), CheckpointError> {
    let index = directory.join(INDEX);
    if !index.exists() {
        let single = directory.join(WEIGHTS);
        return Ok((vec![single.clone()], single));
    }
    let text = read_text(&index)?;
    let damaged = |reason: String| CheckpointError::Damaged { path: index.clone(), reason };
    let json: Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| damaged("it has no weight_map".into()))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    Ok((names.into_iter().map(|name| directory.join(name)).collect(), index))
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    std::fs::read_to_string(path).map_err(|source| CheckpointError::Io { action: "read", path: path.into(), source })
}
