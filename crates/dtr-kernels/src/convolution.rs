//! `silu` of the short causal convolution, forward and backward, row by row of the channels.

use rayon::prelude::*;

use crate::simd::{Arithmetic, Kernel, dispatch, sigmoid};
use crate::threads::for_each;
use crate::view::View;

/// Tokens that one task of the forward pass handles.
const TASK: usize = 32;

/// Input, filters, what is added to their results, and what stands in front.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[B, T, N]`.
    pub x: View<'a, 3>,
    /// `[W, N]`: one row a tap, the latest last.
    pub taps: View<'a, 2>,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// The inputs before the first token, `[B, W - 1, N]`.
    pub state: View<'a, 3>,
}

/// One row of the batch: its inputs, the state in front, and the filters.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    inputs: Inputs<'a>,
    batch: usize,
}

impl<'a> Inputs<'a> {
    /// `B, T, N, W`.
    ///
    /// # Panics
    /// If shapes do not fit.
    fn dims(&self) -> [usize; 4] {
        let ([batch, time, channels], [width, _]) = (self.x.shape(), self.taps.shape());
        let fits = width > 0
            && self.taps.width() == channels
            && self.bias.is_none_or(|bias| bias.len() == channels)
            && self.state.shape() == [batch, width - 1, channels];
        assert!(fits, "shapes of a convolution do not fit: {self:?}");
        [batch, time, channels, width]
    }

    fn sequence(&self, batch: usize) -> Sequence<'a> {
        Sequence { inputs: *self, batch }
    }

    /// About; the sigmoid counts for some.
    fn multiplications(&self) -> usize {
        let [batch, time, channels, width] = self.dims();
        batch * time * channels * (width + 10)
    }
}

impl<'a> Sequence<'a> {
    /// Tap `j` and the input it meets in the output at `t`.
    #[inline(always)]
    fn tap(&self, t: usize, j: usize) -> (&'a [f32], &'a [f32]) {
        let Inputs { x, taps, state, .. } = self.inputs;
        let kept = taps.shape()[0] - 1;
        let input = if t + j < kept { state.row(self.batch, t + j) } else { x.row(self.batch, t + j - kept) };
        (taps.row(j), input)
    }

    /// The convolution at `t`, before `silu`.
    #[inline(always)]
    fn convolve<A: Arithmetic>(&self, t: usize, y: &mut [f32]) {
        match self.inputs.bias {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(0.0),
        }
        for j in 0..self.inputs.taps.shape()[0] {
            let (tap, x) = self.tap(t, j);
            for ((y, &tap), &x) in y.iter_mut().zip(tap).zip(x) {
                *y = A::fused(tap, x, *y);
            }
        }
    }
}

/// `silu(y)`, `y[t] = bias + sum_j taps[j] * x[t - W + 1 + j]`; `[B, T, N]`.
///
/// # Panics
/// If shapes do not fit.
pub fn silu(inputs: &Inputs<'_>) -> Vec<f32> {
    let [batch, time, channels, _] = inputs.dims();
    let mut y = vec![0.0; batch * time * channels];
    // A task ends with its sequence.
    let mut tasks = Vec::with_capacity(batch * time.div_ceil(TASK));
    for (row, y) in y.chunks_mut((time * channels).max(1)).enumerate() {
        tasks.extend(y.chunks_mut(TASK * channels).enumerate().map(|(block, y)| (row, block * TASK, y)));
    }
    for_each(tasks.into_par_iter(), inputs.multiplications(), |(row, start, y)| {
        dispatch(Silu { sequence: inputs.sequence(row), start, y });
    });
    y
}

struct Silu<'a> {
    sequence: Sequence<'a>,
    start: usize,
    y: &'a mut [f32],
}

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (n, y) in self.y.chunks_exact_mut(self.sequence.inputs.x.width()).enumerate() {
            self.sequence.convolve::<A>(self.start + n, y);
            for y in y {
                *y *= sigmoid::<A>(*y);
            }
        }
    }
}

/// Gradients of [`silu`].
#[derive(Debug)]
pub struct Gradients {
    /// `[B, T, N]`.
    pub x: Vec<f32>,
    /// `[W, N]`.
    pub taps: Vec<f32>,
    /// `[N]`, whether there is a bias or not.
    pub bias: Vec<f32>,
    /// `[B, W - 1, N]`.
    pub state: Vec<f32>,
}

/// Gradients of [`silu`] with respect to all its inputs; `grad` is that of its result.
///
/// # Panics
/// If shapes do not fit.
pub fn silu_backward(inputs: &Inputs<'_>, grad: View<'_, 3>) -> Gradients {
    let [batch, time, channels, width] = inputs.dims();
    assert_eq!(grad.shape(), inputs.x.shape(), "a gradient like the result");
    let mut by_x = vec![0.0; batch * time * channels];
    // Without a state there still is a row a sequence, so that there are as many tasks.
    let mut by_state = vec![0.0; batch * (width - 1).max(1) * channels];
    // The bias is a tap, the last one here, that meets 1 everywhere.
    let mut by_taps = vec![0.0; batch * (width + 1) * channels];
    let tasks = (
        by_x.par_chunks_mut((time * channels).max(1)),
        by_state.par_chunks_mut(((width - 1).max(1) * channels).max(1)),
        by_taps.par_chunks_mut(((width + 1) * channels).max(1)),
    );
    for_each(tasks.into_par_iter().enumerate(), inputs.multiplications() * 3, |(row, (by_x, by_state, by_taps))| {
        dispatch(SiluBackward { sequence: inputs.sequence(row), grad, by_x, by_state, by_taps });
    });
    by_state.truncate(batch * (width - 1) * channels);
    let mut total = vec![0.0; (width + 1) * channels];
    for part in by_taps.chunks_exact(((width + 1) * channels).max(1)) {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    let bias = total.split_off(width * channels);
    Gradients { x: by_x, taps: total, bias, state: by_state }
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
        let channels = self.sequence.inputs.x.width();
        let width = self.by_taps.len() / channels - 1;
        let (by_taps, by_bias) = self.by_taps.split_at_mut(width * channels);
        let mut flow = vec![0.0; channels];
        for t in 0..self.by_x.len() / channels {
            self.sequence.convolve::<A>(t, &mut flow);
            for (flow, &grad) in flow.iter_mut().zip(self.grad.row(self.sequence.batch, t)) {
                let open = sigmoid::<A>(*flow);
                *flow = grad * A::fused(*flow * open, 1.0 - open, open);
            }
            by_bias.iter_mut().zip(&flow).for_each(|(by_bias, &flow)| *by_bias += flow);
            for j in 0..width {
                let (tap, x) = self.sequence.tap(t, j);
                let place = t + j;
                let by_input = if place + 1 < width {
                    &mut self.by_state[place * channels..(place + 1) * channels]
                } else {
                    &mut self.by_x[(place + 1 - width) * channels..(place + 2 - width) * channels]
                };
                let by_tap = &mut by_taps[j * channels..(j + 1) * channels];
                for ((((by_input, by_tap), &flow), &tap), &x) in by_input.iter_mut().zip(by_tap).zip(&flow).zip(tap).zip(x) {
                    *by_input = A::fused(flow, tap, *by_input);
                    *by_tap = A::fused(flow, x, *by_tap);
                }
            }
        }
    }
}
