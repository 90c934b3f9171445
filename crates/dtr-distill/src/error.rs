//! What can go wrong while students are made.

use dtr_models::CheckpointError;
use thiserror::Error;

/// Distillation failed.
#[derive(Debug, Error)]
pub enum DistillError {
    /// A student could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Rows cannot be read.
    #[error("{0}")]
    Rows(Box<dyn std::error::Error + Send + Sync>),
    /// Hidden states of another parent.
    #[error("{} holds hidden states of the parent {found}, expected those of {expected}. Remove it, or give another directory", directory.display())]
    OtherCache {
        /// Where.
        directory: std::path::PathBuf,
        /// This parent.
        expected: String,
        /// That one.
        found: String,
    },
    /// A loss is not a number.
    #[error(
        "the loss of the {operator} student of layer {layer} is {loss} again and again after {tokens} tokens. Expected a finite number; lower distill.learning-rate or lengthen distill.warmup"
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
