//! A model as data: what `config.json` says, family by family, in one set of fields.

mod layer_norm;

use serde_json::{Value, json};

use crate::checkpoint::names::Naming;
use crate::error::ConfigError;
use crate::mixer::MixerConfig;
use crate::rope::Rope;

/// Shape of an attention sublayer, the same for the parent's and for what stands in for it.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a family")]
pub struct AttentionShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, each shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether each query and key head is RMS-normalised.
    pub qk_norm: bool,
    /// Whether a token sees only itself and what stands before it. If not, every token sees all: an encoder.
    pub causal: bool,
    /// Epsilon of all norms.
    pub eps: f64,
}

/// What a block's norms divide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The root mean square.
    Rms,
    /// The standard deviation, about the mean, with a bias.
    Layer,
}

/// Where a block's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In front of each sublayer: `x + f(norm(x))`.
    Before,
    /// Behind the sum: `norm(x + f(x))`.
    After,
}

/// What stands between an MLP's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
    /// Exact GELU, no gate.
    Gelu,
    /// GELU by the hyperbolic tangent, no gate.
    GeluTanh,
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum PositionEmbedding {
    /// Queries and keys are turned.
    Rotary(Rope),
    /// A vector for each position is added to the embedding.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Row of position 0.
        offset: usize,
    },
}

/// What makes logits of the last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A matrix of its own.
    Own,
    /// The embedding.
    Tied,
    /// Nothing: an encoder, whose hidden states are pooled ([`crate::Pooling`]).
    Pooled,
    /// A matrix over the classes of a text, behind the pooler: an encoder that classifies. It is read at a text's first token.
    Classes,
}

/// What stands behind the matrix of an encoder's pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
}

/// A decoder or an encoder: every family is these fields over one block.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Hugging Face name of the family.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Inner width of the MLP.
    pub intermediate: usize,
    /// What stands in the middle of it.
    pub activation: Activation,
    /// Whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// Norms of the blocks.
    pub norm: NormKind,
    /// Where they stand. Where they stand in front, one more stands in front of the head.
    pub placement: Placement,
    /// Whether the sum of embeddings is normalised.
    pub embedding_norm: bool,
    /// What makes logits.
    pub head: Head,
    /// Pooler of an encoder: in front of the head where there is one, else carried for whoever reads the weights elsewhere.
    pub pooler: Option<Squash>,
    /// Names of the classes of a text, in the order of logits; none, if texts are not classified.
    pub classes: Vec<String>,
    /// Shape of the attention sublayers.
    pub attention: AttentionShape,
    /// How it knows where tokens stand.
    pub position: PositionEmbedding,
    /// Rows of a table of token types, of which the first is added to every token; `None` if the family has no types.
    pub token_types: Option<usize>,
    /// Longest context the parent was trained for, if stated.
    pub max_positions: Option<usize>,
    /// Mixer of each layer.
    pub mixers: Vec<MixerConfig>,
    /// Names in its files.
    pub(crate) naming: &'static Naming,
    /// The parent's own configuration, from which exports are written.
    source: Value,
}

/// What sets one family apart where its configuration does not say it.
struct Family {
    name: &'static str,
    qkv_bias: Option<bool>,
    output_bias: Option<bool>,
    qk_norm: bool,
    /// Whether a `sliding_window` holds without `use_sliding_window`.
    always_windowed: bool,
}

/// No product of two sizes below this overflows.
const LARGEST: u64 = 1 << 32;
/// Layers beyond this are a mistake that would only show when memory runs out.
const MOST_LAYERS: usize = 4096;
/// First layer with a window, where a configuration with windows does not say it: as in Qwen's own code.
const MAX_WINDOW_LAYERS: u64 = 28;

const FAMILIES: [Family; 4] = [
    Family { name: "llama", qkv_bias: None, output_bias: None, qk_norm: false, always_windowed: false },
    Family { name: "mistral", qkv_bias: Some(false), output_bias: Some(false), qk_norm: false, always_windowed: true },
    Family { name: "qwen2", qkv_bias: Some(true), output_bias: Some(false), qk_norm: false, always_windowed: false },
    Family { name: "qwen3", qkv_bias: None, output_bias: None, qk_norm: true, always_windowed: false },
];

