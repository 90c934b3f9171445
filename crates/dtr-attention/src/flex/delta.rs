//! The gated delta rule token by token, the state in cache: forward, and backward from checkpoints of the state.
//!
//! Columns of the state do not mix, so a kernel walks through time with a block of `8 R` columns, `state[d]` its row `d`.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{Arithmetic, Kernel, LANES, Lanes, dispatch, dot, exp, lanes, mul_add, sum};
use super::threads;
use super::views::{View, dims, readable, scalars, tensor};

/// Tokens between two checkpoints of the state in the backward pass.
const CHUNK: usize = 16;

/// The columns of one row that a kernel holds.
type Row<const R: usize> = [Lanes; R];

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
    head: usize,
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
            head: index % heads,
            time,
        }
    }
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn q(&self, t: usize) -> &'a [f32] {
        self.wide[0].row(self.batch, self.head, t)
    }

    #[inline(always)]
    fn k(&self, t: usize) -> &'a [f32] {
        self.wide[1].row(self.batch, self.head, t)
    }

    #[inline(always)]
    fn v(&self, t: usize) -> &'a [f32] {
        self.wide[2].row(self.batch, self.head, t)
    }

    #[inline(always)]
    fn state(&self, d: usize) -> &'a [f32] {
        self.wide[3].row(self.batch, self.head, d)
    }

    /// The decay itself, not its logarithm.
    #[inline(always)]
    fn decay<A: Arithmetic>(&self, t: usize) -> f32 {
        exp::<A>(self.flat[0].at(self.batch, self.head, t))
    }

    #[inline(always)]
    fn beta(&self, t: usize) -> f32 {
        self.flat[1].at(self.batch, self.head, t)
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
    let mut state: Vec<Row<R>> = (0..width).map(|d| part(head.state(d), column)).collect();
    // What the next token reads of the state is taken while the state is rewritten for this one.
    let [mut seen, mut asked] = if head.time == 0 { [zero(); 2] } else { advance::<A, R>(&mut state, 1.0, head.k(0), &zero(), head.k(0), head.q(0)) };
    for t in 0..head.time {
        let (q, k, decay, beta) = (head.q(t), head.k(t), head.decay::<A>(t), head.beta(t));
        let v: Row<R> = part(head.v(t), column);
        let u = row(|r, i| beta * (v[r][i] - decay * seen[r][i]));
        let overlap = dot::<A>(q, k);
        let output: Row<R> = row(|r, i| A::mul_add(overlap, u[r][i], decay * asked[r][i]));
        write(&output, &mut joined[t * values..(t + 1) * values], column);
        let next = (t + 1).min(head.time - 1);
        [seen, asked] = advance::<A, R>(&mut state, decay, k, &u, head.k(next), head.q(next));
    }
    for (d, row) in state.iter().enumerate() {
        write(row, &mut joined[(head.time + d) * values..(head.time + d + 1) * values], column);
    }
}

