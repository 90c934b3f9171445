//! Normalised linear attention: the additive recurrence without decay, divided by what a column of ones for values would give.
//!
//! `o_t = q_t S_t / (q_t z_t + eps)`, with `S_t = sum_(s<=t) k_s^T v_s` and `z_t = sum_(s<=t) k_s^T` the state's last column, which costs
//! a vector a token and needs no kernel for matrices.

use rayon::prelude::*;

use crate::recurrence::{self, Inputs, heads_of};
use crate::simd::{Arithmetic, Kernel, axpy, dispatch, dot};
use crate::threads::for_each;
use crate::view::View;

/// `q, k [B, H, T, D]`, `v [B, H, T, V]`, `state [B, H, D, V + 1]`.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named as in the equation")]
pub struct LinearInputs<'a> {
    pub q: View<'a, 4>,
    pub k: View<'a, 4>,
    pub v: View<'a, 4>,
    pub state: View<'a, 4>,
    /// Keeps the quotient finite where no key has been seen.
    pub eps: f32,
}

impl<'a> LinearInputs<'a> {
    /// All but the normaliser.
    fn recurrence(&self) -> Inputs<'a> {
        assert_eq!(self.state.width(), self.v.width() + 1, "the state has a column more than the values");
        Inputs { q: self.q, k: self.k, v: self.v, g: None, beta: None, state: self.state.narrow(self.v.width()) }
    }

    fn head(&self, index: usize) -> Head<'a> {
        let heads = self.q.shape()[1];
        Head { inputs: *self, batch: index / heads, number: index % heads }
    }
}

/// What one head reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    inputs: LinearInputs<'a>,
    batch: usize,
    number: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn q(&self, t: usize) -> &'a [f32] {
        self.inputs.q.row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn k(&self, t: usize) -> &'a [f32] {
        self.inputs.k.row(self.batch, self.number, t)
    }

    /// The sum of the keys before the first token.
    fn first_sum(&self) -> Vec<f32> {
        let [.., width, columns] = self.inputs.state.shape();
        (0..width).map(|d| self.inputs.state.row(self.batch, self.number, d)[columns - 1]).collect()
    }
}

/// `y += x`.
#[inline(always)]
fn add(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// Outputs `[B, H, T, V]`, behind them the final states, `[B, H, D, V + 1]`, and behind these the normalisers, `[B, H, T]`.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(inputs: &LinearInputs<'_>) -> Vec<f32> {
    let rule = inputs.recurrence();
    let [batch, heads, time, width, values] = rule.dims();
    let mut joined = vec![0.0; batch * heads * (time * values + width * (values + 1) + time)];
    let (outputs, rest) = joined.split_at_mut(batch * heads * time * values);
    let (states, normalisers) = rest.split_at_mut(batch * heads * width * (values + 1));
    recurrence::forward_into(&rule, outputs, states, values + 1);
    let outputs = heads_of(outputs, time * values, batch * heads);
    let others = heads_of(states, width * (values + 1), batch * heads).into_par_iter().zip(heads_of(normalisers, time, batch * heads));
    let tasks = outputs.into_par_iter().zip(others).enumerate();
    for_each(tasks, batch * heads * time * (2 * width + values), |(index, (outputs, (state, normalisers)))| {
        dispatch(Normalise { head: inputs.head(index), outputs, state, normalisers });
    });
    joined
}

struct Normalise<'a> {
    head: Head<'a>,
    outputs: &'a mut [f32],
    state: &'a mut [f32],
    normalisers: &'a mut [f32],
}

impl Kernel for Normalise<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let values = self.head.inputs.v.width();
        let mut sum = self.head.first_sum();
        for (t, (row, normaliser)) in self.outputs.chunks_exact_mut(values.max(1)).zip(self.normalisers).enumerate() {
            add(self.head.k(t), &mut sum);
            *normaliser = dot::<A>(self.head.q(t), &sum);
            let share = 1.0 / (*normaliser + self.head.inputs.eps);
            for x in row {
                *x *= share;
            }
        }
        for (row, sum) in self.state.chunks_exact_mut(values + 1).zip(sum) {
            row[values] = sum;
        }
    }
}

