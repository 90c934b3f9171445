//! Tasks, scoring with shared prefixes, efficiency measurement.

pub mod error;

pub mod corpus;
pub mod random;
pub mod task;

pub mod batch;
pub mod scorer;

pub mod efficiency;

pub use error::EvalError;
pub use scorer::{Scorer, Scores};
pub use task::{Example, Metric, Split, Task};
