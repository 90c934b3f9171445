//! Forward: outputs and the final state.

use rayon::prelude::*;

use super::registers::{Row, Stored, axpy, load, minus, part, rows, scaled, store, write, zero};
use super::{CHANNEL, Decay, HEAD, Head, Inputs, NONE, blocks, by_row, dispatch_compiled, faded, heads_of};
use crate::simd::{Arithmetic, Kernel, LANES, dispatch, dot};
use crate::threads::{for_each, with_scratch};

/// Tokens whose decays are made at a time.
const CHUNK: usize = 64;

/// Outputs `[B, H, T, V]`, and behind them the final states, `[B, H, D, V]`.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(inputs: &Inputs<'_>) -> Vec<f32> {
    let [batch, heads, time, width, values] = inputs.dims();
    let mut joined = vec![0.0; batch * heads * (time + width) * values];
    let (outputs, states) = joined.split_at_mut(batch * heads * time * values);
    forward_into(inputs, outputs, states, values);
    joined
}

/// [`forward`], the states in rows of `stride` numbers, of which the first `V` are written.
pub(crate) fn forward_into(inputs: &Inputs<'_>, outputs: &mut [f32], states: &mut [f32], stride: usize) {
    let [batch, heads, time, width, values] = inputs.dims();
    let decays = CHUNK.min(time) * inputs.g.map_or(0, |g| g.width());
    let room = width * values.next_multiple_of(LANES) + decays;
    let outputs = heads_of(outputs, time * values, batch * heads);
    let tasks = outputs.into_par_iter().zip(heads_of(states, width * stride, batch * heads)).enumerate();
    for_each(tasks, inputs.multiplications(), |(index, (outputs, last))| {
        let head = inputs.head(index);
        with_scratch(room, |scratch| {
            let (decays, state) = scratch.split_at_mut(decays);
            run(head, decays, state, outputs);
            for (registers, column) in blocks(values) {
                let rows = state[column * width..].chunks_exact(registers * LANES);
                for (row, to) in rows.zip(last.chunks_exact_mut(stride.max(1))) {
                    let count = (values - column).min(registers * LANES);
                    to[column..column + count].copy_from_slice(&row[..count]);
                }
            }
        });
    });
}

/// One head; `state` has block after block of columns.
fn run(head: Head<'_>, decays: &mut [f32], state: &mut [f32], outputs: &mut [f32]) {
    let width = head.width;
    for (registers, column) in blocks(head.values) {
        for (d, row) in state[column * width..].chunks_exact_mut(registers * LANES).take(width).enumerate() {
            let from = &head.state(d)[column..];
            let count = from.len().min(registers * LANES);
            row[..count].copy_from_slice(&from[..count]);
            row[count..].fill(0.0);
        }
    }
    for start in (0..head.time).step_by(CHUNK) {
        let count = CHUNK.min(head.time - start);
        let decays = &mut decays[..count * head.decays()];
        head.fill_decays(start, decays);
        for (registers, column) in blocks(head.values) {
            let state = &mut state[column * width..(column + registers * LANES) * width];
            let chunk = Chunk { head, start, count, decays, column };
            dispatch_compiled!(Scan(registers, head.inputs.decay(), head.inputs.beta.is_some()) { chunk, state, outputs });
        }
    }
}

/// Some tokens of a head, and a block of columns.
struct Chunk<'a> {
    head: Head<'a>,
    start: usize,
    count: usize,
    decays: &'a [f32],
    column: usize,
}

impl<'a> Chunk<'a> {
    #[inline(always)]
    fn decays(&self, n: usize) -> &'a [f32] {
        let width = self.head.decays();
        &self.decays[n * width..(n + 1) * width]
    }
}

struct Scan<'a, const R: usize, const DECAY: Decay, const DELTA: bool> {
    chunk: Chunk<'a>,
    state: &'a mut [f32],
    outputs: &'a mut [f32],
}

impl<const R: usize, const DECAY: Decay, const DELTA: bool> Kernel for Scan<'_, R, DECAY, DELTA> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        if DELTA {
            scan_delta::<A, R, DECAY>(&self.chunk, rows(self.state), self.outputs);
        } else {
            scan_additive::<A, R, DECAY>(&self.chunk, rows(self.state), self.outputs);
        }
    }
}

