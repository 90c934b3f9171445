//! Backward pass of causal attention: the weights are recomputed block by block.
//!
//! With `P` the weights and `O` the output: `dV = P^T dO`, `dS = P * (dO V^T - rowsum(dO * O))`, `dQ = scale dS K`,
//! `dK = scale dS^T Q`.

use rayon::prelude::*;

use super::tile::{KEYS, QUERIES, exp_all, give, padded, scores, take, zip_all};
use super::{Block, Dims, Inputs, Place, Prepared};
use crate::simd::{Arithmetic, Kernel, dispatch};
use crate::threads::for_each;
use crate::view::View;

/// Gradients of `q`, `k` and `v`; `grad [B, H, Tq, V]`.
///
/// # Panics
/// If shapes do not fit.
pub fn backward(inputs: Inputs<'_>, grad: View<'_, 4>) -> [Vec<f32>; 3] {
    let inputs = Prepared::new(inputs);
    let Dims { batch, heads, groups, queries, keys, width, values } = inputs.dims;
    assert_eq!(grad.shape(), [batch, heads, queries, values], "a gradient like the result");
    let mut by_q = vec![0.0; batch * heads * queries * width];
    let mut by_k = vec![0.0; batch * groups * keys * width];
    let mut by_v = vec![0.0; batch * groups * keys * values];
    // The heads of a group follow each other; they add to the same keys, so they are one task.
    let tasks = (
        by_q.par_chunks_mut((heads / groups * queries * width).max(1)),
        by_k.par_chunks_mut((keys * width).max(1)),
        by_v.par_chunks_mut((keys * values).max(1)),
    );
    for_each(tasks.into_par_iter().enumerate(), inputs.multiplications() * 4, |(index, (by_q, by_k, by_v))| {
        dispatch(Backward { inputs: &inputs, grad, index, by_q, by_k, by_v });
    });
    [by_q, by_k, by_v]
}

struct Backward<'a> {
    inputs: &'a Prepared<'a>,
    grad: View<'a, 4>,
    /// Number of the group, counted through the batch.
    index: usize,
    by_q: &'a mut [f32],
    by_k: &'a mut [f32],
    by_v: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        let Dims { heads, groups, queries, .. } = self.inputs.dims;
        let (batch, group) = (self.index / groups, self.index % groups);
        for member in 0..heads / groups {
            for first in (0..queries).step_by(QUERIES) {
                let place = Place { batch, head: group * (heads / groups) + member, group, first };
                self.block::<A>(place, member);
            }
        }
    }
}

impl Backward<'_> {
    /// What flows back from one block of queries.
    #[inline(always)]
    fn block<A: Arithmetic>(&mut self, place: Place, member: usize) {
        let Self { inputs, grad, by_q, by_k, by_v, .. } = self;
        let Dims { queries, width, values, .. } = inputs.dims;
        let [k, v] = inputs.group(place.batch, place.group);
        let count = QUERIES.min(queries - place.first);
        let mut block = Block::new(inputs, place, count);
        block.attend::<A>(inputs);

        let mut flow = vec![0.0; values * QUERIES];
        let mut flow_rows = vec![0.0; QUERIES * padded(values)];
        let mut query_rows = vec![0.0; QUERIES * padded(width)];
        for i in 0..count {
            let row = grad.row(place.batch, place.head, place.first + i);
            flow_rows[i * padded(values)..][..values].copy_from_slice(row);
            for (flow, &grad) in flow.chunks_exact_mut(QUERIES).zip(row) {
                flow[i] = grad;
            }
            for (to, from) in query_rows[i * padded(width)..].iter_mut().zip(block.queries.chunks_exact(QUERIES)) {
                *to = from[i];
            }
        }
        let mut along = A::splat(0.0);
        for (flow, output) in flow.chunks_exact(QUERIES).zip(block.output.chunks_exact(QUERIES)) {
            along = A::mul_add(A::load(flow), A::load(output), along);
        }

        let mut by_queries = vec![0.0; width * QUERIES];
        let (highest, share) = (A::load(&block.highest), A::load(&block.share));
        let mut weights = [0.0; KEYS * QUERIES];
        let mut slopes = [0.0; KEYS * QUERIES];
        for (first, count, sight) in block.seen(inputs) {
            let (weights, slopes) = (&mut weights[..count * QUERIES], &mut slopes[..count * QUERIES]);
            block.scores::<A>(inputs, k, first, sight, weights);
            zip_all::<A>(weights, highest, A::sub);
            exp_all::<A>(weights);
            scores::<A>(v, first, &flow, slopes);
            for (weight, slope) in weights.chunks_exact_mut(QUERIES).zip(slopes.chunks_exact_mut(QUERIES)) {
                let share = A::mul(A::load(weight), share);
                let apart = A::sub(A::load(slope), along);
                A::store(share, weight);
                A::store(A::mul(apart, share), slope);
            }
            give::<A>(weights, &flow_rows, values, &mut by_v[first * values..(first + count) * values]);
            give::<A>(slopes, &query_rows, width, &mut by_k[first * width..(first + count) * width]);
            take::<A>(k, first, slopes, &mut by_queries);
        }
        let rows = &mut by_q[(member * queries + place.first) * width..][..count * width];
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            for (to, from) in row.iter_mut().zip(by_queries.chunks_exact(QUERIES)) {
                *to = from[i] * inputs.inputs.scale;
            }
        }
    }
}
