//! The CPU backend flex: f32 runs through the fused kernels, every other type through the composed forms.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Shape, TensorMetadata};
use burn_flex::{Flex, FlexTensor, Layout};

use crate::backend::{FusedBackend, MixerBackend};
use crate::kernel::rows::Convolution;
use crate::kernel::{View, attention, delta, rows};
use crate::position::{Positions, Span};
use crate::softmax::rows_of_heads;
use crate::{convolution, delta as composed_delta, gate, norm, rotary, softmax};

/// A tensor whose last dimension is contiguous; copied only if it is not so already.
fn readable(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    let last = strides[strides.len() - 1] == 1 || x.layout().shape()[strides.len() - 1] == 1;
    if last && strides.iter().all(|&stride| stride >= 0) { x } else { x.to_contiguous() }
}

fn view(x: &FlexTensor) -> View<'_> {
    let layout = x.layout();
    let (shape, strides) = (layout.shape().dims::<4>(), layout.strides());
    View {
        data: &x.storage::<f32>()[layout.start_offset()..],
        strides: [strides[0] as usize, strides[1] as usize, strides[2] as usize],
        shape,
    }
}

/// A contiguous tensor and its numbers.
fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.layout().is_contiguous() && x.layout().start_offset() == 0 { x } else { x.to_contiguous() }
}

fn numbers(x: &FlexTensor) -> &[f32] {
    &x.storage::<f32>()[..x.layout().num_elements()]
}

fn made(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(burn::tensor::Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// Any tensor as rows: four dimensions as they are, others as groups of consecutive rows.
fn in_rows(x: FlexTensor) -> FlexTensor {
    const GROUP: usize = 64;
    let shape = x.shape();
    if shape.num_dims() == 4 {
        return readable(x);
    }
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    // Groups depend on the shape alone: sums over rows always have the same order.
    let group = (1..=GROUP.min(rows)).rev().find(|group| rows.is_multiple_of(*group)).unwrap_or(1);
    contiguous(x).reshape([1, rows / group, group, width].into())
}

fn all_f32<const N: usize>(inputs: [&FlexTensor; N]) -> bool {
    inputs.iter().all(|input| input.dtype() == DType::F32)
}

fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, sign: f32) -> FlexTensor {
    let [x, cos, sin] = [x, cos, sin].map(readable);
    made(rows::rotate_half(view(&x), view(&cos), view(&sin), sign), x.shape())
}

fn convolution_shape(x: &FlexTensor, weight: &FlexTensor) -> Convolution {
    let [_, time, channels] = x.layout().shape().dims();
    let [_, width] = weight.layout().shape().dims();
    Convolution { time, channels, width }
}

fn delta_inputs(x: &[FlexTensor; 6]) -> delta::Inputs<'_> {
    let [q, k, v, g, beta, state] = x;
    delta::Inputs { q: view(q), k: view(k), v: view(v), g: numbers(g), beta: numbers(beta), state: numbers(state) }
}

fn delta_readable([q, k, v, g, beta, state]: [FlexTensor; 6]) -> [FlexTensor; 6] {
    [readable(q), readable(k), readable(v), contiguous(g), contiguous(beta), contiguous(state)]
}

