//! Rotary frequencies with the scalings in use, and their tables for given positions.

use burn::prelude::*;
use dtr_attention::Positions;
use serde_json::Value;

use crate::error::ConfigError;

/// Base of the frequencies where a configuration names none, as in the first Llama.
const THETA: f64 = 10_000.0;

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
    /// The base grows with the tokens of a row, once they are more than the model was trained with.
    ///
    /// `theta' = theta (factor n / original - factor + 1)^(D / (D - 2))`. A key keeps the angle it was written with, so beyond
    /// `original` a sequence that is read token by token is not what it is when read at once.
    Dynamic {
        /// Stretch.
        factor: f32,
        /// Context the model was trained with.
        original: usize,
    },
    /// Low frequencies divided, high ones kept, a ramp over the coordinates between; cosines and sines scaled. arXiv 2309.00071.
    Yarn(Yarn),
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

/// Settings of `YaRN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// Stretch of the low frequencies.
    pub factor: f64,
    /// Context the model was first trained with.
    pub original: f64,
    /// Coordinates that turn more often than this in `original` tokens are kept.
    pub fast: f64,
    /// Coordinates that turn less often than this are stretched in full.
    pub slow: f64,
    /// Whether the ends of the ramp are whole coordinates.
    pub truncate: bool,
    /// Factor of cosines and sines, and so the root of a factor of all scores.
    pub attention: f32,
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
    /// For other types than those of [`RopeScaling`], for missing numbers, and for parameters by layer type, which no family here has.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        let parameters = Parameters::of(config)?;
        let theta = parameters.number("rope_theta")?.unwrap_or(THETA) as f32;
        let scaling = match parameters.kind() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: parameters.required("factor")? as f32 },
            "dynamic" => RopeScaling::Dynamic {
                factor: parameters.required("factor")? as f32,
                // What the key of this name says elsewhere is the context itself here.
                original: parameters.required("max_position_embeddings")? as usize,
            },
            "yarn" => RopeScaling::Yarn(Yarn::from_parameters(&parameters)?),
            "llama3" => RopeScaling::Llama3 {
                factor: parameters.required("factor")? as f32,
                low: parameters.required("low_freq_factor")? as f32,
                high: parameters.required("high_freq_factor")? as f32,
                original: parameters.original()? as f32,
            },
            other => {
                return Err(ConfigError::Unsupported {
                    key: "rope_type".into(),
                    found: format!("\"{other}\""),
                    expected: "default, linear, dynamic, yarn, llama3".into(),
                });
            }
        };
        match parameters.number("partial_rotary_factor")? {
            Some(factor) if (factor - 1.0).abs() > f64::EPSILON => {
                Err(ConfigError::Unsupported { key: "partial_rotary_factor".into(), found: factor.to_string(), expected: "1".into() })
            }
            _ => Ok(Self { theta, scaling }),
        }
    }

    /// Radians a position, one for each pair of coordinates, in a row of `length` tokens. In f32, as transformers computes them.
    pub fn frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let width = head_dim as f32;
        let series = |theta: f32| (0..head_dim / 2).map(move |i| 1.0 / theta.powf((2 * i) as f32 / width));
        let plain = series(self.theta);
        match &self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Dynamic { original, .. } if length <= *original => plain.collect(),
            RopeScaling::Dynamic { factor, original } => {
                let stretch = factor * length as f32 / *original as f32 - (factor - 1.0);
                series(self.theta * stretch.powf(width / (width - 2.0))).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.ramp(head_dim, f64::from(self.theta));
                let stretched = |i: usize| ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                plain.enumerate().map(|(i, f)| f / yarn.factor as f32 * stretched(i) + f * (1.0 - stretched(i))).collect()
            }
            RopeScaling::Llama3 { factor, low, high, original } => plain
                .map(|frequency| {
                    let wavelength = 2.0 * std::f32::consts::PI / frequency;
                    let kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                })
                .collect(),
        }
    }

    /// Whether the keys of a sequence of so many tokens have the same angles however it is cut into pieces.
    pub fn reads_in_pieces(&self, length: usize) -> bool {
        !matches!(self.scaling, RopeScaling::Dynamic { original, .. } if length > original)
    }

    /// The tables for these positions. By `dynamic`, a row's own tokens alone decide, so that it does not depend on its neighbours.
    pub fn tables<B: Backend>(&self, head_dim: usize, positions: &Positions, device: &B::Device) -> Rotary<B> {
        let rows = if matches!(self.scaling, RopeScaling::Dynamic { .. }) { positions.rows() } else { 1 };
        let frequencies: Vec<f32> = (0..rows).flat_map(|row| self.frequencies(head_dim, positions.end(row))).collect();
        let frequencies = Tensor::<B, 1>::from_floats(frequencies.as_slice(), device).reshape([rows, 1, 1, head_dim / 2]);
        let angles = positions.values::<B>(device).unsqueeze_dims::<4>(&[1, 3]) * frequencies;
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        match &self.scaling {
            RopeScaling::Yarn(yarn) => Rotary { cos: cos * yarn.attention, sin: sin * yarn.attention },
            _ => Rotary { cos, sin },
        }
    }
}

