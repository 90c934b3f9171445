//! Backends whose tensors lie in host memory: their fused operations are the kernels of `dtr-kernels`.
//!
//! The kernels compute in `f32`; tensors of other element types are converted on the way in and out.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

use std::borrow::Cow;

use burn::prelude::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, FloatDType, TensorMetadata};
use dtr_kernels::view::{Rows, View};
use dtr_kernels::{adamw, attention, convolution, cross_entropy, layer_norm, linear, recurrence, rows};

use crate::adamw::Step;
use crate::backend::{FusedBackend, FusedRecurrence, MixerBackend};
use crate::convolution::ConvolutionInputs;
use crate::position::{Positions, Span};
use crate::recurrence::RecurrenceInputs;

/// Access to the memory of a backend's tensors.
pub trait Host: Backend {
    /// Keeps a tensor's memory while it is read.
    type Memory: Send + Sync;

    /// The memory of a tensor of `f32`, its last dimension contiguous and no stride negative; a copy where it was not so.
    fn memory(tensor: FloatTensor<Self>) -> Self::Memory;

    /// The tensor again.
    fn whole(memory: Self::Memory) -> FloatTensor<Self>;

    /// Numbers from the tensor's first on, shape and strides.
    fn strided(memory: &Self::Memory) -> (&[f32], &[usize], Vec<usize>);

    /// A contiguous tensor of `f32`.
    fn tensor(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;

    /// The whole numbers of a tensor.
    fn integers(tensor: IntTensor<Self>) -> Vec<i64>;
}

/// A tensor that a kernel reads.
struct Read<B: Host> {
    memory: B::Memory,
    dtype: DType,
}

impl<B: Host> Read<B> {
    fn new(tensor: FloatTensor<B>) -> Self {
        let dtype = tensor.dtype();
        let tensor = if dtype == DType::F32 { tensor } else { B::float_cast(tensor, FloatDType::F32) };
        Self { memory: B::memory(tensor), dtype }
    }

    fn view<const R: usize>(&self) -> View<'_, R> {
        let (numbers, shape, strides) = B::strided(&self.memory);
        View::new(numbers, fixed(shape), fixed(&strides))
    }

    /// With one more dimension of length 1 at the end.
    fn view_of_numbers<const R: usize>(&self) -> View<'_, R> {
        let (numbers, shape, strides) = B::strided(&self.memory);
        View::new(numbers, fixed(&[shape, &[1]].concat()), fixed(&[&strides[..], &[1]].concat()))
    }

    /// All numbers one after another; a copy where they do not stand so.
    fn flat(&self) -> Cow<'_, [f32]> {
        let (numbers, shape, strides) = B::strided(&self.memory);
        let mut length = 1;
        let contiguous = shape.iter().zip(strides).rev().all(|(&own, stride)| {
            let fits = own == 1 || stride == length;
            length *= own;
            fits
        });
        if contiguous {
            Cow::Borrowed(&numbers[..length])
        } else {
            rows::gathered(&self.rows(&(0..shape.len()).collect::<Vec<_>>(), shape)).into()
        }
    }

    fn shape(&self) -> Vec<usize> {
        B::strided(&self.memory).1.to_vec()
    }

    /// Axes in the order in which they stand in memory, the last one kept last.
    fn order(&self) -> Vec<usize> {
        let (_, shape, strides) = B::strided(&self.memory);
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        // A stable sort: axes of equal stride stay as they are.
        axes[..shape.len() - 1].sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
        axes
    }

    /// The rows in the order of these axes, repeated along leading axes that have length 1 here and more in `shape`.
    fn rows(&self, order: &[usize], shape: &[usize]) -> Rows<'_> {
        let (numbers, own, mut strides) = B::strided(&self.memory);
        let last = own.len() - 1;
        let lengths: Vec<usize> = (0..own.len()).map(|i| if i < last { shape[i] } else { own[i] }).collect();
        for i in (0..last).filter(|&i| own[i] == 1) {
            strides[i] = 0;
        }
        Rows::new(numbers, &lengths, &strides, order)
    }
}

