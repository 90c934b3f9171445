//! The operations that a backend may fuse, each with the composed form as fallback and a backward pass of its own.

use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::FloatTensor;

use crate::autodiff::gradients;
use crate::position::{Positions, Span};
use crate::{convolution, delta, gate, norm, softmax};

/// A backend with the operations of token mixing.
///
/// It works on primitives, as Burn's own backend traits do, because a fused kernel needs the backend's storage. An
/// implementation may leave out every method: then the composed form runs. A fused forward pass should come with its
/// backward pass, since the default one recomputes the composed form under autodiff.
pub trait MixerBackend: Backend {
    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension. `x [.., N]`, `weight [N]`; `x` has `rank` dimensions.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::rms_composed::<Self>(x, weight, eps)
    }

    /// Gradients of [`Self::rms_norm`] with respect to `x` and `weight`.
    fn rms_norm_backward(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        gradients([x, weight], grad, |[x, weight]| norm::rms_composed::<burn::backend::Autodiff<Self>>(x, weight, eps))
    }

    /// `silu(gate) * up`, element by element, equal shapes.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        gate::swiglu_composed::<Self>(gate, up)
    }

    /// Gradients of [`Self::swiglu`] with respect to `gate` and `up`.
    fn swiglu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        gradients([gate, up], grad, |[gate, up]| gate::swiglu_composed::<burn::backend::Autodiff<Self>>(gate, up))
    }

    /// `silu` of a causal convolution. `x [B, T, N]`, `weight [N, W]`, `state [B, W - 1, N]` -> `[B, T, N]`.
    fn convolution_silu(x: FloatTensor<Self>, weight: FloatTensor<Self>, state: FloatTensor<Self>) -> FloatTensor<Self> {
        convolution::silu_composed::<Self>(x, weight, state)
    }

    /// Gradients of [`Self::convolution_silu`] with respect to `x`, `weight` and `state`.
    fn convolution_silu_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        gradients([x, weight, state], grad, |[x, weight, state]| convolution::silu_composed::<burn::backend::Autodiff<Self>>(x, weight, state))
    }

    /// Gated delta rule over `T` tokens; see [`delta`]. Inputs `q, k [B, H, T, D]`, `v [B, H, T, V]`, `g, beta [B, H, T]`,
    /// `state [B, H, D, V]`; the result is the outputs followed by the final state, `[B, H, T + D, V]`.
    fn gated_delta(inputs: [FloatTensor<Self>; 6]) -> FloatTensor<Self> {
        delta::chunk_composed::<Self>(inputs)
    }

    /// Gradients of [`Self::gated_delta`] with respect to its six inputs.
    fn gated_delta_backward(inputs: [FloatTensor<Self>; 6], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 6] {
        gradients(inputs, grad, |inputs| delta::chunk_composed::<burn::backend::Autodiff<Self>>(inputs))
    }

    /// Softmax attention of the last `Tq` of `positions`; see [`softmax::attend`].
    /// `q [B, H, Tq, D]`, `k [B, G, Tk, D]`, `v [B, G, Tk, V]` -> `[B, H, Tq, V]`.
    fn causal_attention([q, k, v]: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<Self> {
        softmax::chunk_composed::<Self>([q, k, v], positions, span, scale)
    }

    /// Gradients of [`Self::causal_attention`] with respect to `q`, `k` and `v`.
    fn causal_attention_backward(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        gradients(inputs, grad, |inputs| softmax::chunk_composed::<burn::backend::Autodiff<Self>>(inputs, positions, span, scale))
    }
}

/// A backend that trains mixers: autodiff over a [`MixerBackend`].
pub trait TrainBackend: AutodiffBackend<InnerBackend: MixerBackend> + MixerBackend {}

impl<B: AutodiffBackend<InnerBackend: MixerBackend> + MixerBackend> TrainBackend for B {}

/// The tensor of a primitive.
pub(crate) fn tensor<B: Backend, const R: usize>(primitive: FloatTensor<B>) -> Tensor<B, R> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// The primitive of a tensor.
pub(crate) fn primitive<B: Backend, const R: usize>(tensor: Tensor<B, R>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}
