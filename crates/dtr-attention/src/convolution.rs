//! Short causal convolution over time, one filter a channel, with state.

use burn::prelude::*;
use burn::tensor::activation::silu;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};

/// `silu` of [`causal`], in one pass.
///
/// # Shapes
/// `x [B, T, N]`, `weight [N, W]`, `state [B, W - 1, N]` -> `[B, T, N]`.
pub fn causal_silu<B: MixerBackend>(x: Tensor<B, 3>, weight: Tensor<B, 2>, state: Tensor<B, 3>) -> Tensor<B, 3> {
    let inputs = ConvolutionInputs { x: primitive(x), weight: primitive(weight), bias: None, state: primitive(state) };
    tensor(B::convolution_silu(inputs))
}

/// `silu` of [`causal`] and a bias, in one pass.
///
/// # Shapes
/// `x [B, T, N]`, `weight [N, W]`, `bias [N]`, `state [B, W - 1, N]` -> `[B, T, N]`.
pub fn causal_bias_silu<B: MixerBackend>(x: Tensor<B, 3>, weight: Tensor<B, 2>, bias: Tensor<B, 1>, state: Tensor<B, 3>) -> Tensor<B, 3> {
    let inputs = ConvolutionInputs { x: primitive(x), weight: primitive(weight), bias: Some(primitive(bias)), state: primitive(state) };
    tensor(B::convolution_silu(inputs))
}

/// What enters a convolution, for tensors or primitives `T`.
#[derive(Debug, Clone)]
pub struct ConvolutionInputs<T> {
    /// `[B, T, N]`.
    pub x: T,
    /// One filter a channel, `[N, W]`.
    pub weight: T,
    /// Added to each channel, `[N]`.
    pub bias: Option<T>,
    /// What lies before the sequence, `[B, W - 1, N]`.
    pub state: T,
}

/// The definition of [`causal_silu`] and [`causal_bias_silu`].
pub(crate) fn silu_composed<B: Backend>(inputs: ConvolutionInputs<FloatTensor<B>>) -> FloatTensor<B> {
    let ConvolutionInputs { x, weight, bias, state } = inputs;
    let y = causal::<B>(tensor(x), tensor(weight), tensor(state));
    primitive(silu(match bias {
        Some(bias) => y + tensor::<B, 1>(bias).unsqueeze(),
        None => y,
    }))
}

/// `y[t] = sum_j weight[:, j] * x[t - W + 1 + j]`; what lies before the sequence comes from `state`.
///
/// # Shapes
/// `x [B, T, N]`, `weight [N, W]`, `state [B, W - 1, N]` -> `[B, T, N]`.
pub fn causal<B: Backend>(x: Tensor<B, 3>, weight: Tensor<B, 2>, state: Tensor<B, 3>) -> Tensor<B, 3> {
    let [_, time, channels] = x.dims();
    let width = weight.dims()[1];
    if width == 1 {
        return x * weight.reshape([1, 1, channels]);
    }
    let x = Tensor::cat(vec![state, x], 1);
    let tap = |j: usize| x.clone().narrow(1, j, time) * weight.clone().narrow(1, j, 1).reshape([1, 1, channels]);
    (1..width).fold(tap(0), |y, j| y + tap(j))
}

/// State after `x`: the last `W - 1` inputs, padding left out; before the first stands `state`.
///
/// `tokens [B, T]` is 1 for tokens and 0 for padding; `None` without padding.
///
/// # Shapes
/// `x [B, T, N]`, `state [B, W - 1, N]` -> `[B, W - 1, N]`.
pub fn next_state<B: Backend>(x: Tensor<B, 3>, state: Tensor<B, 3>, tokens: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
    let [batch, kept, channels] = state.dims();
    if kept == 0 {
        return state;
    }
    let x = Tensor::cat(vec![state, x], 1);
    let length = x.dims()[1];
    match tokens {
        None => x.narrow(1, length - kept, kept),
        Some(tokens) => {
            // The last token's column; its forerunners stand beside it, since padding is never inside a row.
            let columns = Tensor::<B, 1, Int>::arange(1..(length - kept + 1) as i64, &x.device()).float().unsqueeze();
            let last = (tokens * columns).max_dim(1).int();
            let wanted = Tensor::<B, 1, Int>::arange(0..kept as i64, &x.device()).unsqueeze::<2>();
            let wanted = wanted.expand([batch, kept]) + last.expand([batch, kept]);
            x.gather(1, wanted.unsqueeze_dim::<3>(2).expand([batch, kept, channels]))
        }
    }
}