/// `S <- decay S + k u`; returns `next_k S` and `next_q S`.
#[inline(always)]
fn advance<A: Arithmetic, const R: usize>(state: &mut [Row<R>], decay: f32, k: &[f32], u: &Row<R>, next_k: &[f32], next_q: &[f32]) -> [Row<R>; 2] {
    let mut seen = zero();
    let mut asked = zero();
    for (((state, &k), &next_k), &next_q) in state.iter_mut().zip(k).zip(next_k).zip(next_q) {
        let new = row(|r, i| A::mul_add(k, u[r][i], decay * state[r][i]));
        seen = row(|r, i| A::mul_add(next_k, new[r][i], seen[r][i]));
        asked = row(|r, i| A::mul_add(next_q, new[r][i], asked[r][i]));
        *state = new;
    }
    [seen, asked]
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
struct Seen<const R: usize> {
    /// The state in front of each token and behind the last, `D` rows each.
    states: Vec<Row<R>>,
    /// `exp(g) k S` of each token, what its correction subtracts from `v`.
    recalled: Vec<Row<R>>,
    /// The correction `u` of each token.
    corrections: Vec<Row<R>>,
}

impl<const R: usize> Seen<R> {
    /// Recomputes the tokens from `start` on, up to `count` of them, from the state that stands in front.
    #[inline(always)]
    fn fill<A: Arithmetic>(&mut self, head: Head, column: usize, start: usize, count: usize) {
        let width = head.wide[0].width;
        let mut seen: Row<R> = zero();
        for (state, &k) in self.states[..width].iter().zip(head.k(start)) {
            seen = row(|r, i| A::mul_add(k, state[r][i], seen[r][i]));
        }
        for n in 0..count {
            let t = start + n;
            let (decay, beta) = (head.decay::<A>(t), head.beta(t));
            let v: Row<R> = part(head.v(t), column);
            let recalled: Row<R> = row(|r, i| decay * seen[r][i]);
            let u: Row<R> = row(|r, i| beta * (v[r][i] - recalled[r][i]));
            self.recalled[n] = recalled;
            self.corrections[n] = u;
            let (old, new) = self.states[n * width..(n + 2) * width].split_at_mut(width);
            seen = zero();
            let next_k = head.k((t + 1).min(head.time - 1));
            for (((old, new), &k), &next_k) in old.iter().zip(new).zip(head.k(t)).zip(next_k) {
                let state: Row<R> = row(|r, i| A::mul_add(k, u[r][i], decay * old[r][i]));
                seen = row(|r, i| A::mul_add(next_k, state[r][i], seen[r][i]));
                *new = state;
            }
        }
    }
}

impl Backward<'_> {
    /// What flows back through the columns from `column` on.
    #[inline(always)]
    fn columns<A: Arithmetic, const R: usize>(&mut self, column: usize) {
        let Self { head, grad, .. } = *self;
        let (time, width, values) = (head.time, head.wide[0].width, head.wide[2].width);
        let chunk = CHUNK.min(time);
        let mut seen = Seen { states: vec![zero::<R>(); (chunk + 1) * width], recalled: vec![zero(); chunk], corrections: vec![zero(); chunk] };
        let mut checkpoints: Vec<Row<R>> = Vec::with_capacity(time.div_ceil(chunk.max(1)) * width);
        for (d, state) in seen.states[..width].iter_mut().enumerate() {
            *state = part(head.state(d), column);
        }
        for start in (0..time).step_by(chunk.max(1)) {
            checkpoints.extend_from_slice(&seen.states[..width]);
            seen.fill::<A>(head, column, start, chunk.min(time - start));
            if start + chunk < time {
                seen.states.copy_within(chunk * width.., 0);
            }
        }
        let mut flow: Vec<Row<R>> = (0..width).map(|d| part(grad.row(head.batch, head.head, time + d), column)).collect();
        for start in (0..time).step_by(chunk.max(1)).rev() {
            let count = chunk.min(time - start);
            if start + chunk < time {
                let first = start / chunk * width;
                seen.states[..width].copy_from_slice(&checkpoints[first..first + width]);
                seen.fill::<A>(head, column, start, count);
            }
            for n in (0..count).rev() {
                self.token::<A, R>(column, start + n, &seen.states[n * width..(n + 1) * width], &seen.recalled[n], &seen.corrections[n], &mut flow);
            }
        }
        for (d, flow) in flow.iter().enumerate() {
            write(flow, &mut self.grads.state[d * values..(d + 1) * values], column);
        }
    }

    /// Token `t`: `flow` comes in as the gradient of the state behind it and leaves as that of `state`, in front of it.
    #[inline(always)]
    fn token<A: Arithmetic, const R: usize>(&mut self, column: usize, t: usize, state: &[Row<R>], recalled: &Row<R>, u: &Row<R>, flow: &mut [Row<R>]) {
        let Self { head, grad, grads } = self;
        let (width, values) = (head.wide[0].width, head.wide[2].width);
        let (q, k, decay, beta) = (head.q(t), head.k(t), head.decay::<A>(t), head.beta(t));
        let v: Row<R> = part(head.v(t), column);
        let output: Row<R> = part(grad.row(head.batch, head.head, t), column);

        let mut correction: Row<R> = zero();
        for ((flow, &q), &k) in flow.iter_mut().zip(q).zip(k) {
            let new: Row<R> = row(|r, i| A::mul_add(q, output[r][i], flow[r][i]));
            correction = row(|r, i| A::mul_add(k, new[r][i], correction[r][i]));
            *flow = new;
        }
        grads.beta[t] += total(&row::<R>(|r, i| correction[r][i] * (v[r][i] - recalled[r][i])));
        let value: Row<R> = row(|r, i| beta * correction[r][i]);
        write(&value, &mut grads.v[t * values..(t + 1) * values], column);

        // The recalled value has the gradient `-value`.
        let overlap = total(&row::<R>(|r, i| u[r][i] * output[r][i]));
        let faded: Row<R> = row(|r, i| decay * value[r][i]);
        let faded_output: Row<R> = row(|r, i| decay * output[r][i]);
        let mut fade = [0.0; LANES];
        let (grads_q, grads_k) = (&mut grads.q[t * width..(t + 1) * width], &mut grads.k[t * width..(t + 1) * width]);
        for ((((flow, state), &k), grad_q), grad_k) in flow.iter_mut().zip(state).zip(k).zip(grads_q).zip(grads_k) {
            let mut by_q = [0.0; LANES];
            let mut by_k = [0.0; LANES];
            for r in 0..R {
                by_q = mul_add::<A>(state[r], faded_output[r], by_q);
                by_k = mul_add::<A>(flow[r], u[r], by_k);
                by_k = lanes(|i| A::mul_add(-state[r][i], faded[r][i], by_k[i]));
                fade = mul_add::<A>(flow[r], state[r], fade);
                flow[r] = lanes(|i| A::mul_add(-k, faded[r][i], decay * flow[r][i]));
            }
            *grad_q += A::mul_add(k, overlap, sum(by_q));
            *grad_k += sum(by_k);
        }
        let recalled = total(&row::<R>(|r, i| recalled[r][i] * value[r][i]));
        grads.g[t] += A::mul_add(decay, sum(fade), -recalled);
    }
}

