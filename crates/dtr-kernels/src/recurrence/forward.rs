//! Forward: outputs and the final state.

use rayon::prelude::*;

use super::registers::{Row, axpy, load, minus, part, scaled, store, write, zero};
use super::{CHANNEL, Decay, HEAD, Head, Inputs, NONE, blocks, compiled, faded};
use crate::simd::{Arithmetic, Kernel, LANES, dispatch, dot};
use crate::threads::{for_each, with_scratch};

/// Tokens whose decays are made at a time.
const CHUNK: usize = 64;

/// Outputs, then the final state, `[B, H, T + D, V]`.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(inputs: &Inputs<'_>) -> Vec<f32> {
    let [batch, heads, time, width, values] = inputs.dims();
    let mut joined = vec![0.0; batch * heads * (time + width) * values];
    let decays = CHUNK.min(time) * inputs.g.map_or(0, |g| g.width());
    let room = width * values.next_multiple_of(LANES) + decays;
    let tasks = joined.par_chunks_mut(((time + width) * values).max(1)).enumerate();
    for_each(tasks, inputs.multiplications(), |(index, joined)| {
        let head = inputs.head(index);
        with_scratch(room, |scratch| {
            let (decays, state) = scratch.split_at_mut(decays);
            dispatch(Forward { head, decays, state, joined });
        });
    });
    joined
}

struct Forward<'a> {
    head: Head<'a>,
    decays: &'a mut [f32],
    /// Block after block of columns.
    state: &'a mut [f32],
    joined: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { head, decays, state, joined } = self;
        let (decay, delta, width) = (head.inputs.decay(), head.inputs.beta.is_some(), head.width);
        for (registers, column) in blocks(head.values) {
            let state = &mut state[column * width..];
            for (d, row) in state.chunks_exact_mut(registers * LANES).take(width).enumerate() {
                let from = &head.state(d)[column..];
                let count = from.len().min(registers * LANES);
                row[..count].copy_from_slice(&from[..count]);
                row[count..].fill(0.0);
            }
        }
        for start in (0..head.time).step_by(CHUNK) {
            let count = CHUNK.min(head.time - start);
            let decays = &mut decays[..count * head.decays()];
            head.fill_decays::<A>(start, decays);
            for (registers, column) in blocks(head.values) {
                let state = &mut state[column * width..(column + registers * LANES) * width];
                let chunk = Chunk { head, start, count, decays, column };
                compiled!(scan(registers, decay, delta)(&chunk, state, joined));
            }
        }
        for (registers, column) in blocks(head.values) {
            let rows = joined[head.time * head.values..].chunks_exact_mut(head.values);
            for (row, to) in state[column * width..].chunks_exact(registers * LANES).zip(rows) {
                let count = (head.values - column).min(registers * LANES);
                to[column..column + count].copy_from_slice(&row[..count]);
            }
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

#[inline(always)]
fn scan<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(chunk: &Chunk<'_>, state: &mut [f32], joined: &mut [f32]) {
    if DELTA {
        scan_delta::<A, R, DECAY>(chunk, state, joined);
    } else {
        scan_additive::<A, R, DECAY>(chunk, state, joined);
    }
}

#[inline(always)]
fn scan_additive<A: Arithmetic, const R: usize, const DECAY: Decay>(chunk: &Chunk<'_>, state: &mut [f32], joined: &mut [f32]) {
    let (head, values) = (chunk.head, chunk.head.values);
    for n in 0..chunk.count {
        let t = chunk.start + n;
        let (decays, u) = (chunk.decays(n), part::<A, R>(head.v(t), chunk.column));
        let mut output = zero::<A, R>();
        for (d, ((row, &k), &q)) in state.chunks_exact_mut(R * LANES).zip(head.k(t)).zip(head.q(t)).enumerate() {
            let new = axpy::<A, R>(k, u, fade::<A, R, DECAY>(decays, d, row));
            output = axpy::<A, R>(q, new, output);
            store::<A, R>(new, row);
        }
        write::<A, R>(output, &mut joined[t * values..(t + 1) * values], chunk.column);
    }
}

/// What the next token reads of the state is taken while the state is rewritten for this one.
#[inline(always)]
fn scan_delta<A: Arithmetic, const R: usize, const DECAY: Decay>(chunk: &Chunk<'_>, state: &mut [f32], joined: &mut [f32]) {
    let (head, values) = (chunk.head, chunk.head.values);
    let (mut seen, mut asked) = (zero::<A, R>(), zero::<A, R>());
    let first = chunk.start;
    for (d, ((row, &k), &q)) in state.chunks_exact(R * LANES).zip(head.k(first)).zip(head.q(first)).enumerate() {
        let (k, q) = ahead::<DECAY>(chunk.decays(0), d, k, q);
        (seen, asked) = (axpy::<A, R>(k, load::<A, R>(row), seen), axpy::<A, R>(q, load::<A, R>(row), asked));
    }
    for n in 0..chunk.count {
        let t = first + n;
        let (q, k, decays) = (head.q(t), head.k(t), chunk.decays(n));
        let own = if DECAY == HEAD { decays[0] } else { 1.0 };
        let u = scaled::<A, R>(head.beta(t), minus::<A, R>(part::<A, R>(head.v(t), chunk.column), scaled::<A, R>(own, seen)));
        let output = axpy::<A, R>(dot::<A>(q, k), u, scaled::<A, R>(own, asked));
        write::<A, R>(output, &mut joined[t * values..(t + 1) * values], chunk.column);
        let next = (n + 1).min(chunk.count - 1);
        let next_decays = chunk.decays(next);
        (seen, asked) = (zero::<A, R>(), zero::<A, R>());
        let next = head.k(first + next).iter().zip(head.q(first + next));
        for (d, ((row, &k), (&next_k, &next_q))) in state.chunks_exact_mut(R * LANES).zip(k).zip(next).enumerate() {
            let new = axpy::<A, R>(k, u, fade::<A, R, DECAY>(decays, d, row));
            let (next_k, next_q) = ahead::<DECAY>(next_decays, d, next_k, next_q);
            seen = axpy::<A, R>(next_k, new, seen);
            asked = axpy::<A, R>(next_q, new, asked);
            store::<A, R>(new, row);
        }
    }
}

/// Key and query as they meet the state of the token before. A decay by head is left to the sums, which are fewer.
#[inline(always)]
fn ahead<const DECAY: Decay>(decays: &[f32], d: usize, k: f32, q: f32) -> (f32, f32) {
    if DECAY == CHANNEL { (k * decays[d], q * decays[d]) } else { (k, q) }
}

/// A row of the state, faded.
#[inline(always)]
fn fade<A: Arithmetic, const R: usize, const DECAY: Decay>(decays: &[f32], d: usize, row: &[f32]) -> Row<A, R> {
    let row = load::<A, R>(row);
    if DECAY == NONE { row } else { scaled::<A, R>(faded::<DECAY>(decays, d), row) }
}
