//! Families with layer norms and learned positions: GPT-2, and the encoders BERT, `RoBERTa` and `DistilBERT`.

use serde_json::Value;

use super::{
    Activation, AttentionShape, DecoderConfig, Head, NormKind, Placement, PositionEmbedding, Squash, flag, optional_size, require, size,
};
use crate::checkpoint::names::Naming;
use crate::error::ConfigError;
use crate::mixer::MixerConfig;

/// An encoder where its configuration does not say what it is.
struct Encoder {
    name: &'static str,
    /// What stands in front of `Model` and `ForSequenceClassification` in names of architectures.
    architecture: &'static str,
    hidden: &'static str,
    intermediate: &'static str,
    heads: &'static str,
    layers: &'static str,
    activation: &'static str,
    /// Epsilon of all norms; `None` if the configuration says it.
    eps: Option<f64>,
    /// Whether a vector for the type of a token is added.
    typed: bool,
    /// Whether positions begin behind the padding token's id.
    behind_padding: bool,
    /// Whether the model has a pooler without a head, too.
    pooled: bool,
    /// What stands behind the pooler's matrix.
    squash: Squash,
    naming: &'static Naming,
    /// Names of a model with a head.
    naming_with_head: &'static Naming,
}

const BERT: Encoder = Encoder {
    name: "bert",
    architecture: "Bert",
    hidden: "hidden_size",
    intermediate: "intermediate_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    activation: "hidden_act",
    eps: None,
    typed: true,
    behind_padding: false,
    pooled: true,
    squash: Squash::Tanh,
    naming: &Naming::BERT,
    naming_with_head: &Naming::BERT_CLASSES,
};
const ROBERTA: Encoder = Encoder {
    name: "roberta",
    architecture: "Roberta",
    behind_padding: true,
    naming: &Naming::ROBERTA,
    naming_with_head: &Naming::ROBERTA_CLASSES,
    ..BERT
};
const XLM_ROBERTA: Encoder = Encoder { name: "xlm-roberta", architecture: "XLMRoberta", ..ROBERTA };
const DISTILBERT: Encoder = Encoder {
    name: "distilbert",
    architecture: "DistilBert",
    hidden: "dim",
    intermediate: "hidden_dim",
    heads: "n_heads",
    layers: "n_layers",
    activation: "activation",
    eps: Some(1e-12),
    typed: false,
    behind_padding: false,
    pooled: false,
    squash: Squash::Relu,
    naming: &Naming::DISTILBERT,
    naming_with_head: &Naming::DISTILBERT_CLASSES,
};
static ENCODERS: [Encoder; 4] = [BERT, ROBERTA, XLM_ROBERTA, DISTILBERT];

/// Classes beyond this are a mistake.
const MOST_CLASSES: usize = 1 << 20;

/// Names of the families.
pub(super) fn families() -> impl Iterator<Item = &'static str> {
    ["gpt2"].into_iter().chain(ENCODERS.iter().map(|encoder| encoder.name))
}

/// Reads the configuration of a family, if it is one of these.
pub(super) fn read(model_type: &str, config: &Value) -> Option<Result<DecoderConfig, ConfigError>> {
    if model_type == "gpt2" {
        return Some(gpt2(config));
    }
    ENCODERS.iter().find(|encoder| encoder.name == model_type).map(|encoder| encoder.read(config))
}

fn gpt2(config: &Value) -> Result<DecoderConfig, ConfigError> {
    let absent_or = |key: &str, usual: bool| config[key].as_bool().unwrap_or(usual) == usual;
    require(config, "scale_attn_weights", "true", absent_or("scale_attn_weights", true))?;
    require(config, "scale_attn_by_inverse_layer_idx", "false", absent_or("scale_attn_by_inverse_layer_idx", false))?;
    require(config, "add_cross_attention", "false", absent_or("add_cross_attention", false))?;
    let hidden = size(config, "n_embd")?;
    let rows = size(config, "n_positions")?;
    Ok(DecoderConfig {
        model_type: "gpt2".into(),
        vocabulary: size(config, "vocab_size")?,
        intermediate: optional_size(config, "n_inner")?.unwrap_or(4 * hidden),
        activation: activation(config, "activation_function")?,
        mlp_bias: true,
        norm: NormKind::Layer,
        placement: Placement::Before,
        embedding_norm: false,
        head: if config["tie_word_embeddings"].as_bool().unwrap_or(true) { Head::Tied } else { Head::Own },
        pooler: None,
        classes: Vec::new(),
        attention: attention(hidden, size(config, "n_head")?, true, number(config, "layer_norm_epsilon")?)?,
        position: PositionEmbedding::Learned { rows, offset: 0 },
        token_types: None,
        max_positions: Some(rows),
        mixers: vec![MixerConfig::Softmax { window: None }; size(config, "n_layer")?],
        naming: &Naming::GPT2,
        source: config.clone(),
    })
}

