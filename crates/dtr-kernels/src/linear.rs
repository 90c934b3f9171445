//! Normalised linear attention: the additive recurrence without decay, its values with a column of ones, divided by that column.
//!
//! `o_t = q_t S_t / (q_t z_t + eps)`, with `S_t = sum_(s<=t) k_s^T v_s` and `z_t = sum_(s<=t) k_s^T` the state's last column.

use rayon::prelude::*;

use crate::recurrence::{self, Inputs};
use crate::threads::for_each;
use crate::view::View;

/// Numbers of rows that one task handles.
const ROWS: usize = 64;

/// Outputs with the normaliser as their last column, then the final state: `[B, H, T + D, V + 1]`. `q, k [B, H, T, D]`, `v [B, H, T, V]`,
/// `state [B, H, D, V + 1]`.
///
/// # Panics
/// If shapes do not fit.
pub fn forward([q, k, v, state]: [View<'_, 4>; 4], eps: f32) -> Vec<f32> {
    let ([batch, heads, time, width], values) = (q.shape(), v.width());
    let wide = with_ones(v);
    let v = View::contiguous(&wide, [batch, heads, time, values + 1]);
    let mut joined = recurrence::forward(&Inputs { q, k, v, g: None, beta: None, state });
    let row = values + 1;
    let mut outputs: Vec<&mut [f32]> = Vec::new();
    for head in joined.chunks_mut((time + width) * row) {
        outputs.extend(head[..time * row].chunks_mut(ROWS * row));
    }
    for_each(outputs.into_par_iter(), batch * heads * time * row, |rows| {
        for row in rows.chunks_exact_mut(row) {
            let share = 1.0 / (row[values] + eps);
            row[..values].iter_mut().for_each(|x| *x *= share);
        }
    });
    joined
}

/// Gradients of `q`, `k`, `v` and `state`. `joined` is what [`forward`] returned; `grad` its gradient, both `[B, H, T + D, V + 1]`; the
/// normaliser is no result, its gradient counts for nothing.
///
/// # Panics
/// If shapes do not fit.
pub fn backward([q, k, v, state]: [View<'_, 4>; 4], joined: View<'_, 4>, eps: f32, grad: View<'_, 4>) -> [Vec<f32>; 4] {
    let ([batch, heads, time, width], values) = (q.shape(), v.width());
    let (wide, row) = (with_ones(v), values + 1);
    let v = View::contiguous(&wide, [batch, heads, time, row]);
    // Through o = x / (n + eps): dx = do / (n + eps), dn = -sum(do o) / (n + eps).
    let mut flow = vec![0.0; batch * heads * (time + width) * row];
    let tasks = flow.par_chunks_mut(((time + width) * row).max(1)).enumerate();
    for_each(tasks, 3 * batch * heads * time * row, |(head, flow)| {
        let (batch, head) = (head / heads, head % heads);
        for (t, flow) in flow.chunks_exact_mut(row).enumerate() {
            let (grad, output) = (grad.row(batch, head, t), joined.row(batch, head, t));
            if t >= time {
                flow.copy_from_slice(grad);
                continue;
            }
            let share = 1.0 / (output[values] + eps);
            let mut along = 0.0;
            for ((flow, &grad), &output) in flow.iter_mut().zip(&grad[..values]).zip(output) {
                *flow = grad * share;
                along += grad * output;
            }
            flow[values] = -along * share;
        }
    });
    let grad = View::contiguous(&flow, [batch, heads, time + width, row]);
    let grads = recurrence::backward(&Inputs { q, k, v, g: None, beta: None, state }, grad);
    let by_v = grads.v.chunks_exact(row).flat_map(|by_v| &by_v[..values]).copied().collect();
    [grads.q, grads.k, by_v, grads.state]
}

/// `[v, 1]`.
fn with_ones(v: View<'_, 4>) -> Vec<f32> {
    let [batch, heads, time, values] = v.shape();
    let mut wide = vec![1.0; batch * heads * time * (values + 1)];
    for_each(wide.par_chunks_mut((time * (values + 1)).max(1)).enumerate(), batch * heads * time * values / 2, |(head, wide)| {
        for (t, wide) in wide.chunks_exact_mut(values + 1).enumerate() {
            wide[..values].copy_from_slice(v.row(head / heads, head % heads, t));
        }
    });
    wide
}
