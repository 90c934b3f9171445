//! What goes row by row: RMS norm, rotary positions, gated product; forward and backward. Results have the rows in their order.

use rayon::prelude::*;

use crate::simd::{Arithmetic, Kernel, LANES, dispatch, dot, sigmoid};
use crate::threads::for_each;
use crate::view::Rows;

/// Numbers that one task handles, about.
const TASK: usize = 1 << 13;

/// Rows that one task handles: by the width alone, since sums over rows are made task by task.
fn rows_a_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Numbers that one task handles.
fn task(width: usize) -> usize {
    (rows_a_task(width) * width).max(1)
}

fn zeros(rows: &Rows<'_>) -> Vec<f32> {
    vec![0.0; rows.count() * rows.width]
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Panics
/// If `weight` has another width.
pub fn rms_norm(x: &Rows<'_>, weight: &[f32], eps: f32) -> Vec<f32> {
    assert_eq!(weight.len(), x.width, "one weight a column");
    let mut y = zeros(x);
    let work = y.len() * 2;
    for_each(y.par_chunks_mut(task(x.width)).enumerate(), work, |(task, y)| {
        dispatch(RmsNorm { x, weight, eps, first: task * rows_a_task(x.width), y });
    });
    y
}

struct RmsNorm<'a> {
    x: &'a Rows<'a>,
    weight: &'a [f32],
    eps: f32,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let width = self.x.width;
        for (n, y) in self.y.chunks_exact_mut(width).enumerate() {
            let x = self.x.row(self.first + n);
            let scale = (dot::<A>(x, x) / width as f32 + self.eps).sqrt().recip();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(self.weight) {
                *y = x * scale * weight;
            }
        }
    }
}

/// Gradients of [`rms_norm`] with respect to `x` and `weight`.
///
/// # Panics
/// If shapes do not fit.
pub fn rms_norm_backward(x: &Rows<'_>, weight: &[f32], eps: f32, grad: &Rows<'_>) -> [Vec<f32>; 2] {
    let width = x.width;
    assert!(weight.len() == width && same(x, grad), "one weight a column, and a gradient like x");
    let mut by_x = zeros(x);
    let work = by_x.len() * 6;
    let mut by_weight = vec![0.0; by_x.len().div_ceil(task(width)) * width];
    let tasks = by_x.par_chunks_mut(task(width)).zip(by_weight.par_chunks_mut(width.max(1))).enumerate();
    for_each(tasks, work, |(task, (by_x, by_weight))| {
        dispatch(RmsNormBackward { x, weight, eps, grad, first: task * rows_a_task(width), by_x, by_weight });
    });
    let mut total = vec![0.0; width];
    for part in by_weight.chunks_exact(width.max(1)) {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    [by_x, total]
}

fn same(a: &Rows<'_>, b: &Rows<'_>) -> bool {
    (a.count(), a.width) == (b.count(), b.width)
}

struct RmsNormBackward<'a> {
    x: &'a Rows<'a>,
    weight: &'a [f32],
    eps: f32,
    grad: &'a Rows<'a>,
    first: usize,
    by_x: &'a mut [f32],
    by_weight: &'a mut [f32],
}

impl Kernel for RmsNormBackward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let width = self.x.width;
        let by_weight = &mut self.by_weight[..width];
        for (n, by_x) in self.by_x.chunks_exact_mut(width).enumerate() {
            let (x, grad) = (self.x.row(self.first + n), self.grad.row(self.first + n));
            let scale = (dot::<A>(x, x) / width as f32 + self.eps).sqrt().recip();
            for ((by_x, grad), weight) in by_x.iter_mut().zip(grad).zip(self.weight) {
                *by_x = grad * weight * scale;
            }
            // With y = x scale(x): dx = scale (dy - y mean(dy y)).
            let along = dot::<A>(by_x, x) * scale * scale / width as f32;
            for (((by_x, by_weight), &x), &grad) in by_x.iter_mut().zip(by_weight.iter_mut()).zip(x).zip(grad) {
                *by_x = A::fused(-along, x, *by_x);
                *by_weight = A::fused(grad, x * scale, *by_weight);
            }
        }
    }
}

/// Each row's halves turned against each other: `y0 = x0 cos - x1 sin`, `y1 = x1 cos + x0 sin`, with `sign sin` for `sin`.
/// Turning back is its own gradient.
///
/// # Panics
/// If shapes do not fit: tables have half the width.
pub fn rotate_half(x: &Rows<'_>, [cos, sin]: [&Rows<'_>; 2], sign: f32) -> Vec<f32> {
    assert!([cos, sin].iter().all(|table| (table.count(), 2 * table.width) == (x.count(), x.width)), "tables of half the width");
    let mut y = zeros(x);
    let work = y.len() * 2;
    for_each(y.par_chunks_mut(task(x.width)).enumerate(), work, |(task, y)| {
        dispatch(RotateHalf { x, cos, sin, sign, first: task * rows_a_task(x.width), y });
    });
    y
}