impl Yarn {
    fn from_parameters(parameters: &Parameters) -> Result<Self, ConfigError> {
        let factor = parameters.required("factor")?;
        let size = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let attention = match (parameters.number("mscale")?, parameters.number("mscale_all_dim")?) {
            (Some(mscale), Some(all)) => size(mscale) / size(all),
            _ => size(1.0),
        };
        Ok(Self {
            factor,
            original: parameters.original()?,
            fast: parameters.number("beta_fast")?.unwrap_or(32.0),
            slow: parameters.number("beta_slow")?.unwrap_or(1.0),
            truncate: parameters.values["truncate"].as_bool().unwrap_or(true),
            attention: parameters.number("attention_factor")?.unwrap_or(attention) as f32,
        })
    }

    /// Coordinates between which frequencies go from kept to stretched.
    fn ramp(&self, head_dim: usize, theta: f64) -> (f32, f32) {
        let width = head_dim as f64;
        let turning = |times: f64| width * (self.original / (times * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (turning(self.fast), turning(self.slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0) as f32, high.min(width - 1.0) as f32);
        // A ramp of no length would divide by zero; the same thousandth as in transformers.
        (low, if (high - low).abs() < f32::EPSILON { high + 0.001 } else { high })
    }
}

/// Where a configuration says what its rotary embedding is.
struct Parameters<'a> {
    values: &'a Value,
    config: &'a Value,
}

impl<'a> Parameters<'a> {
    fn of(config: &'a Value) -> Result<Self, ConfigError> {
        let found = ["rope_scaling", "rope_parameters"].into_iter().find(|key| config[*key].is_object());
        let values = found.map_or(&Value::Null, |key| &config[key]);
        if let Some((kind, _)) = values.as_object().and_then(|map| map.iter().find(|(_, value)| value.is_object())) {
            return Err(ConfigError::Unsupported {
                key: format!("rope_parameters.{kind}"),
                found: "a table of its own".into(),
                expected: "one set of parameters for all layers".into(),
            });
        }
        Ok(Self { values, config })
    }

    fn kind(&self) -> &'a str {
        self.values["rope_type"].as_str().or(self.values["type"].as_str()).unwrap_or("default")
    }

    /// A number in the parameters, or beside them.
    fn number(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        let value = [&self.values[key], &self.config[key]].into_iter().find(|value| !value.is_null());
        value.map_or(Ok(None), |value| match value.as_f64() {
            // Nought is what "not said" is in the published code, but no number there may be negative.
            Some(number) if number >= 0.0 => Ok((number > 0.0).then_some(number)),
            _ => Err(ConfigError::Unsupported {
                key: format!("rope_parameters.{key}"),
                found: value.to_string(),
                expected: "a number above 0".into(),
            }),
        })
    }

    fn required(&self, key: &'static str) -> Result<f64, ConfigError> {
        self.number(key)?.ok_or(ConfigError::Missing { key, expected: "a number above 0 in rope_parameters" })
    }

    /// The context of the first training; the whole context, where nothing else is said.
    fn original(&self) -> Result<f64, ConfigError> {
        const KEY: &str = "original_max_position_embeddings";
        if let (Some(inner), Some(outer)) = (self.values[KEY].as_f64(), self.config[KEY].as_f64())
            && (inner - outer).abs() > 0.0
        {
            return Err(ConfigError::Inconsistent { what: format!("{KEY} is {outer}, and {inner} in rope_parameters") });
        }
        self.number(KEY)?.map_or_else(|| self.required("max_position_embeddings"), Ok)
    }
}
