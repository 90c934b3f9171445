//! Fused kernels for the CPU backend flex.
//!
//! They compute in `f32`; tensors of other element types are converted on the way in and out.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set in use")]

mod attention;
mod attention_backward;
mod convolution;
mod delta;
mod rows;
mod simd;
mod threads;
mod tile;
mod views;

use burn::tensor::ops::FloatTensor;
use burn_flex::Flex;

use crate::backend::{FusedBackend, MixerBackend};
use crate::position::{Positions, Span};

impl MixerBackend for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        rows::rms_norm(x, weight, eps)
    }

    fn rotate_half(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        rows::rotate_half(x, [cos, sin], 1.0)
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

    fn merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        rows::merge_heads(x)
    }

    fn causal_attention(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<Self> {
        attention::forward(inputs, positions, span, scale)
    }
}

impl FusedBackend for Flex {
    fn rms_norm_backward(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        rows::rms_norm_backward(x, weight, eps, grad)
    }

    fn rotate_half_backward(cos: FloatTensor<Self>, sin: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        rows::rotate_half(grad, [cos, sin], -1.0)
    }

    fn swiglu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        rows::swiglu_backward(gate, up, grad)
    }

    fn convolution_silu_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        convolution::silu_backward(x, weight, state, grad)
    }

    fn gated_delta_backward(inputs: [FloatTensor<Self>; 6], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 6] {
        delta::backward(inputs, grad)
    }

    fn causal_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        positions: &Positions,
        span: Span,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        attention_backward::backward(inputs, positions, span, scale, grad)
    }
}
