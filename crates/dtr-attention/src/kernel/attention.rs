//! Causal softmax attention by blocks of queries: scores of a block against the keys it sees, softmax, weighted values. The
//! matrix of all scores never exists.
//!
//! Keys are transposed once a head, so that scores of sixteen keys and four queries build up in registers.

use std::ops::Range;

use rayon::prelude::*;

use super::View;
use super::rows::tasks;
use super::simd::{axpy, dispatch, dot, exp, fma};
use crate::position::{Positions, Span};

/// Queries that share the loading of a key.
const ROWS: usize = 4;
/// Keys or value columns that are summed up in registers together.
const LANES: usize = 16;
/// Queries in one task.
const BLOCK: usize = 64;

/// Inputs of all heads, and what a query sees.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[B, H, Tq, D]`.
    pub q: View<'a>,
    /// `[B, G, Tk, D]`.
    pub k: View<'a>,
    /// `[B, G, Tk, V]`.
    pub v: View<'a>,
    /// Of all keys; the queries are the last of them.
    pub positions: &'a Positions,
    /// Which keys a query sees.
    pub span: Span,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether positions rise by one in every row: then what is visible follows from the index alone.
    pub consecutive: bool,
}

impl<'a> Inputs<'a> {
    pub fn new([q, k, v]: [View<'a>; 3], positions: &'a Positions, span: Span, scale: f32) -> Self {
        let consecutive = (0..positions.rows()).all(|row| positions.row(row).windows(2).all(|pair| pair[1] == pair[0] + 1));
        Self { q, k, v, positions, span, scale, consecutive }
    }

    fn group(&self) -> usize {
        self.q.shape[1] / self.k.shape[1]
    }

    /// Ranges of keys that some query of `rows` may see.
    fn segments(&self, b: usize, rows: &Range<usize>) -> [Range<usize>; 2] {
        let offset = self.k.shape[2] - self.q.shape[2];
        let end = offset + rows.end;
        let Some(window) = self.span.window.filter(|_| self.consecutive) else { return [0..end, end..end] };
        let first = (offset + rows.start + 1).saturating_sub(window);
        // The sinks are the tokens at positions below `sinks`, wherever the cache begins.
        let begin = self.positions.row(b)[0].max(0) as usize;
        let sinks = self.span.sinks.saturating_sub(begin).min(first);
        [0..sinks, first..end]
    }
}

/// One head of one sequence and its transposed keys.
#[derive(Clone, Copy)]
struct Head<'a> {
    inputs: Inputs<'a>,
    b: usize,
    h: usize,
    /// Keys `[D, Tk]`, empty where rows are too few to pay for transposing.
    keys: &'a [f32],
    /// Values `[V, Tk]`, for the backward pass.
    values: &'a [f32],
}

/// `[B, Tq, H, V]`: the heads of a token side by side, as the output projection reads them.
pub(crate) fn forward(inputs: Inputs<'_>) -> Vec<f32> {
    let [batch, heads, queries, width] = inputs.q.shape;
    let (groups, value) = (inputs.k.shape[1], inputs.v.shape[3]);
    let transposed = if queries < ROWS { Vec::new() } else { transpose(inputs.k) };
    let size = if queries < ROWS { 0 } else { inputs.k.shape[2] * width };
    let mut output = vec![0.0; batch * queries * heads * value];
    let sequences = output.chunks_mut(queries * heads * value).enumerate();
    let blocks = sequences.flat_map(|(b, output)| {
        output.chunks_mut(BLOCK * heads * value).enumerate().map(move |(block, output)| (b, block * BLOCK, output))
    });
    let mut blocks: Vec<_> = blocks.collect();
    // Longest first: the last queries of a sequence see the most keys.
    blocks.reverse();
    let work = batch * heads * queries * inputs.k.shape[2] * 4;
    tasks(blocks.into_par_iter(), work, |(b, start, output)| {
        for h in 0..heads {
            let keys = &transposed[(b * groups + h / inputs.group()) * size..][..size];
            forward_block(Head { inputs, b, h, keys, values: &[] }, start, output);
        }
    });
    output
}

/// Every `[T, D]` of a `[B, G, T, D]` as `[D, T]`.
fn transpose(x: View<'_>) -> Vec<f32> {
    let [batch, groups, time, width] = x.shape;
    let mut out = vec![0.0; batch * groups * time * width];
    let work = out.par_chunks_mut(time * width).enumerate();
    tasks(work, batch * groups * time * width, |(index, out)| {
        for t in 0..time {
            for (d, &value) in x.row(index / groups, index % groups, t).iter().enumerate() {
                out[d * time + t] = value;
            }
        }
    });
    out
}

