//! How far a student is from its layer. All are means over tokens by their weights; padding weighs nothing.

use burn::prelude::*;
use dtr_attention::precision::single;
use serde::{Deserialize, Serialize};

/// What a student is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// [`normalised_mse`]: the paper's, made comparable across layers.
    #[default]
    NormalisedMse,
    /// [`cosine`].
    Cosine,
    /// [`attention_weights`]: for students with a feature map, of which nothing else is trained.
    AttentionWeights,
}

/// `sum w |o - ô|^2 / sum w |o|^2`: 0 is perfect, 1 is what silence achieves. Comparable across layers.
///
/// # Shapes
/// Both `[B, T, N]`, weights `[B, T]` -> `[1]`.
pub fn normalised_mse<B: Backend>(output: Tensor<B, 3>, target: Tensor<B, 3>, weights: Option<Tensor<B, 2>>) -> Tensor<B, 1> {
    let [error, power] = error_and_power(output, target, weights);
    error / power.add_scalar(f32::MIN_POSITIVE)
}

/// The two sums of [`normalised_mse`], for one over several batches.
pub fn error_and_power<B: Backend>(output: Tensor<B, 3>, target: Tensor<B, 3>, weights: Option<Tensor<B, 2>>) -> [Tensor<B, 1>; 2] {
    let (output, target) = (single(output), single(target));
    let squares = [(output - target.clone()).square(), target.square()];
    squares.map(|squares| match &weights {
        None => squares.sum(),
        Some(weights) => (squares * weights.clone().unsqueeze_dim::<3>(2)).sum(),
    })
}

/// `1 - cos(o, ô)`, token by token: the direction alone, so that loud tokens count no more than others.
///
/// # Shapes
/// Both `[B, T, N]`, weights `[B, T]` -> `[1]`.
pub fn cosine<B: Backend>(output: Tensor<B, 3>, target: Tensor<B, 3>, weights: Option<Tensor<B, 2>>) -> Tensor<B, 1> {
    const EPS: f32 = 1e-12;
    let (output, target) = (single(output), single(target));
    let product = (output.clone() * target.clone()).sum_dim(2);
    let lengths = (output.square().sum_dim(2) * target.square().sum_dim(2)).add_scalar(EPS).sqrt();
    let distance = (product / lengths).neg().add_scalar(1.0).squeeze_dim::<2>(2);
    mean(distance, weights)
}

/// Cross-entropy of a linear student's attention weights under the parent's, `-sum_j a_ij ln â_ij`, means over heads and queries.
///
/// # Shapes
/// Both `[B, H, T, T]`, rows that sum to 1; weights of the queries `[B, T]` -> `[1]`.
///
/// # Reference
/// Hedgehog, arXiv 2402.04347, eq. 4.
pub fn attention_weights<B: Backend>(student: Tensor<B, 4>, parent: Tensor<B, 4>, weights: Option<Tensor<B, 2>>) -> Tensor<B, 1> {
    const EPS: f32 = 1e-8;
    let entropy = (single(parent) * single(student).add_scalar(EPS).log()).sum_dim(3).mean_dim(1).neg();
    let [batch, _, time, _] = entropy.dims();
    mean(entropy.reshape([batch, time]), weights)
}

/// Weighted mean of `x [B, T]`.
fn mean<B: Backend>(x: Tensor<B, 2>, weights: Option<Tensor<B, 2>>) -> Tensor<B, 1> {
    match weights {
        None => x.mean(),
        Some(weights) => (x * weights.clone()).sum() / weights.sum().add_scalar(f32::MIN_POSITIVE),
    }
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    type T<const R: usize> = Tensor<Flex, R>;

    fn check(found: T<1>, expected: f32) {
        let found: f32 = found.into_scalar();
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn losses_by_hand() {
        let device = Default::default();
        let target = T::<3>::from_floats([[[3.0, 4.0], [0.0, 2.0]]], &device);
        let output = T::<3>::from_floats([[[3.0, 0.0], [2.0, 0.0]]], &device);
        let only_first = || Some(T::<2>::from_floats([[1.0, 0.0]], &device));
        check(normalised_mse(output.clone(), target.clone(), None), (16.0 + 8.0) / (25.0 + 4.0));
        check(normalised_mse(output.clone(), target.clone(), only_first()), 16.0 / 25.0);
        check(cosine(output.clone(), target.clone(), None), f32::midpoint(1.0 - 0.6, 1.0));
        check(cosine(output, target, only_first()), 0.4);
        let parent = T::<4>::from_floats([[[[1.0, 0.0], [0.25, 0.75]]]], &device);
        let student = T::<4>::from_floats([[[[1.0, 0.0], [0.5, 0.5]]]], &device);
        check(attention_weights(student.clone(), parent.clone(), None), std::f32::consts::LN_2 / 2.0);
        check(attention_weights(student, parent, only_first()), 0.0);
    }
}
