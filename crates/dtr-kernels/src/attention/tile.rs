//! Products of a block of queries with a block of keys, the queries side by side in the lanes.
//!
//! A row of keys or values is read number by number and multiplied with all queries at once. So nothing is padded, copied or
//! summed across lanes, whatever the head width. A matrix `[n, QUERIES]` is a slice of `n * QUERIES` numbers.

use crate::simd::{Arithmetic, LANES, exp};
use crate::view::View;

/// Queries in a block: one a lane.
pub(super) const QUERIES: usize = LANES;

/// Keys in a block.
pub(super) const KEYS: usize = 64;

/// Key rows, or columns of them, whose sums are in registers at a time.
const HELD: usize = 4;

/// Each row of `rows` combined with `other`.
#[inline(always)]
pub(super) fn zip_all<A: Arithmetic>(rows: &mut [f32], other: A::Lanes, f: impl Fn(A::Lanes, A::Lanes) -> A::Lanes + Copy) {
    for row in rows.chunks_exact_mut(QUERIES) {
        A::store(f(A::load(row), other), row);
    }
}

/// `exp`, number by number.
#[inline(always)]
pub(super) fn exp_all<A: Arithmetic>(numbers: &mut [f32]) {
    for number in numbers {
        *number = exp::<A>(*number);
    }
}

/// Rows of keys or of values.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub view: View<'a, 4>,
    pub batch: usize,
    pub head: usize,
}

impl<'a> Keys<'a> {
    /// The row of key `j`.
    #[inline(always)]
    pub fn row(&self, j: usize) -> &'a [f32] {
        self.view.row(self.batch, self.head, j)
    }
}

/// `out[j] = sum_d keys[first + j][d] columns[d]`: each key with all queries.
#[inline(always)]
pub(super) fn scores<A: Arithmetic>(keys: Keys, first: usize, columns: &[f32], out: &mut [f32]) {
    let mut j = first;
    let mut held = out.chunks_exact_mut(HELD * QUERIES);
    for out in &mut held {
        scores_of::<A, HELD>(std::array::from_fn(|m| keys.row(j + m)), columns, out);
        j += HELD;
    }
    for out in held.into_remainder().chunks_exact_mut(QUERIES) {
        scores_of::<A, 1>([keys.row(j)], columns, out);
        j += 1;
    }
}

#[inline(always)]
fn scores_of<A: Arithmetic, const M: usize>(keys: [&[f32]; M], columns: &[f32], out: &mut [f32]) {
    let width = columns.len() / QUERIES;
    let keys = keys.map(|key| &key[..width]);
    let mut sums = [A::splat(0.0); M];
    for (d, column) in columns.chunks_exact(QUERIES).enumerate() {
        let column = A::load(column);
        for m in 0..M {
            sums[m] = A::mul_add(A::splat(keys[m][d]), column, sums[m]);
        }
    }
    for (out, sum) in out.chunks_exact_mut(QUERIES).zip(sums) {
        A::store(sum, out);
    }
}

/// `columns[c] += sum_j weights[j] values[first + j][c]`: what each query takes of the values.
#[inline(always)]
pub(super) fn take<A: Arithmetic>(values: Keys, first: usize, weights: &[f32], columns: &mut [f32]) {
    let mut c = 0;
    let mut held = columns.chunks_exact_mut(HELD * QUERIES);
    for columns in &mut held {
        take_of::<A, HELD>(values, first, c, weights, columns);
        c += HELD;
    }
    for columns in held.into_remainder().chunks_exact_mut(QUERIES) {
        take_of::<A, 1>(values, first, c, weights, columns);
        c += 1;
    }
}

#[inline(always)]
fn take_of<A: Arithmetic, const M: usize>(values: Keys, first: usize, c: usize, weights: &[f32], columns: &mut [f32]) {
    let mut sums = [A::splat(0.0); M];
    for (sum, column) in sums.iter_mut().zip(columns.chunks_exact(QUERIES)) {
        *sum = A::load(column);
    }
    for (j, weight) in weights.chunks_exact(QUERIES).enumerate() {
        let value = &values.row(first + j)[c..c + M];
        let weight = A::load(weight);
        for m in 0..M {
            sums[m] = A::mul_add(A::splat(value[m]), weight, sums[m]);
        }
    }
    for (column, sum) in columns.chunks_exact_mut(QUERIES).zip(sums) {
        A::store(sum, column);
    }
}

/// `out[j][c] += sum_i weights[j][i] queries[i][c]`: what each key gets from the queries.
///
/// `queries` has [`QUERIES`] rows of [`padded`] width, `out` has rows of `width`.
#[inline(always)]
pub(super) fn give<A: Arithmetic>(weights: &[f32], queries: &[f32], width: usize, out: &mut [f32]) {
    let whole = weights.len() / (HELD * QUERIES) * HELD;
    let (many, rest) = out.split_at_mut(whole * width);
    let (many_weights, rest_weights) = weights.split_at(whole * QUERIES);
    for (weights, out) in many_weights.chunks_exact(HELD * QUERIES).zip(many.chunks_exact_mut(HELD * width)) {
        give_of::<A, HELD>(weights, queries, width, out);
    }
    for (weights, out) in rest_weights.chunks_exact(QUERIES).zip(rest.chunks_exact_mut(width)) {
        give_of::<A, 1>(weights, queries, width, out);
    }
}

#[inline(always)]
fn give_of<A: Arithmetic, const M: usize>(weights: &[f32], queries: &[f32], width: usize, out: &mut [f32]) {
    let weights = &weights[..M * QUERIES];
    let stride = padded(width);
    for c in (0..width).step_by(QUERIES) {
        let mut sums = [A::splat(0.0); M];
        for (i, query) in queries.chunks_exact(stride).enumerate().take(QUERIES) {
            let query = A::load(&query[c..]);
            for m in 0..M {
                sums[m] = A::mul_add(A::splat(weights[m * QUERIES + i]), query, sums[m]);
            }
        }
        for (m, sum) in sums.into_iter().enumerate() {
            let out = &mut out[m * width + c..(m + 1) * width];
            if out.len() >= QUERIES {
                A::store(A::add(A::load(out), sum), out);
            } else {
                let mut stored = [0.0; QUERIES];
                A::store(sum, &mut stored);
                out.iter_mut().zip(stored).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

/// Width of a row in the queries that [`give`] reads.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(QUERIES)
}
