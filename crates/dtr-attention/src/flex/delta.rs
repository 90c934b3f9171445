//! The gated delta rule token by token, the state in cache: forward, and backward from checkpoints of the state.
//!
//! Columns of the state do not mix, so a kernel walks through time with a block of `R` registers' columns: a matrix of rows
//! of `R * LANES` numbers, zeros beyond the last column.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{Arithmetic, Kernel, LANES, dispatch, dot, exp};
use super::threads;
use super::views::{View, dims, readable, scalars, tensor};

/// Tokens between two checkpoints of the state in the backward pass.
const CHUNK: usize = 16;

/// Numbers between two states of a chunk. Without them they would often be a power of two apart, and share places in the cache.
const APART: usize = 2 * LANES;

/// The columns of one row that a kernel holds.
type Row<A, const R: usize> = [<A as Arithmetic>::Lanes; R];

/// Inputs of the rule, readable.
struct Inputs {
    tensors: [FlexTensor; 6],
}

/// What one head reads: `q, k, v, state` by rows, `g, beta` by number.
#[derive(Clone, Copy)]
struct Head<'a> {
    wide: [View<'a, 4>; 4],
    flat: [View<'a, 3>; 2],
    batch: usize,
    number: usize,
    time: usize,
}

impl Inputs {
    fn new([q, k, v, g, beta, state]: [FlexTensor; 6]) -> Self {
        Self { tensors: [readable(q), readable(k), readable(v), scalars(g), scalars(beta), readable(state)] }
    }

    /// `B, H, T, D, V`.
    fn dims(&self) -> [usize; 5] {
        let [batch, heads, time, width] = dims(&self.tensors[0]);
        [batch, heads, time, width, dims::<4>(&self.tensors[2])[3]]
    }

    /// Multiplications of the forward pass.
    fn multiplications(&self) -> usize {
        self.dims().iter().product::<usize>() * 4
    }

    fn head(&self, index: usize) -> Head<'_> {
        let [_, heads, time, ..] = self.dims();
        let [q, k, v, g, beta, state] = &self.tensors;
        Head {
            wide: [View::new(q), View::new(k), View::new(v), View::new(state)],
            flat: [View::new(g), View::new(beta)],
            batch: index / heads,
            number: index % heads,
            time,
        }
    }
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn q(&self, t: usize) -> &'a [f32] {
        self.wide[0].row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn k(&self, t: usize) -> &'a [f32] {
        self.wide[1].row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn v(&self, t: usize) -> &'a [f32] {
        self.wide[2].row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn state(&self, d: usize) -> &'a [f32] {
        self.wide[3].row(self.batch, self.number, d)
    }

    /// The decay itself, not its logarithm.
    #[inline(always)]
    fn decay<A: Arithmetic>(&self, t: usize) -> f32 {
        exp::<A>(self.flat[0].at(self.batch, self.number, t))
    }

    #[inline(always)]
    fn beta(&self, t: usize) -> f32 {
        self.flat[1].at(self.batch, self.number, t)
    }
}

/// Outputs, then the final state, `[B, H, T + D, V]`.
pub(super) fn forward(inputs: [FlexTensor; 6]) -> FlexTensor {
    let dtype = inputs[0].dtype();
    let inputs = Inputs::new(inputs);
    let [batch, heads, time, width, values] = inputs.dims();
    let mut joined = vec![0.0; batch * heads * (time + width) * values];
    let tasks = joined.par_chunks_mut(((time + width) * values).max(1)).enumerate();
    threads::for_each(tasks, inputs.multiplications(), |(index, joined)| dispatch(Forward { head: inputs.head(index), joined }));
    tensor(joined, [batch, heads, time + width, values], dtype)
}

struct Forward<'a> {
    head: Head<'a>,
    joined: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let values = self.head.wide[2].width;
        let mut column = 0;
        while column + 4 * LANES <= values {
            scan::<A, 4>(self.head, self.joined, column);
            column += 4 * LANES;
        }
        while column < values {
            scan::<A, 1>(self.head, self.joined, column);
            column += LANES;
        }
    }
}

