//! Fused kernels for the CPU backend flex.
//!
//! They compute in `f32`; tensors of other element types are converted on the way in and out.

mod convolution;
mod delta;
mod rows;
mod simd;
mod threads;
mod views;

use burn::tensor::ops::FloatTensor;
use burn_flex::Flex;

use crate::backend::MixerBackend;

impl MixerBackend for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        rows::rms_norm(x, weight, eps)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        rows::swiglu(gate, up)
    }

    fn convolution_silu(x: FloatTensor<Self>, weight: FloatTensor<Self>, state: FloatTensor<Self>) -> FloatTensor<Self> {
        convolution::silu(x, weight, state)
    }

    fn gated_delta(inputs: [FloatTensor<Self>; 6]) -> FloatTensor<Self> {
        delta::forward(inputs)
    }
}
