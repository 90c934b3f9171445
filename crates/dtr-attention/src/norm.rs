//! Normalisation of the last dimension.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::precision::{like, single};

/// Root-mean-square norm, `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Shapes
/// `x [.., N]`, `weight [N]`.
///
/// # Reference
/// arXiv 1910.07467.
pub fn rms<B: MixerBackend, const R: usize>(x: Tensor<B, R>, weight: Tensor<B, 1>, eps: f64) -> Tensor<B, R> {
    tensor(B::rms_norm(primitive(x), primitive(weight), eps))
}

/// Layer norm, `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension.
///
/// # Shapes
/// `x [.., N]`, `weight, bias [N]`.
///
/// # Reference
/// arXiv 1607.06450.
pub fn layer<B: MixerBackend, const R: usize>(x: Tensor<B, R>, weight: Tensor<B, 1>, bias: Tensor<B, 1>, eps: f64) -> Tensor<B, R> {
    tensor(B::layer_norm_affine(primitive(x), primitive(weight), primitive(bias), eps))
}

/// The definition of [`layer`], on rows.
pub(crate) fn layer_composed<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, bias: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let shape = burn::tensor::TensorMetadata::shape(&x);
    let width = shape[shape.num_dims() - 1];
    let rows = tensor::<B, 2>(B::float_reshape(x, [shape.num_elements() / width, width].into()));
    let centred = rows.clone() - rows.mean_dim(1);
    let scale = centred.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip();
    let scaled = centred * scale * tensor::<B, 1>(weight).unsqueeze() + tensor::<B, 1>(bias).unsqueeze();
    B::float_reshape(primitive(scaled), shape)
}

/// Unit length times `length`, `length * x / sqrt(sum(x^2) + eps)`: the RMS norm with a constant weight.
///
/// # Shapes
/// `x [.., N]`.
pub fn unit<B: MixerBackend, const R: usize>(x: Tensor<B, R>, length: f64, eps: f64) -> Tensor<B, R> {
    let width = x.dims()[R - 1];
    let weight = Tensor::full([width], length / (width as f64).sqrt(), &x.device());
    rms(x, weight, eps / width as f64)
}

/// The definition of [`rms`], on rows.
pub(crate) fn rms_composed<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let shape = burn::tensor::TensorMetadata::shape(&x);
    let width = shape[shape.num_dims() - 1];
    let rows = tensor::<B, 2>(B::float_reshape(x, [shape.num_elements() / width, width].into()));
    let dtype = rows.dtype();
    let (rows, weight) = (single(rows), single(tensor::<B, 1>(weight)));
    let scale = rows.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip();
    B::float_reshape(primitive(like(rows * scale * weight.unsqueeze(), dtype)), shape)
}
