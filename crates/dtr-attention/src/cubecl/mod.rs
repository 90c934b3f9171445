//! The backends of CubeCL (CUDA, ROCm, Metal, Vulkan, WebGPU): recurrences by kernels, all else composed.
//!
//! The kernels go token by token, as on the CPU, and keep the state in registers; [`tile::Plan`] says how it is cut. Long sequences are cut
//! into chunks that are swept at the same time, see [`chunks`].

mod carry;
mod chunks;
mod fusion;
mod inputs;
mod keys;
mod tile;
mod values;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::cast;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};

use crate::backend::{FusedRecurrence, MixerBackend, primitive, tensor};
use crate::recurrence::{self, RecurrenceInputs};
use crate::{autodiff, linear};
use inputs::Inputs;
use tile::Decay;
use values::Sought;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement> MixerBackend for CubeBackend<R, F, I, T> {
    const THREADED: bool = false;

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        let dtype = inputs.q.dtype();
        let (inputs, _) = chunks::cut(Inputs::new(inputs));
        cast(values::forward(&inputs, Sought::Outputs), dtype)
    }

    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        linear::by_recurrence::<Self>(inputs)
    }
}

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement> FusedRecurrence for CubeBackend<R, F, I, T> {
    fn recurrence_backward(inputs: RecurrenceInputs<FloatTensor<Self>>, grad: FloatTensor<Self>) -> RecurrenceInputs<FloatTensor<Self>> {
        let dtypes = inputs.clone().map(|input| input.dtype());
        let (inputs, transitions) = chunks::cut(Inputs::new(inputs));
        let [batch, heads, time, width, values] = inputs.shape;
        let grad = tensor::<Self, 1>(cast(grad, inputs.q.dtype));
        let (by_output, by_last) = recurrence::parted(grad, [batch, heads, time, values], [batch, heads, width, values]);
        let (by_output, by_last) = (primitive(by_output), cast(primitive(by_last), DType::F32));
        let by_last = match transitions {
            None => by_last,
            Some(transitions) => chunks::by_states(&inputs, transitions, by_output.clone(), by_last),
        };
        let [by_written, by_state] = values::backward(&inputs, by_output.clone(), by_last.clone());
        let by_state = primitive(tensor::<Self, 4>(by_state).narrow(2, 0, width));

        let (written, by_value, by_beta) = match &inputs.beta {
            None => (cast(inputs.v.clone(), DType::F32), None, None),
            Some(beta) => {
                let residuals = tensor::<Self, 4>(values::forward(&inputs, Sought::Residuals));
                let beta = tensor::<Self, 4>(cast(beta.clone(), DType::F32));
                let by_written = tensor::<Self, 4>(by_written.clone());
                let by_beta = (by_written.clone() * residuals.clone()).sum_dim(3).squeeze_dim::<3>(3);
                (primitive(residuals * beta.clone()), Some(primitive(by_written * beta)), Some(primitive(by_beta)))
            }
        };
        let found = keys::Found { written, by_value: by_value.clone(), by_output, by_last };
        let keys::Gradients { q, k, g } = keys::backward(&inputs, found);
        let g = g.map(|g| if inputs.decay == Decay::Channel { g } else { primitive(tensor::<Self, 4>(g).sum_dim(3)) });
        let grads = RecurrenceInputs { q, k, v: by_value.unwrap_or(by_written), g, beta: by_beta, state: by_state };
        grads.zip(dtypes).map(|(grad, dtype)| cast(grad, dtype))
    }
}

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement, C: CheckpointStrategy> MixerBackend
    for Autodiff<CubeBackend<R, F, I, T>, C>
{
    const THREADED: bool = false;

    fn recurrence(inputs: RecurrenceInputs<FloatTensor<Self>>) -> FloatTensor<Self> {
        autodiff::recurrence::<CubeBackend<R, F, I, T>, C>(inputs)
    }

    fn linear_attention(inputs: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        linear::by_recurrence::<Self>(inputs)
    }
}
