//! Linear attention with learned softmax features over the parent's projections.

use burn::module::{Initializer, Param};
use burn::prelude::*;
use dtr_attention::precision::single;
use dtr_attention::softmax::{merge_heads, repeat_heads};
use dtr_attention::{MixerBackend, feature_map, linear};

use super::projections::{Projected, Projections};
use crate::config::AttentionShape;
use crate::decoder::Context;
use crate::layers::project;

/// Linear attention with the Hedgehog map. Rotary positions are kept in front of the map, as in `LoLCATs`.
#[derive(Module, Debug)]
pub struct Hedgehog<B: Backend> {
    /// The parent's projections.
    pub projections: Projections<B>,
    /// Map of the queries, one a head, `[H, D, D]`.
    pub q_map: Param<Tensor<B, 3>>,
    /// Map of the keys, one a query head, `[H, D, D]`.
    pub k_map: Param<Tensor<B, 3>>,
    causal: bool,
}

impl<B: Backend> Hedgehog<B> {
    /// A mixer without weights of its own yet.
    pub fn new(shape: &AttentionShape, device: &B::Device) -> Self {
        let map = || Initializer::Zeros.init([shape.heads, shape.head_dim, shape.head_dim], device);
        Self { projections: Projections::new(shape, device), q_map: map(), k_map: map(), causal: shape.causal }
    }

    /// State before the first token.
    pub fn empty_state(&self, batch: usize) -> Tensor<B, 4> {
        let (heads, width) = (self.projections.heads(), self.projections.head_dim());
        linear::empty_state([batch, heads, 2 * width, width], &self.q_map.device())
    }
}

impl<B: MixerBackend> Hedgehog<B> {
    /// `x [B, T, N]` -> `[B, T, N]` and the next state.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: Tensor<B, 4>) -> (Tensor<B, 3>, Tensor<B, 4>) {
        let (features, state) = self.features(x, context, state);
        (project(&self.projections.o_proj, features), state)
    }

    /// What enters the output projection, `[B, T, H * V]`, and the next state.
    pub fn features(&self, x: Tensor<B, 3>, context: &Context<B>, state: Tensor<B, 4>) -> (Tensor<B, 3>, Tensor<B, 4>) {
        let Projected { q, k, v } = self.mapped(x, context);
        if !self.causal {
            return (merge_heads(linear::over_all(q, k, v)), state);
        }
        let (heads, state) = linear::scan(q, k, v, state);
        (merge_heads(heads), state)
    }

    /// Attention weights over a whole sequence, `[B, H, T, T]`: `phi(q_i) phi(k_j) / sum_j phi(q_i) phi(k_j)` over the keys `j` that `i` sees.
    pub fn weights(&self, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 4> {
        let Projected { q, k, .. } = self.mapped(x, context);
        let weights = q.matmul(k.transpose());
        let weights = if self.causal { weights.tril(0) } else { weights };
        weights.clone() / weights.sum_dim(3).add_scalar(linear::EPS)
    }

    /// Features of queries and keys, those of padding 0, and values, a head of each for every query head.
    fn mapped(&self, x: Tensor<B, 3>, context: &Context<B>) -> Projected<B> {
        let Projected { q, k, v } = self.projections.split(x, context.rotary.as_ref());
        // The maps stand in for exp(q k / sqrt(D)): each side takes half of the scale.
        let root = self.projections.scale().sqrt();
        let q = feature_map::hedgehog(single(q).mul_scalar(root), single(self.q_map.val()));
        let k = feature_map::hedgehog(single(repeat_heads(k, self.projections.heads())).mul_scalar(root), single(self.k_map.val()));
        let k = context.tokens.as_ref().map_or(k.clone(), |tokens| k * tokens.clone().unsqueeze_dims::<4>(&[1, 3]));
        Projected { q, k, v: repeat_heads(v, self.projections.heads()) }
    }
}
