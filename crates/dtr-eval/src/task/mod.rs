//! Tasks: examples with labelled tokens, a metric, and rows to distil on.

mod json_lines;
mod names;
mod phonebook;
mod retrieval;
mod rust_docs;
mod rust_text;
mod snippet_origin;
pub mod synthetic;
mod text;
mod writer;

use std::sync::Arc;

use dtr_models::Pooling;
use rand_chacha::ChaCha8Rng;

pub use json_lines::{Answer, FewShot, JsonLines, JsonLinesConfig, Normalise, TooLong};
pub use phonebook::Phonebook;
pub use retrieval::{Retrieval, RetrievalConfig};
pub use rust_docs::rust_docs;
pub use rust_text::RustText;
pub use snippet_origin::SnippetOrigin;
pub use synthetic::Synthetic;
pub use text::{Text, TextConfig};

use crate::error::EvalError;
use crate::generation::Generation;
use crate::random;
use crate::retrieval::Measure;

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

/// How a question is scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// 1 if every labelled token is the likeliest one given all before it, else 0. For an answer at the end of the prompt this
    /// is exact match of greedy generation: the first wrong token is wrong in both, and until then both read the same text.
    ExactMatch,
    /// Share of labelled tokens that are the likeliest.
    TokenAccuracy,
    /// Share of answers, each a run of adjacent labelled tokens, of which every token is the likeliest.
    AnswerAccuracy,
    /// `exp(-loss)`, the geometric mean of the probabilities of labelled tokens: 1 / perplexity.
    Probability,
    /// 1 if, of several answers, the right one has the highest log-likelihood divided by its length, else 0.
    Choice(Normalise),
    /// 1 if, of these tokens or classes, the right one is the likeliest, else 0.
    Label(Vec<u32>),
    /// What is generated, compared with what was expected.
    Generated(Arc<Generation>),
    /// How far up the right document stands among those of all questions, by an encoder's vectors.
    Retrieval(Measure, Pooling),
}

impl Metric {
    /// Name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExactMatch => "exact match",
            Self::TokenAccuracy => "token accuracy",
            Self::AnswerAccuracy => "answer accuracy",
            Self::Probability => "token probability",
            Self::Choice(Normalise::Nothing) | Self::Label(_) => "accuracy",
            Self::Choice(Normalise::Tokens) => "accuracy by token",
            Self::Choice(Normalise::Characters) => "accuracy by character",
            Self::Choice(Normalise::Bytes) => "accuracy by byte",
            Self::Generated(generation) => generation.metric.name(),
            Self::Retrieval(measure, _) => measure.name(),
        }
    }

    /// Mean score of guessing where one of several answers is chosen; 0 where nothing is known of it.
    pub fn chance(&self, questions: &[Question]) -> f64 {
        let of = |question: &Question| match self {
            Self::Choice(_) => 1.0 / question.answers.len() as f64,
            Self::Label(tokens) => 1.0 / tokens.len() as f64,
            _ => 0.0,
        };
        questions.iter().map(of).sum::<f64>() / questions.len() as f64
    }
}

/// A sequence and which of its tokens are to be predicted; or a text and its class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// The whole sequence, answers included.
    pub tokens: Vec<u32>,
    /// Indices of the tokens to be predicted from all before them; of a decoder's task at least one, none of them 0.
    pub labelled: Vec<usize>,
    /// Class of the whole text, which an encoder with a head tells at its first token.
    pub class: Option<u32>,
}

impl Example {
    /// What is to be told, labelled tokens or the class, each with the place whose hidden state tells it.
    pub fn told(&self) -> impl Iterator<Item = (usize, u32)> {
        let tokens = self.labelled.iter().filter_map(|&at| Some((at.checked_sub(1)?, self.tokens[at])));
        tokens.chain(self.class.map(|class| (0, class)))
    }

    /// Lengths of its answers: runs of adjacent labelled tokens.
    pub fn answers(&self) -> Vec<usize> {
        let runs = self.labelled.chunk_by(|before, after| before + 1 == *after).map(<[usize]>::len);
        runs.chain(self.class.map(|_| 1)).collect()
    }

    /// A text of an encoder, cut to `length` tokens. What the tokenizer puts at the end of a text stays there.
    #[must_use]
    pub(crate) fn within(mut self, length: usize) -> Self {
        if let Some(&end) = self.tokens.last()
            && self.tokens.len() > length
        {
            self.tokens.truncate(length);
            self.tokens[length - 1] = end;
        }
        self
    }
}

/// What a model is asked: a prompt with one answer, or with several to choose from. An encoder is asked for the class of a text, which is the
/// only answer, or for vectors: its first answer is the query then and its second the document, without labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Name, unlike those of the task's other questions.
    pub id: String,
    /// Each answer with all that stands before it; most tasks have only the right one.
    pub answers: Vec<Example>,
    /// What the log-likelihood of each answer is divided by where several are compared.
    pub lengths: Vec<usize>,
    /// Which answer is right.
    pub right: usize,
    /// Texts that are right where text is generated.
    pub references: Vec<String>,
}

impl Question {
    /// A question with one answer.
    pub fn single(id: String, answer: Example) -> Self {
        let lengths = vec![answer.told().count()];
        Self { id, answers: vec![answer], lengths, right: 0, references: Vec::new() }
    }

    /// The right answer with all that stands before it.
    pub fn example(&self) -> &Example {
        &self.answers[self.right]
    }

    /// Tokens that all answers begin with, as far as no labelled token is predicted from the last of them.
    pub fn shared(&self) -> usize {
        let first = &self.example().tokens;
        let alike = |answer: &Example| {
            let alike = first.iter().zip(&answer.tokens).take_while(|(first, other)| first == other).count();
            alike.min(answer.labelled.first().map_or(0, |at| at - 1))
        };
        self.answers.iter().map(alike).min().unwrap_or(0)
    }

    /// Tokens of all answers together.
    pub fn tokens(&self) -> usize {
        self.answers.iter().map(|answer| answer.tokens.len()).sum()
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
    /// How questions are scored.
    fn metric(&self) -> Metric;

    /// Draws an example of a split, with its right answer.
    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example;

    /// The fixed questions of a split: the same for every experiment, whatever its seed. Those of a task that is drawn never run out.
    fn questions(&self, name: &str, split: Split, count: usize) -> Vec<Question> {
        let mut random = random::stream(&format!("{name}/{}", split.name()));
        (0..count).map(|index| Question::single(index.to_string(), self.example(split, &mut random))).collect()
    }

    /// The same with their right answers alone.
    fn examples(&self, name: &str, split: Split, count: usize) -> Vec<Example> {
        self.questions(name, split, count).into_iter().map(|mut question| question.answers.swap_remove(question.right)).collect()
    }

    /// Stands for what the examples are, where their files say it; empty where the task's settings do.
    fn content(&self) -> String {
        String::new()
    }

    /// Prompts of a split that were cut to the model's context.
    fn truncated(&self, _split: Split) -> usize {
        0
    }
}

/// A row of exactly `length` tokens: documents one behind the other, the last cut off.
///
/// # Errors
/// If a document cannot be read.
pub fn row(documents: &dyn Documents, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
    let mut row = Example { tokens: Vec::with_capacity(length), ..Example::default() };
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