fn fixed<const R: usize>(numbers: &[usize]) -> [usize; R] {
    numbers.try_into().unwrap_or_else(|_| panic!("a tensor of {R} dimensions was expected, found {numbers:?}"))
}

/// A contiguous tensor in the element type `dtype`.
fn made<B: Host>(values: Vec<f32>, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    let tensor = B::tensor(values, shape);
    if dtype == DType::F32 { tensor } else { B::float_cast(tensor, dtype.into()) }
}

/// A tensor of this `shape` whose axes stand in memory in the order `axes`.
fn ordered<B: Host>(values: Vec<f32>, shape: &[usize], axes: &[usize], dtype: DType) -> FloatTensor<B> {
    let tensor = made::<B>(values, &axes.iter().map(|&axis| shape[axis]).collect::<Vec<_>>(), dtype);
    let mut inverse = vec![0; axes.len()];
    for (place, &axis) in axes.iter().enumerate() {
        inverse[axis] = place;
    }
    if axes.is_sorted() { tensor } else { B::float_permute(tensor, &inverse) }
}

/// A tensor where rows are wanted in the memory order of the first input.
struct Ordered<B: Host> {
    inputs: Vec<Read<B>>,
    shape: Vec<usize>,
    axes: Vec<usize>,
}

impl<B: Host> Ordered<B> {
    fn new(inputs: impl IntoIterator<Item = FloatTensor<B>>) -> Self {
        let inputs: Vec<Read<B>> = inputs.into_iter().map(Read::new).collect();
        Self { shape: inputs[0].shape(), axes: inputs[0].order(), inputs }
    }

    fn rows(&self, input: usize) -> Rows<'_> {
        self.inputs[input].rows(&self.axes, &self.shape)
    }

    /// A result like the first input, of the element type of input `like`.
    fn made(&self, values: Vec<f32>, like: usize) -> FloatTensor<B> {
        ordered::<B>(values, &self.shape, &self.axes, self.inputs[like].dtype)
    }
}

/// Inputs of a recurrence, readable.
struct Recurrence<B: Host>(RecurrenceInputs<Read<B>>);

impl<B: Host> Recurrence<B> {
    fn new(inputs: RecurrenceInputs<FloatTensor<B>>) -> Self {
        Self(inputs.map(Read::new))
    }

    fn views(&self) -> recurrence::Inputs<'_> {
        let RecurrenceInputs { q, k, v, g, beta, state } = &self.0;
        recurrence::Inputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            g: g.as_ref().map(Read::view),
            beta: beta.as_ref().map(Read::view_of_numbers),
            state: state.view(),
        }
    }
}

/// Inputs of attention, readable.
struct Attention<B: Host> {
    inputs: [Read<B>; 3],
}

impl<B: Host> Attention<B> {
    fn views<'a>(&'a self, positions: &'a Positions, span: Span, scale: f64) -> attention::Inputs<'a> {
        let [q, k, v] = &self.inputs;
        attention::Inputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            positions: positions.all(),
            in_order: positions.is_in_order(),
            window: span.window,
            sinks: span.sinks,
            scale: scale as f32,
        }
    }
}

/// Inputs of a convolution, readable; one row a tap.
struct Convolution<B: Host> {
    x: Read<B>,
    taps: Read<B>,
    bias: Option<Read<B>>,
    state: Read<B>,
}

impl<B: Host> Convolution<B> {
    fn new(ConvolutionInputs { x, weight, bias, state }: ConvolutionInputs<FloatTensor<B>>) -> Self {
        Self { x: Read::new(x), taps: Read::new(B::float_transpose(weight)), bias: bias.map(Read::new), state: Read::new(state) }
    }

