//! Rotary position embedding in the rotate-half form of Llama and Qwen.

use burn::prelude::*;

/// Turns the pairs `(x[i], x[i + D/2])` by their position's angle.
///
/// `y = x * cos + rotate_half(x) * sin`, `rotate_half([a, b]) = [-b, a]`.
///
/// # Shapes
/// `x [B, H, T, D]`; `cos`, `sin` `[B or 1, 1, T, D/2]`.
///
/// # Reference
/// `RoFormer`, arXiv 2104.09864; halves in place of neighbours, as the published checkpoints expect.
pub fn rotate_half<B: Backend>(x: Tensor<B, 4>, cos: Tensor<B, 4>, sin: Tensor<B, 4>) -> Tensor<B, 4> {
    let half = x.dims()[3] / 2;
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
    Tensor::cat(vec![turned, second * cos + first * sin], 3)
}
