//! Log-softmax cross-entropy.

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::ops::{FloatTensor, IntTensor};

use crate::backend::{MixerBackend, primitive, tensor};
use crate::precision::single;

/// `-log(softmax(logits)[target])` of each row, in nats; 0 where the target is negative (a row that does not count).
///
/// # Shapes
/// `logits [N, C]`, `targets [N]` -> `[N]`.
///
/// # Panics
/// On a backend with kernels of its own, if a target is not below `C`.
pub fn cross_entropy<B: MixerBackend>(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>) -> Tensor<B, 1> {
    tensor(B::cross_entropy(primitive(logits), targets.into_primitive()))
}

/// The definition of [`cross_entropy`].
pub(crate) fn composed<B: Backend>(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
    let targets: Tensor<B, 2, Int> = Tensor::<B, 1, Int>::from_primitive(targets).unsqueeze_dim(1);
    let ignored = targets.clone().lower_elem(0);
    let losses = log_softmax(single(tensor::<B, 2>(logits)), 1).gather(1, targets.clamp_min(0)).neg();
    primitive(losses.mask_fill(ignored, 0.0).squeeze_dim::<1>(1))
}
