//! The gated delta rule token by token: for the head widths in use, the state stays in the nearest cache.
//!
//! Forward, with `a = exp(g)`: `S' = a S`, `p = k S'`, `u = beta (v - p)`, `S = S' + k^T u`, `o = q S`.

use rayon::prelude::*;

use super::View;
use super::rows::tasks;
use super::simd::{axpy, dispatch, dot, exp, fma};

/// Tokens between two states that the backward pass keeps.
const CHECKPOINT: usize = 32;

/// Inputs of all heads.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[B, H, T, D]`.
    pub q: View<'a>,
    /// `[B, H, T, D]`.
    pub k: View<'a>,
    /// `[B, H, T, V]`.
    pub v: View<'a>,
    /// `[B, H, T]`, contiguous.
    pub g: &'a [f32],
    /// `[B, H, T]`, contiguous.
    pub beta: &'a [f32],
    /// `[B, H, D, V]`, contiguous.
    pub state: &'a [f32],
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    inputs: Inputs<'a>,
    b: usize,
    h: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn q(&self, t: usize) -> &'a [f32] {
        self.inputs.q.row(self.b, self.h, t)
    }

    #[inline(always)]
    fn k(&self, t: usize) -> &'a [f32] {
        self.inputs.k.row(self.b, self.h, t)
    }

    #[inline(always)]
    fn v(&self, t: usize) -> &'a [f32] {
        self.inputs.v.row(self.b, self.h, t)
    }

    #[inline(always)]
    fn flat(&self, t: usize) -> usize {
        let [_, heads, time, _] = self.inputs.q.shape;
        (self.b * heads + self.h) * time + t
    }
}

/// Outputs followed by the final state, `[B, H, T + D, V]`.
pub(crate) fn forward(inputs: Inputs<'_>) -> Vec<f32> {
    let [batch, heads, time, width] = inputs.q.shape;
    let value = inputs.v.shape[3];
    let mut joined = vec![0.0; batch * heads * (time + width) * value];
    let work = joined.par_chunks_mut((time + width) * value).enumerate();
    tasks(work, batch * heads * time * width * 4, |(index, joined)| {
        let head = Head { inputs, b: index / heads, h: index % heads };
        let (output, state) = joined.split_at_mut(time * value);
        state.copy_from_slice(&inputs.state[index * width * value..][..width * value]);
        forward_head(head, 0, output, state);
    });
    joined
}

