//! Backward, from checkpoints of the state.
//!
//! With `F` the gradient of `S_t`, `dO` that of `o_t`: `F += q^T dO`, `dq = S_t dO`, `du = k F`, `dk = F u`. By the delta rule
//! `dv = beta du`, `dbeta = du (v - k S')`, and what `u` took from `S'` gives `dk -= S' dv` and `F -= k^T dv`. Then
//! `dg = rowsum(F * S')` and the gradient of `S_(t-1)` is `diag(exp(g)) F`.

use rayon::prelude::*;

use super::registers::{axpy, fold, load, minus, overlap, part, scaled, store, write, zero};
use super::{CHANNEL, Decay, HEAD, Head, Inputs, NONE, blocks, compiled, faded};
use crate::simd::{Arithmetic, Kernel, LANES, dispatch};
use crate::threads::for_each;
use crate::view::View;

/// Tokens between two checkpoints of the state.
const CHUNK: usize = 16;

/// Numbers between two states of a chunk. Without them they would often be a power of two apart, and share places in the cache.
const APART: usize = LANES;

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

/// Gradients of all inputs; `grad [B, H, T + D, V]` is that of what [`super::forward`] returns.
///
/// # Panics
/// If shapes do not fit.
pub fn backward(inputs: &Inputs<'_>, grad: View<'_, 4>) -> Grads {
    let [batch, heads, time, width, values] = inputs.dims();
    assert_eq!(grad.shape(), [batch, heads, time + width, values], "the gradient has the shape of the result");
    let by_head = [time * width, time * width, time * values, time * inputs.g.map_or(0, |g| g.width()), time, width * values];
    let mut grads = by_head.map(|size| vec![0.0; batch * heads * size]);
    let [q, k, v, g, beta, state] = &mut grads;
    let cut = |grads, i: usize| heads_of(grads, by_head[i], batch * heads);
    let tasks = (cut(q, 0), cut(k, 1), cut(v, 2), cut(g, 3), cut(beta, 4), cut(state, 5)).into_par_iter().enumerate();
    for_each(tasks, inputs.multiplications() * 4, |(index, (q, k, v, g, beta, state))| {
        dispatch(Backward { head: inputs.head(index), grad, by_q: q, by_k: k, by_v: v, by_g: g, by_beta: beta, by_state: state });
    });
    let [q, k, v, g, beta, state] = grads;
    Grads { q, k, v, g, beta: if inputs.beta.is_some() { beta } else { Vec::new() }, state }
}

/// `count` parts of `size` numbers, which may be none.
fn heads_of(numbers: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    let mut parts: Vec<&mut [f32]> = numbers.chunks_mut(size.max(1)).collect();
    parts.resize_with(count, <&mut [f32]>::default);
    parts
}

/// One head.
struct Backward<'a> {
    head: Head<'a>,
    grad: View<'a, 4>,
    by_q: &'a mut [f32],
    by_k: &'a mut [f32],
    by_v: &'a mut [f32],
    by_g: &'a mut [f32],
    by_beta: &'a mut [f32],
    by_state: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        let head = self.head;
        let mut decays = vec![0.0; head.time * head.decays()];
        head.fill_decays::<A>(0, &mut decays);
        for (registers, column) in blocks(head.values) {
            compiled!(columns(registers, head.inputs.decay(), head.inputs.beta.is_some())(&mut self, &decays, column));
        }
    }
}

/// What the tokens of one chunk saw.
struct Seen<'a> {
    head: Head<'a>,
    /// Of all tokens.
    decays: &'a [f32],
    column: usize,
    /// The state in front of each token and behind the last, a stride apart.
    states: Vec<f32>,
    stride: usize,
    /// What the delta rule subtracts from `v` at each token.
    recalled: Vec<f32>,
    /// `u` of each token.
    written: Vec<f32>,
}

