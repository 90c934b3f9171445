//! Softmax attention over all, or over a window of, earlier tokens; over all tokens where they stand at one position.
//!
//! `o_i = sum_j softmax_j(scale * q_i k_j) v_j` over the keys `j` that query `i` sees ([`Span`]). The state is the keys and values.

use burn::prelude::*;
use burn::tensor::activation;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::position::{Positions, Span};
use crate::precision::{like, single};

/// Queries handled at a time by the composed form: bounds memory to this many rows of scores.
const CHUNK: usize = 128;

/// Attention by the backend's kernel. Query head `h` reads key/value head `h / (H / G)`.
///
/// `positions` are those of all keys; the queries are the last `Tq` of them.
///
/// # Shapes
/// `q [B, H, Tq, D]`, `k [B, G, Tk, D]`, `v [B, G, Tk, V]` -> `[B, H, Tq, V]`.
///
/// # Panics
/// If `G` does not divide `H`, or the positions are not those of the keys. Where a value is no number, queries that do not see it
/// may be none either.
pub fn attend<B: MixerBackend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    positions: &Positions,
    span: Span,
    scale: f64,
) -> Tensor<B, 4> {
    let ([_, heads, queries, _], [_, groups, keys, _]) = (q.dims(), k.dims());
    assert!(groups > 0 && heads % groups == 0, "{heads} query heads cannot share {groups} key heads: the second must divide the first");
    assert!(queries <= keys && positions.length() == keys, "{queries} queries, {keys} keys, {} positions", positions.length());
    tensor(B::causal_attention([primitive(q), primitive(k), primitive(v)], positions, span, scale))
}

/// The definition, quadratic in time and memory. `hidden [B or 1, 1, Tq, Tk]` marks what a query must not see.
///
/// # Shapes
/// `q [B, H, Tq, D]`, `k [B, H, Tk, D]`, `v [B, H, Tk, V]` -> `[B, H, Tq, V]`.
pub fn naive<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>, scale: f64) -> Tensor<B, 4> {
    weights(q, k, hidden, scale).matmul(v)
}

/// Attention weights, `[B, H, Tq, Tk]`. Shapes as in [`naive`].
pub fn weights<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>, scale: f64) -> Tensor<B, 4> {
    let scores = q.mul_scalar(scale).matmul(k.transpose());
    let (shape, dtype) = (scores.shape(), scores.dtype());
    like(activation::softmax(single(scores).mask_fill(hidden.expand(shape), f32::NEG_INFINITY), 3), dtype)
}

/// Blocks of `chunk` queries, each against the keys it can see at all: linear memory, and half the work where positions rise (a band of it
/// with a window).
///
/// The last query stands at the last key: `Tq <= Tk`. `positions` are those of all keys, padding included.
///
/// # Shapes
/// `q [B, H, Tq, D]`, `k [B, H, Tk, D]`, `v [B, H, Tk, V]` -> `[B, H, Tq, V]`.
///
/// # Panics
/// If `chunk` is 0.
pub fn chunk<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    positions: &Positions,
    span: Span,
    scale: f64,
    chunk: usize,
) -> Tensor<B, 4> {
    assert!(chunk > 0, "a chunk has one query at least");
    let [queries, keys] = [q.dims()[2], k.dims()[2]];
    let (offset, device, in_order) = (keys - queries, q.device(), positions.is_in_order());
    let blocks = (0..queries).step_by(chunk).map(|start| {
        let length = chunk.min(queries - start);
        let end = if in_order { offset + start + length } else { keys };
        // With sinks every block needs the front as well; where padding puts it differs by row, so all keys stay.
        let first = match span.window {
            Some(window) if span.sinks == 0 && in_order => (offset + start + 1).saturating_sub(window),
            _ => 0,
        };
        let hidden = positions.narrow(offset + start..offset + start + length).hidden(&positions.narrow(first..end), span, &device);
        let seen = |x: &Tensor<B, 4>| x.clone().narrow(2, first, end - first);
        naive(q.clone().narrow(2, start, length), seen(&k), seen(&v), hidden, scale)
    });
    Tensor::cat(blocks.collect(), 2)
}

/// The fallback of [`attend`].
pub(crate) fn chunk_composed<B: Backend>([q, k, v]: [FloatTensor<B>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<B> {
    let q = tensor::<B, 4>(q);
    let heads = q.dims()[1];
    primitive(chunk(q, repeat_heads(tensor(k), heads), repeat_heads(tensor(v), heads), positions, span, scale, CHUNK))
}

/// Whole heads repeated until each of `heads` query heads has its own, `[B, G, T, D]` -> `[B, H, T, D]`.
///
/// # Panics
/// If `G` does not divide `heads`.
pub fn repeat_heads<B: Backend>(x: Tensor<B, 4>, heads: usize) -> Tensor<B, 4> {
    let [batch, groups, time, width] = x.dims();
    if groups == heads {
        return x;
    }
    assert!(groups > 0 && heads.is_multiple_of(groups), "{groups} heads cannot be repeated to {heads}: the first must divide the second");
    x.unsqueeze_dim::<5>(2).expand([batch, groups, heads / groups, time, width]).reshape([batch, heads, time, width])
}

/// Heads of each token side by side, `[B, H, T, V]` -> `[B, T, H * V]`.
pub fn merge_heads<B: MixerBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    tensor(B::merge_heads(primitive(x)))
}

/// The definition of [`merge_heads`].
pub(crate) fn rows_of_heads<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = tensor::<B, 4>(x);
    let [batch, heads, time, width] = x.dims();
    primitive(x.swap_dims(1, 2).reshape([batch, time, heads * width]))
}
