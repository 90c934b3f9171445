//! What mixers with a recurrence have in common: the short convolution in front of it, and what both remember.

use burn::module::{Initializer, Param};
use burn::prelude::*;
use dtr_attention::precision::like;
use dtr_attention::{MixerBackend, convolution};

/// A short causal convolution over time, one filter a channel, and `silu`.
#[derive(Module, Debug)]
pub struct ShortConvolution<B: Backend> {
    /// `[N, 1, W]`.
    pub weight: Param<Tensor<B, 3>>,
    /// `[N]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
}

/// What a mixer with a convolution and a recurrence remembers.
#[derive(Debug, Clone)]
pub struct RecurrentState<B: Backend> {
    /// The last `W - 1` inputs of the convolution, `[B, W - 1, N]`.
    pub convolution: Tensor<B, 3>,
    /// The recurrence's matrix, `[B, H, D, V]`.
    pub matrix: Tensor<B, 4>,
}

impl<B: Backend> ShortConvolution<B> {
    /// A convolution without weights of its own yet.
    pub fn new(channels: usize, width: usize, bias: bool, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([channels, 1, width], device),
            bias: bias.then(|| Initializer::Zeros.init([channels], device)),
        }
    }

    /// Only the last tap is there: apart from `silu` nothing is changed.
    #[must_use]
    pub fn identity(self) -> Self {
        let [channels, _, width] = self.weight.dims();
        let taps = (0..channels * width).map(|i| f32::from(u8::from(i % width == width - 1))).collect::<Vec<_>>();
        let taps = Tensor::from_data(TensorData::new(taps, [channels, 1, width]), &self.weight.device());
        Self { weight: Param::from_tensor(taps), ..self }
    }

    /// Inputs before the first token, `[B, W - 1, N]`.
    pub fn empty_state(&self, batch: usize) -> Tensor<B, 3> {
        let [channels, _, width] = self.weight.dims();
        Tensor::zeros([batch, width - 1, channels], (&self.weight.device(), self.weight.val().dtype()))
    }
}

impl<B: MixerBackend> ShortConvolution<B> {
    /// `x [B, T, N]`, 0 at padding, to as much, and the next state; `tokens [B, T]` is 1 for tokens and 0 for padding.
    pub fn forward(&self, x: Tensor<B, 3>, state: Tensor<B, 3>, tokens: Option<&Tensor<B, 2>>) -> (Tensor<B, 3>, Tensor<B, 3>) {
        let [channels, _, width] = self.weight.dims();
        let weight = self.weight.val().reshape([channels, width]);
        let next = convolution::next_state(x.clone(), state.clone(), tokens.cloned());
        let y = match &self.bias {
            Some(bias) => convolution::causal_bias_silu(x, weight, bias.val(), state),
            None => convolution::causal_silu(x, weight, state),
        };
        (y, next)
    }
}

/// `x [B, T, N]` with 0 where `tokens [B, T]` is 0.
pub fn masked<B: Backend>(x: Tensor<B, 3>, tokens: Option<&Tensor<B, 2>>) -> Tensor<B, 3> {
    match tokens {
        Some(tokens) => {
            let dtype = x.dtype();
            x * like(tokens.clone(), dtype).unsqueeze_dim(2)
        }
        None => x,
    }
}
