//! Backward pass of attention: the weights are recomputed block by block, `P = exp(score - sum)`.
//!
//! With `O` the output: `dV = P^T dO`, `dS = P * (dO V^T - rowsum(dO * O))`, `dQ = scale dS K`,
//! `dK = scale dS^T Q`.

use rayon::prelude::*;

use super::tile::{KEYS, QUERIES, blocks, exp_all, give, scores, take, zip_all};
use super::{Block, Dims, Inputs, Place, Prepared};
use crate::simd::{Arithmetic, Kernel, LANES, dispatch, dot};
use crate::threads::for_each;
use crate::view::View;

/// Gradients of `q`, `k` and `v` from `grad [B, H, Tq, V]` and what [`super::forward_for_backward`] returned: the output, in any layout of
/// `[B, H, Tq, V]`, and the sums.
///
/// # Panics
/// If shapes do not fit.
pub fn backward(inputs: Inputs<'_>, output: View<'_, 4>, sums: &[f32], grad: View<'_, 4>) -> [Vec<f32>; 3] {
    let inputs = Prepared::new(inputs);
    let Dims { batch, heads, groups, queries, keys, width, values } = inputs.dims;
    let fits = [grad.shape(), output.shape()] == [[batch, heads, queries, values]; 2] && sums.len() == batch * heads * queries;
    assert!(fits, "output, sums and gradient are those of the forward pass");
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
        dispatch(Backward { inputs: &inputs, output, sums, grad, index, by_q, by_k, by_v });
    });
    [by_q, by_k, by_v]
}

struct Backward<'a> {
    inputs: &'a Prepared<'a>,
    output: View<'a, 4>,
    /// `[B, Tq, H]`.
    sums: &'a [f32],
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
        let Self { inputs, output, sums, grad, by_q, by_k, by_v, .. } = self;
        let Dims { heads, queries, width, values, .. } = inputs.dims;
        let [k, v] = inputs.group(place.batch, place.group);
        let count = QUERIES.min(queries - place.first);
        let block = Block::new(inputs, place, count);

        // Lanes without a query get no weight.
        let (mut highest, mut along) = ([f32::INFINITY; QUERIES], [0.0; QUERIES]);
        let mut flow = vec![[0.0; QUERIES]; values];
        let mut flow_rows = vec![[0.0; LANES]; QUERIES * blocks(values)];
        let mut query_rows = vec![[0.0; LANES]; QUERIES * blocks(width)];
        for i in 0..count {
            let row = grad.row(place.batch, place.head, place.first + i);
            along[i] = dot::<A>(row, output.row(place.batch, place.head, place.first + i));
            highest[i] = sums[(place.batch * queries + place.first + i) * heads + place.head];
            flow_rows[i * blocks(values)..].as_flattened_mut()[..values].copy_from_slice(row);
            for (flow, &grad) in flow.iter_mut().zip(row) {
                flow[i] = grad;
            }
            for (to, from) in query_rows[i * blocks(width)..].as_flattened_mut().iter_mut().zip(&block.queries) {
                *to = from[i];
            }
        }
        let mut by_queries = vec![[0.0; QUERIES]; width];
        let (highest, along) = (A::get(&highest), A::get(&along));
        let mut weights = [[0.0; QUERIES]; KEYS];
        let mut slopes = [[0.0; QUERIES]; KEYS];
        for (first, count, sight) in block.seen(inputs) {
            let (weights, slopes) = (&mut weights[..count], &mut slopes[..count]);
            block.scores::<A>(inputs, k, first, sight, weights);
            zip_all::<A>(weights, highest, A::sub);
            exp_all::<A>(weights);
            scores::<A>(v, first, &flow, slopes);
            for (weight, slope) in weights.iter().zip(slopes.iter_mut()) {
                A::put(A::mul(A::sub(A::get(slope), along), A::get(weight)), slope);
            }
            give::<A>(weights, &flow_rows, values, &mut by_v[first * values..(first + count) * values]);
            give::<A>(slopes, &query_rows, width, &mut by_k[first * width..(first + count) * width]);
            take::<A>(k, first, slopes, &mut by_queries);
        }
        let rows = &mut by_q[(member * queries + place.first) * width..][..count * width];
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            for (to, from) in row.iter_mut().zip(&by_queries) {
                *to = from[i] * inputs.inputs.scale;
            }
        }
    }
}
