//! What can be wrong with one example of a file, and all that is wrong with the examples of a task.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Bad lines that a message names; of the others it gives the number.
const SHOWN: usize = 4;

/// Why a line is no example.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Bytes that are no text.
    #[error("is no UTF-8 text at byte {byte} of the line")]
    NotUtf8 {
        /// First such byte.
        byte: usize,
    },
    /// Text that is no JSON.
    #[error("is no JSON: {reason}")]
    NotJson {
        /// What the reader says.
        reason: String,
    },
    /// JSON that is no object.
    #[error("is {found}, expected an object in braces")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A field that the task names is not there.
    #[error("has no field \"{field}\", which the task names")]
    MissingField {
        /// The field.
        field: String,
    },
    /// A field that cannot be put into text.
    #[error("has {found} in the field \"{field}\", expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
        /// What would make sense.
        expected: &'static str,
    },
    /// An example of that name has been there before.
    #[error("has the id \"{id}\" of {first}")]
    DuplicateId {
        /// The name.
        id: String,
        /// The one before.
        first: String,
    },
    /// Fewer than two answers to choose from.
    #[error("has {found} choices, expected at least 2")]
    TooFewChoices {
        /// Choices there are.
        found: usize,
    },
    /// The right answer is none of those to choose from.
    #[error("says that {found} is right, expected {expected}")]
    NoSuchAnswer {
        /// What it says.
        found: String,
        /// What would make sense.
        expected: String,
    },
    /// A prompt without text.
    #[error("has a prompt without tokens: nothing can be predicted from it. Begin the prompt with the model's start token")]
    EmptyPrompt,
    /// An answer without text.
    #[error("has an answer without text of its own")]
    EmptyAnswer,
    /// A right answer that generation cannot give.
    #[error("has an answer with the stop string {stop:?} in it: generation would end in front of it")]
    StopInAnswer {
        /// The stop string.
        stop: String,
    },
    /// An answer that leaves no room for a question.
    #[error("has an answer of {tokens} tokens, the context is {context}")]
    AnswerTooLong {
        /// Tokens of the answer, or those that may be generated.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// More than the model reads.
    #[error("needs {tokens} tokens with its answer, the context is {context}. Write too-long = \"truncate\" to cut prompts on the left")]
    PromptTooLong {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The chat template or the tokenizer refuses it.
    #[error("cannot be put into tokens: {reason}")]
    Refused {
        /// In their words.
        reason: String,
    },
}

/// Where an example stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
}

impl Place {
    pub(crate) fn new(path: &Path, line: usize) -> Self {
        Self { path: path.into(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {} of {}", self.line, self.path.display())
    }
}

/// All lines of a task that are no examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaws(pub Vec<(Place, Flaw)>);

impl fmt::Display for Flaws {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (place, flaw)) in self.0.iter().take(SHOWN).enumerate() {
            write!(formatter, "{}{place} {flaw}", if index == 0 { "" } else { "; " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more"),
        }
    }
}
