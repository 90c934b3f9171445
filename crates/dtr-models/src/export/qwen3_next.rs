//! `Qwen3NextForCausalLM`: as [`super::qwen3_5`], with the projections of a linear layer packed head by head and every MLP dense.

use serde_json::{Value, json};

use super::{Refusal, qwen3_5};
use crate::checkpoint::{HostTensor, Tensors};
use crate::config::DecoderConfig;
use crate::mixer::MixerConfig;

pub(super) fn check(config: &DecoderConfig) -> Result<(), Refusal> {
    qwen3_5::check(config)
}

pub(super) fn convert(config: &DecoderConfig, weights: Tensors) -> (Value, Tensors) {
    let heads = config.attention.heads;
    let mut weights = qwen3_5::convert(config, weights).1;
    let linear = config.mixers.iter().enumerate().filter(|(_, mixer)| matches!(mixer, MixerConfig::GatedDelta { .. }));
    for (layer, _) in linear {
        let name = |part: &str| format!("model.layers.{layer}.linear_attn.in_proj_{part}.weight");
        let mut take = |part| weights.remove(&name(part)).expect("a weight of every gated-delta layer");
        let (qkv, z, b, a) = (take("qkv"), take("z"), take("b"), take("a"));
        let qkv = qkv.split(3);
        weights.insert(name("qkvz"), HostTensor::by_group(heads, &[&qkv[0], &qkv[1], &qkv[2], &z]));
        weights.insert(name("ba"), HostTensor::by_group(heads, &[&b, &a]));
    }
    let mut json = qwen3_5::configuration(config, "qwen3_next", "Qwen3NextForCausalLM");
    json["mlp_only_layers"] = json!((0..config.layers()).collect::<Vec<_>>());
    // No layer has experts; their sizes are written so that no reader takes its own defaults for the truth.
    for key in ["num_experts", "num_experts_per_tok"] {
        json[key] = 0.into();
    }
    (json, weights)
}
