//! Memory of the backend flex.

use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{Bytes, DType, Shape, TensorData};
use burn_flex::{Flex, FlexTensor, Layout};

use super::Host;

impl Host for Flex {
    type Memory = (FlexTensor, Vec<usize>);

    fn memory(tensor: FloatTensor<Self>) -> Self::Memory {
        let layout = tensor.layout();
        let (width, inner) = (layout.shape().last().copied().unwrap_or(1), layout.strides().last().copied().unwrap_or(1));
        let readable = layout.has_positive_strides() && (inner == 1 || width == 1);
        let tensor = if readable { tensor } else { tensor.to_contiguous() };
        let shape = tensor.layout().shape().to_vec();
        (tensor, shape)
    }

    fn whole((tensor, _): Self::Memory) -> FloatTensor<Self> {
        tensor
    }

    fn strided((tensor, shape): &Self::Memory) -> (&[f32], &[usize], Vec<usize>) {
        let layout = tensor.layout();
        let strides = layout.strides().iter().map(|stride| stride.unsigned_abs()).collect();
        (&tensor.storage::<f32>()[layout.start_offset()..], shape, strides)
    }

    fn tensor(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(shape.to_vec())), DType::F32)
    }

    fn integers(tensor: IntTensor<Self>) -> Vec<i64> {
        let data: TensorData = tensor.into_data();
        data.iter::<i64>().collect()
    }
}