#[inline(always)]
fn scan_additive<A: Arithmetic, const R: usize, const DECAY: Decay>(chunk: &Chunk<'_>, state: &mut [Stored<R>], outputs: &mut [f32]) {
    let head = chunk.head;
    for n in 0..chunk.count {
        let t = chunk.start + n;
        let (decays, u) = (chunk.decays(n), part::<A, R>(head.v(t), chunk.column));
        let mut output = zero::<A, R>();
        let (k, q) = (&head.k(t)[..state.len()], &head.q(t)[..state.len()]);
        let decays = by_row::<DECAY>(decays, state.len());
        for d in 0..state.len() {
            let new = axpy::<A, R>(k[d], u, fade::<A, R, DECAY>(decays, d, &state[d]));
            output = axpy::<A, R>(q[d], new, output);
            store::<A, R>(new, &mut state[d]);
        }
        write::<A, R>(output, &mut outputs[t * head.values..(t + 1) * head.values], chunk.column);
    }
}

/// What the next token reads of the state is taken while the state is rewritten for this one.
#[inline(always)]
fn scan_delta<A: Arithmetic, const R: usize, const DECAY: Decay>(chunk: &Chunk<'_>, state: &mut [Stored<R>], outputs: &mut [f32]) {
    let head = chunk.head;
    let (mut seen, mut asked) = (zero::<A, R>(), zero::<A, R>());
    let (first, width) = (chunk.start, state.len());
    let (k, q, decays) = (&head.k(first)[..width], &head.q(first)[..width], by_row::<DECAY>(chunk.decays(0), width));
    for d in 0..width {
        let row = load::<A, R>(&state[d]);
        seen = axpy::<A, R>(ahead::<DECAY>(decays, d, k[d]), row, seen);
        asked = axpy::<A, R>(ahead::<DECAY>(decays, d, q[d]), row, asked);
    }
    for n in 0..chunk.count {
        let t = first + n;
        let (q, k, decays) = (head.q(t), &head.k(t)[..width], by_row::<DECAY>(chunk.decays(n), width));
        let own = if DECAY == HEAD { decays[0] } else { 1.0 };
        let u = scaled::<A, R>(head.beta(t), minus::<A, R>(part::<A, R>(head.v(t), chunk.column), scaled::<A, R>(own, seen)));
        let output = axpy::<A, R>(dot::<A>(q, k), u, scaled::<A, R>(own, asked));
        write::<A, R>(output, &mut outputs[t * head.values..(t + 1) * head.values], chunk.column);
        let next = (n + 1).min(chunk.count - 1);
        let next_decays = by_row::<DECAY>(chunk.decays(next), width);
        let (next_k, next_q) = (&head.k(first + next)[..width], &head.q(first + next)[..width]);
        (seen, asked) = (zero::<A, R>(), zero::<A, R>());
        for d in 0..width {
            let new = axpy::<A, R>(k[d], u, fade::<A, R, DECAY>(decays, d, &state[d]));
            seen = axpy::<A, R>(ahead::<DECAY>(next_decays, d, next_k[d]), new, seen);
            asked = axpy::<A, R>(ahead::<DECAY>(next_decays, d, next_q[d]), new, asked);
            store::<A, R>(new, &mut state[d]);
        }
    }
}

/// A key or a query as it meets the state of the token before. A decay by head is left to the sums, which are fewer.
#[inline(always)]
fn ahead<const DECAY: Decay>(decays: &[f32], d: usize, x: f32) -> f32 {
    if DECAY == CHANNEL { x * decays[d] } else { x }
}

/// A row of the state, faded.
#[inline(always)]
fn fade<A: Arithmetic, const R: usize, const DECAY: Decay>(decays: &[f32], d: usize, row: &Stored<R>) -> Row<A, R> {
    let row = load::<A, R>(row);
    if DECAY == NONE { row } else { scaled::<A, R>(faded::<DECAY>(decays, d), row) }
}
