//! `GraniteMoeHybridForCausalLM` without experts: Mamba-2 layers as they are, between attention layers like Llama's.
//!
//! What Granite multiplies by constants of its own is set to 1, and the scale of its scores to ours. Its attention has biases in all four
//! projections or in none: where a parent has some, those it lacks are written as 0.

use serde_json::{Value, json};

use super::qwen3_5::widened;
use super::{Refusal, published, rope_parameters};
use crate::checkpoint::{HostTensor, Tensors};
use crate::config::DecoderConfig;
use crate::mixer::MixerConfig;

pub(super) fn check(config: &DecoderConfig) -> Result<(), Refusal> {
    let attention = &config.attention;
    let width = attention.heads * attention.head_dim;
    let (common, _) = linear(config);
    Refusal::of_layers(config, |mixer| match *mixer {
        MixerConfig::Softmax { window: None } if attention.qk_norm => {
            Some(format!("attention there has no norm of query and key heads; {} normalises them", config.model_type))
        }
        MixerConfig::Softmax { window: Some(_) } | MixerConfig::SlidingWindow { .. } => {
            Some("attention there sees all tokens; the window would be lost".into())
        }
        MixerConfig::Mamba2 { state, .. } if state != common => {
            Some(format!("all linear layers there have states of one size, and others here have {common}"))
        }
        MixerConfig::Mamba2 { .. } if !width.is_multiple_of(attention.hidden) => Some(format!(
            "the width of linear layers there is a multiple of hidden_size; {} heads of width {} in {} are none",
            attention.heads, attention.head_dim, attention.hidden
        )),
        MixerConfig::Softmax { window: None } | MixerConfig::Mamba2 { .. } => None,
        MixerConfig::GatedDelta { .. } | MixerConfig::Hedgehog {} | MixerConfig::LinearMap {} => {
            Some("linear layers there are Mamba-2, which this is no case of".into())
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

/// The linear layers' state, and their widest convolution, at least 2, since runtimes keep the last `width - 1` inputs.
fn linear(config: &DecoderConfig) -> (usize, usize) {
    let settings = config.mixers.iter().filter_map(|mixer| match *mixer {
        MixerConfig::Mamba2 { state, convolution } => Some((state, convolution)),
        _ => None,
    });
    let state = settings.clone().next().map_or(1, |(state, _)| state);
    (state, settings.map(|(_, convolution)| convolution).max().unwrap_or(0).max(2))
}

pub(super) fn convert(config: &DecoderConfig, mut weights: Tensors) -> (Value, Tensors) {
    let (_, convolution) = linear(config);
    for layer in 0..config.layers() {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut joined = |parts: &[&str], whole: &str| {
            let parts: Vec<_> = parts.iter().filter_map(|part| weights.remove(&name(part))).collect();
            if !parts.is_empty() {
                weights.insert(name(whole), HostTensor::by_group(1, &parts.iter().collect::<Vec<_>>()));
            }
        };
        joined(&["mlp.gate_proj.weight", "mlp.up_proj.weight"], "shared_mlp.input_linear.weight");
        joined(&["mlp.down_proj.weight"], "shared_mlp.output_linear.weight");
        let parts = ["z", "xbc", "dt"].map(|part| format!("linear_attn.in_proj_{part}.weight"));
        joined(&parts.each_ref().map(String::as_str), "mamba.in_proj.weight");
        if has_bias(config) {
            for part in ["q", "k", "v", "o"] {
                let Some(rows) = weights.get(&name(&format!("self_attn.{part}_proj.weight"))).map(|weight| weight.shape[0]) else {
                    continue;
                };
                let none = HostTensor { shape: vec![rows], values: vec![0.0; rows] };
                weights.entry(name(&format!("self_attn.{part}_proj.bias"))).or_insert(none);
            }
        }
    }
    let weights = weights.into_iter().map(|(name, tensor)| {
        let tensor = if name.ends_with("linear_attn.conv1d.weight") { widened(&tensor, convolution) } else { tensor };
        (name.replace(".linear_attn.", ".mamba."), tensor)
    });
    (configuration(config), weights.collect())
}

fn has_bias(config: &DecoderConfig) -> bool {
    config.attention.qkv_bias || config.attention.output_bias
}

fn configuration(config: &DecoderConfig) -> Value {
    let attention = &config.attention;
    let (state, convolution) = linear(config);
    let width = attention.heads * attention.head_dim;
    // Its configuration wants a sound shape of linear layers even where there are none.
    let (heads, head_dim) =
        if width.is_multiple_of(attention.hidden) { (attention.heads, attention.head_dim) } else { (1, attention.hidden) };
    let kind = |mixer: &MixerConfig| if matches!(mixer, MixerConfig::Mamba2 { .. }) { "linear_attention" } else { "full_attention" };
    published(
        config,
        json!({
            "model_type": "granitemoehybrid",
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "layer_types": config.mixers.iter().map(kind).collect::<Vec<_>>(),
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "attention_bias": has_bias(config),
            "rms_norm_eps": attention.eps,
            "position_embedding_type": "rope",
            "rope_parameters": rope_parameters(config),
            "shared_intermediate_size": config.intermediate,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "attention_multiplier": (attention.head_dim as f64).powf(-0.5),
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "mamba_n_heads": heads,
            "mamba_d_head": head_dim,
            "mamba_expand": heads * head_dim / attention.hidden,
            "mamba_n_groups": heads,
            "mamba_d_state": state,
            "mamba_d_conv": convolution,
            "mamba_conv_bias": true,
            "mamba_proj_bias": false,
        }),
    )
}
