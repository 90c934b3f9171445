//! Why a model cannot be exported: what stands in the way, where, and what would be lost.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::Format;
use crate::config::DecoderConfig;
use crate::error::CheckpointError;
use crate::mixer::MixerConfig;

/// Why a format has no exact form of a model.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Refusal {
    /// Layers concerned; empty where it is the whole model.
    pub layers: Vec<usize>,
    /// The setting, as configurations spell it.
    pub setting: String,
    /// What the format lacks, and so what would be lost.
    pub reason: String,
}

impl Refusal {
    /// A setting of the whole model.
    pub(super) fn model(setting: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { layers: Vec::new(), setting: setting.into(), reason: reason.into() }
    }

    /// Refuses the layers for whose mixers `reason` has one; the first reason, and all layers it holds for.
    pub(super) fn of_layers(config: &DecoderConfig, reason: impl Fn(&MixerConfig) -> Option<String>) -> Result<(), Self> {
        let reasons: Vec<Option<String>> = config.mixers.iter().map(reason).collect();
        let Some(first) = reasons.iter().position(Option::is_some) else { return Ok(()) };
        let same = |&layer: &usize| reasons[layer] == reasons[first] && config.mixers[layer] == config.mixers[first];
        let layers = (first..config.layers()).filter(same).collect();
        let setting = config.mixers[first].to_string();
        Err(Self { layers, setting, reason: reasons[first].clone().unwrap_or_default() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, setting, reason } = self;
        let numbers = layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        match layers.len() {
            0 => write!(f, "{setting}: {reason}"),
            1 => write!(f, "layer {numbers} is {setting}: {reason}"),
            _ => write!(f, "layers {numbers} are {setting}: {reason}"),
        }
    }
}

/// An export that did not happen.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A name that is no format's.
    #[error("there is no format \"{found}\"; expected one of: {}", Format::ALL.map(Format::name).join(", "))]
    Unknown {
        /// The name.
        found: String,
    },
    /// The format has no exact form of the model.
    #[error("the model has no exact form as {}: {refusal}", format.name())]
    Refused {
        /// The format.
        format: Format,
        /// Why not.
        refusal: Refusal,
    },
    /// There are files where the export is to stand.
    #[error("{} exists and is not an empty directory; name one that is not there yet, nothing is overwritten", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The model cannot be read, or the directory not written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
