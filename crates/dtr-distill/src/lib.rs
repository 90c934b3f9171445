//! Blockwise distillation: every attention sublayer is imitated, alone, by a linear student fed with the parent's own inputs.
//!
//! `L_i = MSE(o_i, ô_i) / MSE(o_i, 0)` for layer `i`; no gradient crosses layers, so all layers and operators learn from one
//! pass of the parent. Reference: arXiv 2601.11667, section 3.1 (there without the normalisation).

pub mod bank;
pub mod error;

pub mod batch;
pub mod cache;
pub mod loss;
pub mod observe;
pub mod optimiser;
pub mod schedule;

pub mod initialise;
pub mod ridge;

mod adamw;
mod lessons;
mod pupil;
pub mod recover;
pub mod snapshot;
mod thaw;
pub mod trainer;

pub use bank::StudentBank;
pub use batch::{Batch, Row};
pub use cache::StateCache;
pub use error::DistillError;
pub use initialise::Initialise;
pub use loss::Loss;
pub use optimiser::Optimiser;
pub use recover::recover;
pub use snapshot::Snapshots;
pub use trainer::{Progress, Settings, refit, train};
