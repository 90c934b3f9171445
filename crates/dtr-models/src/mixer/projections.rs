//! Query, key, value and output projections with head norms and rotary positions: shared by all mixers that keep the parent's.

use burn::nn::Linear;
use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_attention::rotary::rotate_half;

use crate::config::AttentionShape;
use crate::layers::{RmsNorm, linear, project};
use crate::rope::Rotary;

/// The parent's projections.
#[derive(Module, Debug)]
pub struct Projections<B: Backend> {
    /// `[hidden, heads * head_dim]`.
    pub q_proj: Linear<B>,
    /// `[hidden, kv_heads * head_dim]`.
    pub k_proj: Linear<B>,
    /// `[hidden, kv_heads * head_dim]`.
    pub v_proj: Linear<B>,
    /// `[heads * head_dim, hidden]`.
    pub o_proj: Linear<B>,
    /// Norm of each query head, if the family has one.
    pub q_norm: Option<RmsNorm<B>>,
    /// Norm of each key head, if the family has one.
    pub k_norm: Option<RmsNorm<B>>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Queries `[B, H, T, D]` and the keys and values of the grouped heads `[B, G, T, D]`.
pub struct Projected<B: Backend> {
    /// Queries, rotated where positions are rotary.
    pub q: Tensor<B, 4>,
    /// Keys, likewise.
    pub k: Tensor<B, 4>,
    /// Values.
    pub v: Tensor<B, 4>,
}

impl<B: Backend> Projections<B> {
    /// Projections without weights of their own yet.
    pub fn new(shape: &AttentionShape, device: &B::Device) -> Self {
        let AttentionShape { hidden, heads, kv_heads, head_dim, qkv_bias, output_bias, qk_norm, eps, .. } = *shape;
        let norm = || qk_norm.then(|| RmsNorm::new(head_dim, eps, device));
        Self {
            q_proj: linear(hidden, heads * head_dim, qkv_bias, device),
            k_proj: linear(hidden, kv_heads * head_dim, qkv_bias, device),
            v_proj: linear(hidden, kv_heads * head_dim, qkv_bias, device),
            o_proj: linear(heads * head_dim, hidden, output_bias, device),
            q_norm: norm(),
            k_norm: norm(),
            heads,
            kv_heads,
            head_dim,
        }
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Scale of the scores, `head_dim^-1/2`.
    pub fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }
}

impl<B: MixerBackend> Projections<B> {
    /// `x [B, T, N]` to heads.
    pub fn split(&self, x: Tensor<B, 3>, rotary: Option<&Rotary<B>>) -> Projected<B> {
        let turned = |linear, norm: &Option<RmsNorm<B>>, heads| {
            let y = self.to_heads(project(linear, x.clone()), heads);
            let y = norm.as_ref().map_or(y.clone(), |norm| norm.forward(y));
            match rotary {
                Some(rotary) => rotate_half(y, rotary.cos.clone(), rotary.sin.clone()),
                None => y,
            }
        };
        Projected {
            q: turned(&self.q_proj, &self.q_norm, self.heads),
            k: turned(&self.k_proj, &self.k_norm, self.kv_heads),
            v: self.to_heads(project(&self.v_proj, x.clone()), self.kv_heads),
        }
    }

    fn to_heads(&self, x: Tensor<B, 3>, heads: usize) -> Tensor<B, 4> {
        split_heads(x, heads, self.head_dim)
    }
}

/// `[B, T, H * D]` -> `[B, H, T, D]`.
pub fn split_heads<B: Backend>(x: Tensor<B, 3>, heads: usize, width: usize) -> Tensor<B, 4> {
    let [batch, time, _] = x.dims();
    x.reshape([batch, time, heads, width]).swap_dims(1, 2)
}
