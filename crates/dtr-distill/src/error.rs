//! What can go wrong while students are made.

use dtr_models::CheckpointError;
use thiserror::Error;

/// Distillation failed.
#[derive(Debug, Error)]
pub enum DistillError {
    /// A student could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A loss is not a number.
    #[error(
        "the loss of the {operator} student of layer {layer} became {loss} after {tokens} tokens. Expected a finite number; lower distill.learning-rate or lengthen distill.warmup"
    )]
    Diverged {
        /// Layer.
        layer: usize,
        /// Operator's name.
        operator: &'static str,
        /// Tokens trained on.
        tokens: usize,
        /// The loss.
        loss: f32,
    },
    /// The loss of the whole hybrid is not a number.
    #[error(
        "the loss of the hybrid became {loss} after {tokens} tokens of recovery. Expected a finite number; lower search.recovery.learning-rate"
    )]
    RecoveryDiverged {
        /// Tokens trained on.
        tokens: usize,
        /// The loss.
        loss: f32,
    },
    /// A ridge system has no solution.
    #[error(
        "the output projection of layer {layer} cannot be fitted: its inputs are not finite. The parent gives NaN or infinity on the calibration rows"
    )]
    Singular {
        /// Layer.
        layer: usize,
    },
}