impl DecoderConfig {
    /// Reads a `config.json`, the parent's own or one that [`Self::to_json`] wrote for a hybrid.
    ///
    /// # Errors
    /// For an unknown family, missing keys, and values that would have to be ignored.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        if let Some(hybrid) = config.get("dtr") {
            let mut parent = Self::from_json(&hybrid["parent"])?;
            let mixers: Vec<MixerConfig> = serde_json::from_value(hybrid["mixers"].clone())?;
            if mixers.len() != parent.layers() {
                return Err(ConfigError::Inconsistent { what: format!("{} mixers for {} layers", mixers.len(), parent.layers()) });
            }
            parent.mixers = mixers;
            return Ok(parent);
        }
        let found = config["model_type"].as_str().ok_or(ConfigError::Missing { key: "model_type", expected: "the family's name" })?;
        require(config, "quantization_config", "none", config["quantization_config"].is_null())?;
        if let Some(read) = layer_norm::read(found, config) {
            return read;
        }
        let family = FAMILIES.iter().find(|family| family.name == found).ok_or_else(|| ConfigError::Family {
            found: found.into(),
            expected: FAMILIES.map(|family| family.name).into_iter().chain(layer_norm::families()).collect::<Vec<_>>().join(", "),
        })?;
        require(config, "hidden_act", "silu", matches!(config["hidden_act"].as_str(), None | Some("silu" | "swish")))?;
        require(config, "pretraining_tp", "1", matches!(config["pretraining_tp"].as_u64(), None | Some(1)))?;
        let hidden = size(config, "hidden_size")?;
        let heads = size(config, "num_attention_heads")?;
        let layers = size(config, "num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(ConfigError::Unsupported {
                key: "num_hidden_layers".into(),
                found: layers.to_string(),
                expected: format!("at most {MOST_LAYERS}"),
            });
        }
        let kv_heads = optional_size(config, "num_key_value_heads")?.unwrap_or(heads);
        let attention = AttentionShape {
            hidden,
            heads,
            kv_heads,
            head_dim: optional_size(config, "head_dim")?.unwrap_or(hidden / heads),
            qkv_bias: family.qkv_bias.unwrap_or(flag(config, "attention_bias")),
            output_bias: family.output_bias.unwrap_or(flag(config, "attention_bias")),
            qk_norm: family.qk_norm,
            causal: true,
            eps: config["rms_norm_eps"].as_f64().ok_or(ConfigError::Missing { key: "rms_norm_eps", expected: "a number" })?,
        };
        if heads % kv_heads != 0 || !attention.head_dim.is_multiple_of(2) {
            return Err(ConfigError::Inconsistent {
                what: format!(
                    "{heads} query heads, {kv_heads} key/value heads of width {}; expected a multiple, and an even width",
                    attention.head_dim
                ),
            });
        }
        Ok(Self {
            model_type: found.into(),
            vocabulary: size(config, "vocab_size")?,
            intermediate: size(config, "intermediate_size")?,
            activation: Activation::SwiGlu,
            mlp_bias: flag(config, "mlp_bias"),
            norm: NormKind::Rms,
            placement: Placement::Before,
            embedding_norm: false,
            head: if flag(config, "tie_word_embeddings") { Head::Tied } else { Head::Own },
            pooler: None,
            classes: Vec::new(),
            attention,
            position: PositionEmbedding::Rotary(Rope::from_json(config)?),
            token_types: None,
            max_positions: optional_size(config, "max_position_embeddings")?,
            mixers: (0..layers)
                .map(|layer| Ok(MixerConfig::Softmax { window: window(config, family, layer)? }))
                .collect::<Result<_, ConfigError>>()?,
            naming: &Naming::LLAMA,
            source: config.clone(),
        })
    }

    /// The `config.json` of this model: the parent's own where every mixer is still the parent's,
    /// else one with a `dtr` section, which no other reader takes for the parent by mistake.
    pub fn to_json(&self) -> Value {
        if self.mixers.iter().all(|mixer| matches!(mixer, MixerConfig::Softmax { .. })) {
            return self.source.clone();
        }
        json!({
            "model_type": "dtr",
            "architectures": [match self.head {
                Head::Own | Head::Tied => "DtrForCausalLM",
                Head::Pooled => "DtrModel",
                Head::Classes => "DtrForSequenceClassification",
            }],
            "dtr": { "layout": self.layout(), "mixers": self.mixers, "parent": self.source },
        })
    }

    /// The parent's own `config.json`.
    pub fn parent_json(&self) -> &Value {
        &self.source
    }

    /// Tokens that end a text, if the configuration names any.
    pub fn end_tokens(&self) -> Vec<u32> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        match &self.source["eos_token_id"] {
            Value::Array(tokens) => tokens.iter().filter_map(token).collect(),
            value => token(value).into_iter().collect(),
        }
    }

    /// Whether every token sees all others. An encoder makes embeddings or classifies, and generates nothing.
    pub fn is_encoder(&self) -> bool {
        !self.attention.causal
    }

    /// Rotary positions, if these are what the model has.
    pub fn rope(&self) -> Option<&Rope> {
        match &self.position {
            PositionEmbedding::Rotary(rope) => Some(rope),
            PositionEmbedding::Learned { .. } => None,
        }
    }

    /// Positions there are vectors for; `None` where any position can be computed.
    pub fn position_limit(&self) -> Option<usize> {
        match self.position {
            PositionEmbedding::Rotary(_) => None,
            PositionEmbedding::Learned { rows, offset } => Some(rows - offset),
        }
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.mixers.len()
    }

    /// One letter a layer.
    pub fn layout(&self) -> String {
        self.mixers.iter().map(super::mixer::MixerConfig::letter).collect()
    }
}

