//! Rotary position embedding in the rotate-half form of Llama and Qwen.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::precision::{like, single};

/// Turns the pairs `(x[i], x[i + D/2])` by their position's angle. The tables are constants: no gradient flows into them.
///
/// `y = x * cos + rotate_half(x) * sin`, `rotate_half([a, b]) = [-b, a]`.
///
/// # Shapes
/// `x [B, H, T, D]`; `cos`, `sin` `[B or 1, 1, T, D/2]`.
///
/// # Reference
/// `RoFormer`, arXiv 2104.09864; halves in place of neighbours, as the published checkpoints expect.
pub fn rotate_half<B: MixerBackend>(x: Tensor<B, 4>, cos: Tensor<B, 4>, sin: Tensor<B, 4>) -> Tensor<B, 4> {
    tensor(B::rotate_half(primitive(x), primitive(cos), primitive(sin)))
}

/// The definition of [`rotate_half`].
pub(crate) fn composed<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
    let (x, cos, sin) = (tensor::<B, 4>(x), tensor::<B, 4>(cos), tensor::<B, 4>(sin));
    let (dtype, x) = (x.dtype(), single(x));
    let half = x.dims()[3] / 2;
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
    primitive(like(Tensor::cat(vec![turned, second * cos + first * sin], 3), dtype))
}
