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

/// Axes of a tensor in the order in which they stand in memory, the last one kept last.
pub(super) fn memory_order(tensor: &FlexTensor) -> Vec<usize> {
    let strides = tensor.layout().strides();
    let mut axes: Vec<usize> = (0..strides.len()).collect();
    // A stable sort: axes of equal stride stay as they are.
    axes[..strides.len() - 1].sort_by_key(|&axis| std::cmp::Reverse(strides[axis]));
    axes
}

/// The layout of a tensor of this `shape` whose axes stand in memory in the order `axes`.
pub(super) fn ordered_layout(shape: &Shape, axes: &[usize]) -> Layout {
    let mut inverse = vec![0; axes.len()];
    for (place, &axis) in axes.iter().enumerate() {
        inverse[axis] = place;
    }
    Layout::contiguous(axes.iter().map(|&axis| shape[axis]).collect::<Vec<_>>().into()).permute(&inverse)
}

/// The same rows for every index of the leading axes that have length 1 here and more in `shape`.
pub(super) fn expanded(tensor: FlexTensor, shape: &Shape) -> FlexTensor {
    let (layout, last) = (tensor.layout().clone(), shape.num_dims() - 1);
    let strides = (0..=last).map(|i| if i < last && layout.shape()[i] == 1 { 0 } else { layout.strides()[i] });
    let mut lengths: Vec<usize> = (0..last).map(|i| shape[i]).collect();
    lengths.push(layout.shape()[last]);
    tensor.with_layout(Layout::new(lengths.into(), strides.collect(), layout.start_offset()))
}

/// All rows of a tensor of any rank, numbered in the order of given axes.
pub(super) struct Rows<'a> {
    numbers: &'a [f32],
    /// Lengths and strides of the leading axes, those that run on into each other made one.
    axes: Vec<(usize, usize)>,
    /// Length of the last dimension.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a tensor that [`readable`] returned.
    pub fn new(tensor: &'a FlexTensor, order: &[usize]) -> Self {
        let layout = tensor.layout();
        let mut axes: Vec<(usize, usize)> = Vec::with_capacity(order.len());
        for &axis in &order[..order.len() - 1] {
            let (length, stride) = (layout.shape()[axis], layout.strides()[axis].unsigned_abs());
            match axes.last_mut() {
                _ if length == 1 => {}
                Some(outer) if outer.1 == length * stride => *outer = (outer.0 * length, stride),
                _ => axes.push((length, stride)),
            }
        }
        Self { numbers: &tensor.storage::<f32>()[layout.start_offset()..], axes, width: layout.shape()[order.len() - 1] }
    }

    /// Row number `index`.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [f32] {
        let mut start = 0;
        let mut rest = index as u32;
        for &(length, stride) in self.axes[1.min(self.axes.len())..].iter().rev() {
            start += (rest % length as u32) as usize * stride;
            rest /= length as u32;
        }
        start += rest as usize * self.axes.first().map_or(0, |&(_, stride)| stride);
        &self.numbers[start..start + self.width]
    }
}
