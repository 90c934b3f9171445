//! Normalised linear attention: softmax attention with `exp(q k)` replaced by `phi(q) phi(k)`.
//!
//! `o_t = (phi(q_t) S_t) / (phi(q_t) z_t + eps)`, `S_t = sum_{s<=t} phi(k_s) v_s`, `z_t = sum_{s<=t} phi(k_s)`.
//!
//! `q` and `k` come in as features. The state holds `S` and, as its last column, `z`: `[B, H, D, V + 1]`.
//! A padded key must be zero. Reference: arXiv 2006.16236, eq. 8-12.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::precision::{like, single};
use crate::{chunks, recurrence};

/// Chunk length of the composed form.
const CHUNK: usize = 64;

/// Keeps the quotient finite where no key has been seen.
pub const EPS: f64 = 1e-10;

/// State before the first token.
pub fn empty_state<B: Backend>([batch, heads, width, value]: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    Tensor::zeros([batch, heads, width, value + 1], device)
}

/// From `state` on by the backend's kernel, in single precision at least. Shapes as in [`chunk`].
pub fn scan<B: MixerBackend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let ([batch, heads, time, width], values) = (q.dims(), v.dims()[3]);
    let dtype = v.dtype();
    let joined = tensor::<B, 1>(B::linear_attention([q, k, v, state].map(|x| primitive(single(x)))));
    let (output, state) = recurrence::parted(joined, [batch, heads, time, values], [batch, heads, width, values + 1]);
    (like(output, dtype), state)
}

/// The fallback of [`scan`]: [`chunk`], outputs and states one after the other because an operation has one result.
pub(crate) fn composed<B: Backend>([q, k, v, state]: [FloatTensor<B>; 4]) -> FloatTensor<B> {
    let (output, state) = chunk::<B>(tensor(q), tensor(k), tensor(v), tensor(state), CHUNK);
    recurrence::joined(output, state)
}

/// [`scan`] on backends with a kernel for the recurrence alone: the additive rule on `[v, 1]`, then the quotient.
#[cfg(feature = "cubecl")]
pub(crate) fn by_recurrence<B: MixerBackend>([q, k, v, state]: [FloatTensor<B>; 4]) -> FloatTensor<B> {
    let inputs = recurrence::Inputs::<B>::new(tensor(q), tensor(k), with_ones(tensor(v)));
    let (output, state) = recurrence::scan(inputs, tensor(state));
    recurrence::joined(normalised(output), state)
}

/// The definition, quadratic in time.
///
/// # Shapes
/// `q, k [B, H, T, D]`, `v [B, H, T, V]` -> `[B, H, T, V]`.
pub fn naive<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Tensor<B, 4> {
    let weights = q.matmul(k.transpose()).tril(0);
    weights.clone().matmul(v) / weights.sum_dim(3).add_scalar(EPS)
}

/// Parallel within and across chunks of `chunk` tokens; returns the state after the last token.
///
/// # Shapes
/// `q, k [B, H, T, D]`, `v [B, H, T, V]`, `state [B, H, D, V + 1]` -> `[B, H, T, V]`, state.
///
/// # Panics
/// If `chunk` is 0.
pub fn chunk<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    state: Tensor<B, 4>,
    chunk: usize,
) -> (Tensor<B, 4>, Tensor<B, 4>) {
    assert!(chunk > 0, "a chunk has one token at least");
    let time = q.dims()[2];
    let chunk = chunk.min(time);
    let q = chunks::split(q, chunk);
    let k = chunks::split(k, chunk);
    let v = chunks::split(with_ones(v), chunk);
    // States in front of each chunk, the sums of all earlier chunks, and the one after the last.
    let added = k.clone().transpose().matmul(v.clone());
    let count = added.dims()[2];
    let after = added.cumsum(2) + state.clone().unsqueeze_dim(2);
    let states = Tensor::cat(vec![state.unsqueeze_dim(2), after], 2);
    let before = states.clone().narrow(2, 0, count);
    let inside = q.clone().matmul(k.transpose()).tril(0).matmul(v);
    let out = normalised(chunks::join(inside + q.matmul(before), time));
    (out, states.narrow(2, count, 1).squeeze_dim(2))
}

/// One token with state; `T = 1`. Shapes as in [`chunk`].
pub fn recurrent<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let state = state + k.transpose().matmul(with_ones(v));
    (normalised(q.matmul(state.clone())), state)
}

/// Every query over all tokens, whatever their order: `o_i = (phi(q_i) S) / (phi(q_i) z + eps)` with the sums `S` and `z` over the whole
/// sequence. What an encoder needs; it costs as much a token as [`scan`] and has no state to go on from.
///
/// # Shapes
/// `q, k [B, H, T, D]`, `v [B, H, T, V]` -> `[B, H, T, V]`.
pub fn over_all<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Tensor<B, 4> {
    normalised(q.matmul(k.transpose().matmul(with_ones(v))))
}

/// The definition of [`over_all`], quadratic in time. Shapes as there.
pub fn naive_over_all<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Tensor<B, 4> {
    let weights = q.matmul(k.transpose());
    weights.clone().matmul(v) / weights.sum_dim(3).add_scalar(EPS)
}

/// `[v, 1]`: the normaliser is one more value column.
fn with_ones<B: Backend>(v: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, heads, time, _] = v.dims();
    let ones = Tensor::ones([batch, heads, time, 1], &v.device());
    Tensor::cat(vec![v, ones], 3)
}

/// `x[.., ..V] / (x[.., V] + eps)`.
pub(crate) fn normalised<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let width = x.dims()[3] - 1;
    x.clone().narrow(3, 0, width) / x.narrow(3, width, 1).add_scalar(EPS)
}
