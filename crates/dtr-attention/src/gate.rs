//! Gated products, and the activation of MLPs that have no gate.

use burn::prelude::*;
use burn::tensor::activation::{self, silu};
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};

/// `silu(gate) * up`, element by element, `silu(x) = x / (1 + exp(-x))`.
///
/// # Reference
/// arXiv 2002.05202.
pub fn swiglu<B: MixerBackend, const R: usize>(gate: Tensor<B, R>, up: Tensor<B, R>) -> Tensor<B, R> {
    tensor(B::swiglu(primitive(gate), primitive(up)))
}

/// Gaussian error linear unit, `x P(X <= x)` for a standard normal `X`, or its approximation
/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
///
/// # Reference
/// arXiv 1606.08415, section 2.
pub fn gelu<B: MixerBackend, const R: usize>(x: Tensor<B, R>, approximate: bool) -> Tensor<B, R> {
    tensor(B::gelu_each(primitive(x), approximate))
}

/// The definition of [`gelu`].
pub(crate) fn gelu_composed<B: Backend>(x: FloatTensor<B>, approximate: bool) -> FloatTensor<B> {
    let shape = burn::tensor::TensorMetadata::shape(&x);
    let x = tensor::<B, 1>(B::float_reshape(x, [shape.num_elements()].into()));
    let y = if approximate {
        let inner = (x.clone() + x.clone().powi_scalar(3).mul_scalar(0.044_715)).mul_scalar((2.0 / std::f64::consts::PI).sqrt());
        x.mul_scalar(0.5) * inner.tanh().add_scalar(1.0)
    } else {
        activation::gelu(x)
    };
    B::float_reshape(primitive(y), shape)
}

/// The definition of [`swiglu`].
pub(crate) fn swiglu_composed<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let shape = burn::tensor::TensorMetadata::shape(&gate);
    let flat = |x| tensor::<B, 1>(B::float_reshape(x, [shape.num_elements()].into()));
    let product = silu(flat(gate)) * flat(up);
    B::float_reshape(primitive(product), shape)
}
