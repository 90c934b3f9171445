//! Products of a block of queries with a block of keys, the queries side by side in the lanes.
//!
//! A row of keys or values is read number by number and multiplied with all queries at once. So nothing is padded, copied or
//! summed across lanes, whatever the head width.

use super::simd::{Arithmetic, LANES, Lanes, exp, lanes, mul_add};
use super::views::View;

/// Queries in a block.
pub(super) const QUERIES: usize = 2 * LANES;

/// Keys in a block.
pub(super) const KEYS: usize = 64;

/// Key rows, or columns of them, whose sums are in registers at a time.
const HELD: usize = 4;

/// One number for each query.
pub(super) type Row = [Lanes; 2];

/// Row `f(lane)`.
#[inline(always)]
pub(super) fn row(mut f: impl FnMut(usize) -> f32) -> Row {
    [lanes(&mut f), lanes(|i| f(i + LANES))]
}

/// `f(a, b)`, query by query.
#[inline(always)]
pub(super) fn zip(a: &Row, b: &Row, mut f: impl FnMut(f32, f32) -> f32) -> Row {
    [lanes(|i| f(a[0][i], b[0][i])), lanes(|i| f(a[1][i], b[1][i]))]
}

/// `a * x + y` with one factor for all queries.
#[inline(always)]
pub(super) fn axpy<A: Arithmetic>(a: f32, x: &Row, y: Row) -> Row {
    [mul_add::<A>([a; LANES], x[0], y[0]), mul_add::<A>([a; LANES], x[1], y[1])]
}

/// `exp`, number by number.
#[inline(always)]
pub(super) fn exp_all<A: Arithmetic>(rows: &mut [Row]) {
    for number in rows.as_flattened_mut().as_flattened_mut() {
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

    /// Width of a row.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.view.width
    }
}

/// `out[j] = sum_d keys[first + j][d] columns[d]`: each key with all queries.
#[inline(always)]
pub(super) fn scores<A: Arithmetic>(keys: Keys, first: usize, columns: &[Row], out: &mut [Row]) {
    let whole = out.len() / HELD * HELD;
    for j in (0..whole).step_by(HELD) {
        let rows: [&[f32]; HELD] = std::array::from_fn(|m| &keys.row(first + j + m)[..columns.len()]);
        let mut sums = [[[0.0; LANES]; 2]; HELD];
        for (d, column) in columns.iter().enumerate() {
            for m in 0..HELD {
                sums[m] = axpy::<A>(rows[m][d], column, sums[m]);
            }
        }
        out[j..j + HELD].copy_from_slice(&sums);
    }
    for (j, out) in out.iter_mut().enumerate().skip(whole) {
        let mut sum = [[0.0; LANES]; 2];
        for (&key, column) in keys.row(first + j).iter().zip(columns) {
            sum = axpy::<A>(key, column, sum);
        }
        *out = sum;
    }
}

/// `columns[c] += sum_j weights[j] values[first + j][c]`: what each query takes of the values.
#[inline(always)]
pub(super) fn take<A: Arithmetic>(values: Keys, first: usize, weights: &[Row], columns: &mut [Row]) {
    let whole = columns.len() / HELD * HELD;
    for c in (0..whole).step_by(HELD) {
        let mut sums: [Row; HELD] = columns[c..c + HELD].try_into().expect("as many as held");
        for (j, weight) in weights.iter().enumerate() {
            let value: [f32; HELD] = values.row(first + j)[c..c + HELD].try_into().expect("as many as held");
            for m in 0..HELD {
                sums[m] = axpy::<A>(value[m], weight, sums[m]);
            }
        }
        columns[c..c + HELD].copy_from_slice(&sums);
    }
    for (c, column) in columns.iter_mut().enumerate().skip(whole) {
        for (j, weight) in weights.iter().enumerate() {
            *column = axpy::<A>(values.row(first + j)[c], weight, *column);
        }
    }
}

/// `out[j][c] += sum_i weights[j][i] queries[i][c]`: what each key gets from the queries.
///
/// `queries` has [`QUERIES`] rows of [`padded`] width, `out` has rows of `width`.
#[inline(always)]
pub(super) fn give<A: Arithmetic>(weights: &[Row], queries: &[f32], width: usize, out: &mut [f32]) {
    let whole = weights.len() / HELD * HELD;
    for j in (0..whole).step_by(HELD) {
        let held: [&Row; HELD] = std::array::from_fn(|m| &weights[j + m]);
        give_to::<A, HELD>(held, queries, width, &mut out[j * width..(j + HELD) * width]);
    }
    for j in whole..weights.len() {
        give_to::<A, 1>([&weights[j]], queries, width, &mut out[j * width..(j + 1) * width]);
    }
}

#[inline(always)]
fn give_to<A: Arithmetic, const M: usize>(weights: [&Row; M], queries: &[f32], width: usize, out: &mut [f32]) {
    let stride = padded(width);
    for c in (0..width).step_by(2 * LANES) {
        let mut sums = [[[0.0; LANES]; 2]; M];
        for (i, query) in queries.chunks_exact(stride).enumerate() {
            let query: &[f32; 2 * LANES] = query[c..c + 2 * LANES].try_into().expect("padded to two registers");
            for m in 0..M {
                let weight = weights[m][i / LANES % 2][i % LANES];
                sums[m][0] = lanes(|i| A::mul_add(weight, query[i], sums[m][0][i]));
                sums[m][1] = lanes(|i| A::mul_add(weight, query[i + LANES], sums[m][1][i]));
            }
        }
        for m in 0..M {
            let out = &mut out[m * width..(m + 1) * width][c..];
            for (out, sum) in out.iter_mut().zip(sums[m].as_flattened()) {
                *out += sum;
            }
        }
    }
}

/// Width of a row in the queries that [`give`] reads.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(2 * LANES)
}
