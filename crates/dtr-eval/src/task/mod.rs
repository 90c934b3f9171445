//! Tasks: examples with labelled tokens, a metric, and rows to distil on.

mod names;
mod phonebook;
mod rust_text;
mod snippet_origin;
pub mod synthetic;

use rand_chacha::ChaCha8Rng;

pub use phonebook::Phonebook;
pub use rust_text::RustText;
pub use snippet_origin::SnippetOrigin;
pub use synthetic::Synthetic;

use crate::error::EvalError;
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
    /// Share of answers, each a run of adjacent labelled tokens, of which every token is the likeliest.
    AnswerAccuracy,
}

impl Metric {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact match",
            Self::TokenAccuracy => "token accuracy",
            Self::AnswerAccuracy => "answer accuracy",
        }
    }

    /// Score of an example from whether each labelled token is the likeliest one, in answers of these lengths.
    pub fn score(self, right: &[bool], answers: &[usize]) -> f32 {
        let share = |right: usize, all: usize| right as f32 / all as f32;
        match self {
            Self::ExactMatch => f32::from(u8::from(right.iter().all(|&right| right))),
            Self::TokenAccuracy => share(right.iter().filter(|&&right| right).count(), right.len()),
            Self::AnswerAccuracy => {
                let mut rest = right;
                let exact = answers.iter().filter(|&&length| {
                    let (answer, others) = rest.split_at(length);
                    rest = others;
                    answer.iter().all(|&right| right)
                });
                share(exact.count(), answers.len())
            }
        }
    }
}

/// A sequence and which of its tokens are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The whole sequence, answers included.
    pub tokens: Vec<u32>,
    /// Indices of the tokens to be predicted from all before them; of a task's example at least one, none of them 0.
    pub labelled: Vec<usize>,
}

impl Example {
    /// Lengths of its answers: runs of adjacent labelled tokens.
    pub fn answers(&self) -> Vec<usize> {
        self.labelled.chunk_by(|before, after| before + 1 == *after).map(<[usize]>::len).collect()
    }
}

/// Something to distil on.
pub trait Documents: Send + Sync {
    /// Draws a document for training, about `length` tokens long if that is possible; labelled are tokens that matter more than the others.
    ///
    /// # Errors
    /// If it cannot be read.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError>;
}

/// A task over one parent's tokens; its documents are of the training split.
pub trait Task: Documents {
    /// How examples are scored.
    fn metric(&self) -> Metric;

    /// Draws an example of a split.
    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example;

    /// The fixed examples of a split: the same for every experiment, whatever its seed.
    fn examples(&self, name: &str, split: Split, count: usize) -> Vec<Example> {
        let mut random = random::stream(&format!("{name}/{}", split.name()));
        (0..count).map(|_| self.example(split, &mut random)).collect()
    }
}

/// A row of exactly `length` tokens: documents one behind the other, the last cut off.
///
/// # Errors
/// If a document cannot be read.
pub fn row(documents: &dyn Documents, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
    let mut row = Example { tokens: Vec::with_capacity(length), labelled: Vec::new() };
    while row.tokens.len() < length {
        let before = row.tokens.len();
        let document = documents.document(length - before, random)?;
        row.tokens.extend(document.tokens);
        row.labelled.extend(document.labelled.into_iter().map(|at| before + at));
    }
    row.tokens.truncate(length);
    row.labelled.retain(|&at| at < length);
    Ok(row)
}
