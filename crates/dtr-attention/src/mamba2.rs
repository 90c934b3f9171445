//! Mamba-2 in its form as a recurrence with one decay a head (state-space duality, SSD).
//!
//! `h_t = exp(dt_t A) h_(t-1) + dt_t B_t^T x_t;  y_t = C_t h_t + D x_t`, `A = -exp(a_log)`: the additive rule with `q = C`, `k = B`,
//! `v = dt x`, `g = dt A`. Heads of a group share `B` and `C`.
//!
//! Reference: arXiv 2405.21060, section 7.

use burn::prelude::*;

use crate::backend::MixerBackend;
use crate::recurrence::{Inputs, column};
use crate::softmax::repeat_heads;

/// What enters at each token.
#[derive(Debug, Clone)]
pub struct StateSpace<B: Backend> {
    /// Inputs, `[B, H, T, P]`.
    pub x: Tensor<B, 4>,
    /// Step sizes, positive, `[B, H, T]`.
    pub dt: Tensor<B, 3>,
    /// What is written by, `[B, G, T, N]`; head `h` reads group `h / (H / G)`.
    pub b: Tensor<B, 4>,
    /// What is read by, `[B, G, T, N]`.
    pub c: Tensor<B, 4>,
}

impl<B: MixerBackend> StateSpace<B> {
    /// The same as inputs of [`crate::recurrence`]. `a_log [H]`.
    pub fn inputs(self, a_log: Tensor<B, 1>) -> Inputs<B> {
        let heads = self.x.dims()[1];
        let dt = column(self.dt);
        let a: Tensor<B, 4> = a_log.exp().neg().reshape([1, heads, 1, 1]);
        Inputs::new(repeat_heads(self.c, heads), repeat_heads(self.b, heads), self.x * dt.clone()).fading(dt * a)
    }
}

/// `softplus(dt + bias)` within `limit`: the step sizes as the projection gives them. `dt [B, H, T]`, `bias [H]`.
pub fn step_sizes<B: Backend>(dt: Tensor<B, 3>, bias: Tensor<B, 1>, limit: (f64, f64)) -> Tensor<B, 3> {
    let heads = dt.dims()[1];
    burn::tensor::activation::softplus(dt + bias.reshape([1, heads, 1]), 1.0).clamp(limit.0, limit.1)
}

/// `y + D x`. `y, x [B, H, T, P]`, `d [H]`.
pub fn skip<B: Backend>(y: Tensor<B, 4>, x: Tensor<B, 4>, d: Tensor<B, 1>) -> Tensor<B, 4> {
    let heads = d.dims()[0];
    y + x * d.reshape([1, heads, 1, 1])
}