/// All tokens, columns from `column` on.
#[inline(always)]
fn scan<A: Arithmetic, const R: usize>(head: Head, joined: &mut [f32], column: usize) {
    let (width, values) = (head.wide[0].width, head.wide[2].width);
    let mut state = first_state::<R>(head, column);
    // What the next token reads of the state is taken while the state is rewritten for this one.
    let (mut seen, mut asked) = (zero::<A, R>(), zero::<A, R>());
    if head.time > 0 {
        (seen, asked) = advance::<A, R>(&mut state, 1.0, head.k(0), zero::<A, R>(), head.k(0), head.q(0));
    }
    for t in 0..head.time {
        let (q, k, decay, beta) = (head.q(t), head.k(t), head.decay::<A>(t), head.beta(t));
        let u = correction::<A, R>(part::<A, R>(head.v(t), column), scaled::<A, R>(decay, seen), beta);
        let output = axpy::<A, R>(dot::<A>(q, k), u, scaled::<A, R>(decay, asked));
        write::<A, R>(output, &mut joined[t * values..(t + 1) * values], column);
        let next = (t + 1).min(head.time - 1);
        (seen, asked) = advance::<A, R>(&mut state, decay, k, u, head.k(next), head.q(next));
    }
    for (row, to) in state.chunks_exact(R * LANES).zip(joined[head.time * values..].chunks_exact_mut(values)).take(width) {
        write::<A, R>(load::<A, R>(row), to, column);
    }
}

/// `S <- decay S + k u`; returns `next_k S` and `next_q S`.
#[inline(always)]
fn advance<A: Arithmetic, const R: usize>(
    state: &mut [f32],
    decay: f32,
    k: &[f32],
    u: Row<A, R>,
    next_k: &[f32],
    next_q: &[f32],
) -> (Row<A, R>, Row<A, R>) {
    let (mut seen, mut asked) = (zero::<A, R>(), zero::<A, R>());
    for (((state, &k), &next_k), &next_q) in state.chunks_exact_mut(R * LANES).zip(k).zip(next_k).zip(next_q) {
        let new = axpy::<A, R>(k, u, scaled::<A, R>(decay, load::<A, R>(state)));
        seen = axpy::<A, R>(next_k, new, seen);
        asked = axpy::<A, R>(next_q, new, asked);
        store::<A, R>(new, state);
    }
    (seen, asked)
}

/// Gradients of the six inputs; `grad [B, H, T + D, V]`.
pub(super) fn backward(inputs: [FlexTensor; 6], grad: FlexTensor) -> [FlexTensor; 6] {
    let dtypes = inputs.each_ref().map(FlexTensor::dtype);
    let inputs = Inputs::new(inputs);
    let grad = readable(grad);
    let [batch, heads, time, width, values] = inputs.dims();
    let count = batch * heads;
    let sizes = [time * width, time * width, time * values, time, time, width * values];
    let mut grads = sizes.map(|size| vec![0.0; count * size]);
    let [q, k, v, g, beta, state] = &mut grads;
    let chunks = |grads, i: usize| <[f32]>::par_chunks_mut(grads, sizes[i].max(1));
    let tasks = (chunks(q, 0), chunks(k, 1), chunks(v, 2), chunks(g, 3), chunks(beta, 4), chunks(state, 5));
    threads::for_each(tasks.into_par_iter().enumerate(), inputs.multiplications() * 4, |(index, (q, k, v, g, beta, state))| {
        dispatch(Backward { head: inputs.head(index), grad: View::new(&grad), grads: Grads { q, k, v, g, beta, state } });
    });
    let [q, k, v, g, beta, state] = grads;
    let wide = |values, width, dtype| tensor(values, [batch, heads, time, width], dtype);
    let flat = |values, dtype| tensor(values, [batch, heads, time], dtype);
    [
        wide(q, width, dtypes[0]),
        wide(k, width, dtypes[1]),
        wide(v, values, dtypes[2]),
        flat(g, dtypes[3]),
        flat(beta, dtypes[4]),
        tensor(state, [batch, heads, width, values], dtypes[5]),
    ]
}