impl Encoder {
    fn read(&self, config: &Value) -> Result<DecoderConfig, ConfigError> {
        let kind = config["position_embedding_type"].as_str();
        require(config, "position_embedding_type", "absolute", matches!(kind, None | Some("absolute")))?;
        require(config, "is_decoder", "false", !flag(config, "is_decoder"))?;
        require(config, "add_cross_attention", "false", !flag(config, "add_cross_attention"))?;
        let classified = self.is_classified(config)?;
        let offset = if self.behind_padding {
            config["pad_token_id"].as_u64().ok_or(ConfigError::Missing { key: "pad_token_id", expected: "a token id" })? as usize + 1
        } else {
            0
        };
        let rows = size(config, "max_position_embeddings")?;
        if rows <= offset {
            return Err(ConfigError::Inconsistent { what: format!("{rows} positions, of which the first {offset} belong to padding") });
        }
        let eps = self.eps.map_or_else(|| number(config, "layer_norm_eps"), Ok)?;
        Ok(DecoderConfig {
            model_type: self.name.into(),
            vocabulary: size(config, "vocab_size")?,
            intermediate: size(config, self.intermediate)?,
            activation: activation(config, self.activation)?,
            mlp_bias: true,
            norm: NormKind::Layer,
            placement: Placement::After,
            embedding_norm: true,
            head: if classified { Head::Classes } else { Head::Pooled },
            pooler: (classified || self.pooled).then_some(self.squash),
            classes: if classified { classes(config)? } else { Vec::new() },
            attention: attention(size(config, self.hidden)?, size(config, self.heads)?, false, eps)?,
            position: PositionEmbedding::Learned { rows, offset },
            token_types: self.typed.then(|| size(config, "type_vocab_size")).transpose()?,
            max_positions: Some(rows - offset),
            mixers: vec![MixerConfig::Softmax { window: None }; size(config, self.layers)?],
            naming: if classified { self.naming_with_head } else { self.naming },
            source: config.clone(),
        })
    }

    /// Whether the model has a head for classes of texts. Other heads have weights that would be lost.
    fn is_classified(&self, config: &Value) -> Result<bool, ConfigError> {
        let Some(found) = config["architectures"][0].as_str() else { return Ok(false) };
        let [bare, classified] = ["Model", "ForSequenceClassification"].map(|kind| format!("{}{kind}", self.architecture));
        require(config, "architectures", &format!("{bare}, {classified}"), found == bare || found == classified)?;
        Ok(found == classified)
    }
}

/// Names of classes, by default those that transformers gives.
fn classes(config: &Value) -> Result<Vec<String>, ConfigError> {
    let kind = config["problem_type"].as_str();
    require(config, "problem_type", "single_label_classification", matches!(kind, None | Some("single_label_classification")))?;
    let wrong = || ConfigError::Unsupported {
        key: "id2label".into(),
        found: config["id2label"].to_string(),
        expected: "a name for each class, with the classes counted from \"0\" on".into(),
    };
    match &config["id2label"] {
        Value::Null => {
            let count = optional_size(config, "num_labels")?.unwrap_or(2);
            require(config, "num_labels", &format!("at most {MOST_CLASSES}"), count <= MOST_CLASSES)?;
            Ok((0..count).map(|class| format!("LABEL_{class}")).collect())
        }
        Value::Object(names) if !names.is_empty() => {
            (0..names.len()).map(|class| names.get(&class.to_string())?.as_str().map(Into::into)).collect::<Option<_>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Heads that share the width among them, biases everywhere.
fn attention(hidden: usize, heads: usize, causal: bool, eps: f64) -> Result<AttentionShape, ConfigError> {
    if !hidden.is_multiple_of(heads) {
        return Err(ConfigError::Inconsistent { what: format!("width {hidden} for {heads} heads; expected a multiple") });
    }
    let head_dim = hidden / heads;
    Ok(AttentionShape { hidden, heads, kv_heads: heads, head_dim, qkv_bias: true, output_bias: true, qk_norm: false, causal, eps })
}

fn activation(config: &Value, key: &str) -> Result<Activation, ConfigError> {
    match config[key].as_str() {
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        _ => Err(ConfigError::Unsupported { key: key.into(), found: config[key].to_string(), expected: "gelu, gelu_new".into() }),
    }
}

fn number(config: &Value, key: &'static str) -> Result<f64, ConfigError> {
    config[key].as_f64().ok_or(ConfigError::Missing { key, expected: "a number" })
}