impl<'a> Seen<'a> {
    #[inline(always)]
    fn decays(&self, t: usize) -> &'a [f32] {
        let width = self.head.decays();
        &self.decays[t * width..(t + 1) * width]
    }

    /// Recomputes `count` tokens from `start` on, from the state that stands in front.
    #[inline(always)]
    fn fill<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(&mut self, start: usize, count: usize) {
        let (head, row, size) = (self.head, R * LANES, self.head.width * R * LANES);
        for n in 0..count {
            let t = start + n;
            let decays = self.decays(t);
            let (old, new) = self.states[n * self.stride..(n + 1) * self.stride + size].split_at_mut(self.stride);
            let mut u = part::<A, R>(head.v(t), self.column);
            if DELTA {
                let mut recalled = zero::<A, R>();
                for (d, (old, &k)) in old.chunks_exact(row).zip(head.k(t)).enumerate() {
                    let k = if DECAY == CHANNEL { k * decays[d] } else { k };
                    recalled = axpy::<A, R>(k, load::<A, R>(old), recalled);
                }
                if DECAY == HEAD {
                    recalled = scaled::<A, R>(decays[0], recalled);
                }
                store::<A, R>(recalled, &mut self.recalled[n * row..(n + 1) * row]);
                u = scaled::<A, R>(head.beta(t), minus::<A, R>(u, recalled));
            }
            store::<A, R>(u, &mut self.written[n * row..(n + 1) * row]);
            for (d, ((old, new), &k)) in old.chunks_exact(row).zip(new.chunks_exact_mut(row)).zip(head.k(t)).enumerate() {
                let old = load::<A, R>(old);
                let old = if DECAY == NONE { old } else { scaled::<A, R>(faded::<DECAY>(decays, d), old) };
                store::<A, R>(axpy::<A, R>(k, u, old), new);
            }
        }
    }
}

/// What flows back through the columns from `column` on.
#[inline(always)]
fn columns<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(task: &mut Backward<'_>, decays: &[f32], column: usize) {
    let (head, grad) = (task.head, task.grad);
    let (time, width, values, row) = (head.time, head.width, head.values, R * LANES);
    let (chunk, size) = (CHUNK.min(time).max(1), width * row);
    let stride = size + APART;
    let mut seen = Seen {
        head,
        decays,
        column,
        states: vec![0.0; (chunk + 1) * stride],
        stride,
        recalled: vec![0.0; chunk * row],
        written: vec![0.0; chunk * row],
    };
    for (d, state) in seen.states[..size].chunks_exact_mut(row).enumerate() {
        store::<A, R>(part::<A, R>(head.state(d), column), state);
    }
    let mut checkpoints = Vec::with_capacity(time.div_ceil(chunk) * size);
    for start in (0..time).step_by(chunk) {
        checkpoints.extend_from_slice(&seen.states[..size]);
        seen.fill::<A, R, DECAY, DELTA>(start, chunk.min(time - start));
        if start + chunk < time {
            seen.states.copy_within(chunk * stride..chunk * stride + size, 0);
        }
    }
    let mut flow = vec![0.0; size];
    for (d, flow) in flow.chunks_exact_mut(row).enumerate() {
        store::<A, R>(part::<A, R>(grad.row(head.batch, head.number, time + d), column), flow);
    }
    let mut sums = vec![0.0; 3 * LANES * width];
    for start in (0..time).step_by(chunk).rev() {
        let count = chunk.min(time - start);
        // The last chunk has just been filled.
        if start + chunk < time {
            let first = start / chunk * size;
            seen.states[..size].copy_from_slice(&checkpoints[first..first + size]);
            seen.fill::<A, R, DECAY, DELTA>(start, count);
        }
        for n in (0..count).rev() {
            token::<A, R, DECAY, DELTA>(task, &seen, start + n, n, &mut flow, &mut sums);
        }
    }
    for (flow, to) in flow.chunks_exact(row).zip(task.by_state.chunks_exact_mut(values.max(1))) {
        write::<A, R>(load::<A, R>(flow), to, column);
    }
}