/// Gradients of one head's inputs.
struct Grads<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a mut [f32],
    beta: &'a mut [f32],
    state: &'a mut [f32],
}

struct Backward<'a> {
    head: Head<'a>,
    grad: View<'a, 4>,
    grads: Grads<'a>,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        let values = self.head.wide[2].width;
        let mut column = 0;
        while column + 4 * LANES <= values {
            self.columns::<A, 4>(column);
            column += 4 * LANES;
        }
        while column < values {
            self.columns::<A, 1>(column);
            column += LANES;
        }
    }
}

/// What the tokens of one chunk saw.
struct Seen {
    /// The state in front of each token and behind the last.
    states: Vec<f32>,
    /// `exp(g) k S` of each token, what its correction subtracts from `v`.
    recalled: Vec<f32>,
    /// The correction `u` of each token.
    corrections: Vec<f32>,
}

impl Seen {
    /// Recomputes the tokens from `start` on, up to `count` of them, from the state that stands in front.
    #[inline(always)]
    fn fill<A: Arithmetic, const R: usize>(&mut self, head: Head, column: usize, start: usize, count: usize) {
        let (row, size) = (R * LANES, head.wide[0].width * R * LANES);
        let stride = size + APART;
        let mut seen = zero::<A, R>();
        for (state, &k) in self.states[..size].chunks_exact(row).zip(head.k(start)) {
            seen = axpy::<A, R>(k, load::<A, R>(state), seen);
        }
        for n in 0..count {
            let t = start + n;
            let (decay, beta) = (head.decay::<A>(t), head.beta(t));
            let recalled = scaled::<A, R>(decay, seen);
            let u = correction::<A, R>(part::<A, R>(head.v(t), column), recalled, beta);
            store::<A, R>(recalled, &mut self.recalled[n * row..(n + 1) * row]);
            store::<A, R>(u, &mut self.corrections[n * row..(n + 1) * row]);
            let (old, new) = self.states[n * stride..(n + 1) * stride + size].split_at_mut(stride);
            seen = zero::<A, R>();
            let next_k = head.k((t + 1).min(head.time - 1));
            for (((old, new), &k), &next_k) in old.chunks_exact(row).zip(new.chunks_exact_mut(row)).zip(head.k(t)).zip(next_k) {
                let state = axpy::<A, R>(k, u, scaled::<A, R>(decay, load::<A, R>(old)));
                seen = axpy::<A, R>(next_k, state, seen);
                store::<A, R>(state, new);
            }
        }
    }
}