/// Gradients of `q`, `k`, `v` and `state` from those of the outputs, `grad [B, H, T, V]`, and of the states, `last [B, H, D, V + 1]`. `joined`
/// is what [`forward`] returned.
///
/// # Panics
/// If shapes do not fit.
pub fn backward(inputs: &LinearInputs<'_>, joined: &[f32], grad: View<'_, 4>, last: View<'_, 4>) -> [Vec<f32>; 4] {
    let rule = inputs.recurrence();
    let [batch, heads, time, width, values] = rule.dims();
    let (outputs, normalisers) = (&joined[..batch * heads * time * values], &joined[joined.len() - batch * heads * time..]);
    let outputs = View::contiguous(outputs, [batch, heads, time, values]);
    let mut flow = vec![0.0; batch * heads * time * values];
    let mut slopes = vec![0.0; batch * heads * time];
    let flows = heads_of(&mut flow, time * values, batch * heads);
    let tasks = flows.into_par_iter().zip(heads_of(&mut slopes, time, batch * heads)).enumerate();
    for_each(tasks, 3 * batch * heads * time * values, |(index, (flow, slopes))| {
        let normalisers = &normalisers[index * time..(index + 1) * time];
        dispatch(Flow { head: inputs.head(index), outputs, normalisers, grad, by_x: flow, slopes });
    });
    let grads = recurrence::backward(&rule, View::contiguous(&flow, [batch, heads, time, values]), last.narrow(values));
    let (mut by_q, mut by_k, mut by_state) = (grads.q, grads.k, vec![0.0; batch * heads * width * (values + 1)]);
    let [q, k] = [&mut by_q, &mut by_k].map(|by| heads_of(by, time * width, batch * heads));
    let tasks = (q, k, heads_of(&mut by_state, width * (values + 1), batch * heads)).into_par_iter().enumerate();
    for_each(tasks, 3 * batch * heads * time * width, |(index, (by_q, by_k, by_state))| {
        let slopes = &slopes[index * time..(index + 1) * time];
        dispatch(SumBackward { head: inputs.head(index), slopes, last, by_q, by_k, by_state });
    });
    for (row, part) in by_state.chunks_exact_mut(values + 1).zip(grads.state.chunks_exact(values.max(1))) {
        row[..values].copy_from_slice(part);
    }
    [by_q, by_k, grads.v, by_state]
}

/// Back through the quotient `o = x / (n + eps)`: `dx = do / (n + eps)`, `dn = -sum(do o) / (n + eps)`.
struct Flow<'a> {
    head: Head<'a>,
    outputs: View<'a, 4>,
    normalisers: &'a [f32],
    grad: View<'a, 4>,
    /// `dx`.
    by_x: &'a mut [f32],
    /// `dn`.
    slopes: &'a mut [f32],
}

impl Kernel for Flow<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Head { inputs, batch, number } = self.head;
        let rows = self.by_x.chunks_exact_mut(inputs.v.width().max(1)).zip(self.slopes).zip(self.normalisers);
        for (t, ((flow, slope), normaliser)) in rows.enumerate() {
            let (grad, output) = (self.grad.row(batch, number, t), self.outputs.row(batch, number, t));
            let share = 1.0 / (normaliser + inputs.eps);
            for (flow, grad) in flow.iter_mut().zip(grad) {
                *flow = grad * share;
            }
            *slope = -dot::<A>(grad, output) * share;
        }
    }
}

/// Back through the normaliser `n_t = q_t z_t`, `z_t = z_(t-1) + k_t`.
struct SumBackward<'a> {
    head: Head<'a>,
    /// `dn`.
    slopes: &'a [f32],
    /// Gradient of the final state.
    last: View<'a, 4>,
    by_q: &'a mut [f32],
    by_k: &'a mut [f32],
    by_state: &'a mut [f32],
}

impl Kernel for SumBackward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Head { inputs, batch, number } = self.head;
        let (values, width) = (inputs.v.width(), inputs.q.width());
        let mut sum = self.head.first_sum();
        for (t, (by_q, slope)) in self.by_q.chunks_exact_mut(width.max(1)).zip(self.slopes).enumerate() {
            add(self.head.k(t), &mut sum);
            axpy::<A>(*slope, &sum, by_q);
        }
        let mut behind: Vec<f32> = (0..width).map(|d| self.last.row(batch, number, d)[values]).collect();
        for (t, (by_k, slope)) in self.by_k.chunks_exact_mut(width.max(1)).zip(self.slopes).enumerate().rev() {
            axpy::<A>(*slope, self.head.q(t), &mut behind);
            add(&behind, by_k);
        }
        for (row, behind) in self.by_state.chunks_exact_mut(values + 1).zip(behind) {
            row[values] = behind;
        }
    }
}