/// Token `t`, the `n`-th of its chunk: `flow` comes in as the gradient of the state behind it and leaves as that of the state in front.
///
/// `sums [D, 3 LANES]` is room for sums across lanes, which are cheaper taken together.
#[inline(always)]
fn token<A: Arithmetic, const R: usize, const DECAY: Decay, const DELTA: bool>(
    task: &mut Backward<'_>,
    seen: &Seen<'_>,
    t: usize,
    n: usize,
    flow: &mut [f32],
    sums: &mut [f32],
) {
    let (head, column, row) = (task.head, seen.column, R * LANES);
    let (width, values) = (head.width, head.values);
    let (q, k, decays) = (head.q(t), head.k(t), seen.decays(t));
    let output = part::<A, R>(task.grad.row(head.batch, head.number, t), column);
    let u = load::<A, R>(&seen.written[n * row..]);

    let mut by_u = zero::<A, R>();
    for ((flow, &q), &k) in flow.chunks_exact_mut(row).zip(q).zip(k) {
        let new = axpy::<A, R>(q, output, load::<A, R>(flow));
        by_u = axpy::<A, R>(k, new, by_u);
        store::<A, R>(new, flow);
    }
    if DELTA {
        let missed = minus::<A, R>(part::<A, R>(head.v(t), column), load::<A, R>(&seen.recalled[n * row..]));
        task.by_beta[t] += overlap::<A, R>(by_u, missed);
        by_u = scaled::<A, R>(head.beta(t), by_u);
    }
    write::<A, R>(by_u, &mut task.by_v[t * values..(t + 1) * values], column);
    let taken = scaled::<A, R>(-1.0, by_u);

    // One sum a register, so that a row need not wait for the one before.
    let mut total = zero::<A, R>();
    let states = seen.states[n * seen.stride..].chunks_exact(row);
    for (d, (((flow, state), &k), sums)) in flow.chunks_exact_mut(row).zip(states).zip(k).zip(sums.chunks_exact_mut(3 * LANES)).enumerate()
    {
        let decay = faded::<DECAY>(decays, d);
        let (mut behind, mut before) = (load::<A, R>(flow), load::<A, R>(state));
        if DECAY != NONE {
            before = scaled::<A, R>(decay, before);
        }
        let mut by_k = fold::<A, R>(behind, u, A::splat(0.0));
        A::store(fold::<A, R>(before, output, A::splat(0.0)), sums);
        if DELTA {
            by_k = fold::<A, R>(before, taken, by_k);
            behind = axpy::<A, R>(k, taken, behind);
        }
        A::store(by_k, &mut sums[LANES..]);
        match DECAY {
            NONE => {}
            HEAD => {
                for r in 0..R {
                    total[r] = A::mul_add(behind[r], before[r], total[r]);
                }
            }
            _ => A::store(fold::<A, R>(behind, before, A::splat(0.0)), &mut sums[2 * LANES..]),
        }
        if DECAY != NONE {
            behind = scaled::<A, R>(decay, behind);
        }
        if DECAY != NONE || DELTA {
            store::<A, R>(behind, flow);
        }
    }
    let own = overlap::<A, R>(u, output);
    let (by_q, by_k) = (&mut task.by_q[t * width..(t + 1) * width], &mut task.by_k[t * width..(t + 1) * width]);
    for (((sums, &k), by_q), by_k) in sums.chunks_exact(3 * LANES).zip(k).zip(by_q).zip(by_k) {
        *by_q += A::fused(k, own, A::sum(A::load(sums)));
        *by_k += A::sum(A::load(&sums[LANES..]));
    }
    match DECAY {
        NONE => {}
        HEAD => task.by_g[t] += overlap::<A, R>(total, [A::splat(1.0); R]),
        _ => {
            for (by_g, sums) in task.by_g[t * width..(t + 1) * width].iter_mut().zip(sums.chunks_exact(3 * LANES)) {
                *by_g += A::sum(A::load(&sums[2 * LANES..]));
            }
        }
    }
}
