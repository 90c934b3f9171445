//! Where a Mamba-2 student starts: what the parent asks for as `C`, what it is found by as `B`, what it says as `x` ("The Mamba in the
//! Llama", arXiv 2408.15237), with steps of size 1, so that values are written as they are.

use std::f32::consts::LN_2;

use burn::module::Param;
use burn::prelude::*;
use dtr_models::mixer::Mamba2;

use super::SHORTEST;

/// `softplus(UNIT_STEP) = 1`.
const UNIT_STEP: f32 = 0.541_324_85;

/// Half-life of a decay as a share of the mean distance of the parent's head. Attention is peaked: most of it lies nearer than its mean.
const NEARER: f32 = 0.3;

/// Copies queries, keys and values `[hidden, H, D]` of all heads, queries and keys times `shrink`; the convolution starts as the
/// identity, every decay at a half-life of one token.
pub(super) fn copy<B: Backend>(mixer: &mut Mamba2<B>, [q, k, v]: [Tensor<B, 3>; 3], shrink: f64) {
    let state = mixer.state();
    let parts = [v, repeated(k.mul_scalar(shrink), state), repeated(q.mul_scalar(shrink), state)];
    let parts = parts.map(|part| part.flatten::<2>(1, 2));
    mixer.in_proj_xbc.weight = Param::from_tensor(Tensor::cat(parts.into(), 1));
    mixer.conv1d = mixer.conv1d.clone().identity();
    mixer.dt_bias = Param::from_tensor(mixer.dt_bias.val().full_like(UNIT_STEP));
    mixer.a_log = Param::from_tensor(mixer.a_log.val().full_like(LN_2.ln()));
}

/// What is `distance` tokens back, by head, has long faded by half.
pub(super) fn fade<B: Backend>(mixer: &mut Mamba2<B>, distance: &[f32]) {
    let rate = |distance: &f32| (LN_2 / (NEARER * distance).max(SHORTEST)).ln();
    let rates: Vec<f32> = distance.iter().map(rate).collect();
    mixer.a_log = Param::from_tensor(Tensor::from_floats(rates.as_slice(), &mixer.a_log.device()));
}

/// Heads `[hidden, H, D]` cut to a width, or repeated up to it: every second time negated, because `silu` passes one sign of what it
/// is given, and half as large after each pair, because two that begin alike stay alike.
fn repeated<B: Backend>(heads: Tensor<B, 3>, width: usize) -> Tensor<B, 3> {
    let own = heads.dims()[2];
    let time = |n: usize| {
        let sign = if n.is_multiple_of(2) { 1.0 } else { -1.0 };
        heads.clone().narrow(2, 0, own.min(width - n * own)).mul_scalar(sign * 0.5_f64.powi((n / 2) as i32))
    };
    Tensor::cat((0..width.div_ceil(own)).map(time).collect(), 2)
}
