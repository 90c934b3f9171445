//! Backward, from checkpoints of the state.
//!
//! With `F` the gradient of `S_t`, `dO` that of `o_t`: `F += q^T dO`, `dq = S_t dO`, `du = k F`, `dk = F u`. By the delta rule
//! `dv = beta du`, `dbeta = du (v - k S')`, and what `u` took from `S'` gives `dk -= S' dv` and `F -= k^T dv`. Then
//! `dg = rowsum(F * S')` and the gradient of `S_(t-1)` is `diag(exp(g)) F`.

use rayon::prelude::*;

use super::registers::{Stored, axpy, fold, load, minus, overlap, part, scaled, store, write, zero};
use super::{CHANNEL, Decay, HEAD, Head, Inputs, NONE, blocks, by_row, dispatch_compiled, faded, heads_of};
use crate::simd::{Arithmetic, Kernel, LANES, dispatch};
use crate::threads::for_each;
use crate::view::View;

/// Tokens between two checkpoints of the state.
const CHUNK: usize = 16;

/// Rows between two states of a chunk. Without them they would often be a power of two apart, and share places in the cache.
const APART: usize = 1;

/// Gradients of the inputs, in their shapes; `g` and `beta` are empty where there were none.
#[derive(Debug)]
#[expect(missing_docs, reason = "named as the inputs")]
pub struct Grads {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub g: Vec<f32>,
    pub beta: Vec<f32>,
    pub state: Vec<f32>,
}

/// Gradients of all inputs, from those of the outputs, `grad [B, H, T, V]`, and of the final states, `last [B, H, D, V]`.
///
/// # Panics
/// If shapes do not fit.
pub fn backward(inputs: &Inputs<'_>, grad: View<'_, 4>, last: View<'_, 4>) -> Grads {
    let [batch, heads, time, width, values] = inputs.dims();
    assert_eq!(grad.shape(), [batch, heads, time, values], "a gradient like the outputs");
    assert_eq!(last.shape(), [batch, heads, width, values], "a gradient like the states");
    let by_head = [time * width, time * width, time * values, time * inputs.g.map_or(0, |g| g.width()), time, width * values];
    let mut grads = by_head.map(|size| vec![0.0; batch * heads * size]);
    let [q, k, v, g, beta, state] = &mut grads;
    let cut = |grads, i: usize| heads_of(grads, by_head[i], batch * heads);
    let tasks = (cut(q, 0), cut(k, 1), cut(v, 2), cut(g, 3), cut(beta, 4), cut(state, 5)).into_par_iter().enumerate();
    for_each(tasks, inputs.multiplications() * 4, |(index, (q, k, v, g, beta, state))| {
        let head = inputs.head(index);
        let mut task = Backward { head, grad, last, by_q: q, by_k: k, by_v: v, by_g: g, by_beta: beta, by_state: state };
        let mut decays = vec![0.0; head.time * head.decays()];
        head.fill_decays(0, &mut decays);
        for (registers, column) in blocks(head.values) {
            let (task, decays) = (&mut task, &decays);
            dispatch_compiled!(Columns(registers, head.inputs.decay(), head.inputs.beta.is_some()) { task, decays, column });
        }
    });
    let [q, k, v, g, beta, state] = grads;
    Grads { q, k, v, g, beta: if inputs.beta.is_some() { beta } else { Vec::new() }, state }
}

/// One head.
struct Backward<'a> {
    head: Head<'a>,
    grad: View<'a, 4>,
    last: View<'a, 4>,
    by_q: &'a mut [f32],
    by_k: &'a mut [f32],
    by_v: &'a mut [f32],
    by_g: &'a mut [f32],
    by_beta: &'a mut [f32],
    by_state: &'a mut [f32],
}

/// A block of its columns.
struct Columns<'a, 'b, const R: usize, const DECAY: Decay, const DELTA: bool> {
    task: &'a mut Backward<'b>,
    /// Of all tokens.
    decays: &'a [f32],
    column: usize,
}

impl<const R: usize, const DECAY: Decay, const DELTA: bool> Kernel for Columns<'_, '_, R, DECAY, DELTA> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        columns::<A, R, DECAY, DELTA>(self.task, self.decays, self.column);
    }
}

