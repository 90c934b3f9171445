//! The fused operations under autodiff: forward on the inner backend, backward by its own kernels.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::TensorMetadata;
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::backend::{FusedBackend, FusedRecurrence, MixerBackend};
use crate::convolution::ConvolutionInputs;
use crate::position::{Positions, Span};
use crate::recurrence::RecurrenceInputs;

/// An operation with `N` inputs and what else it needs, as forward and backward on the inner backend.
trait Operation<B: Backend, const N: usize>: Clone + Send + std::fmt::Debug + 'static {
    /// What the backward pass wants of the forward pass, beside the inputs.
    type Kept: Clone + Send + std::fmt::Debug + 'static;

    fn forward(&self, inputs: [FloatTensor<B>; N]) -> (FloatTensor<B>, Self::Kept);
    fn backward(self, inputs: [FloatTensor<B>; N], kept: Self::Kept, grad: FloatTensor<B>) -> [FloatTensor<B>; N];
}

/// Burn's backward step of any [`Operation`].
#[derive(Debug)]
struct Step<O>(std::marker::PhantomData<O>);

impl<B: Backend, O: Operation<B, N>, const N: usize> Backward<B, N> for Step<O> {
    type State = (O, [FloatTensor<B>; N], O::Kept);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (operation, inputs, kept) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        for (parent, grad) in ops.parents.into_iter().zip(operation.backward(inputs, kept, grad)) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

fn differentiable<B: Backend, C: CheckpointStrategy, O: Operation<B, N>, const N: usize>(
    operation: O,
    inputs: [FloatTensor<Autodiff<B, C>>; N],
) -> FloatTensor<Autodiff<B, C>> {
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    // Another thread's backward pass removes what nothing refers to from every graph, this one among them: until the step is registered, the
    // inputs must be referred to, or their gradients are lost.
    let _referred = inputs.each_ref().map(|input| input.rc.clone());
    let inputs = inputs.map(|input| input.primitive);
    match Step(std::marker::PhantomData).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let (output, kept) = operation.forward(inputs.clone());
            step.finish((operation, inputs, kept), output)
        }
        OpsKind::UnTracked(step) => step.finish(operation.forward(inputs).0),
    }
}

#[derive(Debug, Clone)]
struct RmsNorm {
    eps: f64,
}

impl<B: FusedBackend> Operation<B, 2> for RmsNorm {
    type Kept = ();

    fn forward(&self, [x, weight]: [FloatTensor<B>; 2]) -> (FloatTensor<B>, ()) {
        (B::rms_norm(x, weight, self.eps), ())
    }

    fn backward(self, [x, weight]: [FloatTensor<B>; 2], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; 2] {
        B::rms_norm_backward(x, weight, self.eps, grad)
    }
}

/// The tables are kept beside the operation: nothing flows back into them.
#[derive(Debug, Clone)]
struct RotateHalf<T> {
    cos: T,
    sin: T,
}

impl<B: FusedBackend> Operation<B, 1> for RotateHalf<FloatTensor<B>> {
    type Kept = ();

    fn forward(&self, [x]: [FloatTensor<B>; 1]) -> (FloatTensor<B>, ()) {
        (B::rotate_half(x, self.cos.clone(), self.sin.clone()), ())
    }

    fn backward(self, _: [FloatTensor<B>; 1], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; 1] {
        [B::rotate_half_backward(self.cos, self.sin, grad)]
    }
}

#[derive(Debug, Clone)]
struct SwiGlu;

impl<B: FusedBackend> Operation<B, 2> for SwiGlu {
    type Kept = ();

    fn forward(&self, [gate, up]: [FloatTensor<B>; 2]) -> (FloatTensor<B>, ()) {
        (B::swiglu(gate, up), ())
    }

    fn backward(self, [gate, up]: [FloatTensor<B>; 2], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; 2] {
        B::swiglu_backward(gate, up, grad)
    }
}

/// The inputs in the order `x, weight, state`, then `bias` if it is there.
#[derive(Debug, Clone)]
struct ConvolutionSilu;

impl ConvolutionSilu {
    fn named<T, const N: usize>(inputs: [T; N]) -> ConvolutionInputs<T> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("as many inputs as there are");
        let (x, weight, state) = (next(), next(), next());
        ConvolutionInputs { x, weight, bias: inputs.next(), state }
    }
}

impl<B: FusedBackend, const N: usize> Operation<B, N> for ConvolutionSilu {
    type Kept = ();

    fn forward(&self, inputs: [FloatTensor<B>; N]) -> (FloatTensor<B>, ()) {
        (B::convolution_silu(Self::named(inputs)), ())
    }

    fn backward(self, inputs: [FloatTensor<B>; N], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; N] {
        let ConvolutionInputs { x, weight, bias, state } = B::convolution_silu_backward(Self::named(inputs), grad);
        let mut grads = [x, weight, state].into_iter().chain(bias);
        std::array::from_fn(|_| grads.next().expect("as many gradients as inputs"))
    }
}

/// The targets are kept beside the operation: nothing flows back into them.
#[derive(Debug, Clone)]
struct CrossEntropy<I> {
    targets: I,
}

impl<B: FusedBackend> Operation<B, 1> for CrossEntropy<IntTensor<B>> {
    type Kept = ();

    fn forward(&self, [logits]: [FloatTensor<B>; 1]) -> (FloatTensor<B>, ()) {
        (B::cross_entropy(logits, self.targets.clone()), ())
    }

    fn backward(self, [logits]: [FloatTensor<B>; 1], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; 1] {
        [B::cross_entropy_backward(logits, self.targets, grad)]
    }
}

