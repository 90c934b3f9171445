//! `GatedDeltaNetForCausalLM` of flash-linear-attention: the same delta rule under other names, with attention in layers of one's choice.

use serde_json::{Value, json};

use super::qwen3_5::{convolution_width, widened};
use super::{Refusal, published};
use crate::checkpoint::{HostTensor, Tensors};
use crate::config::DecoderConfig;
use crate::mixer::MixerConfig;
use crate::rope::RopeScaling;

pub(super) fn check(config: &DecoderConfig) -> Result<(), Refusal> {
    let attention = &config.attention;
    let windows = softmax_layers(config).map(|(_, window)| window);
    let window = windows.clone().next().flatten();
    Refusal::of_layers(config, |mixer| match mixer {
        MixerConfig::Softmax { .. } if attention.qk_norm => {
            Some(format!("attention there has no norm of query and key heads; {} normalises them", config.model_type))
        }
        MixerConfig::Softmax { .. } if attention.output_bias => Some("the output projection there has no bias; it would be lost".into()),
        MixerConfig::Softmax { .. } if config.rope().is_some_and(|rope| rope.scaling != RopeScaling::Default) => {
            Some("rotary positions there are not scaled; the scaling for long contexts would be lost".into())
        }
        MixerConfig::Softmax { .. } if attention.heads * attention.head_dim != attention.hidden => Some(format!(
            "heads there are as wide as hidden_size / num_attention_heads; {} heads of width {} in {} are not",
            attention.heads, attention.head_dim, attention.hidden
        )),
        MixerConfig::Softmax { window: own } if *own != window => {
            Some("all attention layers there have the same window; some of these have another".into())
        }
        MixerConfig::SlidingWindow { .. } => Some("windows there have no sinks".into()),
        MixerConfig::GatedDelta { rotary: true, .. } => {
            Some("linear layers there know no positions; the rotation of queries and keys would be lost".into())
        }
        MixerConfig::GatedDelta { .. } if attention.output_bias => Some("the output projection there has no bias; it would be lost".into()),
        MixerConfig::Softmax { .. } | MixerConfig::GatedDelta { rotary: false, .. } => None,
        MixerConfig::Hedgehog {} | MixerConfig::Mamba2 { .. } | MixerConfig::LinearMap {} => {
            Some("linear layers there are gated delta rules, which this is no case of".into())
        }
    })?;
    if config.mlp_bias {
        return Err(Refusal::model("mlp_bias = true", "MLPs there have no biases; they would be lost"));
    }
    Ok(())
}

pub(super) fn convert(config: &DecoderConfig, weights: Tensors) -> (Value, Tensors) {
    let attention = &config.attention;
    let width = convolution_width(config);
    let mut renamed = Tensors::new();
    for (name, tensor) in weights {
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            renamed.insert(name.replace("embed_tokens", "embeddings"), tensor);
            continue;
        };
        let mut insert = |part: &str, tensor| renamed.insert(format!("model.layers.{layer}.{part}"), tensor);
        let mut thirds = |part: &str, tensor: &HostTensor| {
            for (letter, third) in ["q", "k", "v"].into_iter().zip(tensor.split(3)) {
                insert(&format!("attn.{letter}_{part}.weight"), third);
            }
        };
        match part {
            "linear_attn.in_proj_qkv.weight" => thirds("proj", &tensor),
            "linear_attn.conv1d.weight" => thirds("conv1d", &widened(&tensor, width)),
            _ => {
                insert(&own_name(part), tensor);
            }
        }
    }
    let attended: Vec<usize> = softmax_layers(config).map(|(layer, _)| layer).collect();
    let attn = (!attended.is_empty()).then(|| {
        json!({
            "layers": attended,
            "num_heads": attention.heads,
            "num_kv_heads": attention.kv_heads,
            "qkv_bias": attention.qkv_bias,
            "window_size": softmax_layers(config).next().and_then(|(_, window)| window),
            "rope_theta": config.rope().map(|rope| rope.theta),
        })
    });
    let json = published(
        config,
        json!({
            "model_type": "gated_deltanet",
            "architectures": ["GatedDeltaNetForCausalLM"],
            "hidden_act": "swish",
            "attn": attn,
            "attn_mode": "chunk",
            "num_heads": attention.heads,
            "head_dim": attention.head_dim,
            "expand_v": 1.0,
            "use_gate": true,
            "use_short_conv": true,
            "conv_size": width,
            "norm_eps": attention.eps,
        }),
    );
    (json, renamed)
}

/// Numbers of the softmax layers, and their windows.
fn softmax_layers(config: &DecoderConfig) -> impl Iterator<Item = (usize, Option<usize>)> + Clone {
    config.mixers.iter().enumerate().filter_map(|(layer, mixer)| match *mixer {
        MixerConfig::Softmax { window } => Some((layer, window)),
        _ => None,
    })
}

/// Our name of a weight within its layer in the words of flash-linear-attention.
fn own_name(part: &str) -> String {
    const NAMES: [(&str, &str); 9] = [
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "mlp_norm."),
        ("linear_attn.in_proj_z.", "attn.g_proj."),
        ("linear_attn.in_proj_b.", "attn.b_proj."),
        ("linear_attn.in_proj_a.", "attn.a_proj."),
        ("linear_attn.norm.", "attn.o_norm."),
        ("linear_attn.out_proj.", "attn.o_proj."),
        ("linear_attn.", "attn."),
        ("self_attn.", "attn."),
    ];
    let found = NAMES.iter().find_map(|(ours, theirs)| part.strip_prefix(ours).map(|rest| format!("{theirs}{rest}")));
    found.unwrap_or_else(|| part.to_owned())
}
