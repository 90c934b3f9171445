//! Synthetic tasks with published recipes: recall, copying, needles in haystacks, chains of variables, nested lists.
//!
//! Each is a table of parameters (`tokens` is always the length of an example at most, answer included) and a generator. All of
//! it is drawn from the stream it is given, so that two examples of different streams agree only by an unlikely chance; where
//! that chance is not small (`list-ops`), or text is used, splits are disjoint by construction.

mod haystack;
mod in_context_recall;
mod induction;
mod list_ops;
mod mqar;
mod needle;
mod selective_copying;
mod symbols;
mod variable_tracking;
mod words;

use dtr_models::Tokenizer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use in_context_recall::InContextRecall;
pub use induction::Induction;
pub use list_ops::ListOps;
pub use mqar::Mqar;
pub use needle::{Haystack, Needle, Values};
pub use selective_copying::SelectiveCopying;
pub use variable_tracking::VariableTracking;

use super::Task;
use crate::corpus::Sources;
use crate::error::EvalError;
use symbols::OverTokens;

/// A parameter that makes no sense with the others, or with the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{key}` must be {expected}, found {found}: {remedy}")]
pub struct Parameter {
    /// Its dotted key in the table of the task's kind.
    pub key: &'static str,
    /// What would make sense.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}

/// A synthetic task by its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synthetic {
    /// Values of many keys.
    Mqar(Mqar),
    /// Values of keys that come again, with noise or of several tokens.
    InContextRecall(InContextRecall),
    /// What followed a token before.
    Induction(Induction),
    /// Data among blanks.
    SelectiveCopying(SelectiveCopying),
    /// A sentence in a long text.
    Needle(Needle),
    /// Variables that hold a value by assignment.
    VariableTracking(VariableTracking),
    /// The value of a nested expression.
    ListOps(ListOps),
}

impl Synthetic {
    /// Key in the experiment file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mqar(_) => "mqar",
            Self::InContextRecall(_) => "in-context-recall",
            Self::Induction(_) => "induction",
            Self::SelectiveCopying(_) => "selective-copying",
            Self::Needle(_) => "needle",
            Self::VariableTracking(_) => "variable-tracking",
            Self::ListOps(_) => "list-ops",
        }
    }

    /// Checks what does not depend on a tokenizer.
    ///
    /// # Errors
    /// The first parameter that makes no sense.
    pub fn check(&self) -> Result<(), Parameter> {
        match self {
            Self::Mqar(task) => task.check(),
            Self::InContextRecall(task) => task.check(),
            Self::Induction(task) => task.check(),
            Self::SelectiveCopying(task) => task.check(),
            Self::Needle(task) => task.check(),
            Self::VariableTracking(task) => task.check(),
            Self::ListOps(task) => task.check(),
        }
    }

    /// The task over the tokens of one parent; `sources` is asked where text is wanted.
    ///
    /// # Errors
    /// If a parameter makes no sense with the others or with the tokenizer, or text is missing.
    pub fn task(&self, tokenizer: &Tokenizer, sources: &mut dyn FnMut() -> Result<Sources, EvalError>) -> Result<Box<dyn Task>, EvalError> {
        self.check()?;
        Ok(match self.clone() {
            Self::Mqar(task) => Box::new(OverTokens::new(tokenizer, task)?),
            Self::InContextRecall(task) => Box::new(OverTokens::new(tokenizer, task)?),
            Self::Induction(task) => Box::new(OverTokens::new(tokenizer, task)?),
            Self::SelectiveCopying(task) => Box::new(OverTokens::new(tokenizer, task)?),
            Self::Needle(task) => Box::new(needle::Needles::new(tokenizer, sources, task)?),
            Self::VariableTracking(task) => Box::new(variable_tracking::Chains::new(tokenizer, task)?),
            Self::ListOps(task) => Box::new(list_ops::Expressions::new(tokenizer, task)?),
        })
    }
}

fn require(
    holds: bool,
    key: &'static str,
    expected: impl Into<String>,
    found: impl ToString,
    remedy: &'static str,
) -> Result<(), Parameter> {
    if holds {
        return Ok(());
    }
    Err(Parameter { key, expected: expected.into(), found: found.to_string(), remedy })
}