/// The inputs in the order `q, k, v, state`, then `g` and `beta` as far as they are there.
#[derive(Debug, Clone)]
struct Recurrence {
    fades: bool,
    corrects: bool,
}

impl Recurrence {
    fn named<T, const N: usize>(&self, inputs: [T; N]) -> RecurrenceInputs<T> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("as many inputs as there are");
        let (q, k, v, state) = (next(), next(), next(), next());
        RecurrenceInputs { q, k, v, g: self.fades.then(&mut next), beta: self.corrects.then(&mut next), state }
    }
}

impl<B: FusedRecurrence, const N: usize> Operation<B, N> for Recurrence {
    type Kept = ();

    fn forward(&self, inputs: [FloatTensor<B>; N]) -> (FloatTensor<B>, ()) {
        (B::recurrence(self.named(inputs)), ())
    }

    fn backward(self, inputs: [FloatTensor<B>; N], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; N] {
        let RecurrenceInputs { q, k, v, g, beta, state } = B::recurrence_backward(self.named(inputs), grad);
        let mut grads = [q, k, v, state].into_iter().chain(g).chain(beta);
        std::array::from_fn(|_| grads.next().expect("as many gradients as inputs"))
    }
}

/// The recurrence as one step.
pub(crate) fn recurrence<B: FusedRecurrence, C: CheckpointStrategy>(
    RecurrenceInputs { q, k, v, g, beta, state }: RecurrenceInputs<FloatTensor<Autodiff<B, C>>>,
) -> FloatTensor<Autodiff<B, C>> {
    let operation = Recurrence { fades: g.is_some(), corrects: beta.is_some() };
    match (g, beta) {
        (None, None) => differentiable::<B, C, _, 4>(operation, [q, k, v, state]),
        (Some(one), None) | (None, Some(one)) => differentiable::<B, C, _, 5>(operation, [q, k, v, state, one]),
        (Some(g), Some(beta)) => differentiable::<B, C, _, 6>(operation, [q, k, v, state, g, beta]),
    }
}

#[derive(Debug, Clone)]
struct MergeHeads;

impl<B: FusedBackend> Operation<B, 1> for MergeHeads {
    type Kept = ();

    fn forward(&self, [x]: [FloatTensor<B>; 1]) -> (FloatTensor<B>, ()) {
        (B::merge_heads(x), ())
    }

    fn backward(self, [x]: [FloatTensor<B>; 1], (): (), grad: FloatTensor<B>) -> [FloatTensor<B>; 1] {
        let [batch, heads, time, width] = x.shape().dims();
        [B::float_swap_dims(B::float_reshape(grad, [batch, time, heads, width].into()), 1, 2)]
    }
}

#[derive(Debug, Clone)]
struct Attention {
    positions: Positions,
    span: Span,
    scale: f64,
}

impl<B: FusedBackend> Operation<B, 3> for Attention {
    /// Output and sums.
    type Kept = [FloatTensor<B>; 2];

    fn forward(&self, inputs: [FloatTensor<B>; 3]) -> (FloatTensor<B>, Self::Kept) {
        let [output, sums] = B::causal_attention_kept(inputs, &self.positions, self.span, self.scale);
        (output.clone(), [output, sums])
    }

    fn backward(self, inputs: [FloatTensor<B>; 3], kept: Self::Kept, grad: FloatTensor<B>) -> [FloatTensor<B>; 3] {
        B::causal_attention_backward(inputs, kept, &self.positions, self.span, self.scale, grad)
    }
}

#[derive(Debug, Clone)]
struct LinearAttention;

impl<B: FusedBackend> Operation<B, 4> for LinearAttention {
    /// The output.
    type Kept = FloatTensor<B>;

    fn forward(&self, inputs: [FloatTensor<B>; 4]) -> (FloatTensor<B>, Self::Kept) {
        let output = B::linear_attention(inputs);
        (output.clone(), output)
    }

    fn backward(self, inputs: [FloatTensor<B>; 4], kept: Self::Kept, grad: FloatTensor<B>) -> [FloatTensor<B>; 4] {
        B::linear_attention_backward(inputs, kept, grad)
    }
}

impl<B: FusedBackend, C: CheckpointStrategy> MixerBackend for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        differentiable::<B, C, _, 2>(RmsNorm { eps }, [x, weight])
    }

    fn rotate_half(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable::<B, C, _, 1>(RotateHalf { cos: cos.primitive, sin: sin.primitive }, [x])
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable::<B, C, _, 2>(SwiGlu, [gate, up])
    }

    fn convolution_silu(ConvolutionInputs { x, weight, bias, state }: ConvolutionInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        match bias {
            None => differentiable::<B, C, _, 3>(ConvolutionSilu, [x, weight, state]),
            Some(bias) => differentiable::<B, C, _, 4>(ConvolutionSilu, [x, weight, state, bias]),
        }
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        differentiable::<B, C, _, 1>(CrossEntropy { targets }, [logits])
    }

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        recurrence::<B, C>(inputs)
    }

    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        differentiable::<B, C, _, 4>(LinearAttention, inputs)
    }

    fn merge_heads(x: FloatTensor<Self>) -> FloatTensor<Self> {
        differentiable::<B, C, _, 1>(MergeHeads, [x])
    }

    fn causal_attention(inputs: [FloatTensor<Self>; 3], positions: &Positions, span: Span, scale: f64) -> FloatTensor<Self> {
        differentiable::<B, C, _, 3>(Attention { positions: positions.clone(), span, scale }, inputs)
    }
}
