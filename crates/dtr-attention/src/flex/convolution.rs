//! `silu` of the short causal convolution, forward and backward, row by row of the channels.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{Arithmetic, Kernel, dispatch, sigmoid};
use super::threads;
use super::views::{View, dims, readable, scalars, tensor};

/// Tokens that one task of the forward pass handles.
const TASK: usize = 32;

/// Input and filters, readable.
struct Inputs {
    x: FlexTensor,
    state: FlexTensor,
    /// `[W, N]`: one row a tap.
    taps: Vec<f32>,
    /// `B, T, N, W`.
    dims: [usize; 4],
}

/// One row of the batch: its inputs, the state in front, and the filters.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    x: View<'a, 3>,
    state: View<'a, 3>,
    taps: &'a [f32],
    batch: usize,
}

impl Inputs {
    fn new(x: FlexTensor, weight: FlexTensor, state: FlexTensor) -> Self {
        let [batch, time, channels] = dims(&x);
        let [_, width] = dims(&weight);
        let weight = scalars(weight);
        let (numbers, layout) = (weight.storage::<f32>(), weight.layout());
        let taps = (0..width).flat_map(|j| (0..channels).map(move |n| numbers[layout.index(&[n, j])])).collect();
        Self { x: readable(x), state: readable(state), taps, dims: [batch, time, channels, width] }
    }

    fn sequence(&self, batch: usize) -> Sequence<'_> {
        Sequence { x: View::new(&self.x), state: View::new(&self.state), taps: &self.taps, batch }
    }

    /// About; the sigmoid counts for some.
    fn multiplications(&self) -> usize {
        let [batch, time, channels, width] = self.dims;
        batch * time * channels * (width + 10)
    }
}

impl<'a> Sequence<'a> {
    /// Tap `j` and the input it meets in the output at `t`.
    #[inline(always)]
    fn tap(&self, t: usize, j: usize) -> (&'a [f32], &'a [f32]) {
        let channels = self.x.width;
        let kept = self.taps.len() / channels - 1;
        let input = if t + j < kept { self.state.row(self.batch, t + j) } else { self.x.row(self.batch, t + j - kept) };
        (&self.taps[j * channels..(j + 1) * channels], input)
    }

    /// The convolution at `t`, before `silu`.
    #[inline(always)]
    fn convolve<A: Arithmetic>(&self, t: usize, y: &mut [f32]) {
        let (tap, x) = self.tap(t, 0);
        for ((y, &tap), &x) in y.iter_mut().zip(tap).zip(x) {
            *y = tap * x;
        }
        for j in 1..self.taps.len() / self.x.width {
            let (tap, x) = self.tap(t, j);
            for ((y, &tap), &x) in y.iter_mut().zip(tap).zip(x) {
                *y = A::fused(tap, x, *y);
            }
        }
    }
}

/// `[B, T, N]`; see [`crate::convolution::causal_silu`].
pub(super) fn silu(x: FlexTensor, weight: FlexTensor, state: FlexTensor) -> FlexTensor {
    let dtype = x.dtype();
    let inputs = Inputs::new(x, weight, state);
    let [batch, time, channels, _] = inputs.dims;
    let mut y = vec![0.0; batch * time * channels];
    let blocks = time.div_ceil(TASK);
    // A task ends with its sequence.
    let mut tasks = Vec::with_capacity(batch * blocks);
    for (row, y) in y.chunks_mut((time * channels).max(1)).enumerate() {
        tasks.extend(y.chunks_mut(TASK * channels).enumerate().map(|(block, y)| (row, block * TASK, y)));
    }
    threads::for_each(tasks.into_par_iter(), inputs.multiplications(), |(row, start, y)| {
        dispatch(Silu { sequence: inputs.sequence(row), start, y });
    });
    tensor(y, [batch, time, channels], dtype)
}

struct Silu<'a> {
    sequence: Sequence<'a>,
    start: usize,
    y: &'a mut [f32],
}

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (n, y) in self.y.chunks_exact_mut(self.sequence.x.width).enumerate() {
            self.sequence.convolve::<A>(self.start + n, y);
            for y in y {
                *y *= sigmoid::<A>(*y);
            }
        }
    }
}

/// Gradients of [`silu`] with respect to `x`, `weight` and `state`.
pub(super) fn silu_backward(x: FlexTensor, weight: FlexTensor, state: FlexTensor, grad: FlexTensor) -> [FlexTensor; 3] {
    let dtypes = [x.dtype(), weight.dtype(), state.dtype()];
    let inputs = Inputs::new(x, weight, state);
    let grad = readable(grad);
    let [batch, time, channels, width] = inputs.dims;
    let mut by_x = vec![0.0; batch * time * channels];
    // Without a state there still is a row a sequence, so that there are as many tasks.
    let mut by_state = vec![0.0; batch * (width - 1).max(1) * channels];
    let mut by_taps = vec![0.0; batch * width * channels];
    let tasks = (
        by_x.par_chunks_mut((time * channels).max(1)),
        by_state.par_chunks_mut(((width - 1).max(1) * channels).max(1)),
        by_taps.par_chunks_mut((width * channels).max(1)),
    );
    threads::for_each(tasks.into_par_iter().enumerate(), inputs.multiplications() * 3, |(row, (by_x, by_state, by_taps))| {
        dispatch(SiluBackward { sequence: inputs.sequence(row), grad: View::new(&grad), by_x, by_state, by_taps });
    });
    by_state.truncate(batch * (width - 1) * channels);
    let mut by_weight = vec![0.0; channels * width];
    for part in by_taps.chunks_exact((width * channels).max(1)) {
        for (j, tap) in part.chunks_exact(channels).enumerate() {
            for (n, tap) in tap.iter().enumerate() {
                by_weight[n * width + j] += tap;
            }
        }
    }
    [
        tensor(by_x, [batch, time, channels], dtypes[0]),
        tensor(by_weight, [channels, width], dtypes[1]),
        tensor(by_state, [batch, width - 1, channels], dtypes[2]),
    ]
}

struct SiluBackward<'a> {
    sequence: Sequence<'a>,
    grad: View<'a, 3>,
    by_x: &'a mut [f32],
    by_state: &'a mut [f32],
    by_taps: &'a mut [f32],
}

impl Kernel for SiluBackward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.sequence.x.width;
        let width = self.by_taps.len() / channels;
        let mut flow = vec![0.0; channels];
        for t in 0..self.by_x.len() / channels {
            self.sequence.convolve::<A>(t, &mut flow);
            for (flow, &grad) in flow.iter_mut().zip(self.grad.row(self.sequence.batch, t)) {
                let open = sigmoid::<A>(*flow);
                *flow = grad * A::fused(*flow * open, 1.0 - open, open);
            }
            for j in 0..width {
                let (tap, x) = self.sequence.tap(t, j);
                let place = t + j;
                let by_input = if place + 1 < width {
                    &mut self.by_state[place * channels..(place + 1) * channels]
                } else {
                    &mut self.by_x[(place + 1 - width) * channels..(place + 2 - width) * channels]
                };
                let by_tap = &mut self.by_taps[j * channels..(j + 1) * channels];
                for ((((by_input, by_tap), &flow), &tap), &x) in by_input.iter_mut().zip(by_tap).zip(&flow).zip(tap).zip(x) {
                    *by_input = A::fused(flow, tap, *by_input);
                    *by_tap = A::fused(flow, x, *by_tap);
                }
            }
        }
    }
}