/// What the tokens of one chunk saw.
struct Seen<'a, const R: usize> {
    head: Head<'a>,
    /// Of all tokens.
    decays: &'a [f32],
    column: usize,
    /// The state in front of each token and behind the last, a stride apart.
    states: Vec<Stored<R>>,
    stride: usize,
    /// What the delta rule subtracts from `v` at each token.
    recalled: Vec<Stored<R>>,
    /// `u` of each token.
    written: Vec<Stored<R>>,
}

impl<'a, const R: usize> Seen<'a, R> {
    #[inline(always)]
    fn decays(&self, t: usize) -> &'a [f32] {
        let width = self.head.decays();
        &self.decays[t * width..(t + 1) * width]
    }

    /// Recomputes `count` tokens from `start` on, from the state that stands in front.
    #[inline(always)]
    fn fill<A: Arithmetic, const DECAY: Decay, const DELTA: bool>(&mut self, start: usize, count: usize) {
        let (head, width) = (self.head, self.head.width);
        for n in 0..count {
            let t = start + n;
            let (k, decays) = (&head.k(t)[..width], by_row::<DECAY>(self.decays(t), width));
            let (old, new) = self.states[n * self.stride..(n + 1) * self.stride + width].split_at_mut(self.stride);
            let (old, new) = (&old[..width], &mut new[..width]);
            let mut u = part::<A, R>(head.v(t), self.column);
            if DELTA {
                let mut recalled = zero::<A, R>();
                for d in 0..width {
                    let k = if DECAY == CHANNEL { k[d] * decays[d] } else { k[d] };
                    recalled = axpy::<A, R>(k, load::<A, R>(&old[d]), recalled);
                }
                if DECAY == HEAD {
                    recalled = scaled::<A, R>(decays[0], recalled);
                }
                store::<A, R>(recalled, &mut self.recalled[n]);
                u = scaled::<A, R>(head.beta(t), minus::<A, R>(u, recalled));
            }
            store::<A, R>(u, &mut self.written[n]);
            for d in 0..width {
                let old = load::<A, R>(&old[d]);
                let old = if DECAY == NONE { old } else { scaled::<A, R>(faded::<DECAY>(decays, d), old) };
                store::<A, R>(axpy::<A, R>(k[d], u, old), &mut new[d]);
            }
        }
    }
}

/// What flows back through the columns from `column` on.
#[inline(always)]
fn columns<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(task: &mut Backward<'_>, decays: &[f32], column: usize) {
    let head = task.head;
    let (time, width, values) = (head.time, head.width, head.values);
    let (chunk, stride, none) = (CHUNK.min(time).max(1), width + APART, [[0.0; LANES]; R]);
    let mut seen = Seen::<R> {
        head,
        decays,
        column,
        states: vec![none; (chunk + 1) * stride],
        stride,
        recalled: vec![none; chunk],
        written: vec![none; chunk],
    };
    for (d, state) in seen.states[..width].iter_mut().enumerate() {
        store::<A, R>(part::<A, R>(head.state(d), column), state);
    }
    let mut checkpoints = Vec::with_capacity(time.div_ceil(chunk) * width);
    for start in (0..time).step_by(chunk) {
        checkpoints.extend_from_slice(&seen.states[..width]);
        seen.fill::<A, DECAY, DELTA>(start, chunk.min(time - start));
        if start + chunk < time {
            seen.states.copy_within(chunk * stride..chunk * stride + width, 0);
        }
    }
    let mut flow = vec![none; width];
    for (d, flow) in flow.iter_mut().enumerate() {
        store::<A, R>(part::<A, R>(task.last.row(head.batch, head.number, d), column), flow);
    }
    let mut sums = vec![[[0.0; LANES]; 3]; width];
    for start in (0..time).step_by(chunk).rev() {
        let count = chunk.min(time - start);
        // The last chunk has just been filled.
        if start + chunk < time {
            let first = start / chunk * width;
            seen.states[..width].copy_from_slice(&checkpoints[first..first + width]);
            seen.fill::<A, DECAY, DELTA>(start, count);
        }
        for n in (0..count).rev() {
            token::<A, R, DECAY, DELTA>(task, &seen, start + n, n, &mut flow, &mut sums);
        }
    }
    for (flow, to) in flow.iter().zip(task.by_state.chunks_exact_mut(values.max(1))) {
        write::<A, R>(load::<A, R>(flow), to, column);
    }
}

