//! How an encoder makes one vector of a text, as `modules.json` of sentence-transformers says: mean or first token, length 1 or as it is.

use std::path::Path;

use burn::prelude::*;
use serde_json::Value;

use crate::error::{CheckpointError, ConfigError};

/// Which hidden states stand for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summary {
    /// The mean over its tokens.
    Mean,
    /// The first token's.
    First,
}

/// From hidden states to the vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooling {
    /// Which states stand for it.
    pub summary: Summary,
    /// Whether it is brought to length 1.
    pub normalise: bool,
    /// Tokens of a text that are read, those around it included; `None`: as many as the model has positions for.
    pub tokens: Option<usize>,
}

/// Keeps the quotient finite where a vector is 0, as in `PyTorch`.
const EPS: f64 = 1e-12;

impl Pooling {
    /// What the model in `directory` says; the mean as it is, if it says nothing.
    ///
    /// # Errors
    /// If a file cannot be read, or asks for what is not known here.
    pub fn load(directory: &Path) -> Result<Self, CheckpointError> {
        let mut pooling = Self { summary: Summary::Mean, normalise: false, tokens: None };
        let Some((path, modules)) = json(&directory.join("modules.json"))? else { return Ok(pooling) };
        let wrong = |path: &Path, key: &str, found: &Value, expected: &str| CheckpointError::Config {
            path: path.into(),
            source: ConfigError::Unsupported { key: key.into(), found: found.to_string(), expected: expected.into() },
        };
        let known = "a list of modules Transformer, Pooling, Normalize";
        for module in modules.as_array().ok_or_else(|| wrong(&path, "modules", &modules, known))? {
            match module["type"].as_str().and_then(|name| name.rsplit('.').next()) {
                Some("Transformer") => {
                    if let Some((_, settings)) = json(&directory.join("sentence_bert_config.json"))? {
                        pooling.tokens = settings["max_seq_length"].as_u64().map(|tokens| tokens as usize);
                    }
                }
                Some("Pooling") => {
                    let folder = module["path"].as_str().unwrap_or("1_Pooling");
                    let path = directory.join(Path::new(folder).file_name().unwrap_or_default()).join("config.json");
                    if let Some((path, settings)) = json(&path)? {
                        pooling.summary = summary(&settings).ok_or_else(|| {
                            wrong(&path, "pooling_mode", &settings, "pooling_mode_mean_tokens or pooling_mode_cls_token alone")
                        })?;
                    }
                }
                Some("Normalize") => pooling.normalise = true,
                _ => return Err(wrong(&path, "type", &module["type"], known)),
            }
        }
        Ok(pooling)
    }

    /// Hidden states of texts to their vectors. `tokens [B, T]` is 1 for tokens and 0 for padding, `None` without padding.
    ///
    /// # Shapes
    /// `x [B, T, N]` -> `[B, N]`.
    pub fn pool<B: Backend>(&self, x: Tensor<B, 3>, tokens: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
        let pooled: Tensor<B, 2> = match (self.summary, tokens) {
            (Summary::Mean, None) => x.mean_dim(1).squeeze_dim(1),
            (Summary::Mean, Some(tokens)) => {
                let count = tokens.clone().sum_dim(1);
                (x * tokens.unsqueeze_dim(2)).sum_dim(1).squeeze_dim::<2>(1) / count
            }
            (Summary::First, None) => x.narrow(1, 0, 1).squeeze_dim(1),
            (Summary::First, Some(tokens)) => {
                let [batch, _, width] = x.dims();
                x.gather(1, tokens.argmax(1).unsqueeze_dim::<3>(2).expand([batch, 1, width])).squeeze_dim(1)
            }
        };
        if !self.normalise {
            return pooled;
        }
        let length = pooled.clone().square().sum_dim(1).sqrt().clamp_min(EPS);
        pooled / length
    }
}

/// The one pooling mode that is switched on; `None` if it is another, or several are.
fn summary(settings: &Value) -> Option<Summary> {
    let modes = settings.as_object()?.iter().filter(|(name, value)| name.starts_with("pooling_mode_") && value.as_bool() == Some(true));
    match modes.map(|(name, _)| name.as_str()).collect::<Vec<_>>()[..] {
        ["pooling_mode_mean_tokens"] => Some(Summary::Mean),
        ["pooling_mode_cls_token"] => Some(Summary::First),
        _ => None,
    }
}

/// What a file holds; nothing, if there is none.
fn json(path: &Path) -> Result<Option<(std::path::PathBuf, Value)>, CheckpointError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CheckpointError::Io { action: "read", path: path.into(), source }),
    };
    let value = serde_json::from_str(&text).map_err(|error| CheckpointError::Config { path: path.into(), source: error.into() })?;
    Ok(Some((path.into(), value)))
}