impl Backward<'_> {
    /// What flows back through the columns from `column` on.
    #[inline(always)]
    fn columns<A: Arithmetic, const R: usize>(&mut self, column: usize) {
        let Self { head, grad, .. } = *self;
        let (time, width, values, row) = (head.time, head.wide[0].width, head.wide[2].width, R * LANES);
        let (chunk, size) = (CHUNK.min(time).max(1), width * row);
        let mut seen =
            Seen { states: first_state::<R>(head, column), recalled: vec![0.0; chunk * row], corrections: vec![0.0; chunk * row] };
        let stride = size + APART;
        seen.states.resize((chunk + 1) * stride, 0.0);
        let mut checkpoints = Vec::with_capacity(time.div_ceil(chunk) * size);
        for start in (0..time).step_by(chunk) {
            checkpoints.extend_from_slice(&seen.states[..size]);
            seen.fill::<A, R>(head, column, start, chunk.min(time - start));
            if start + chunk < time {
                seen.states.copy_within(chunk * stride..chunk * stride + size, 0);
            }
        }
        let mut flow = vec![0.0; size];
        for (d, flow) in flow.chunks_exact_mut(row).enumerate() {
            store::<A, R>(part::<A, R>(grad.row(head.batch, head.number, time + d), column), flow);
        }
        let mut parts = vec![0.0; 2 * LANES * width];
        for start in (0..time).step_by(chunk).rev() {
            let count = chunk.min(time - start);
            // The last chunk has just been filled.
            if start + chunk < time {
                let first = start / chunk * size;
                seen.states[..size].copy_from_slice(&checkpoints[first..first + size]);
                seen.fill::<A, R>(head, column, start, count);
            }
            for n in (0..count).rev() {
                let state = &seen.states[n * stride..n * stride + size];
                let (recalled, u) = (load::<A, R>(&seen.recalled[n * row..]), load::<A, R>(&seen.corrections[n * row..]));
                self.token::<A, R>(column, start + n, state, recalled, u, &mut flow, &mut parts);
            }
        }
        for (flow, to) in flow.chunks_exact(row).zip(self.grads.state.chunks_exact_mut(values)) {
            write::<A, R>(load::<A, R>(flow), to, column);
        }
    }

    /// Token `t`: `flow` comes in as the gradient of the state behind it and leaves as that of `state`, in front of it.
    ///
    /// `parts [D, 2 LANES]` is room for sums across lanes, which are cheaper taken together.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "what one token of the chunk saw, and two buffers")]
    fn token<A: Arithmetic, const R: usize>(
        &mut self,
        column: usize,
        t: usize,
        state: &[f32],
        recalled: Row<A, R>,
        u: Row<A, R>,
        flow: &mut [f32],
        parts: &mut [f32],
    ) {
        let Self { head, grad, grads } = self;
        let (width, values, row) = (head.wide[0].width, head.wide[2].width, R * LANES);
        let (q, k, decay, beta) = (head.q(t), head.k(t), head.decay::<A>(t), head.beta(t));
        let output = part::<A, R>(grad.row(head.batch, head.number, t), column);

        let mut correction = zero::<A, R>();
        for ((flow, &q), &k) in flow.chunks_exact_mut(row).zip(q).zip(k) {
            let new = axpy::<A, R>(q, output, load::<A, R>(flow));
            correction = axpy::<A, R>(k, new, correction);
            store::<A, R>(new, flow);
        }
        grads.beta[t] += overlap::<A, R>(correction, self::correction::<A, R>(part::<A, R>(head.v(t), column), recalled, 1.0));
        let value = scaled::<A, R>(beta, correction);
        write::<A, R>(value, &mut grads.v[t * values..(t + 1) * values], column);

        // The recalled value has the gradient `-value`.
        let forgotten = scaled::<A, R>(-decay, value);
        let asked = scaled::<A, R>(decay, output);
        // One sum a register, so that a row need not wait for the one before.
        let mut fade = zero::<A, R>();
        for (((flow, state), &k), parts) in
            flow.chunks_exact_mut(row).zip(state.chunks_exact(row)).zip(k).zip(parts.chunks_exact_mut(2 * LANES))
        {
            let (mut by_q, mut by_k) = (A::splat(0.0), A::splat(0.0));
            for r in 0..R {
                let (behind, before) = (A::load(&flow[r * LANES..]), A::load(&state[r * LANES..]));
                by_q = A::mul_add(before, asked[r], by_q);
                by_k = A::mul_add(behind, u[r], by_k);
                by_k = A::mul_add(before, forgotten[r], by_k);
                fade[r] = A::mul_add(behind, before, fade[r]);
                let front = A::mul_add(A::splat(k), forgotten[r], A::mul(A::splat(decay), behind));
                A::store(front, &mut flow[r * LANES..]);
            }
            A::store(by_q, parts);
            A::store(by_k, &mut parts[LANES..]);
        }
        let own = overlap::<A, R>(u, output);
        let (grads_q, grads_k) = (&mut grads.q[t * width..(t + 1) * width], &mut grads.k[t * width..(t + 1) * width]);
        for (((parts, &k), by_q), by_k) in parts.chunks_exact(2 * LANES).zip(k).zip(grads_q).zip(grads_k) {
            *by_q += A::fused(k, own, A::sum(A::load(parts)));
            *by_k += A::sum(A::load(&parts[LANES..]));
        }
        grads.g[t] += A::fused(decay, overlap::<A, R>(fade, [A::splat(1.0); R]), -overlap::<A, R>(recalled, value));
    }
}