/// Token `t`, the `n`-th of its chunk: `flow` comes in as the gradient of the state behind it and leaves as that of the state in front.
///
/// `sums [D]` is room for sums across lanes by `q`, `k` and `g`, which are cheaper taken together.
#[inline(always)]
fn token<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(
    task: &mut Backward<'_>,
    seen: &Seen<'_, R>,
    t: usize,
    n: usize,
    flow: &mut [Stored<R>],
    sums: &mut [Stored<3>],
) {
    let (head, column, width) = (task.head, seen.column, flow.len());
    let values = head.values;
    let (q, k, decays) = (&head.q(t)[..width], &head.k(t)[..width], by_row::<DECAY>(seen.decays(t), width));
    let output = part::<A, R>(task.grad.row(head.batch, head.number, t), column);
    let u = load::<A, R>(&seen.written[n]);

    let mut by_u = zero::<A, R>();
    for d in 0..width {
        let new = axpy::<A, R>(q[d], output, load::<A, R>(&flow[d]));
        by_u = axpy::<A, R>(k[d], new, by_u);
        store::<A, R>(new, &mut flow[d]);
    }
    if DELTA {
        let missed = minus::<A, R>(part::<A, R>(head.v(t), column), load::<A, R>(&seen.recalled[n]));
        task.by_beta[t] += overlap::<A, R>(by_u, missed);
        by_u = scaled::<A, R>(head.beta(t), by_u);
    }
    write::<A, R>(by_u, &mut task.by_v[t * values..(t + 1) * values], column);
    let taken = scaled::<A, R>(-1.0, by_u);

    // One sum a register, so that a row need not wait for the one before.
    let mut total = zero::<A, R>();
    let states = &seen.states[n * seen.stride..][..width];
    let sums = &mut sums[..width];
    for d in 0..width {
        let decay = faded::<DECAY>(decays, d);
        let (mut behind, mut before) = (load::<A, R>(&flow[d]), load::<A, R>(&states[d]));
        if DECAY != NONE {
            before = scaled::<A, R>(decay, before);
        }
        let mut by_k = fold::<A, R>(behind, u, A::splat(0.0));
        A::put(fold::<A, R>(before, output, A::splat(0.0)), &mut sums[d][0]);
        if DELTA {
            by_k = fold::<A, R>(before, taken, by_k);
            behind = axpy::<A, R>(k[d], taken, behind);
        }
        A::put(by_k, &mut sums[d][1]);
        match DECAY {
            NONE => {}
            HEAD => {
                for r in 0..R {
                    total[r] = A::mul_add(behind[r], before[r], total[r]);
                }
            }
            _ => A::put(fold::<A, R>(behind, before, A::splat(0.0)), &mut sums[d][2]),
        }
        if DECAY != NONE {
            behind = scaled::<A, R>(decay, behind);
        }
        if DECAY != NONE || DELTA {
            store::<A, R>(behind, &mut flow[d]);
        }
    }
    let own = overlap::<A, R>(u, output);
    let (by_q, by_k) = (&mut task.by_q[t * width..(t + 1) * width], &mut task.by_k[t * width..(t + 1) * width]);
    add_sums::<A, 0>(sums, by_q);
    add_sums::<A, 1>(sums, by_k);
    for (by_q, &k) in by_q.iter_mut().zip(k) {
        *by_q = A::fused(k, own, *by_q);
    }
    match DECAY {
        NONE => {}
        HEAD => task.by_g[t] += overlap::<A, R>(total, [A::splat(1.0); R]),
        _ => add_sums::<A, 2>(sums, &mut task.by_g[t * width..(t + 1) * width]),
    }
}

/// Adds the sum of the `WHICH`-th register of every row.
#[inline(always)]
fn add_sums<A: Arithmetic, const WHICH: usize>(sums: &[Stored<3>], to: &mut [f32]) {
    let ((eights, rest), (to_eights, to_rest)) = (sums.as_chunks::<8>(), to.as_chunks_mut::<8>());
    for (rows, to) in eights.iter().zip(to_eights) {
        let mut registers = [A::splat(0.0); 8];
        for i in 0..8 {
            registers[i] = A::get(&rows[i][WHICH]);
        }
        let sums = A::sums(registers);
        for i in 0..8 {
            to[i] += sums[i];
        }
    }
    for (row, to) in rest.iter().zip(to_rest) {
        *to += A::sum(A::get(&row[WHICH]));
    }
}