/// Reads tokens from `start` on, as many as there are rows in `output`.
#[inline(always)]
fn forward_body<const FMA: bool>(head: Head<'_>, start: usize, output: &mut [f32], state: &mut [f32]) {
    match head.inputs.v.shape[3] {
        32 => forward_width::<FMA, 32>(head, start, output, state),
        64 => forward_width::<FMA, 64>(head, start, output, state),
        128 => forward_width::<FMA, 128>(head, start, output, state),
        _ => forward_width::<FMA, 0>(head, start, output, state),
    }
}
dispatch!(forward_head = forward_body(head: Head<'_>, start: usize, output: &mut [f32], state: &mut [f32]));

/// With the width known to the compiler (0: not known), sums over heads stay in registers.
#[inline(always)]
fn forward_width<const FMA: bool, const V: usize>(head: Head<'_>, start: usize, output: &mut [f32], state: &mut [f32]) {
    let value = if V == 0 { head.inputs.v.shape[3] } else { V };
    let mut u = vec![0.0; value];
    for (n, output) in output.chunks_exact_mut(value).enumerate() {
        let t = start + n;
        step::<FMA, V>(head, t, state, &mut u);
        let q = head.q(t);
        output.fill(0.0);
        for (row, &q) in state.chunks_exact(value).zip(q) {
            axpy::<FMA>(output, q, row);
        }
    }
}

/// One token of the state: fades and corrects it, leaves `u`.
#[inline(always)]
fn step<const FMA: bool, const V: usize>(head: Head<'_>, t: usize, state: &mut [f32], u: &mut [f32]) {
    let value = if V == 0 { u.len() } else { V };
    let (k, v, flat) = (head.k(t), &head.v(t)[..value], head.flat(t));
    let (fade, beta) = (exp::<FMA>(head.inputs.g[flat]), head.inputs.beta[flat]);
    let u = &mut u[..value];
    u.fill(0.0);
    for (row, &k) in state.chunks_exact_mut(value).zip(k) {
        for j in 0..value {
            row[j] *= fade;
            u[j] = fma::<FMA>(k, row[j], u[j]);
        }
    }
    for j in 0..value {
        u[j] = beta * (v[j] - u[j]);
    }
    for (row, &k) in state.chunks_exact_mut(value).zip(k) {
        axpy::<FMA>(row, k, u);
    }
}

/// Gradients with respect to `q`, `k`, `v`, `g`, `beta` and `state`, each contiguous. `grad` is that of [`forward`]'s result.
pub(crate) fn backward(inputs: Inputs<'_>, grad: &[f32]) -> [Vec<f32>; 6] {
    let [batch, heads, time, width] = inputs.q.shape;
    let value = inputs.v.shape[3];
    let count = batch * heads;
    let mut dq = vec![0.0; count * time * width];
    let mut dk = vec![0.0; count * time * width];
    let mut dv = vec![0.0; count * time * value];
    let mut dg = vec![0.0; count * time];
    let mut dbeta = vec![0.0; count * time];
    let mut dstate = vec![0.0; count * width * value];
    let work = dq
        .par_chunks_mut(time * width)
        .zip(dk.par_chunks_mut(time * width))
        .zip(dv.par_chunks_mut(time * value))
        .zip(dg.par_chunks_mut(time).zip(dbeta.par_chunks_mut(time)))
        .zip(dstate.par_chunks_mut(width * value))
        .enumerate();
    tasks(work, count * time * width * 8, |(index, ((((dq, dk), dv), (dg, dbeta)), dstate))| {
        let head = Head { inputs, b: index / heads, h: index % heads };
        let grad = &grad[index * (time + width) * value..][..(time + width) * value];
        backward_head(head, grad, dq, dk, dv, dg, dbeta, dstate);
    });
    [dq, dk, dv, dg, dbeta, dstate]
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    head: Head<'_>,
    grad: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    dg: &mut [f32],
    dbeta: &mut [f32],
    dstate: &mut [f32],
) {
    match head.inputs.v.shape[3] {
        32 => backward_width::<FMA, 32>(head, grad, dq, dk, dv, dg, dbeta, dstate),
        64 => backward_width::<FMA, 64>(head, grad, dq, dk, dv, dg, dbeta, dstate),
        128 => backward_width::<FMA, 128>(head, grad, dq, dk, dv, dg, dbeta, dstate),
        _ => backward_width::<FMA, 0>(head, grad, dq, dk, dv, dg, dbeta, dstate),
    }
}
dispatch!(backward_head = backward_body(
    head: Head<'_>, grad: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32], dg: &mut [f32], dbeta: &mut [f32], dstate: &mut [f32],
));

/// States are kept every [`CHECKPOINT`] tokens; between two of them they are computed once more, then left again backwards.
///
/// With `dS` the gradient of the state after token `t`: `dS += q^T do`; `dq = S do`; `du = k dS`; `dk = dS u`; `dbeta = du (v - p)`;
/// `dv = beta du`; `dp = -beta du`; `dS' = dS + k^T dp`; `dk += S' dp`; `dg = a <dS', S_before>`; `dS_before = a dS'`.
#[inline(always)]
fn backward_width<const FMA: bool, const V: usize>(
    head: Head<'_>,
    grad: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    dg: &mut [f32],
    dbeta: &mut [f32],
    dstate: &mut [f32],
) {
    let [_, heads, time, width] = head.inputs.q.shape;
    let value = if V == 0 { head.inputs.v.shape[3] } else { V };
    let size = width * value;
    let initial = &head.inputs.state[(head.b * heads + head.h) * size..][..size];
    let chunks = time.div_ceil(CHECKPOINT);
    let mut kept = vec![0.0; chunks.max(1) * size];
    let mut state = initial.to_vec();
    let mut u = vec![0.0; value];
    for t in 0..time {
        if t % CHECKPOINT == 0 {
            kept[t / CHECKPOINT * size..][..size].copy_from_slice(&state);
        }
        // The last chunk is computed below.
        if t / CHECKPOINT + 1 < chunks {
            step::<FMA, V>(head, t, &mut state, &mut u);
        }
    }
    dstate.copy_from_slice(&grad[time * value..]);
    let mut states = vec![0.0; (CHECKPOINT + 1) * size];
    let mut us = vec![0.0; CHECKPOINT * value];
    let (mut du, mut dp) = (vec![0.0; value], vec![0.0; value]);
    for chunk in (0..chunks).rev() {
        let start = chunk * CHECKPOINT;
        let length = CHECKPOINT.min(time - start);
        states[..size].copy_from_slice(&kept[chunk * size..][..size]);
        for n in 0..length {
            let (before, after) = states.split_at_mut((n + 1) * size);
            after[..size].copy_from_slice(&before[n * size..]);
            step::<FMA, V>(head, start + n, &mut after[..size], &mut us[n * value..][..value]);
        }
        for n in (0..length).rev() {
            let t = start + n;
            let (q, k, v, flat) = (head.q(t), head.k(t), &head.v(t)[..value], head.flat(t));
            let (fade, beta) = (exp::<FMA>(head.inputs.g[flat]), head.inputs.beta[flat]);
            let (before, after) = (&states[n * size..][..size], &states[(n + 1) * size..][..size]);
            let (u, grad) = (&us[n * value..][..value], &grad[t * value..][..value]);
            let (dq, dk) = (&mut dq[t * width..][..width], &mut dk[t * width..][..width]);
            let (du, dp) = (&mut du[..value], &mut dp[..value]);
            du.fill(0.0);
            for d in 0..width {
                let row = &mut dstate[d * value..][..value];
                axpy::<FMA>(row, q[d], grad);
                dq[d] = dot::<FMA>(&after[d * value..][..value], grad);
                axpy::<FMA>(du, k[d], row);
                dk[d] = dot::<FMA>(row, u);
            }
            // u / beta = v - p would divide by zero: the difference is computed anew.
            dp.copy_from_slice(v);
            for d in 0..width {
                axpy::<FMA>(dp, -k[d] * fade, &before[d * value..][..value]);
            }
            dbeta[t] = dot::<FMA>(du, dp);
            for j in 0..value {
                dv[t * value + j] = beta * du[j];
                dp[j] = -beta * du[j];
            }
            let mut dfade = 0.0;
            for d in 0..width {
                let (row, before) = (&mut dstate[d * value..][..value], &before[d * value..][..value]);
                axpy::<FMA>(row, k[d], dp);
                dk[d] = fma::<FMA>(fade, dot::<FMA>(before, dp), dk[d]);
                dfade += dot::<FMA>(row, before);
                for row in row {
                    *row *= fade;
                }
            }
            dg[t] = fade * dfade;
        }
    }
}