struct RotateHalf<'a> {
    x: &'a Rows<'a>,
    cos: &'a Rows<'a>,
    sin: &'a Rows<'a>,
    sign: f32,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for RotateHalf<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let half = self.x.width / 2;
        for (n, y) in self.y.chunks_exact_mut(self.x.width).enumerate() {
            let n = self.first + n;
            let (x, tables) = (self.x.row(n).split_at(half), self.cos.row(n).iter().zip(self.sin.row(n)));
            let (left, right) = y.split_at_mut(half);
            for ((y, (&x0, &x1)), (cos, sin)) in left.iter_mut().zip(right).zip(x.0.iter().zip(x.1)).zip(tables) {
                let sin = self.sign * sin;
                *y.0 = A::fused(x0, *cos, -x1 * sin);
                *y.1 = A::fused(x1, *cos, x0 * sin);
            }
        }
    }
}

/// The rows one after another.
pub fn gathered(x: &Rows<'_>) -> Vec<f32> {
    let width = x.width;
    let mut y = zeros(x);
    // Copying counts for less than multiplying: memory is soon the limit.
    let work = y.len() / 2;
    for_each(y.par_chunks_mut(task(width)).enumerate(), work, |(task, y)| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            y.copy_from_slice(x.row(task * rows_a_task(width) + i));
        }
    });
    y
}

/// `silu(gate) * up`, `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// If shapes differ.
pub fn swiglu(gate: &Rows<'_>, up: &Rows<'_>) -> Vec<f32> {
    assert!(same(gate, up), "equal shapes");
    let mut y = zeros(gate);
    let work = y.len() * 10;
    for_each(y.par_chunks_mut(task(gate.width)).enumerate(), work, |(task, y)| {
        dispatch(SwiGlu { gate, up, first: task * rows_a_task(gate.width), y });
    });
    y
}

struct SwiGlu<'a> {
    gate: &'a Rows<'a>,
    up: &'a Rows<'a>,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (n, y) in self.y.chunks_exact_mut(self.gate.width).enumerate() {
            let (gate, up) = (self.gate.row(self.first + n), self.up.row(self.first + n));
            for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid::<A>(gate) * up;
            }
        }
    }
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
///
/// # Panics
/// If shapes differ.
pub fn swiglu_backward(gate: &Rows<'_>, up: &Rows<'_>, grad: &Rows<'_>) -> [Vec<f32>; 2] {
    assert!(same(gate, up) && same(gate, grad), "equal shapes");
    let [mut by_gate, mut by_up] = [zeros(gate), zeros(gate)];
    let (task, work) = (task(gate.width), by_up.len() * 15);
    for_each(by_gate.par_chunks_mut(task).zip(by_up.par_chunks_mut(task)).enumerate(), work, |(task, (by_gate, by_up))| {
        dispatch(SwiGluBackward { gate, up, grad, first: task * rows_a_task(gate.width), by_gate, by_up });
    });
    [by_gate, by_up]
}

struct SwiGluBackward<'a> {
    gate: &'a Rows<'a>,
    up: &'a Rows<'a>,
    grad: &'a Rows<'a>,
    first: usize,
    by_gate: &'a mut [f32],
    by_up: &'a mut [f32],
}

impl Kernel for SwiGluBackward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let width = self.gate.width;
        let rows = self.by_gate.chunks_exact_mut(width).zip(self.by_up.chunks_exact_mut(width));
        for (n, (by_gate, by_up)) in rows.enumerate() {
            let n = self.first + n;
            let (gate, up, grad) = (self.gate.row(n), self.up.row(n), self.grad.row(n));
            let ((gates, gate), (ups, up), (grads, grad)) = (gate.as_chunks(), up.as_chunks(), grad.as_chunks());
            let ((by_gates, by_gate), (by_ups, by_up)) = (by_gate.as_chunks_mut(), by_up.as_chunks_mut());
            for ((((by_gate, by_up), gate), up), grad) in by_gates.iter_mut().zip(by_ups).zip(gates).zip(ups).zip(grads) {
                (*by_gate, *by_up) = swiglu_slopes::<A>(gate, up, grad);
            }
            let whole = |part: &[f32]| {
                let mut whole = [0.0; LANES];
                whole[..part.len()].copy_from_slice(part);
                whole
            };
            let (of_gate, of_up) = swiglu_slopes::<A>(&whole(gate), &whole(up), &whole(grad));
            by_gate.copy_from_slice(&of_gate[..by_gate.len()]);
            by_up.copy_from_slice(&of_up[..by_up.len()]);
        }
    }
}

/// On arrays, which cannot overlap: with as many slices the compiler gives up on vectors.
#[inline(always)]
fn swiglu_slopes<A: Arithmetic>(gate: &[f32; LANES], up: &[f32; LANES], grad: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let (mut by_gate, mut by_up) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        let open = sigmoid::<A>(gate[i]);
        let silu = gate[i] * open;
        by_up[i] = grad[i] * silu;
        by_gate[i] = grad[i] * up[i] * A::fused(silu, 1.0 - open, open);
    }
    (by_gate, by_up)
}
