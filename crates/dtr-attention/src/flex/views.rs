//! Reading inputs through their strides, and making outputs.

use burn::tensor::{Bytes, DType, FloatDType, Shape, TensorMetadata, ops::FloatTensorOps};
use burn_flex::{Flex, FlexTensor, Layout};

/// A tensor of `f32` with a contiguous last dimension, or a copy of it where it was not so.
///
/// Other element types are converted: the kernels compute in `f32` only.
pub(super) fn readable(tensor: FlexTensor) -> FlexTensor {
    let tensor = scalars(tensor);
    let width = tensor.layout().shape().last().copied().unwrap_or(1);
    let inner = tensor.layout().strides().last().copied().unwrap_or(1);
    if inner == 1 || width == 1 { tensor } else { tensor.to_contiguous() }
}

/// A tensor of `f32`, read number by number.
pub(super) fn scalars(tensor: FlexTensor) -> FlexTensor {
    let tensor = if tensor.dtype() == DType::F32 { tensor } else { Flex::float_cast(tensor, FloatDType::F32) };
    if tensor.layout().has_positive_strides() { tensor } else { tensor.to_contiguous() }
}

/// A tensor around `values`, in the element type `dtype`.
pub(super) fn tensor<const R: usize>(values: Vec<f32>, shape: [usize; R], dtype: DType) -> FlexTensor {
    with_layout(values, Layout::contiguous(Shape::from(shape)), dtype)
}

/// A tensor around `values`, which stand in memory as `layout` says.
pub(super) fn with_layout(values: Vec<f32>, layout: Layout, dtype: DType) -> FlexTensor {
    let tensor = FlexTensor::new(Bytes::from_elems(values), layout, DType::F32);
    if dtype == DType::F32 { tensor } else { Flex::float_cast(tensor, dtype.into()) }
}

/// The dimensions of a tensor of rank `R`.
pub(super) fn dims<const R: usize>(tensor: &FlexTensor) -> [usize; R] {
    tensor.shape().dims()
}

/// Rows of a tensor of rank `R`, found by their first `R - 1` indices.
#[derive(Clone, Copy)]
pub(super) struct View<'a, const R: usize> {
    numbers: &'a [f32],
    strides: [usize; R],
    /// Length of the last dimension.
    pub width: usize,
}

impl<'a, const R: usize> View<'a, R> {
    /// A view of a tensor that [`readable`] or [`scalars`] returned.
    pub fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let strides = std::array::from_fn(|i| layout.strides()[i].unsigned_abs());
        Self { numbers: &tensor.storage::<f32>()[layout.start_offset()..], strides, width: layout.shape()[R - 1] }
    }
}

impl<'a> View<'a, 4> {
    /// Row `[i, j, k, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1] + k * self.strides[2];
        &self.numbers[start..start + self.width]
    }
}

impl<'a> View<'a, 3> {
    /// Row `[i, j, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1];
        &self.numbers[start..start + self.width]
    }

    /// The number `[i, j, k]`.
    #[inline(always)]
    pub fn at(&self, i: usize, j: usize, k: usize) -> f32 {
        self.numbers[i * self.strides[0] + j * self.strides[1] + k * self.strides[2]]
    }
}
