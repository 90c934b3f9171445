//! Rotary frequencies with the scalings in use, and their tables for given positions.

use burn::prelude::*;
use dtr_attention::Positions;
use serde_json::Value;

use crate::error::ConfigError;

/// How long contexts stretch the frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f32,
    },
    /// Low frequencies divided, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f32,
        /// Wavelengths longer than `original / low` are stretched in full.
        low: f32,
        /// Wavelengths shorter than `original / high` are kept.
        high: f32,
        /// Context the model was first trained with.
        original: f32,
    },
}

/// Rotary position embedding of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f32,
    /// Stretch for long contexts.
    pub scaling: RopeScaling,
}

/// Cosines and sines by position, `[B or 1, 1, T, D / 2]`.
#[derive(Debug, Clone)]
pub struct Rotary<B: Backend> {
    /// Cosines.
    pub cos: Tensor<B, 4>,
    /// Sines.
    pub sin: Tensor<B, 4>,
}

impl Rope {
    /// Reads `rope_parameters` (or the older `rope_theta` and `rope_scaling`).
    ///
    /// # Errors
    /// For a type other than `default`, `linear` and `llama3`, and for missing numbers.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        let parameters =
            [&config["rope_parameters"], &config["rope_scaling"]].into_iter().find(|value| value.is_object()).unwrap_or(&Value::Null);
        let number = |key: &'static str| {
            let value = if parameters[key].is_null() { &config[key] } else { &parameters[key] };
            value.as_f64().map(|value| value as f32).ok_or(ConfigError::Missing { key, expected: "a number in rope_parameters" })
        };
        let theta = number("rope_theta")?;
        let kind = parameters["rope_type"].as_str().or(parameters["type"].as_str()).unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: number("original_max_position_embeddings")?,
            },
            other => {
                return Err(ConfigError::Unsupported {
                    key: "rope_type".into(),
                    found: format!("\"{other}\""),
                    expected: "default, linear, llama3".into(),
                });
            }
        };
        match parameters["partial_rotary_factor"].as_f64().or(config["partial_rotary_factor"].as_f64()) {
            None => Ok(Self { theta, scaling }),
            Some(factor) if (factor - 1.0).abs() < f64::EPSILON => Ok(Self { theta, scaling }),
            Some(factor) => {
                Err(ConfigError::Unsupported { key: "partial_rotary_factor".into(), found: factor.to_string(), expected: "1".into() })
            }
        }
    }

    /// Radians a position, one for each pair of coordinates. In f32, as transformers computes them.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| 1.0 / self.theta.powf((2 * i) as f32 / head_dim as f32));
        plain
            .map(|frequency| match self.scaling {
                RopeScaling::Default => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 { factor, low, high, original } => {
                    let wavelength = 2.0 * std::f32::consts::PI / frequency;
                    let kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            })
            .collect()
    }

    /// The tables for these positions.
    pub fn tables<B: Backend>(&self, head_dim: usize, positions: &Positions, device: &B::Device) -> Rotary<B> {
        let frequencies = Tensor::<B, 1>::from_floats(self.frequencies(head_dim).as_slice(), device);
        let angles = positions.values::<B>(device).unsqueeze_dims::<4>(&[1, 3]) * frequencies.unsqueeze::<4>();
        Rotary { cos: angles.clone().cos(), sin: angles.sin() }
    }
}
