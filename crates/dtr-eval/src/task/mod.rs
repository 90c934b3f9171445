//! Tasks: examples with labelled tokens, a metric, and rows to distil on.

mod names;
mod phonebook;
mod rust_text;
mod snippet_origin;

use rand_chacha::ChaCha8Rng;

pub use phonebook::Phonebook;
pub use rust_text::RustText;
pub use snippet_origin::SnippetOrigin;

use crate::random;

/// Part of a task's data. No file or phonebook is in two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// Distilled on.
    Training,
    /// Chosen on.
    Validation,
    /// Reported on.
    Test,
}

impl Split {
    /// Name for people and streams.
    pub fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// How an example is scored from its labelled tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// 1 if every labelled token is the likeliest one given all before it, else 0. For an answer at the end of the prompt this
    /// is exact match of greedy generation: the first wrong token is wrong in both, and until then both read the same text.
    ExactMatch,
    /// Share of labelled tokens that are the likeliest.
    TokenAccuracy,
}

impl Metric {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact match",
            Self::TokenAccuracy => "token accuracy",
        }
    }
}

/// A sequence and which of its tokens are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The whole sequence, answers included.
    pub tokens: Vec<u32>,
    /// Indices of the tokens to be predicted from all before them; at least one, none of them 0.
    pub labelled: Vec<usize>,
}

/// A task over one parent's tokens.
pub trait Task: Send + Sync {
    /// How examples are scored.
    fn metric(&self) -> Metric;

    /// Draws an example of a split.
    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example;

    /// Draws a document of the training split, about `length` tokens long if the task allows.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Vec<u32>;

    /// The fixed examples of a split: the same for every experiment, whatever its seed.
    fn examples(&self, name: &str, split: Split, count: usize) -> Vec<Example> {
        let mut random = random::stream(&format!("{name}/{}", split.name()));
        (0..count).map(|_| self.example(split, &mut random)).collect()
    }
}

/// A row of exactly `length` tokens: documents of one task, one behind the other, the last cut off.
pub fn row(task: &dyn Task, length: usize, random: &mut ChaCha8Rng) -> Vec<u32> {
    let mut row = Vec::with_capacity(length);
    while row.len() < length {
        row.extend(task.document(length - row.len(), random));
    }
    row.truncate(length);
    row
}
