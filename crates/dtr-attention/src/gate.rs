//! Gated products.

use burn::prelude::*;
use burn::tensor::activation::silu;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};

/// `silu(gate) * up`, element by element, `silu(x) = x / (1 + exp(-x))`.
///
/// # Reference
/// arXiv 2002.05202.
pub fn swiglu<B: MixerBackend, const R: usize>(gate: Tensor<B, R>, up: Tensor<B, R>) -> Tensor<B, R> {
    tensor(B::swiglu(primitive(gate), primitive(up)))
}

/// The definition of [`swiglu`].
pub(crate) fn swiglu_composed<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let shape = burn::tensor::TensorMetadata::shape(&gate);
    let flat = |x| tensor::<B, 1>(B::float_reshape(x, [shape.num_elements()].into()));
    let product = silu(flat(gate)) * flat(up);
    B::float_reshape(primitive(product), shape)
}
