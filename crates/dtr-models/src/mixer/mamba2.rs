//! Mamba-2 as a sublayer, in the form of Granite 4's and Bamba's linear layers.
//!
//! `x, B, C = silu(conv(W_xbc u) + b)`; `dt = softplus(W_dt u + dt_bias)`; the matrix fades by `exp(-dt exp(A_log))` and is written `B^T (dt x)`;
//! `o = C S + D x`; `y = W_o norm(o * silu(W_z u))`, the norm by group. Unlike in gated delta the norm stands *behind* the gate.
//!
//! Every query head has its own `B` and `C`, so that groups are heads. Step sizes have no limits: the published runtimes heed theirs
//! where they read a prompt and not where they generate.
//!
//! Reference: arXiv 2405.21060, section 7.

use burn::module::{Initializer, Param};
use burn::nn::Linear;
use burn::prelude::*;
use dtr_attention::mamba2::{StateSpace, skip, step_sizes};
use dtr_attention::precision::{like, single};
use dtr_attention::softmax::merge_heads;
use dtr_attention::{MixerBackend, gate, recurrence};

use super::projections::split_heads;
use super::recurrent::{RecurrentState, ShortConvolution, masked};
use crate::config::AttentionShape;
use crate::decoder::Context;
use crate::layers::{RmsNorm, linear, project};

/// A Mamba-2 sublayer. Published models hold its three input projections as one matrix, in the order of the fields.
#[derive(Module, Debug)]
pub struct Mamba2<B: Backend> {
    /// Output gate, `[hidden, heads * P]`.
    pub in_proj_z: Linear<B>,
    /// What is written, by what, and what is read by: `x`, `B`, `C` side by side, `[hidden, heads * (P + 2 N)]`.
    pub in_proj_xbc: Linear<B>,
    /// Step size before its bias, one a head.
    pub in_proj_dt: Linear<B>,
    /// Short convolution over `x`, `B` and `C`.
    pub conv1d: ShortConvolution<B>,
    /// Logarithm of the decay's rate, `[H]`.
    pub a_log: Param<Tensor<B, 1>>,
    /// Share of a token's own `x` in its output, `[H]`.
    pub d: Param<Tensor<B, 1>>,
    /// Bias of the step size, `[H]`.
    pub dt_bias: Param<Tensor<B, 1>>,
    /// Norm of each gated output head, `[heads * P]`.
    pub norm: RmsNorm<B>,
    /// Output projection.
    pub out_proj: Linear<B>,
    heads: usize,
    head_dim: usize,
    state: usize,
}

impl<B: Backend> Mamba2<B> {
    /// A mixer without weights of its own yet, with `state` numbers a head to write and to read by.
    pub fn new(shape: &AttentionShape, state: usize, convolution: usize, device: &B::Device) -> Self {
        let AttentionShape { hidden, heads, head_dim, eps, .. } = *shape;
        let width = heads * head_dim;
        let channels = width + 2 * heads * state;
        Self {
            in_proj_z: linear(hidden, width, false, device),
            in_proj_xbc: linear(hidden, channels, false, device),
            in_proj_dt: linear(hidden, heads, false, device),
            conv1d: ShortConvolution::new(channels, convolution, true, device),
            a_log: Initializer::Zeros.init([heads], device),
            d: Initializer::Zeros.init([heads], device),
            dt_bias: Initializer::Zeros.init([heads], device),
            norm: RmsNorm::new(width, eps, device),
            out_proj: linear(width, hidden, false, device),
            heads,
            head_dim,
            state,
        }
    }

    /// Numbers a head that are written and read by.
    pub fn state(&self) -> usize {
        self.state
    }

    /// State before the first token.
    pub fn empty_state(&self, batch: usize) -> RecurrentState<B> {
        RecurrentState {
            convolution: self.conv1d.empty_state(batch),
            matrix: recurrence::empty_state([batch, self.heads, self.state, self.head_dim], &self.a_log.device()),
        }
    }
}

impl<B: MixerBackend> Mamba2<B> {
    /// `x [B, T, N]` -> `[B, T, N]` and the next state.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: RecurrentState<B>) -> (Tensor<B, 3>, RecurrentState<B>) {
        let (features, state) = self.features(x, context, state);
        (project(&self.out_proj, features), state)
    }

    /// What enters the output projection, `[B, T, H * P]`, and the next state.
    pub fn features(&self, x: Tensor<B, 3>, context: &Context<B>, state: RecurrentState<B>) -> (Tensor<B, 3>, RecurrentState<B>) {
        let Self { heads, head_dim, state: width, .. } = *self;
        let tokens = context.tokens.as_ref();
        let z = project(&self.in_proj_z, x.clone());
        let dt = step_sizes(single(project(&self.in_proj_dt, x.clone())).swap_dims(1, 2), single(self.dt_bias.val()), (0.0, f64::INFINITY));
        // A step of size 0 neither fades nor writes.
        let dt = masked(dt.swap_dims(1, 2), tokens).swap_dims(1, 2);

        let mixed = masked(project(&self.in_proj_xbc, x), tokens);
        let (mixed, convolution) = self.conv1d.forward(mixed, state.convolution, tokens);
        let part = |from: usize, width: usize| split_heads(mixed.clone().narrow(2, from * heads, width * heads), heads, width);
        let x = single(part(0, head_dim));
        let space = StateSpace { x: x.clone(), dt, b: part(head_dim, width), c: part(head_dim + width, width) };
        let (output, matrix) = recurrence::scan(space.inputs(single(self.a_log.val())), state.matrix);
        let output = like(merge_heads(skip(output, x, single(self.d.val()))), z.dtype());
        let output = gate::swiglu(z, output);
        (self.norm.by_group(output, heads), RecurrentState { convolution, matrix })
    }
}
