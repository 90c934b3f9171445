//! How far a student is from its layer.

use burn::prelude::*;

/// `MSE(o, ô) / MSE(o, 0)`: 0 is perfect, 1 is what silence achieves. Comparable across layers.
///
/// # Shapes
/// Both `[B, T, N]` -> `[1]`.
pub fn normalised_mse<B: Backend>(output: Tensor<B, 3>, target: Tensor<B, 3>) -> Tensor<B, 1> {
    let power = target.clone().square().mean();
    (output - target).square().mean() / power.add_scalar(f32::MIN_POSITIVE)
}
