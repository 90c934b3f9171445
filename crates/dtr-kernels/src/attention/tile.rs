//! Products of a block of queries with a block of keys, the queries side by side in the lanes.
//!
//! A row of keys or values is read number by number and multiplied with all queries at once. So nothing is padded, copied or
//! summed across lanes, whatever the head width. Lengths of rows are part of their type: a loop over them has nothing to check.

use crate::simd::{Arithmetic, LANES, exp};
use crate::view::View;

/// Queries in a block: one a lane.
pub(super) const QUERIES: usize = LANES;

/// One number for each query; a slice of them is a matrix.
pub(super) type Column = [f32; QUERIES];

/// Keys in a block.
pub(super) const KEYS: usize = 64;

/// Cuts `count` rows into steps of as many rows as have room for their sums in registers.
#[inline(always)]
fn steps(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let step = match count - start {
            0 => return None,
            6.. => 6,
            4.. => 4,
            _ => 1,
        };
        start += step;
        Some((start - step, step))
    })
}

/// Each row of `rows` combined with `other`.
#[inline(always)]
pub(super) fn zip_all<A: Arithmetic>(rows: &mut [Column], other: A::Lanes, f: impl Fn(A::Lanes, A::Lanes) -> A::Lanes + Copy) {
    for row in rows {
        A::put(f(A::get(row), other), row);
    }
}

/// `exp`, number by number.
#[inline(always)]
pub(super) fn exp_all<A: Arithmetic>(rows: &mut [Column]) {
    for number in rows.as_flattened_mut() {
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
pub(super) fn scores<A: Arithmetic>(keys: Keys, first: usize, columns: &[Column], out: &mut [Column]) {
    for (j, step) in steps(out.len()) {
        let (first, out) = (first + j, &mut out[j..j + step]);
        match step {
            6 => scores_of::<A, 6>(keys, first, columns, out),
            4 => scores_of::<A, 4>(keys, first, columns, out),
            _ => scores_of::<A, 1>(keys, first, columns, out),
        }
    }
}

#[inline(always)]
fn scores_of<A: Arithmetic, const M: usize>(keys: Keys, first: usize, columns: &[Column], out: &mut [Column]) {
    let mut rows = [&[][..]; M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = &keys.row(first + m)[..columns.len()];
    }
    let mut sums = [A::splat(0.0); M];
    for d in 0..columns.len() {
        let column = A::get(&columns[d]);
        for m in 0..M {
            sums[m] = A::mul_add(A::splat(rows[m][d]), column, sums[m]);
        }
    }
    for m in 0..M {
        A::put(sums[m], &mut out[m]);
    }
}

/// `columns[c] += sum_j weights[j] values[first + j][c]`: what each query takes of the values.
#[inline(always)]
pub(super) fn take<A: Arithmetic>(values: Keys, first: usize, weights: &[Column], columns: &mut [Column]) {
    for (c, step) in steps(columns.len()) {
        let columns = &mut columns[c..c + step];
        match step {
            6 => take_of::<A, 6>(values, first, c, weights, columns),
            4 => take_of::<A, 4>(values, first, c, weights, columns),
            _ => take_of::<A, 1>(values, first, c, weights, columns),
        }
    }
}

#[inline(always)]
fn take_of<A: Arithmetic, const M: usize>(values: Keys, first: usize, c: usize, weights: &[Column], columns: &mut [Column]) {
    let mut sums = [A::splat(0.0); M];
    for m in 0..M {
        sums[m] = A::get(&columns[m]);
    }
    for (j, weight) in weights.iter().enumerate() {
        let value: &[f32; M] = values.row(first + j)[c..].first_chunk().expect("as many columns as values");
        let weight = A::get(weight);
        for m in 0..M {
            sums[m] = A::mul_add(A::splat(value[m]), weight, sums[m]);
        }
    }
    for m in 0..M {
        A::put(sums[m], &mut columns[m]);
    }
}

/// `out[j][c] += sum_i weights[j][i] queries[i][c]`: what each key gets from the queries.
///
/// `queries` has [`QUERIES`] rows of [`blocks`] `* LANES` numbers, `out` has rows of `width`.
#[inline(always)]
pub(super) fn give<A: Arithmetic>(weights: &[Column], queries: &[[f32; LANES]], width: usize, out: &mut [f32]) {
    for (j, step) in steps(weights.len()) {
        let (weights, out) = (&weights[j..j + step], &mut out[j * width..(j + step) * width]);
        match step {
            6 => give_of::<A, 6>(weights, queries, width, out),
            4 => give_of::<A, 4>(weights, queries, width, out),
            _ => give_of::<A, 1>(weights, queries, width, out),
        }
    }
}

#[inline(always)]
fn give_of<A: Arithmetic, const M: usize>(weights: &[Column], queries: &[[f32; LANES]], width: usize, out: &mut [f32]) {
    let weights: &[Column; M] = weights.first_chunk().expect("as many rows as a step has");
    let blocks = blocks(width);
    let queries = &queries[..QUERIES * blocks];
    for block in 0..blocks {
        let mut sums = [A::splat(0.0); M];
        for i in 0..QUERIES {
            let query = A::get(&queries[i * blocks + block]);
            for m in 0..M {
                sums[m] = A::mul_add(A::splat(weights[m][i]), query, sums[m]);
            }
        }
        for m in 0..M {
            let out = &mut out[m * width + block * LANES..(m + 1) * width];
            if out.len() >= LANES {
                A::store(A::add(A::load(out), sums[m]), out);
            } else {
                let mut stored = [0.0; LANES];
                A::put(sums[m], &mut stored);
                for (out, sum) in out.iter_mut().zip(stored) {
                    *out += sum;
                }
            }
        }
    }
}

/// Blocks of lanes in a row of the queries that [`give`] reads.
pub(super) fn blocks(width: usize) -> usize {
    width.div_ceil(LANES)
}
