//! What goes row by row: RMS norm, rotary positions, gated product; forward and backward.
//!
//! Results stand in memory in the order of the first input, whose rows are taken in that order.

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::simd::{Arithmetic, Kernel, dispatch, dot, sigmoid};
use super::threads;
use super::views::{Rows, dims, expanded, memory_order, ordered_layout, readable, tensor, with_layout};

/// Numbers that one task handles, about.
const TASK: usize = 1 << 13;

/// Rows that one task handles: by the width alone, since sums over rows are made task by task.
fn rows_a_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// How results are laid out.
struct Output {
    shape: Shape,
    dtype: DType,
    axes: Vec<usize>,
}

impl Output {
    fn like(model: &FlexTensor, dtype: DType) -> Self {
        Self { shape: model.layout().shape().clone(), dtype, axes: memory_order(model) }
    }

    fn zeros(&self) -> Vec<f32> {
        vec![0.0; self.shape.num_elements()]
    }

    /// Numbers that one task handles.
    fn task(&self) -> usize {
        let width = self.shape[self.axes.len() - 1];
        (rows_a_task(width) * width).max(1)
    }

    fn tensor(&self, values: Vec<f32>) -> FlexTensor {
        with_layout(values, ordered_layout(&self.shape, &self.axes), self.dtype)
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` by rows.
pub(super) fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
    let dtype = x.dtype();
    let (x, weight) = (readable(x), readable(weight));
    let output = Output::like(&x, dtype);
    let (rows, weight) = (Rows::new(&x, &output.axes), Rows::new(&weight, &[0]));
    let mut y = output.zeros();
    let tasks = y.par_chunks_mut(output.task()).enumerate();
    threads::for_each(tasks, output.shape.num_elements() * 2, |(task, y)| {
        dispatch(RmsNorm { x: &rows, weight: weight.row(0), eps: eps as f32, first: task * rows_a_task(rows.width), y });
    });
    output.tensor(y)
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
pub(super) fn rms_norm_backward(x: FlexTensor, weight: FlexTensor, eps: f64, grad: FlexTensor) -> [FlexTensor; 2] {
    let dtypes = [x.dtype(), weight.dtype()];
    let (x, weight, grad) = (readable(x), readable(weight), readable(grad));
    let output = Output::like(&x, dtypes[0]);
    let (rows, grad, weight) = (Rows::new(&x, &output.axes), Rows::new(&grad, &output.axes), Rows::new(&weight, &[0]));
    let width = rows.width;
    let mut by_x = output.zeros();
    let count = by_x.len().div_ceil(output.task());
    let mut by_weight = vec![0.0; count * width];
    let tasks = by_x.par_chunks_mut(output.task()).zip(by_weight.par_chunks_mut(width.max(1))).enumerate();
    threads::for_each(tasks, output.shape.num_elements() * 6, |(task, (by_x, by_weight))| {
        let first = task * rows_a_task(width);
        dispatch(RmsNormBackward { x: &rows, weight: weight.row(0), eps: eps as f32, grad: &grad, first, by_x, by_weight });
    });
    let mut total = vec![0.0; width];
    for part in by_weight.chunks_exact(width.max(1)) {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    [output.tensor(by_x), tensor(total, [width], dtypes[1])]
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

/// Rotary positions, see [`crate::rotary::rotate_half`], by the angles' `cos` and `sign sin`. Turning back is its own gradient.
pub(super) fn rotate_half(x: FlexTensor, [cos, sin]: [FlexTensor; 2], sign: f32) -> FlexTensor {
    let dtype = x.dtype();
    let x = readable(x);
    let output = Output::like(&x, dtype);
    let [cos, sin] = [cos, sin].map(|table| expanded(readable(table), &output.shape));
    let (rows, cos, sin) = (Rows::new(&x, &output.axes), Rows::new(&cos, &output.axes), Rows::new(&sin, &output.axes));
    let mut y = output.zeros();
    let tasks = y.par_chunks_mut(output.task()).enumerate();
    threads::for_each(tasks, output.shape.num_elements() * 2, |(task, y)| {
        dispatch(RotateHalf { x: &rows, cos: &cos, sin: &sin, sign, first: task * rows_a_task(rows.width), y });
    });
    output.tensor(y)
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

/// `[B, H, T, V]` -> `[B, T, H * V]`; see [`crate::softmax::merge_heads`].
pub(super) fn merge_heads(x: FlexTensor) -> FlexTensor {
    let dtype = x.dtype();
    let [batch, heads, time, width] = dims(&x);
    let merged = [batch, time, heads * width];
    let x = readable(x).transpose(1, 2);
    if x.layout().is_contiguous() && x.layout().start_offset() == 0 {
        let merged = x.reshape(merged.into());
        return if dtype == DType::F32 { merged } else { Flex::float_cast(merged, dtype.into()) };
    }
    let rows = Rows::new(&x, &[0, 1, 2, 3]);
    let mut y = vec![0.0; batch * time * heads * width];
    let task = rows_a_task(width);
    // Copying counts for less than multiplying: memory is soon the limit.
    threads::for_each(y.par_chunks_mut((task * width).max(1)).enumerate(), batch * time * heads * width / 2, |(n, y)| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            y.copy_from_slice(rows.row(n * task + i));
        }
    });
    tensor(y, merged, dtype)
}

/// `silu(gate) * up`.
pub(super) fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let dtype = gate.dtype();
    let (gate, up) = (readable(gate), readable(up));
    let output = Output::like(&gate, dtype);
    let (gate, up) = (Rows::new(&gate, &output.axes), Rows::new(&up, &output.axes));
    let mut y = output.zeros();
    let tasks = y.par_chunks_mut(output.task()).enumerate();
    threads::for_each(tasks, output.shape.num_elements() * 10, |(task, y)| {
        dispatch(SwiGlu { gate: &gate, up: &up, first: task * rows_a_task(gate.width), y });
    });
    output.tensor(y)
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
pub(super) fn swiglu_backward(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> [FlexTensor; 2] {
    let dtypes = [gate.dtype(), up.dtype()];
    let (gate, up, grad) = (readable(gate), readable(up), readable(grad));
    let outputs = dtypes.map(|dtype| Output::like(&gate, dtype));
    let axes = &outputs[0].axes;
    let (gate, up, grad) = (Rows::new(&gate, axes), Rows::new(&up, axes), Rows::new(&grad, axes));
    let [mut by_gate, mut by_up] = outputs.each_ref().map(Output::zeros);
    let task = outputs[0].task();
    let tasks = by_gate.par_chunks_mut(task).zip(by_up.par_chunks_mut(task)).enumerate();
    threads::for_each(tasks, outputs[0].shape.num_elements() * 15, |(task, (by_gate, by_up))| {
        let first = task * rows_a_task(gate.width);
        dispatch(SwiGluBackward { gate: &gate, up: &up, grad: &grad, first, by_gate, by_up });
    });
    [outputs[0].tensor(by_gate), outputs[1].tensor(by_up)]
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
            let inputs = self.gate.row(n).iter().zip(self.up.row(n)).zip(self.grad.row(n));
            for ((by_gate, by_up), ((&gate, &up), &grad)) in by_gate.iter_mut().zip(by_up).zip(inputs) {
                let open = sigmoid::<A>(gate);
                let silu = gate * open;
                *by_up = grad * silu;
                *by_gate = grad * up * A::fused(silu, 1.0 - open, open);
            }
        }
    }
}
