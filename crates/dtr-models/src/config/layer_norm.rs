//! Families with layer norms and learned positions: GPT-2, and the encoders BERT and `RoBERTa`.

use serde_json::Value;

use super::{Activation, AttentionShape, DecoderConfig, Head, NormKind, Placement, PositionEmbedding, flag, optional_size, require, size};
use crate::checkpoint::names::Naming;
use crate::error::ConfigError;
use crate::mixer::MixerConfig;

/// Names of the families.
pub(super) const FAMILIES: [&str; 4] = ["gpt2", "bert", "roberta", "xlm-roberta"];

type Reader = fn(&Value) -> Result<DecoderConfig, ConfigError>;

/// What reads the configuration of a family, if it is one of these.
pub(super) fn reader(model_type: &str) -> Option<Reader> {
    match model_type {
        "gpt2" => Some(gpt2),
        "bert" => Some(bert),
        // The same computation, with positions that begin behind the padding token's id.
        "roberta" | "xlm-roberta" => Some(roberta),
        _ => None,
    }
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
        attention: attention(hidden, size(config, "n_head")?, true, number(config, "layer_norm_epsilon")?)?,
        position: PositionEmbedding::Learned { rows, offset: 0 },
        token_types: None,
        max_positions: Some(rows),
        mixers: vec![MixerConfig::Softmax { window: None }; size(config, "n_layer")?],
        naming: &Naming::GPT2,
        source: config.clone(),
    })
}

fn bert(config: &Value) -> Result<DecoderConfig, ConfigError> {
    encoder(config, 0)
}

fn roberta(config: &Value) -> Result<DecoderConfig, ConfigError> {
    let padding = config["pad_token_id"].as_u64().ok_or(ConfigError::Missing { key: "pad_token_id", expected: "a token id" })?;
    encoder(config, padding as usize + 1)
}

fn encoder(config: &Value, offset: usize) -> Result<DecoderConfig, ConfigError> {
    let family = config["model_type"].as_str().unwrap_or_default();
    let kind = config["position_embedding_type"].as_str();
    require(config, "position_embedding_type", "absolute", matches!(kind, None | Some("absolute")))?;
    require(config, "is_decoder", "false", !flag(config, "is_decoder"))?;
    require(config, "add_cross_attention", "false", !flag(config, "add_cross_attention"))?;
    // Only the bare model: heads for words or classes have weights that would be lost.
    let architecture = config["architectures"][0].as_str();
    let bare = matches!(architecture, None | Some("BertModel" | "RobertaModel" | "XLMRobertaModel"));
    require(config, "architectures", "the bare model, such as BertModel, without a head", bare)?;
    let rows = size(config, "max_position_embeddings")?;
    if rows <= offset {
        return Err(ConfigError::Inconsistent { what: format!("{rows} positions, of which the first {offset} belong to padding") });
    }
    Ok(DecoderConfig {
        model_type: family.into(),
        vocabulary: size(config, "vocab_size")?,
        intermediate: size(config, "intermediate_size")?,
        activation: activation(config, "hidden_act")?,
        mlp_bias: true,
        norm: NormKind::Layer,
        placement: Placement::After,
        embedding_norm: true,
        head: Head::Pooled,
        attention: attention(size(config, "hidden_size")?, size(config, "num_attention_heads")?, false, number(config, "layer_norm_eps")?)?,
        position: PositionEmbedding::Learned { rows, offset },
        token_types: Some(size(config, "type_vocab_size")?),
        max_positions: Some(rows - offset),
        mixers: vec![MixerConfig::Softmax { window: None }; size(config, "num_hidden_layers")?],
        naming: if family == "bert" { &Naming::BERT } else { &Naming::ROBERTA },
        source: config.clone(),
    })
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
