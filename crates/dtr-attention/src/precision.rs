//! Half precision: products and sums of few numbers are computed in it, what is not exact enough there in single precision.
//!
//! Tensors are made in the backend's own precision, single as a rule; half precision comes in with a model's weights. Norms, rotary
//! tables, softmax, decays, recurrent states and losses are single whatever the weights are, as in the published implementations.

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};

/// The tensor in single precision if it is in half; otherwise as it is.
#[must_use]
pub fn single<B: Backend, const R: usize>(x: Tensor<B, R>) -> Tensor<B, R> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// The tensor in the element type of another.
#[must_use]
pub fn like<B: Backend, const R: usize>(x: Tensor<B, R>, dtype: DType) -> Tensor<B, R> {
    if x.dtype() == dtype { x } else { x.cast(FloatDType::from(dtype)) }
}
