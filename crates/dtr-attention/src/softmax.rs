//! Causal softmax attention over all, or over a window of, earlier tokens.
//!
//! `o_i = sum_j softmax_j(scale * q_i k_j) v_j` over the keys `j` that query `i` sees ([`Span`]). The state is the keys and values.

use burn::prelude::*;
use burn::tensor::activation;

use crate::position::{Positions, Span};

/// The definition, quadratic in time and memory. `hidden [B or 1, 1, Tq, Tk]` marks what a query must not see.
///
/// # Shapes
/// `q [B, H, Tq, D]`, `k [B, H, Tk, D]`, `v [B, H, Tk, V]` -> `[B, H, Tq, V]`.
pub fn naive<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>, scale: f64) -> Tensor<B, 4> {
    activation::softmax(masked_scores(q, k, hidden, scale), 3).matmul(v)
}

/// Attention weights, `[B, H, Tq, Tk]`. Shapes as in [`naive`].
pub fn weights<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>, scale: f64) -> Tensor<B, 4> {
    activation::softmax(masked_scores(q, k, hidden, scale), 3)
}

fn masked_scores<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, hidden: Tensor<B, 4, Bool>, scale: f64) -> Tensor<B, 4> {
    let scores = q.mul_scalar(scale).matmul(k.transpose());
    let shape = scores.shape();
    scores.mask_fill(hidden.expand(shape), f32::NEG_INFINITY)
}

/// Blocks of `chunk` queries, each against the keys it can see at all: linear memory, half the work (a band of it with a window).
///
/// The last query stands at the last key: `Tq <= Tk`. `positions_k` are those of all keys, padding included.
///
/// # Shapes
/// `q [B, H, Tq, D]`, `k [B, H, Tk, D]`, `v [B, H, Tk, V]` -> `[B, H, Tq, V]`.
pub fn chunk<B: Backend>(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>, positions: &Positions<B>, span: Span, scale: f64, chunk: usize) -> Tensor<B, 4> {
    let [queries, keys] = [q.dims()[2], k.dims()[2]];
    let offset = keys - queries;
    let blocks = (0..queries).step_by(chunk).map(|start| {
        let length = chunk.min(queries - start);
        let end = offset + start + length;
        // With sinks every block needs the front as well; where padding puts it differs by row, so all keys stay.
        let first = match span.window {
            Some(window) if span.sinks == 0 => (offset + start + 1).saturating_sub(window),
            _ => 0,
        };
        let hidden = positions.narrow(offset + start..end).hidden(&positions.narrow(first..end), span);
        let seen = |x: &Tensor<B, 4>| x.clone().narrow(2, first, end - first);
        naive(q.clone().narrow(2, start, length), seen(&k), seen(&v), hidden, scale)
    });
    let mut blocks: Vec<_> = blocks.collect();
    if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(blocks, 2) }
}
