//! Normalisation of the last dimension.

use burn::prelude::*;

/// Root-mean-square norm, `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Shapes
/// `x [.., N]`, `weight [N]`.
///
/// # Reference
/// arXiv 1910.07467.
pub fn rms<B: Backend, const R: usize>(x: Tensor<B, R>, weight: Tensor<B, 1>, eps: f64) -> Tensor<B, R> {
    let scale = x.clone().square().mean_dim(R - 1).add_scalar(eps).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// Unit length, `x / sqrt(sum(x^2) + eps)`, for the keys and queries of delta rules.
pub fn l2<B: Backend, const R: usize>(x: Tensor<B, R>, eps: f64) -> Tensor<B, R> {
    let scale = x.clone().square().sum_dim(R - 1).add_scalar(eps).sqrt().recip();
    x * scale
}
