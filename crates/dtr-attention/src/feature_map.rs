//! Feature maps: what linear attention puts in place of the exponential.

use burn::prelude::*;
use burn::tensor::activation::softmax;

/// Hedgehog map, `phi(x) = [softmax(x W), softmax(-x W)]` per head: positive, spiky, learned.
///
/// # Shapes
/// `x [B, H, T, D]`, `weight [H, D, D]` (input, output) -> `[B, H, T, 2 D]`.
///
/// # Reference
/// arXiv 2402.04347, eq. 6, with the softmax normalisation of its section 4.2.
pub fn hedgehog<B: Backend>(x: Tensor<B, 4>, weight: Tensor<B, 3>) -> Tensor<B, 4> {
    let y = x.matmul(weight.unsqueeze());
    Tensor::cat(vec![softmax(y.clone(), 3), softmax(y.neg(), 3)], 3)
}
