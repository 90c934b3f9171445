//! Row-wise kernels: RMS norm, rotary positions, gated product, short convolution; forward and backward.

use rayon::prelude::*;

use super::simd::{dispatch, dot, exp, fma, sigmoid};
use super::{Strip, View};

/// Elements worth a task of their own.
const TASK: usize = 1 << 14;

#[inline(always)]
fn inverse_rms<const FMA: bool>(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot::<FMA>(x, x) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn rms_body<const FMA: bool>(x: Strip<'_>, weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    for (t, y) in y.chunks_exact_mut(width).enumerate() {
        let x = x.row(t, width);
        let scale = inverse_rms::<FMA>(x, eps);
        for i in 0..width {
            y[i] = x[i] * scale * weight[i];
        }
    }
}
dispatch!(rms_task = rms_body(x: Strip<'_>, weight: &[f32], eps: f32, y: &mut [f32]));

/// `y = x / sqrt(mean(x^2) + eps) * weight` by rows; contiguous.
pub(crate) fn rms_norm(x: View<'_>, weight: &[f32], eps: f32) -> Vec<f32> {
    let [a, b, rows, width] = x.shape;
    let mut y = vec![0.0; a * b * rows * width];
    let elements = y.len();
    tasks(y.par_chunks_mut(rows * width).enumerate(), elements, |(n, y)| rms_task(x.strip(n / b, n % b), weight, eps, y));
    y
}

#[inline(always)]
fn rms_backward_body<const FMA: bool>(x: Strip<'_>, weight: &[f32], eps: f32, grad: Strip<'_>, dx: &mut [f32], dweight: &mut [f32]) {
    let width = weight.len();
    let mut weighted = vec![0.0; width];
    for (t, dx) in dx.chunks_exact_mut(width).enumerate() {
        let (x, grad) = (x.row(t, width), grad.row(t, width));
        let scale = inverse_rms::<FMA>(x, eps);
        for i in 0..width {
            weighted[i] = grad[i] * weight[i];
            dweight[i] = fma::<FMA>(grad[i] * x[i], scale, dweight[i]);
        }
        // d(x s)/dx with s = (mean(x^2) + eps)^-1/2: s (g - x s^2 mean(g x))
        let pull = dot::<FMA>(&weighted, x) * scale * scale / width as f32;
        for i in 0..width {
            dx[i] = scale * (weighted[i] - x[i] * pull);
        }
    }
}
dispatch!(rms_backward_task = rms_backward_body(x: Strip<'_>, weight: &[f32], eps: f32, grad: Strip<'_>, dx: &mut [f32], dweight: &mut [f32]));

/// Gradients of [`rms_norm`] with respect to `x` and `weight`.
pub(crate) fn rms_norm_backward(x: View<'_>, weight: &[f32], eps: f32, grad: View<'_>) -> [Vec<f32>; 2] {
    let [a, b, rows, width] = x.shape;
    let mut dx = vec![0.0; a * b * rows * width];
    let mut parts = vec![0.0; a * b * width];
    let elements = dx.len();
    let work = dx.par_chunks_mut(rows * width).zip(parts.par_chunks_mut(width)).enumerate();
    tasks(work, elements, |(n, (dx, dweight))| {
        rms_backward_task(x.strip(n / b, n % b), weight, eps, grad.strip(n / b, n % b), dx, dweight);
    });
    [dx, sum_of_rows(&parts, width)]
}

#[inline(always)]
fn rotate_body<const FMA: bool>(x: Strip<'_>, width: usize, cos: Strip<'_>, sin: Strip<'_>, sign: f32, y: &mut [f32]) {
    let half = width / 2;
    for (t, y) in y.chunks_exact_mut(width).enumerate() {
        let (x, cos, sin) = (x.row(t, width), cos.row(t, half), sin.row(t, half));
        let ((x0, x1), (y0, y1)) = (x.split_at(half), y.split_at_mut(half));
        for i in 0..half {
            let sin = sign * sin[i];
            y0[i] = x0[i] * cos[i] - x1[i] * sin;
            y1[i] = x1[i] * cos[i] + x0[i] * sin;
        }
    }
}
dispatch!(rotate_task = rotate_body(x: Strip<'_>, width: usize, cos: Strip<'_>, sin: Strip<'_>, sign: f32, y: &mut [f32]));

/// Turns `x [B, H, T, D]` by the angles of `cos, sin [B or 1, 1, T, D / 2]`, or back where `sign` is -1; contiguous.
pub(crate) fn rotate_half(x: View<'_>, cos: View<'_>, sin: View<'_>, sign: f32) -> Vec<f32> {
    let [batch, heads, time, width] = x.shape;
    let mut y = vec![0.0; batch * heads * time * width];
    let elements = y.len();
    tasks(y.par_chunks_mut(time * width).enumerate(), elements, |(n, y)| {
        let table = if cos.shape[0] == 1 { 0 } else { n / heads };
        rotate_task(x.strip(n / heads, n % heads), width, cos.strip(table, 0), sin.strip(table, 0), sign, y);
    });
    y
}

/// `[B, H, T, V]` -> `[B, T, H, V]`.
pub(crate) fn merge_heads(x: View<'_>) -> Vec<f32> {
    let [batch, heads, time, width] = x.shape;
    let mut y = vec![0.0; batch * time * heads * width];
    let elements = y.len();
    tasks(y.par_chunks_mut(time * heads * width).enumerate(), elements, |(b, y)| {
        for (t, y) in y.chunks_exact_mut(heads * width).enumerate() {
            for (h, y) in y.chunks_exact_mut(width).enumerate() {
                y.copy_from_slice(x.row(b, h, t));
            }
        }
    });
    y
}

#[inline(always)]
fn swiglu_body<const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * sigmoid::<FMA>(gate) * up;
    }
}
dispatch!(swiglu_task = swiglu_body(gate: &[f32], up: &[f32], y: &mut [f32]));

/// `silu(gate) * up`.
pub(crate) fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    tasks(y.par_chunks_mut(TASK).zip(gate.par_chunks(TASK).zip(up.par_chunks(TASK))), gate.len(), |(y, (gate, up))| {
        swiglu_task(gate, up, y);
    });
    y
}

#[inline(always)]
fn swiglu_backward_body<const FMA: bool>(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for i in 0..gate.len() {
        let s = sigmoid::<FMA>(gate[i]);
        dup[i] = grad[i] * gate[i] * s;
        dgate[i] = grad[i] * up[i] * silu_slope(gate[i], s);
    }
}
dispatch!(swiglu_backward_task = swiglu_backward_body(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]));