/// The state in front of the first token, columns from `column` on.
#[inline(always)]
fn first_state<const R: usize>(head: Head, column: usize) -> Vec<f32> {
    let width = head.wide[0].width;
    let mut state = vec![0.0; width * R * LANES];
    for (d, row) in state.chunks_exact_mut(R * LANES).enumerate() {
        let from = &head.state(d)[column..];
        let count = from.len().min(R * LANES);
        row[..count].copy_from_slice(&from[..count]);
    }
    state
}

/// `beta (v - recalled)`.
#[inline(always)]
fn correction<A: Arithmetic, const R: usize>(mut v: Row<A, R>, recalled: Row<A, R>, beta: f32) -> Row<A, R> {
    for r in 0..R {
        v[r] = A::mul(A::splat(beta), A::sub(v[r], recalled[r]));
    }
    v
}

#[inline(always)]
fn zero<A: Arithmetic, const R: usize>() -> Row<A, R> {
    [A::splat(0.0); R]
}

#[inline(always)]
fn scaled<A: Arithmetic, const R: usize>(a: f32, mut x: Row<A, R>) -> Row<A, R> {
    for x in &mut x {
        *x = A::mul(A::splat(a), *x);
    }
    x
}

/// `a * x + y`.
#[inline(always)]
fn axpy<A: Arithmetic, const R: usize>(a: f32, x: Row<A, R>, mut y: Row<A, R>) -> Row<A, R> {
    for r in 0..R {
        y[r] = A::mul_add(A::splat(a), x[r], y[r]);
    }
    y
}

/// `sum(x * y)`.
#[inline(always)]
fn overlap<A: Arithmetic, const R: usize>(x: Row<A, R>, y: Row<A, R>) -> f32 {
    let mut total = A::splat(0.0);
    for r in 0..R {
        total = A::mul_add(x[r], y[r], total);
    }
    A::sum(total)
}

#[inline(always)]
fn load<A: Arithmetic, const R: usize>(from: &[f32]) -> Row<A, R> {
    let mut row = zero::<A, R>();
    for (r, register) in row.iter_mut().enumerate() {
        *register = A::load(&from[r * LANES..]);
    }
    row
}

#[inline(always)]
fn store<A: Arithmetic, const R: usize>(row: Row<A, R>, to: &mut [f32]) {
    for (r, register) in row.into_iter().enumerate() {
        A::store(register, &mut to[r * LANES..]);
    }
}

/// Columns from `column` on, zeros beyond the last.
#[inline(always)]
fn part<A: Arithmetic, const R: usize>(from: &[f32], column: usize) -> Row<A, R> {
    let from = &from[column..];
    if from.len() >= R * LANES {
        return load::<A, R>(from);
    }
    // Only a single register is ever filled in part.
    let mut padded = [0.0; LANES];
    padded[..from.len()].copy_from_slice(from);
    let mut row = zero::<A, R>();
    row[0] = A::load(&padded);
    row
}

/// Writes to the columns from `column` on, as far as there are any.
#[inline(always)]
fn write<A: Arithmetic, const R: usize>(row: Row<A, R>, to: &mut [f32], column: usize) {
    let to = &mut to[column..];
    if to.len() >= R * LANES {
        store::<A, R>(row, to);
    } else {
        let mut padded = [0.0; LANES];
        A::store(row[0], &mut padded);
        let count = to.len();
        to.copy_from_slice(&padded[..count]);
    }
}
