//! Tasks, scoring with shared prefixes, efficiency measurement.

pub mod error;
pub mod flaw;

pub mod corpus;
pub mod files;
pub mod random;
pub mod reader;
pub mod records;
pub mod template;

pub mod generation;
pub mod task;

pub mod batch;
pub mod prefixes;
pub mod reply;
pub mod retrieval;
pub mod scorer;
mod work;

pub mod efficiency;
pub mod evaluate;

pub use error::EvalError;
pub use evaluate::{evaluate, parts};
pub use files::{Files, Format};
pub use reader::Reader;
pub use reply::{Reply, Score};
pub use retrieval::Measure;
pub use scorer::{BATCH_TOKENS, Scorer};
pub use task::{Documents, Example, Metric, Question, Split, Task};