impl MixerBackend for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        if !all_f32([&x, &weight]) {
            return norm::rms_composed::<Self>(x, weight, eps);
        }
        let (shape, x, weight) = (x.shape(), in_rows(x), contiguous(weight));
        made(rows::rms_norm(view(&x), numbers(&weight), eps as f32), shape)
    }

    fn rotate_half(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32([&x, &cos, &sin]) {
            return rotary::composed::<Self>(x, cos, sin);
        }
        rotate(x, cos, sin, 1.0)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32([&gate, &up]) {
            return gate::swiglu_composed::<Self>(gate, up);
        }
        let (gate, up) = (contiguous(gate), contiguous(up));
        made(rows::swiglu(numbers(&gate), numbers(&up)), gate.shape())
    }

    fn convolution_silu(x: FloatTensor<Self>, weight: FloatTensor<Self>, state: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32([&x, &weight, &state]) {
            return convolution::silu_composed::<Self>(x, weight, state);
        }
        let [x, weight, state] = [x, weight, state].map(contiguous);
        made(rows::convolution_silu(convolution_shape(&x, &weight), numbers(&x), numbers(&weight), numbers(&state)), x.shape())
    }

    fn gated_delta(inputs: [FloatTensor<Self>; 6]) -> FloatTensor<Self> {
        if !all_f32(inputs.each_ref()) {
            return composed_delta::chunk_composed::<Self>(inputs);
        }
        let inputs = delta_readable(inputs);
        let [batch, heads, time, width] = inputs[0].layout().shape().dims();
        let value = inputs[2].layout().shape()[3];
        made(delta::forward(delta_inputs(&inputs)), [batch, heads, time + width, value].into())
    }

    fn merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !all_f32([&x]) {
            return rows_of_heads::<Self>(x);
        }
        let x = readable(x);
        let [batch, heads, time, width] = x.layout().shape().dims();
        made(rows::merge_heads(view(&x)), [batch, time, heads * width].into())
    }

    fn causal_attention(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<Self> {
        if !all_f32(inputs.each_ref()) {
            return softmax::chunk_composed::<Self>(inputs, positions, span, scale);
        }
        let inputs = inputs.map(readable);
        let [batch, heads, queries, _] = inputs[0].layout().shape().dims();
        let value = inputs[2].layout().shape()[3];
        let views = inputs.each_ref().map(view);
        let by_token =
            made(attention::forward(attention::Inputs::new(views, positions, span, scale as f32)), [batch, queries, heads, value].into());
        by_token.transpose(1, 2)
    }
}

/// Autodiff always works on the type of the weights; mixers are trained in f32 on this backend.
impl FusedBackend for Flex {
    fn rms_norm_backward(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        let (shape, x, weight, grad) = (x.shape(), in_rows(x), contiguous(weight), in_rows(grad));
        let [dx, dweight] = rows::rms_norm_backward(view(&x), numbers(&weight), eps as f32, view(&grad));
        [made(dx, shape), made(dweight, weight.shape())]
    }

    fn rotate_half_backward(cos: FloatTensor<Self>, sin: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        rotate(grad, cos, sin, -1.0)
    }

    fn swiglu_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        let [gate, up, grad] = [gate, up, grad].map(contiguous);
        rows::swiglu_backward(numbers(&gate), numbers(&up), numbers(&grad)).map(|x| made(x, gate.shape()))
    }

    fn convolution_silu_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let [x, weight, state, grad] = [x, weight, state, grad].map(contiguous);
        let shape = convolution_shape(&x, &weight);
        let [dx, dweight, dstate] = rows::convolution_silu_backward(shape, numbers(&x), numbers(&weight), numbers(&state), numbers(&grad));
        [made(dx, x.shape()), made(dweight, weight.shape()), made(dstate, state.shape())]
    }

    fn gated_delta_backward(inputs: [FloatTensor<Self>; 6], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 6] {
        let (inputs, grad) = (delta_readable(inputs), contiguous(grad));
        let [dq, dk, dv, dg, dbeta, dstate] = delta::backward(delta_inputs(&inputs), numbers(&grad));
        let [q, k, v, g, beta, state] = inputs.each_ref().map(TensorMetadata::shape);
        [made(dq, q), made(dk, k), made(dv, v), made(dg, g), made(dbeta, beta), made(dstate, state)]
    }

    fn causal_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        positions: &Positions,
        span: Span,
        scale: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let (inputs, grad) = (inputs.map(readable), contiguous(grad));
        let views = inputs.each_ref().map(view);
        let [dq, dk, dv] = attention::backward(attention::Inputs::new(views, positions, span, scale as f32), numbers(&grad));
        let [q, k, v] = inputs.each_ref().map(TensorMetadata::shape);
        [made(dq, q), made(dk, k), made(dv, v)]
    }
}
