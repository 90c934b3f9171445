//! A linear map of each token in place of attention: neural block linearisation (NBL, arXiv 2505.21077).

use burn::nn::Linear;
use burn::prelude::*;

use crate::config::AttentionShape;
use crate::layers::{linear, project};

/// `y = x W`. The inputs are normalised and far from centred, so that a bias can be written as a direction of them.
#[derive(Module, Debug)]
pub struct LinearMap<B: Backend> {
    /// `[hidden, hidden]`.
    pub out_proj: Linear<B>,
}

impl<B: Backend> LinearMap<B> {
    /// A map to 0.
    pub fn new(shape: &AttentionShape, device: &B::Device) -> Self {
        Self { out_proj: linear(shape.hidden, shape.hidden, false, device) }
    }

    /// `x [B, T, N]` -> `[B, T, N]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        project(&self.out_proj, x)
    }
}
