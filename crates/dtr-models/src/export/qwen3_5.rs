//! `Qwen3_5ForCausalLM`: gated-delta layers as they are, softmax layers with a gate that is open half everywhere.
//!
//! Its attention multiplies the heads by `sigmoid(W_g x)`: with `W_g = 0` that is 1/2, and twice the output projection takes it back, both
//! exactly. Its norms multiply by `1 + w`, but for the one behind the delta rule.

use serde_json::{Value, json};

use super::{Refusal, published, rope_parameters};
use crate::checkpoint::{HostTensor, Tensors};
use crate::config::DecoderConfig;
use crate::mixer::MixerConfig;

pub(super) fn check(config: &DecoderConfig) -> Result<(), Refusal> {
    let family = &config.model_type;
    Refusal::of_layers(config, |mixer| match mixer {
        MixerConfig::Softmax { window: None } if config.attention.qk_norm => None,
        MixerConfig::Softmax { window: None } => {
            Some(format!("attention there normalises each query and key head, which cannot be switched off; {family} does not"))
        }
        MixerConfig::Softmax { window: Some(_) } | MixerConfig::SlidingWindow { .. } => {
            Some("attention there sees all tokens; the window would be lost".into())
        }
        MixerConfig::GatedDelta { .. } if config.attention.output_bias => {
            Some("the output projection of linear layers there has no bias; it would be lost".into())
        }
        MixerConfig::GatedDelta { rotary: false, .. } => None,
        MixerConfig::GatedDelta { rotary: true, .. } => {
            Some("linear layers there know no positions; the rotation of queries and keys would be lost".into())
        }
        MixerConfig::Hedgehog {} | MixerConfig::Mamba2 { .. } | MixerConfig::LinearMap {} => {
            Some("linear layers there are gated delta rules, which this is no case of".into())
        }
    })?;
    if config.mlp_bias {
        return Err(Refusal::model("mlp_bias = true", "MLPs there have no biases; they would be lost"));
    }
    if !config.mixers.contains(&MixerConfig::Softmax { window: None }) {
        let reason = "transformers counts what it has read in its attention layers, and cannot generate without one";
        return Err(Refusal::model(format!("layout {}", config.layout()), reason));
    }
    Ok(())
}

pub(super) fn convert(config: &DecoderConfig, weights: Tensors) -> (Value, Tensors) {
    let width = convolution_width(config);
    let heads = config.attention.heads;
    let weights = weights.into_iter().map(|(name, tensor)| {
        let tensor = match name.rsplit_once("layers.").map_or(name.as_str(), |(_, rest)| rest.split_once('.').map_or("", |(_, rest)| rest))
        {
            "self_attn.q_proj.weight" | "self_attn.q_proj.bias" => HostTensor::by_group(heads, &[&tensor, &tensor.zeros_like()]),
            "self_attn.o_proj.weight" => tensor.map(|w| 2.0 * w),
            "linear_attn.conv1d.weight" => widened(&tensor, width),
            "linear_attn.norm.weight" => tensor,
            other if other.ends_with("norm.weight") => tensor.map(|w| w - 1.0),
            _ => tensor,
        };
        (name, tensor)
    });
    (configuration(config, "qwen3_5_text", "Qwen3_5ForCausalLM"), weights.collect())
}

/// What the two families with this attention and these linear layers say of them.
pub(super) fn configuration(config: &DecoderConfig, model_type: &str, class: &str) -> Value {
    let attention = &config.attention;
    let kind = |mixer: &MixerConfig| if matches!(mixer, MixerConfig::GatedDelta { .. }) { "linear_attention" } else { "full_attention" };
    let mut json = published(
        config,
        json!({
            "model_type": model_type,
            "architectures": [class],
            "layer_types": config.mixers.iter().map(kind).collect::<Vec<_>>(),
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "attention_bias": attention.qkv_bias,
            "rms_norm_eps": attention.eps,
            "rope_parameters": rope_parameters(config),
            "linear_conv_kernel_dim": convolution_width(config),
            "linear_num_key_heads": attention.heads,
            "linear_num_value_heads": attention.heads,
            "linear_key_head_dim": attention.head_dim,
            "linear_value_head_dim": attention.head_dim,
        }),
    );
    if let Some(interval) = interval(config) {
        json["full_attention_interval"] = interval.into();
    }
    json
}

/// `n` where the last of every `n` layers attends and no other does. That is all a GGUF file can say of a layout; where it is true, llama.cpp's
/// converter looks for it under this key.
fn interval(config: &DecoderConfig) -> Option<usize> {
    let attends = |layer: usize| matches!(config.mixers[layer], MixerConfig::Softmax { .. });
    let interval = 1 + (0..config.layers()).find(|&layer| attends(layer))?;
    (0..config.layers()).all(|layer| attends(layer) == (layer + 1).is_multiple_of(interval)).then_some(interval)
}

/// The one width for all layers: the widest. At least 2, since runtimes keep the last `width - 1` inputs.
pub(super) fn convolution_width(config: &DecoderConfig) -> usize {
    let widths = config.mixers.iter().map(|mixer| if let MixerConfig::GatedDelta { convolution, .. } = *mixer { convolution } else { 0 });
    widths.max().unwrap_or(0).max(2)
}

/// Filters `[N, 1, W]` that look further back and see nothing there.
pub(super) fn widened(filters: &HostTensor, width: usize) -> HostTensor {
    let [channels, one, old] = filters.shape[..] else { unreachable!("filters are [N, 1, W]") };
    let values = filters.values.chunks(old).flat_map(|filter| std::iter::repeat_n(0.0, width - old).chain(filter.iter().copied()));
    HostTensor { shape: vec![channels, one, width], values: values.collect() }
}
