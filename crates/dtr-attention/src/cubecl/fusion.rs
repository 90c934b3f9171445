//! Recurrences under Burn's fusion: one operation of its stream, run by the backend below.

use std::marker::PhantomData;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::tensor::Shape;
use burn::tensor::ops::FloatTensor;
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};

use crate::backend::{FusedRecurrence, MixerBackend};
use crate::recurrence::RecurrenceInputs;
use crate::{autodiff, linear};

/// [`MixerBackend::recurrence`] of the backend below.
#[derive(Debug)]
struct Forward<B> {
    inputs: RecurrenceInputs<TensorIr>,
    output: TensorIr,
    _backend: PhantomData<B>,
}

impl<B: FusionBackend + MixerBackend> Operation<B::FusionRuntime> for Forward<B> {
    fn execute(&self, handles: &mut HandleContainer<B::Handle>) {
        let inputs = self.inputs.clone().map(|input| handles.get_float_tensor::<B>(&input));
        handles.register_float_tensor::<B>(&self.output.id, B::recurrence(inputs));
    }
}

/// [`FusedRecurrence::recurrence_backward`] of the backend below.
#[derive(Debug)]
struct Backward<B> {
    inputs: RecurrenceInputs<TensorIr>,
    grad: TensorIr,
    outputs: RecurrenceInputs<TensorIr>,
    _backend: PhantomData<B>,
}

impl<B: FusionBackend + FusedRecurrence> Operation<B::FusionRuntime> for Backward<B> {
    fn execute(&self, handles: &mut HandleContainer<B::Handle>) {
        let inputs = self.inputs.clone().map(|input| handles.get_float_tensor::<B>(&input));
        let grad = handles.get_float_tensor::<B>(&self.grad);
        let grads = B::recurrence_backward(inputs, grad);
        for (output, grad) in self.outputs.clone().zip(grads).list() {
            handles.register_float_tensor::<B>(&output.id, grad);
        }
    }
}

impl<B: FusionBackend + MixerBackend> MixerBackend for Fusion<B> {
    const THREADED: bool = false;

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        let client = inputs.q.client.clone();
        let streams = OperationStreams::with_inputs(&inputs.clone().list());
        let [batch, heads, time, width] = inputs.q.shape.dims();
        let length = batch * heads * (time + width) * inputs.v.shape[3];
        let output = TensorIr::uninit(client.create_empty_handle(), Shape::new([length]), inputs.q.dtype);
        let inputs = inputs.map(FusionTensor::into_ir);
        let custom = CustomOpIr::new("dtr_recurrence", &inputs.clone().list(), std::slice::from_ref(&output));
        let operation = Forward::<B> { inputs, output, _backend: PhantomData };
        client.register(streams, OperationIr::Custom(custom), operation).output()
    }

    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        linear::by_recurrence::<Self>(inputs)
    }
}

impl<B: FusionBackend + FusedRecurrence> FusedRecurrence for Fusion<B> {
    fn recurrence_backward(inputs: RecurrenceInputs<FloatTensor<Self>>, grad: FloatTensor<Self>) -> RecurrenceInputs<FloatTensor<Self>> {
        let client = inputs.q.client.clone();
        let streams = OperationStreams::with_inputs(inputs.clone().list().iter().chain([&grad]));
        let outputs = inputs.clone().map(|input| TensorIr::uninit(client.create_empty_handle(), input.shape.clone(), input.dtype));
        let (inputs, grad) = (inputs.map(FusionTensor::into_ir), grad.into_ir());
        let read = [inputs.clone().list(), vec![grad.clone()]].concat();
        let custom = CustomOpIr::new("dtr_recurrence_backward", &read, &outputs.clone().list());
        let operation = Backward::<B> { inputs, grad, outputs: outputs.clone(), _backend: PhantomData };
        let mut grads = client.register(streams, OperationIr::Custom(custom), operation).into_iter();
        outputs.map(|_| grads.next().expect("a gradient for every input"))
    }
}

impl<B: FusionBackend + FusedRecurrence, C: CheckpointStrategy> MixerBackend for Autodiff<Fusion<B>, C> {
    const THREADED: bool = false;

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        autodiff::recurrence::<Fusion<B>, C>(inputs)
    }

    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        linear::by_recurrence::<Self>(inputs)
    }
}