#[inline(always)]
fn forward_body<const FMA: bool>(head: Head<'_>, start: usize, output: &mut [f32]) {
    let (value, heads) = (head.inputs.v.shape[3], head.inputs.q.shape[1]);
    let (mut scores, mut weighted) = (Vec::new(), vec![0.0; ROWS * value]);
    for (n, output) in output.chunks_mut(ROWS * heads * value).enumerate() {
        let rows = start + n * ROWS..start + n * ROWS + output.len() / (heads * value);
        let segments = head.inputs.segments(head.b, &rows);
        let sums = probabilities::<FMA>(head, &rows, &segments, &mut scores);
        weighted_rows::<FMA>(head.inputs.v, head, &segments, rows.len(), &scores, &mut weighted);
        for (r, output) in output.chunks_exact_mut(heads * value).enumerate() {
            for (output, weighted) in output[head.h * value..][..value].iter_mut().zip(&weighted[r * value..]) {
                *output = weighted / sums[r];
            }
        }
    }
}
dispatch!(forward_block = forward_body(head: Head<'_>, start: usize, output: &mut [f32]));

/// `exp(score - max)` of each row against the keys of the segments, one row behind the other; returns the sums of rows.
#[inline(always)]
fn probabilities<const FMA: bool>(head: Head<'_>, rows: &Range<usize>, segments: &[Range<usize>; 2], scores: &mut Vec<f32>) -> [f32; ROWS] {
    let Inputs { q, k, positions, span, scale, consecutive, .. } = head.inputs;
    let count = segments[0].len() + segments[1].len();
    scores.resize(ROWS * count, 0.0);
    let queries = std::array::from_fn(|r| q.row(head.b, head.h, rows.start + r.min(rows.len() - 1)));
    let mut at = 0;
    for segment in segments {
        products::<FMA>((k, head.keys), head, queries, rows.len(), segment, count, at, scores);
        at += segment.len();
    }
    let offset = k.shape[2] - q.shape[2];
    let positions = positions.row(head.b);
    let mut sums = [1.0; ROWS];
    for (r, row) in scores.chunks_exact_mut(count).take(rows.len()).enumerate() {
        let query = offset + rows.start + r;
        if consecutive && span.window.is_none() {
            row[query + 1..].fill(f32::NEG_INFINITY);
        } else {
            let keys = segments[0].clone().chain(segments[1].clone());
            for (score, key) in row.iter_mut().zip(keys) {
                if key > query || !span.sees(positions[query], positions[key]) {
                    *score = f32::NEG_INFINITY;
                }
            }
            // A padded query sees at least itself.
            row[count - 1 - (offset + rows.end - 1 - query)] = row[count - 1 - (offset + rows.end - 1 - query)].max(f32::MIN);
        }
        sums[r] = exponentials::<FMA>(row, scale);
    }
    sums
}

/// `x <- exp(scale * (x - max))`; returns the sum.
#[inline(always)]
fn exponentials<const FMA: bool>(row: &mut [f32], scale: f32) -> f32 {
    let mut highest = [f32::NEG_INFINITY; 8];
    for eight in row.chunks(8) {
        for (highest, &x) in highest.iter_mut().zip(eight) {
            *highest = if x > *highest { x } else { *highest };
        }
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; 8];
    let mut eights = row.chunks_exact_mut(8);
    for eight in &mut eights {
        for i in 0..8 {
            eight[i] = exp::<FMA>(scale * (eight[i] - highest));
            sums[i] += eight[i];
        }
    }
    let mut rest = 0.0;
    for x in eights.into_remainder() {
        *x = exp::<FMA>(scale * (*x - highest));
        rest += *x;
    }
    sums.into_iter().sum::<f32>() + rest
}

/// Products of up to four rows with the keys (or values) of a segment, into columns `at..` of `out [ROWS, count]`. `x` comes with its
/// transposed form, which may be empty.
#[inline(always)]
fn products<const FMA: bool>(
    (x, transposed): (View<'_>, &[f32]),
    head: Head<'_>,
    queries: [&[f32]; ROWS],
    rows: usize,
    segment: &Range<usize>,
    count: usize,
    at: usize,
    out: &mut [f32],
) {
    let (time, width) = (x.shape[2], x.shape[3]);
    let whole = if transposed.is_empty() { 0 } else { segment.len() / LANES * LANES };
    for block in (0..whole).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; ROWS];
        for d in 0..width {
            let keys = &transposed[d * time + segment.start + block..][..LANES];
            for r in 0..ROWS {
                let query = queries[r][d];
                for i in 0..LANES {
                    sums[r][i] = fma::<FMA>(query, keys[i], sums[r][i]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * count + at + block..][..LANES].copy_from_slice(sums);
        }
    }
    for key in whole..segment.len() {
        let row = x.row(head.b, head.h / head.inputs.group(), segment.start + key);
        for (r, query) in queries.iter().enumerate().take(rows) {
            out[r * count + at + key] = dot::<FMA>(query, row);
        }
    }
}

/// `out[r] = sum_j weights[r, j] x_j` over the keys `j` of the segments.
#[inline(always)]
fn weighted_rows<const FMA: bool>(
    x: View<'_>,
    head: Head<'_>,
    segments: &[Range<usize>; 2],
    rows: usize,
    weights: &[f32],
    out: &mut [f32],
) {
    let (width, group) = (x.shape[3], head.h / head.inputs.group());
    let count = segments[0].len() + segments[1].len();
    let whole = if rows == ROWS { width / LANES * LANES } else { 0 };
    for block in (0..whole).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; ROWS];
        for (n, key) in segments[0].clone().chain(segments[1].clone()).enumerate() {
            let row = &x.row(head.b, group, key)[block..block + LANES];
            for r in 0..ROWS {
                let weight = weights[r * count + n];
                for i in 0..LANES {
                    sums[r][i] = fma::<FMA>(weight, row[i], sums[r][i]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * width + block..][..LANES].copy_from_slice(sums);
        }
    }
    if whole < width {
        for r in 0..rows {
            let out = &mut out[r * width + whole..(r + 1) * width];
            out.fill(0.0);
            for (n, key) in segments[0].clone().chain(segments[1].clone()).enumerate() {
                axpy::<FMA>(out, weights[r * count + n], &x.row(head.b, group, key)[whole..]);
            }
        }
    }
}

/// Gradients with respect to `q`, `k` and `v`, contiguous. A task is one group of heads: their keys and values are summed over in order.
pub(crate) fn backward(inputs: Inputs<'_>, grad: &[f32]) -> [Vec<f32>; 3] {
    let [batch, heads, queries, width] = inputs.q.shape;
    let [_, groups, keys, value] = inputs.v.shape;
    let (kt, vt) = (transpose(inputs.k), transpose(inputs.v));
    let mut dq = vec![0.0; batch * heads * queries * width];
    let mut dk = vec![0.0; batch * groups * keys * width];
    let mut dv = vec![0.0; batch * groups * keys * value];
    let group = inputs.group();
    let work =
        dq.par_chunks_mut(group * queries * width).zip(dk.par_chunks_mut(keys * width)).zip(dv.par_chunks_mut(keys * value)).enumerate();
    tasks(work, batch * heads * queries * keys * 8, |(index, ((dq, dk), dv))| {
        let (keys, values) = (&kt[index * keys * width..][..keys * width], &vt[index * keys * value..][..keys * value]);
        for (n, dq) in dq.chunks_exact_mut(queries * width).enumerate() {
            let (b, h) = (index / groups, index % groups * group + n);
            let grad = &grad[(b * heads + h) * queries * value..][..queries * value];
            backward_head(Head { inputs, b, h, keys, values }, grad, dq, dk, dv);
        }
    });
    [dq, dk, dv]
}

#[inline(always)]
fn backward_body<const FMA: bool>(head: Head<'_>, grad: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let Inputs { q, k, v, scale, .. } = head.inputs;
    let (width, value) = (q.shape[3], v.shape[3]);
    let (mut scores, mut more) = (Vec::new(), Vec::new());
    for (n, (dq, grad)) in dq.chunks_mut(ROWS * width).zip(grad.chunks(ROWS * value)).enumerate() {
        let rows = n * ROWS..n * ROWS + dq.len() / width;
        let segments = head.inputs.segments(head.b, &rows);
        let count = segments[0].len() + segments[1].len();
        let sums = probabilities::<FMA>(head, &rows, &segments, &mut scores);
        more.resize(ROWS * count, 0.0);
        let grads = std::array::from_fn(|r| &grad[r.min(rows.len() - 1) * value..][..value]);
        let mut at = 0;
        for segment in &segments {
            products::<FMA>((v, head.values), head, grads, rows.len(), segment, count, at, &mut more);
            at += segment.len();
        }
        for r in 0..rows.len() {
            let (p, dp) = (&mut scores[r * count..][..count], &mut more[r * count..][..count]);
            for p in p.iter_mut() {
                *p /= sums[r];
            }
            let mean = dot::<FMA>(p, dp);
            for (dp, &p) in dp.iter_mut().zip(&*p) {
                *dp = p * (*dp - mean) * scale;
            }
            let query = q.row(head.b, head.h, rows.start + r);
            for (n, key) in segments[0].clone().chain(segments[1].clone()).enumerate() {
                if p[n] != 0.0 {
                    axpy::<FMA>(&mut dk[key * width..][..width], dp[n], query);
                    axpy::<FMA>(&mut dv[key * value..][..value], p[n], grads[r]);
                }
            }
        }
        weighted_rows::<FMA>(k, head, &segments, rows.len(), &more, dq);
    }
}
dispatch!(backward_head = backward_body(head: Head<'_>, grad: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]));