/// Zeros.
#[inline(always)]
fn zero<const R: usize>() -> Row<R> {
    [[0.0; LANES]; R]
}

/// `f(r, i)` in lane `i` of register `r`.
#[inline(always)]
fn row<const R: usize>(mut f: impl FnMut(usize, usize) -> f32) -> Row<R> {
    let mut result = zero();
    for (r, register) in result.iter_mut().enumerate() {
        *register = lanes(|i| f(r, i));
    }
    result
}

/// Sum of all lanes.
#[inline(always)]
fn total<const R: usize>(row: &Row<R>) -> f32 {
    let mut total = [0.0; LANES];
    for register in row {
        total = lanes(|i| total[i] + register[i]);
    }
    sum(total)
}

/// Columns from `column` on, zeros beyond the last.
#[inline(always)]
fn part<const R: usize>(from: &[f32], column: usize) -> Row<R> {
    let from = &from[column..];
    if from.len() >= R * LANES {
        return row(|r, i| from[r * LANES + i]);
    }
    let mut result = zero();
    result.as_flattened_mut()[..from.len()].copy_from_slice(from);
    result
}

/// Writes to the columns from `column` on, as far as there are any.
#[inline(always)]
fn write<const R: usize>(row: &Row<R>, to: &mut [f32], column: usize) {
    let to = &mut to[column..];
    let count = to.len().min(R * LANES);
    to[..count].copy_from_slice(&row.as_flattened()[..count]);
}
