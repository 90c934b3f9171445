//! The operations that a backend may fuse, each with the composed form as fallback.

use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::convolution::ConvolutionInputs;
use crate::position::{Positions, Span};
use crate::recurrence::{self, RecurrenceInputs};
use crate::{adamw, convolution, gate, linear, loss, norm, rotary, softmax};

/// A backend with the operations of token mixing.
///
/// It works on primitives, as Burn's own backend traits do, because a fused kernel needs the backend's storage. An
/// implementation may leave out every method: then the composed form runs, and autodiff differentiates it step by step.
pub trait MixerBackend: Backend {
    /// Whether several threads may compute on a device side by side. With the backends of `CubeCL` they gain nothing, and what one thread
    /// has queued another may read before it is there.
    const THREADED: bool = true;

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension. `x [.., N]`, `weight [N]`.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::rms_composed::<Self>(x, weight, eps)
    }

    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension. `x [.., N]`, `weight, bias [N]`. Under autodiff it is
    /// taken step by step: only whole models are trained through it, never a student.
    fn layer_norm_affine(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::layer_composed::<Self>(x, weight, bias, eps)
    }

    /// Gaussian error linear unit, element by element; see [`gate::gelu`]. Under autodiff step by step, as the layer norm.
    fn gelu_each(x: FloatTensor<Self>, approximate: bool) -> FloatTensor<Self> {
        gate::gelu_composed::<Self>(x, approximate)
    }

    /// Rotary positions; see [`rotary::rotate_half`]. `x [B, H, T, D]`, `cos, sin [B or 1, 1, T, D / 2]`.
    fn rotate_half(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        rotary::composed::<Self>(x, cos, sin)
    }

    /// `silu(gate) * up`, element by element, equal shapes.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        gate::swiglu_composed::<Self>(gate, up)
    }

    /// `silu` of a causal convolution and its bias; see [`convolution`]. Returns `[B, T, N]`.
    fn convolution_silu(inputs: ConvolutionInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        convolution::silu_composed::<Self>(inputs)
    }

    /// Negative log-likelihood of each row's target; see [`loss::cross_entropy`]. `logits [N, C]`, `targets [N]` -> `[N]`.
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        loss::composed::<Self>(logits, targets)
    }

    /// A matrix-valued recurrence over `T` tokens; see [`recurrence`]. The result has one dimension: the outputs `[B, H, T, V]`,
    /// then the final states `[B, H, D, V]`.
    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        recurrence::composed::<Self>(inputs)
    }

    /// Normalised linear attention over `T` tokens; see [`linear`]. `q, k [B, H, T, D]`, `v [B, H, T, V]`, `state [B, H, D, V + 1]`; the
    /// result has one dimension: the outputs `[B, H, T, V]`, then the final states `[B, H, D, V + 1]`, then what the backward pass may want.
    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        linear::composed::<Self>(inputs)
    }

    /// Heads of each token side by side, `[B, H, T, V]` -> `[B, T, H * V]`.
    fn merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax::rows_of_heads::<Self>(x)
    }

    /// Softmax attention of the last `Tq` of `positions`; see [`softmax::attend`].
    /// `q [B, H, Tq, D]`, `k [B, G, Tk, D]`, `v [B, G, Tk, V]` -> `[B, H, Tq, V]`.
    fn causal_attention(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<Self> {
        softmax::chunk_composed::<Self>(inputs, positions, span, scale)
    }

    /// One step of an optimiser, equal shapes; see [`adamw::step`]. Returns weights, first and second moment.
    fn adamw(
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        moments: [FloatTensor<Self>; 2],
        step: adamw::Step,
    ) -> [FloatTensor<Self>; 3] {
        adamw::composed::<Self>(weight, grad, moments, step)
    }
}

/// A backend whose recurrence comes with a backward pass of its own.
pub trait FusedRecurrence: MixerBackend {
    /// Gradients of [`MixerBackend::recurrence`] with respect to its inputs.
    fn recurrence_backward(inputs: RecurrenceInputs<FloatTensor<Self>>, grad: FloatTensor<Self>) -> RecurrenceInputs<FloatTensor<Self>>;
}

/// A backend all of whose fused forward passes come with backward passes of their own. Autodiff over it then takes one step an operation.
pub trait FusedBackend: FusedRecurrence {
    /// Gradients of [`MixerBackend::rms_norm`] with respect to `x` and `weight`.
    fn rms_norm_backward(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2];

    /// Gradient of [`MixerBackend::rotate_half`] with respect to `x`: the tables are no parameters.
    fn rotate_half_backward(cos: FloatTensor<Self>, sin: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of [`MixerBackend::swiglu`] with respect to `gate` and `up`.
    fn swiglu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2];

    /// Gradients of [`MixerBackend::convolution_silu`] with respect to its inputs.
    fn convolution_silu_backward(
        inputs: ConvolutionInputs<FloatTensor<Self>>,
        grad: FloatTensor<Self>,
    ) -> ConvolutionInputs<FloatTensor<Self>>;

    /// Gradient of [`MixerBackend::cross_entropy`] with respect to the logits.
    fn cross_entropy_backward(logits: FloatTensor<Self>, targets: IntTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of [`MixerBackend::linear_attention`] with respect to its inputs; `output` is its result.
    fn linear_attention_backward(
        inputs: [FloatTensor<Self>; 4],
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 4];

    /// [`MixerBackend::causal_attention`], and `log(sum(exp(score)))` of each query, `[B, Tq, H]`.
    fn causal_attention_kept(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> [FloatTensor<Self>; 2];

    /// Gradients of [`MixerBackend::causal_attention`] with respect to `q`, `k` and `v`; `kept` is what
    /// [`FusedBackend::causal_attention_kept`] returned.
    fn causal_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        kept: [FloatTensor<Self>; 2],
        positions: &Positions,
        span: Span,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
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