    fn views(&self) -> convolution::Inputs<'_> {
        let bias = self.bias.as_ref().map(weight);
        convolution::Inputs { x: self.x.view(), taps: self.taps.view(), bias, state: self.state.view() }
    }
}

fn linear_views<B: Host>([q, k, v, state]: &[Read<B>; 4]) -> linear::LinearInputs<'_> {
    linear::LinearInputs { q: q.view(), k: k.view(), v: v.view(), state: state.view(), eps: crate::linear::EPS as f32 }
}

fn weight<B: Host>(weight: &Read<B>) -> &[f32] {
    let (numbers, shape, _) = B::strided(&weight.memory);
    &numbers[..shape[0]]
}

impl<B: Host> MixerBackend for B {
    fn rms_norm(x: FloatTensor<B>, scale: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        let (x, scale) = (Ordered::<B>::new([x]), Read::<B>::new(scale));
        x.made(rows::rms_norm(&x.rows(0), weight(&scale), eps as f32), 0)
    }

    fn layer_norm_affine(x: FloatTensor<B>, scale: FloatTensor<B>, bias: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        let (x, scale, bias) = (Ordered::<B>::new([x]), Read::<B>::new(scale), Read::<B>::new(bias));
        x.made(layer_norm::layer_norm(&x.rows(0), [weight(&scale), weight(&bias)], eps as f32), 0)
    }

    fn gelu_each(x: FloatTensor<B>, approximate: bool) -> FloatTensor<B> {
        let x = Ordered::<B>::new([x]);
        x.made(layer_norm::gelu(&x.rows(0), approximate), 0)
    }

    fn rotate_half(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        let x = Ordered::<B>::new([x, cos, sin]);
        x.made(rows::rotate_half(&x.rows(0), [&x.rows(1), &x.rows(2)], 1.0), 0)
    }

    fn swiglu(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        let x = Ordered::<B>::new([gate, up]);
        x.made(rows::swiglu(&x.rows(0), &x.rows(1)), 0)
    }

    fn cross_entropy(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
        let logits = Read::<B>::new(logits);
        let shape = logits.shape();
        let losses = cross_entropy::forward(&logits.rows(&[0, 1], &shape), &B::integers(targets));
        made::<B>(losses, &shape[..1], logits.dtype)
    }