fn size(config: &Value, key: &'static str) -> Result<usize, ConfigError> {
    optional_size(config, key)?.ok_or(ConfigError::Missing { key, expected: "a positive whole number" })
}

fn optional_size(config: &Value, key: &'static str) -> Result<Option<usize>, ConfigError> {
    match &config[key] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(number) if number > 0 && number < LARGEST => Ok(Some(number as usize)),
            _ => Err(ConfigError::Unsupported {
                key: key.into(),
                found: value.to_string(),
                expected: "a positive whole number below 2^32".into(),
            }),
        },
    }
}

fn flag(config: &Value, key: &str) -> bool {
    config[key].as_bool().unwrap_or(false)
}

/// Refuses a value that changes the computation in a way the block does not know.
fn require(config: &Value, key: &str, expected: &str, known: bool) -> Result<(), ConfigError> {
    if known {
        Ok(())
    } else {
        Err(ConfigError::Unsupported { key: key.into(), found: config[key].to_string(), expected: expected.into() })
    }
}

/// Sliding window of the parent's own attention in one layer.
fn window(config: &Value, family: &Family, layer: usize) -> Result<Option<usize>, ConfigError> {
    let Some(window) = optional_size(config, "sliding_window")? else { return Ok(None) };
    let switched = flag(config, "use_sliding_window");
    if let Some(types) = config["layer_types"].as_array() {
        return match types.get(layer).and_then(Value::as_str) {
            Some("full_attention") if !family.always_windowed => Ok(None),
            Some("sliding_attention") if family.always_windowed || switched => Ok(Some(window)),
            Some(found @ ("full_attention" | "sliding_attention")) => Err(ConfigError::Inconsistent {
                what: format!(
                    "layer_types[{layer}] is {found}, but with model_type {} {}",
                    family.name,
                    if family.always_windowed {
                        "a sliding_window holds in every layer"
                    } else {
                        "and without use_sliding_window none does"
                    }
                ),
            }),
            other => Err(ConfigError::Unsupported {
                key: format!("layer_types[{layer}]"),
                found: format!("{other:?}"),
                expected: "full_attention, sliding_attention".into(),
            }),
        };
    }
    let from = config["max_window_layers"].as_u64().unwrap_or(MAX_WINDOW_LAYERS) as usize;
    let windowed = family.always_windowed || (switched && layer >= from);
    Ok(windowed.then_some(window))
}
