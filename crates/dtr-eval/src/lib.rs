//! Tasks, scoring with shared prefixes, efficiency measurement.

pub mod error;

pub mod corpus;
pub mod files;
pub mod random;
pub mod task;

pub mod batch;
pub mod prefixes;
pub mod scorer;

pub mod efficiency;

pub use error::EvalError;
pub use files::{Files, Format};
pub use scorer::{Score, Scorer};
pub use task::{Documents, Example, Metric, Split, Task};
