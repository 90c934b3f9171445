//! Where a gated-delta student starts beside the parent's projections: how long it remembers, how strongly it writes, how little `silu` bends it.

use burn::module::Param;
use burn::prelude::*;
use dtr_models::mixer::GatedDelta;

use super::{Calibration, Decay, Initialise, SHORTEST, Write};

/// Write strengths of heads that look at one token, and of heads that look at all alike.
const STRENGTHS: (f32, f32) = (0.7, 0.3);

/// Decays and write strengths as asked for, and queries and keys times `shrink`.
pub(super) fn start<B: Backend>(mixer: &mut GatedDelta<B>, found: &Calibration<B>, initialise: &Initialise) {
    let device = mixer.a_log.device();
    if initialise.decay == Decay::Distance {
        // What is that far back has faded by half.
        let bias = |&distance: &f32| (std::f32::consts::LN_2 / distance.max(SHORTEST)).exp_m1().ln();
        let bias: Vec<f32> = found.attention.distance.iter().map(bias).collect();
        mixer.dt_bias = Param::from_tensor(Tensor::from_floats(bias.as_slice(), &device));
    }
    match initialise.write {
        Write::Constant => {}
        Write::Received => {
            let found = found.write.clone().expect("calibration measures what is asked for");
            mixer.in_proj_b.weight = Param::from_tensor(found);
        }
        Write::Entropy => {
            let strength = |&entropy: &f32| STRENGTHS.0 + (STRENGTHS.1 - STRENGTHS.0) * entropy.clamp(0.0, 1.0);
            let logits: Vec<f32> = found.attention.entropy.iter().map(strength).map(|beta| (beta / (1.0 - beta)).ln()).collect();
            let logits = Tensor::<B, 1>::from_floats(logits.as_slice(), &device).unsqueeze_dim(0);
            mixer.in_proj_b.weight = Param::from_tensor(found.constant.clone().matmul(logits));
        }
    }
    let weight = mixer.in_proj_qkv.weight.val();
    let values = weight.dims()[1] / 3;
    let (queries_keys, values) = (weight.clone().narrow(1, 0, 2 * values), weight.narrow(1, 2 * values, values));
    mixer.in_proj_qkv.weight = Param::from_tensor(Tensor::cat(vec![queries_keys.mul_scalar(initialise.shrink), values], 1));
}
