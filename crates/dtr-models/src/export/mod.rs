//! Models as directories that stock runtimes load, where an exact form exists.
//!
//! A format is one file with two functions: `check` refuses what it has no exact form for, from the configuration alone; `convert` maps our
//! names and weights to its own. Weights are written in `f32`: the published norms multiply by `1 + w`, and `w - 1` keeps the digits of
//! `w` in `f32`, not in `bf16`.

mod error;
mod fla;
mod granite_hybrid;
mod parent;
mod qwen3_5;
mod qwen3_next;

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use burn::prelude::*;
use serde_json::Value;

pub use error::{ExportError, Refusal};

use crate::checkpoint::{self, Tensors};
use crate::config::{DecoderConfig, Head};
use crate::error::CheckpointError;

/// What a stock runtime knows how to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The parent's own family.
    Parent,
    /// `Qwen3_5ForCausalLM` of transformers, dense.
    Qwen35,
    /// `Qwen3NextForCausalLM` of transformers, with dense layers only.
    Qwen3Next,
    /// `GraniteMoeHybridForCausalLM` of transformers, without experts.
    GraniteHybrid,
    /// `GatedDeltaNetForCausalLM` of flash-linear-attention.
    Fla,
}

/// Parents with the block that all formats but their own assume: RMS norms in front, rotary positions, a gated MLP. Others are to be looked at first.
const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

impl Format {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Parent, Self::Qwen35, Self::Qwen3Next, Self::GraniteHybrid, Self::Fla];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Qwen35 => "qwen3-5",
            Self::Qwen3Next => "qwen3-next",
            Self::GraniteHybrid => "granite-hybrid",
            Self::Fla => "fla",
        }
    }

    /// What loads it.
    pub fn loader(self) -> &'static str {
        match self {
            Self::Parent => "whatever loads the parent",
            Self::Qwen35 | Self::Qwen3Next | Self::GraniteHybrid => "transformers 5, AutoModelForCausalLM (checked with 5.23)",
            Self::Fla => "transformers 5 after `import fla` (checked with flash-linear-attention 0.6)",
        }
    }

    /// Whether the format has an exact form of a model.
    ///
    /// # Errors
    /// With what it lacks, if not.
    pub fn check(self, config: &DecoderConfig) -> Result<(), Refusal> {
        let family = config.model_type.as_str();
        match self {
            Self::Parent => parent::check(config),
            _ if !FAMILIES.contains(&family) => {
                let reason = format!("the format has the block of {}, and another one has no exact form there", FAMILIES.join(", "));
                Err(Refusal::model(format!("model_type = {family}"), reason))
            }
            Self::Qwen35 => qwen3_5::check(config),
            Self::Qwen3Next => qwen3_next::check(config),
            Self::GraniteHybrid => granite_hybrid::check(config),
            Self::Fla => fla::check(config),
        }
    }

    /// `config.json` and weights of a model that [`Self::check`] accepts.
    fn convert(self, config: &DecoderConfig, weights: Tensors) -> (Value, Tensors) {
        match self {
            Self::Parent => parent::convert(config, weights),
            Self::Qwen35 => qwen3_5::convert(config, weights),
            Self::Qwen3Next => qwen3_next::convert(config, weights),
            Self::GraniteHybrid => granite_hybrid::convert(config, weights),
            Self::Fla => fla::convert(config, weights),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = ExportError;

    fn from_str(name: &str) -> Result<Self, ExportError> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| ExportError::Unknown { found: name.into() })
    }
}

/// Every format, and why it cannot hold the model if so.
pub fn possible(config: &DecoderConfig) -> Vec<(Format, Result<(), Refusal>)> {
    Format::ALL.into_iter().map(|format| (format, format.check(config))).collect()
}

/// Writes the model in `directory`, a parent or a hybrid, as `format` into `output`: all of it or nothing.
///
/// # Errors
/// If the format has no exact form of it, if there are files in `output`, or if something cannot be read or written.
pub fn export<B: Backend>(directory: &Path, format: Format, output: &Path, device: &B::Device) -> Result<(), ExportError> {
    let config = checkpoint::load_config(directory)?;
    format.check(&config).map_err(|refusal| ExportError::Refused { format, refusal })?;
    vacant(output)?;
    let weights = checkpoint::tensors(&config, &checkpoint::load::<B>(directory, device)?.1);
    let (json, weights) = format.convert(&config, weights);
    checkpoint::write_directory(output, &json, &weights, directory).map_err(|error| {
        // Nothing stood there before; the first error is the one to tell of.
        let _ = fs::remove_dir_all(output);
        error.into()
    })
}

/// Refuses a path with anything in it.
fn vacant(path: &Path) -> Result<(), ExportError> {
    let entries = fs::read_dir(path).map(|mut entries| entries.next().is_some());
    match entries {
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(true) => Err(ExportError::Occupied { path: path.into() }),
        Err(_) if path.is_file() => Err(ExportError::Occupied { path: path.into() }),
        Err(source) => Err(CheckpointError::Io { action: "look into", path: path.into(), source }.into()),
    }
}

/// The `config.json` of a format: what every family calls the same, from the parent's own, and the rest from `more`.
fn published(config: &DecoderConfig, more: Value) -> Value {
    let DecoderConfig { vocabulary, intermediate, head, ref attention, max_positions, .. } = *config;
    let parent = config.parent_json();
    let mut json = serde_json::json!({
        "vocab_size": vocabulary,
        "hidden_size": attention.hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": config.layers(),
        "hidden_act": "silu",
        "tie_word_embeddings": head == Head::Tied,
        "dtype": "float32",
        "use_cache": true,
    });
    if let Some(positions) = max_positions {
        json["max_position_embeddings"] = positions.into();
    }
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(token) = parent.get(key) {
            json[key] = token.clone();
        }
    }
    if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
        json.extend(more);
    }
    json
}

/// The parent's rotary settings as transformers writes them today, over the whole of a head.
fn rope_parameters(config: &DecoderConfig) -> Value {
    let parent = config.parent_json();
    let stored = [&parent["rope_parameters"], &parent["rope_scaling"]].into_iter().find_map(Value::as_object);
    let mut settings = stored.cloned().unwrap_or_default();
    let kind = settings.remove("type").unwrap_or_else(|| "default".into());
    settings.entry("rope_type").or_insert(kind);
    settings.entry("rope_theta").or_insert_with(|| parent["rope_theta"].clone());
    settings.insert("partial_rotary_factor".into(), 1.0.into());
    settings.into()
}
