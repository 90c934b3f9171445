//! The gated delta rule as a sublayer, in the form and under the names of Qwen3.5's linear layers.
//!
//! `[q, k, v] = silu(conv(W_qkv x))`; `q, k` to unit length, `q` times `D^-1/2`; `beta = sigmoid(W_b x)`;
//! `g = -exp(A_log) softplus(W_a x + dt_bias)`; `q, k` turned by position, if asked for; delta rule; `y = W_o (norm(o) * silu(W_z x))`, the norm by head.
//!
//! In an encoder the same is read from both ends, convolution included, and what both ends make of a token is added in front of the norm.

use burn::module::{Initializer, Param};
use burn::nn::Linear;
use burn::prelude::*;
use burn::tensor::activation::{sigmoid, softplus};
use dtr_attention::precision::single;
use dtr_attention::rotary::rotate_half;
use dtr_attention::softmax::merge_heads;
use dtr_attention::{MixerBackend, gate, norm, recurrence};

use super::recurrent::{RecurrentState, ShortConvolution, masked};
use crate::config::AttentionShape;
use crate::decoder::Context;
use crate::layers::{RmsNorm, linear, project};
use crate::rope::Rotary;

/// Epsilon under the root when queries and keys are brought to unit length, as in the published models.
const UNIT_EPS: f64 = 1e-6;

/// A gated-delta sublayer. Every query head has its own key, value and state.
#[derive(Module, Debug)]
pub struct GatedDelta<B: Backend> {
    /// Queries, keys, values side by side, `[hidden, (2 D + V) * heads]`.
    pub in_proj_qkv: Linear<B>,
    /// Output gate.
    pub in_proj_z: Linear<B>,
    /// Write strength before the sigmoid, one a head.
    pub in_proj_b: Linear<B>,
    /// Input of the decay, one a head.
    pub in_proj_a: Linear<B>,
    /// Short convolution over queries, keys and values.
    pub conv1d: ShortConvolution<B>,
    /// Logarithm of the decay's rate, `[H]`.
    pub a_log: Param<Tensor<B, 1>>,
    /// Bias of the decay's input, `[H]`.
    pub dt_bias: Param<Tensor<B, 1>>,
    /// Norm of each output head.
    pub norm: RmsNorm<B>,
    /// Output projection.
    pub out_proj: Linear<B>,
    heads: usize,
    head_dim: usize,
    rotary: bool,
    causal: bool,
}

impl<B: Backend> GatedDelta<B> {
    /// A mixer without weights of its own yet.
    pub fn new(shape: &AttentionShape, convolution: usize, rotary: bool, device: &B::Device) -> Self {
        let AttentionShape { hidden, heads, head_dim, output_bias, causal, eps, .. } = *shape;
        let width = heads * head_dim;
        Self {
            in_proj_qkv: linear(hidden, 3 * width, false, device),
            in_proj_z: linear(hidden, width, false, device),
            in_proj_b: linear(hidden, heads, false, device),
            in_proj_a: linear(hidden, heads, false, device),
            conv1d: ShortConvolution::new(3 * width, convolution, false, device),
            a_log: Initializer::Zeros.init([heads], device),
            dt_bias: Initializer::Zeros.init([heads], device),
            norm: RmsNorm::new(head_dim, eps, device),
            out_proj: linear(width, hidden, output_bias, device),
            heads,
            head_dim,
            rotary,
            causal,
        }
    }

    /// State before the first token.
    pub fn empty_state(&self, batch: usize) -> RecurrentState<B> {
        RecurrentState {
            convolution: self.conv1d.empty_state(batch),
            matrix: recurrence::empty_state([batch, self.heads, self.head_dim, self.head_dim], &self.a_log.device()),
        }
    }
}

impl<B: MixerBackend> GatedDelta<B> {
    /// `x [B, T, N]` -> `[B, T, N]` and the next state.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: RecurrentState<B>) -> (Tensor<B, 3>, RecurrentState<B>) {
        let (features, state) = self.features(x, context, state);
        (project(&self.out_proj, features), state)
    }

    /// What enters the output projection, `[B, T, H * V]`, and the next state.
    pub fn features(&self, x: Tensor<B, 3>, context: &Context<B>, state: RecurrentState<B>) -> (Tensor<B, 3>, RecurrentState<B>) {
        let tokens = context.tokens.as_ref();
        let z = project(&self.in_proj_z, x.clone());
        let beta = masked(sigmoid(single(project(&self.in_proj_b, x.clone()))), tokens).swap_dims(1, 2);
        let rate = softplus(single(project(&self.in_proj_a, x.clone())) + single(self.dt_bias.val()).unsqueeze(), 1.0);
        let g = masked(rate * single(self.a_log.val()).exp().neg().unsqueeze(), tokens).swap_dims(1, 2);

        let mixed = masked(project(&self.in_proj_qkv, x), tokens);
        if !self.causal {
            let first = state.convolution.clone();
            let (backward, _) = self.conv1d.forward(mixed.clone().flip([1]), first.clone(), None);
            let backward = self.inputs(backward, g.clone().flip([2]), beta.clone().flip([2]), None);
            let (forward, _) = self.conv1d.forward(mixed, first, None);
            let output = recurrence::both_ways(self.inputs(forward, g, beta, None), backward);
            return (gate::swiglu(z, merge_heads(self.norm.forward(output))), state);
        }
        let (mixed, convolution) = self.conv1d.forward(mixed, state.convolution, tokens);
        let inputs = self.inputs(mixed, g, beta, context.rotary.as_ref().filter(|_| self.rotary));
        let (output, matrix) = recurrence::scan(inputs, state.matrix);
        let output = gate::swiglu(z, merge_heads(self.norm.forward(output)));
        (output, RecurrentState { convolution, matrix })
    }

    /// What enters the recurrence, of convolved tokens `[B, T, N]`.
    fn inputs(&self, mixed: Tensor<B, 3>, g: Tensor<B, 3>, beta: Tensor<B, 3>, rotary: Option<&Rotary<B>>) -> recurrence::Inputs<B> {
        let heads = self.heads;
        let [batch, time, _] = mixed.dims();
        let mixed = mixed.reshape([batch, time, 3 * heads, self.head_dim]).swap_dims(1, 2);
        let part = |i: usize| mixed.clone().narrow(1, i * heads, heads);
        let turned = |x: Tensor<B, 4>| match rotary {
            Some(rotary) => rotate_half(x, rotary.cos.clone(), rotary.sin.clone()),
            None => x,
        };
        recurrence::Inputs {
            q: turned(norm::unit(part(0), (self.head_dim as f64).powf(-0.5), UNIT_EPS)),
            k: turned(norm::unit(part(1), 1.0, UNIT_EPS)),
            v: part(2),
            g: Some(recurrence::column(g)),
            beta: Some(beta),
        }
    }
}