    fn convolution_silu(inputs: ConvolutionInputs<FloatTensor<B>>) -> FloatTensor<B> {
        let inputs = Convolution::<B>::new(inputs);
        made::<B>(convolution::silu(&inputs.views()), &inputs.x.shape(), inputs.x.dtype)
    }

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<B>>) -> FloatTensor<B> {
        let inputs = Recurrence::<B>::new(inputs);
        let views = inputs.views();
        let [batch, heads, time, width, values] = views.dims();
        made::<B>(recurrence::forward(&views), &[batch * heads * (time + width) * values], inputs.0.q.dtype)
    }

    fn linear_attention(inputs: [FloatTensor<B>; 4]) -> FloatTensor<B> {
        let inputs = inputs.map(Read::<B>::new);
        let joined = linear::forward(&linear_views(&inputs));
        let length = joined.len();
        made::<B>(joined, &[length], inputs[0].dtype)
    }

    fn merge_heads(x: FloatTensor<B>) -> FloatTensor<B> {
        let [batch, heads, time, width] = x.shape().dims();
        let merged = [batch, time, heads * width];
        let x = Read::<B>::new(x);
        let (_, shape, strides) = B::strided(&x.memory);
        if strides == [time * heads * width, width, heads * width, 1] && x.dtype == DType::F32 {
            // So attention leaves them: nothing has to be moved.
            return B::float_reshape(B::float_swap_dims(B::whole(x.memory), 1, 2), merged.into());
        }
        let shape = shape.to_vec();
        made::<B>(rows::gathered(&x.rows(&[0, 2, 1, 3], &shape)), &merged, x.dtype)
    }

    fn causal_attention(inputs: [FloatTensor<B>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<B> {
        let inputs = Attention::<B> { inputs: inputs.map(Read::new) };
        let views = inputs.views(positions, span, scale);
        let ([batch, heads, queries, _], values) = (views.q.shape(), views.v.width());
        let output = attention::forward(views);
        let axes = if attention::is_by_head(queries) { [0, 1, 2, 3] } else { [0, 2, 1, 3] };
        ordered::<B>(output, &[batch, heads, queries, values], &axes, inputs.inputs[0].dtype)
    }

    fn adamw(weight: FloatTensor<B>, grad: FloatTensor<B>, [first, second]: [FloatTensor<B>; 2], step: Step) -> [FloatTensor<B>; 3] {
        let inputs = [weight, grad, first, second].map(Read::<B>::new);
        let [weight, grad, first, second] = inputs.each_ref().map(Read::flat);
        let step = adamw::Step {
            keep: step.keep() as f32,
            rates: step.rates().map(|rate| rate as f32),
            unbias: step.unbias() as f32,
            betas: step.betas.map(|beta| beta as f32),
            eps: step.eps as f32,
        };
        let results = adamw::step(&weight, &grad, [&first, &second], step);
        let mut of = [0, 2, 3].into_iter().zip(results).map(|(like, values)| made::<B>(values, &inputs[0].shape(), inputs[like].dtype));
        [(); 3].map(|()| of.next().expect("three results"))
    }
}

impl<B: Host> FusedRecurrence for B {
    fn recurrence_backward(inputs: RecurrenceInputs<FloatTensor<B>>, grad: FloatTensor<B>) -> RecurrenceInputs<FloatTensor<B>> {
        let (inputs, grad) = (Recurrence::<B>::new(inputs), Read::<B>::new(grad));
        let views = inputs.views();
        let [batch, heads, time, width, values] = views.dims();
        let (grad, last) = B::strided(&grad.memory).0.split_at(batch * heads * time * values);
        let (grad, last) = (View::contiguous(grad, [batch, heads, time, values]), View::contiguous(last, [batch, heads, width, values]));
        let grads = recurrence::backward(&views, grad, last);
        let of = |read: &Read<B>, values| made::<B>(values, &read.shape(), read.dtype);
        let RecurrenceInputs { q, k, v, g, beta, state } = &inputs.0;
        RecurrenceInputs {
            q: of(q, grads.q),
            k: of(k, grads.k),
            v: of(v, grads.v),
            g: g.as_ref().map(|g| of(g, grads.g)),
            beta: beta.as_ref().map(|beta| of(beta, grads.beta)),
            state: of(state, grads.state),
        }
    }
}

impl<B: Host> FusedBackend for B {
    fn rms_norm_backward(x: FloatTensor<B>, scale: FloatTensor<B>, eps: f64, grad: FloatTensor<B>) -> [FloatTensor<B>; 2] {
        let (x, scale) = (Ordered::<B>::new([x, grad]), Read::<B>::new(scale));
        let [by_x, by_weight] = rows::rms_norm_backward(&x.rows(0), weight(&scale), eps as f32, &x.rows(1));
        [x.made(by_x, 0), made::<B>(by_weight, &scale.shape(), scale.dtype)]
    }

    fn rotate_half_backward(cos: FloatTensor<B>, sin: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        let x = Ordered::<B>::new([grad, cos, sin]);
        x.made(rows::rotate_half(&x.rows(0), [&x.rows(1), &x.rows(2)], -1.0), 0)
    }

    fn swiglu_backward(gate: FloatTensor<B>, up: FloatTensor<B>, grad: FloatTensor<B>) -> [FloatTensor<B>; 2] {
        let x = Ordered::<B>::new([gate, up, grad]);
        let [by_gate, by_up] = rows::swiglu_backward(&x.rows(0), &x.rows(1), &x.rows(2));
        [x.made(by_gate, 0), x.made(by_up, 1)]
    }

    fn cross_entropy_backward(logits: FloatTensor<B>, targets: IntTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        let (logits, grad) = (Read::<B>::new(logits), Read::<B>::new(grad));
        let shape = logits.shape();
        let (targets, grad) = (B::integers(targets), grad.view_of_numbers::<2>());
        let grad: Vec<f32> = (0..shape[0]).map(|row| grad.row(row)[0]).collect();
        made::<B>(cross_entropy::backward(&logits.rows(&[0, 1], &shape), &targets, &grad), &shape, logits.dtype)
    }

    fn convolution_silu_backward(inputs: ConvolutionInputs<FloatTensor<B>>, grad: FloatTensor<B>) -> ConvolutionInputs<FloatTensor<B>> {
        let (inputs, grad) = (Convolution::<B>::new(inputs), Read::<B>::new(grad));
        let grads = convolution::silu_backward(&inputs.views(), grad.view());
        let of = |read: &Read<B>, values| made::<B>(values, &read.shape(), read.dtype);
        ConvolutionInputs {
            x: of(&inputs.x, grads.x),
            weight: B::float_transpose(of(&inputs.taps, grads.taps)),
            bias: inputs.bias.as_ref().map(|bias| of(bias, grads.bias)),
            state: of(&inputs.state, grads.state),
        }
    }

    fn linear_attention_backward(inputs: [FloatTensor<B>; 4], output: FloatTensor<B>, grad: FloatTensor<B>) -> [FloatTensor<B>; 4] {
        let (inputs, output, grad) = (inputs.map(Read::<B>::new), Read::<B>::new(output), Read::<B>::new(grad));
        let views = linear_views(&inputs);
        let ([batch, heads, time, width], values) = (views.q.shape(), views.v.width());
        let (grad, last) = B::strided(&grad.memory).0.split_at(batch * heads * time * values);
        let (grad, last) =
            (View::contiguous(grad, [batch, heads, time, values]), View::contiguous(last, [batch, heads, width, values + 1]));
        let (output, shape, _) = B::strided(&output.memory);
        let mut grads = linear::backward(&views, &output[..shape[0]], grad, last).into_iter();
        inputs.each_ref().map(|read| made::<B>(grads.next().expect("four gradients"), &read.shape(), read.dtype))
    }

    fn causal_attention_kept(inputs: [FloatTensor<B>; 3], positions: &Positions, span: Span, scale: f64) -> [FloatTensor<B>; 2] {
        let inputs = Attention::<B> { inputs: inputs.map(Read::new) };
        let views = inputs.views(positions, span, scale);
        let ([batch, heads, queries, _], values) = (views.q.shape(), views.v.width());
        let (output, sums) = attention::forward_for_backward(views);
        let output = ordered::<B>(output, &[batch, heads, queries, values], &[0, 2, 1, 3], inputs.inputs[0].dtype);
        [output, made::<B>(sums, &[batch, queries, heads], DType::F32)]
    }

    fn causal_attention_backward(
        inputs: [FloatTensor<B>; 3],
        kept: [FloatTensor<B>; 2],
        positions: &Positions,
        span: Span,
        scale: f64,
        grad: FloatTensor<B>,
    ) -> [FloatTensor<B>; 3] {
        let (inputs, grad) = (Attention::<B> { inputs: inputs.map(Read::new) }, Read::<B>::new(grad));
        let [output, sums] = kept.map(Read::<B>::new);
        let (sums, ..) = B::strided(&sums.memory);
        let views = inputs.views(positions, span, scale);
        let count = views.q.shape()[..3].iter().product();
        let mut grads = attention::backward(views, output.view(), &sums[..count], grad.view()).into_iter();
        inputs.inputs.each_ref().map(|read| made::<B>(grads.next().expect("three gradients"), &read.shape(), read.dtype))
    }
}
