//! Memory of the backend ndarray.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::ndarray::{NdArrayTensor, SharedArray};
use burn::backend::{Autodiff, NdArray};
use burn::tensor::Shape;
use burn::tensor::ops::{FloatTensor, IntTensor};

use super::Host;
use crate::backend::MixerBackend;

impl Host for NdArray {
    /// An array that is contiguous in some order of its axes, the last one last.
    type Memory = SharedArray<f32>;

    fn memory(tensor: FloatTensor<Self>) -> Self::Memory {
        let NdArrayTensor::F32(storage) = tensor else { unreachable!("converted to f32 before") };
        let array = storage.into_shared();
        let inner = array.shape().last().is_none_or(|&width| width == 1) || array.strides().last() == Some(&1);
        let readable = inner && array.strides().iter().all(|&stride| stride >= 0) && array.as_slice_memory_order().is_some();
        if readable { array } else { array.as_standard_layout().into_owned().into_shared() }
    }

    fn whole(array: Self::Memory) -> FloatTensor<Self> {
        array.into()
    }

    fn strided(array: &Self::Memory) -> (&[f32], &[usize], Vec<usize>) {
        let numbers = array.as_slice_memory_order().expect("made contiguous");
        // ndarray gives arrays without numbers strides of 0.
        let strides =
            if array.is_empty() { vec![1; array.ndim()] } else { array.strides().iter().map(|stride| stride.unsigned_abs()).collect() };
        (numbers, array.shape(), strides)
    }

    fn tensor(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        let data = burn::tensor::TensorData::new(values, Shape::from(shape.to_vec()));
        NdArrayTensor::from_data(data)
    }

    fn integers(tensor: IntTensor<Self>) -> Vec<i64> {
        let data = match tensor {
            NdArrayTensor::I64(storage) => return storage.into_shared().iter().copied().collect(),
            NdArrayTensor::I32(storage) => storage.into_shared(),
            other => unreachable!("targets are whole numbers of 32 or 64 bits, not {other:?}"),
        };
        data.iter().map(|&x| i64::from(x)).collect()
    }
}

/// In double precision every operation is its definition: the reference that devices are compared with.
impl MixerBackend for NdArray<f64> {}

impl<C: CheckpointStrategy> MixerBackend for Autodiff<NdArray<f64>, C> {}
