//! What may replace a mixer that hardly mixes: a linear map of each token, or nothing.

use burn::prelude::*;

/// `y = x W + b`: neural block linearisation (NBL). `W` and `b` have a closed form, the linear regression of a sublayer's outputs
/// on its inputs.
///
/// # Shapes
/// `x [B, T, N]`, `weight [N, M]`, `bias [M]` -> `[B, T, M]`.
///
/// # Reference
/// arXiv 2505.21077, proposition 3.1.
pub fn linear_map<B: Backend>(x: Tensor<B, 3>, weight: Tensor<B, 2>, bias: Tensor<B, 1>) -> Tensor<B, 3> {
    x.matmul(weight.unsqueeze()) + bias.unsqueeze()
}

/// Nothing is added to the residual stream: zeros like `x [B, T, N]`.
///
/// # Reference
/// arXiv 2406.15786.
pub fn skip<B: Backend>(x: &Tensor<B, 3>) -> Tensor<B, 3> {
    Tensor::zeros(x.dims(), &x.device())
}
