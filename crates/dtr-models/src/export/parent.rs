//! The parent's own family, for models whose layers all kept its attention.

use serde_json::Value;

use super::Refusal;
use crate::checkpoint::Tensors;
use crate::config::DecoderConfig;
use crate::mixer::MixerConfig;

pub(super) fn check(config: &DecoderConfig) -> Result<(), Refusal> {
    Refusal::of_layers(config, |mixer| match mixer {
        MixerConfig::Softmax { .. } => None,
        _ => Some(format!("{} has nothing but its own attention", config.model_type)),
    })
}

/// The same names and numbers; the configuration says in which type they are written now.
pub(super) fn convert(config: &DecoderConfig, weights: Tensors) -> (Value, Tensors) {
    let mut json = config.parent_json().clone();
    for key in ["dtype", "torch_dtype"] {
        if json.get(key).is_some() {
            json[key] = "float32".into();
        }
    }
    (json, weights)
}