/// Slope of `x sigmoid(x)`, given the sigmoid.
#[inline(always)]
fn silu_slope(x: f32, sigmoid: f32) -> f32 {
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub(crate) fn swiglu_backward(gate: &[f32], up: &[f32], grad: &[f32]) -> [Vec<f32>; 2] {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let inputs = gate.par_chunks(TASK).zip(up.par_chunks(TASK)).zip(grad.par_chunks(TASK));
    let work = dgate.par_chunks_mut(TASK).zip(dup.par_chunks_mut(TASK)).zip(inputs);
    tasks(work, gate.len(), |((dgate, dup), ((gate, up), grad))| swiglu_backward_task(gate, up, grad, dgate, dup));
    [dgate, dup]
}

/// Shape of a convolution: time, channels, width.
#[derive(Clone, Copy)]
pub(crate) struct Convolution {
    pub time: usize,
    pub channels: usize,
    pub width: usize,
}

impl Convolution {
    /// Row of the input `back` tokens before token `t`: from the state where that lies before the sequence.
    #[inline(always)]
    fn source(self, t: usize, back: usize) -> (bool, std::ops::Range<usize>) {
        let (from_x, row) = if t >= back { (true, t - back) } else { (false, self.width - 1 + t - back) };
        (from_x, row * self.channels..(row + 1) * self.channels)
    }
}

/// The convolution before its activation. `taps [W, N]` is the transposed weight.
#[inline(always)]
fn convolve<const FMA: bool>(shape: Convolution, x: &[f32], taps: &[f32], state: &[f32], t: usize, y: &mut [f32]) {
    y.fill(0.0);
    for (tap, weight) in taps.chunks_exact(shape.channels).enumerate() {
        let (from_x, range) = shape.source(t, shape.width - 1 - tap);
        let source = if from_x { &x[range] } else { &state[range] };
        for i in 0..shape.channels {
            y[i] = fma::<FMA>(weight[i], source[i], y[i]);
        }
    }
}

#[inline(always)]
fn convolution_body<const FMA: bool>(shape: Convolution, x: &[f32], taps: &[f32], state: &[f32], y: &mut [f32]) {
    for (t, y) in y.chunks_exact_mut(shape.channels).enumerate() {
        convolve::<FMA>(shape, x, taps, state, t, y);
        for y in y {
            *y *= 1.0 / (1.0 + exp::<FMA>(-*y));
        }
    }
}
dispatch!(convolution_task = convolution_body(shape: Convolution, x: &[f32], taps: &[f32], state: &[f32], y: &mut [f32]));

/// `silu` of the causal convolution of each of `batch` sequences.
pub(crate) fn convolution_silu(shape: Convolution, x: &[f32], weight: &[f32], state: &[f32]) -> Vec<f32> {
    let taps = transposed(weight, shape.channels, shape.width);
    let (sequence, before) = (shape.time * shape.channels, (shape.width - 1) * shape.channels);
    let mut y = vec![0.0; x.len()];
    let work = y.par_chunks_mut(sequence).enumerate();
    tasks(work, x.len(), |(b, y)| {
        convolution_task(shape, &x[b * sequence..(b + 1) * sequence], &taps, &state[b * before..(b + 1) * before], y);
    });
    y
}

#[inline(always)]
fn convolution_backward_body<const FMA: bool>(
    shape: Convolution,
    x: &[f32],
    taps: &[f32],
    state: &[f32],
    grad: &[f32],
    dx: &mut [f32],
    dtaps: &mut [f32],
    dstate: &mut [f32],
) {
    let channels = shape.channels;
    let mut y = vec![0.0; channels];
    for t in 0..shape.time {
        convolve::<FMA>(shape, x, taps, state, t, &mut y);
        let grad = &grad[t * channels..(t + 1) * channels];
        for i in 0..channels {
            y[i] = grad[i] * silu_slope(y[i], sigmoid::<FMA>(y[i]));
        }
        for tap in 0..shape.width {
            let (from_x, range) = shape.source(t, shape.width - 1 - tap);
            let (source, dsource) = if from_x { (&x[range.clone()], &mut dx[range]) } else { (&state[range.clone()], &mut dstate[range]) };
            let (weight, dweight) = (&taps[tap * channels..(tap + 1) * channels], &mut dtaps[tap * channels..(tap + 1) * channels]);
            for i in 0..channels {
                dsource[i] = fma::<FMA>(weight[i], y[i], dsource[i]);
                dweight[i] = fma::<FMA>(source[i], y[i], dweight[i]);
            }
        }
    }
}
dispatch!(convolution_backward_task = convolution_backward_body(
    shape: Convolution, x: &[f32], taps: &[f32], state: &[f32], grad: &[f32], dx: &mut [f32], dtaps: &mut [f32], dstate: &mut [f32],
));

/// Gradients of [`convolution_silu`] with respect to `x`, `weight` and `state`.
pub(crate) fn convolution_silu_backward(shape: Convolution, x: &[f32], weight: &[f32], state: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
    let Convolution { time, channels, width } = shape;
    let taps = transposed(weight, channels, width);
    let (sequence, before) = (time * channels, (width - 1) * channels);
    let batch = x.len() / sequence;
    let (mut dx, mut dtaps, mut dstate) = (vec![0.0; x.len()], vec![0.0; batch * width * channels], vec![0.0; batch * before]);
    // A width of 1 has no state to cut into chunks.
    let states: Vec<&mut [f32]> =
        if before == 0 { (0..batch).map(|_| Default::default()).collect() } else { dstate.chunks_mut(before).collect() };
    let work = dx.par_chunks_mut(sequence).zip(dtaps.par_chunks_mut(width * channels)).zip(states).enumerate();
    tasks(work, x.len(), |(b, ((dx, dtaps), dstate))| {
        let of = |x: &'_ [f32], n: usize| -> std::ops::Range<usize> { b * n..((b + 1) * n).min(x.len()) };
        convolution_backward_task(
            shape,
            &x[of(x, sequence)],
            &taps,
            &state[of(state, before)],
            &grad[of(grad, sequence)],
            dx,
            dtaps,
            dstate,
        );
    });
    let dweight = transposed(&sum_of_rows(&dtaps, width * channels), width, channels);
    [dx, dweight, dstate]
}

/// `[rows, columns]` -> `[columns, rows]`.
pub(crate) fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| x[row * columns + column])).collect()
}

/// Sum over rows, in their order.
fn sum_of_rows(x: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for row in x.chunks_exact(width) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += x;
        }
    }
    sum
}

/// Runs the tasks on all threads, or here where the whole is too small to share.
pub(crate) fn tasks<T: Send>(work: impl IndexedParallelIterator<Item = T>, elements: usize, run: impl Fn(T) + Send + Sync) {
    let work = if elements <= TASK { work.with_min_len(usize::MAX) } else { work.with_min_len(1) };
    work.for_each(run);
}
