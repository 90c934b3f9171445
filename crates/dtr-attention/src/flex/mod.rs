//! Fused kernels for the CPU backend flex.

mod delta;
mod simd;
mod threads;
mod views;

use burn::tensor::ops::FloatTensor;
use burn_flex::Flex;

use crate::backend::MixerBackend;

impl MixerBackend for Flex {
    fn gated_delta(inputs: [FloatTensor<Self>; 6]) -> FloatTensor<Self> {
        delta::forward(inputs)
    }
}
