//! What can be wrong with a task or its data.

use std::path::PathBuf;

use dtr_models::CheckpointError;
use thiserror::Error;

use crate::flaw::Flaws;
use crate::task::synthetic::Parameter;

/// A task cannot be made.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The tokenizer lacks something.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// `cargo metadata` does not work.
    #[error("cargo metadata failed for {}: {reason}. The text of this task is read from the sources of the workspace's locked dependencies; run `cargo fetch --locked` there, then run again", manifest.display())]
    Metadata {
        /// Manifest of the workspace.
        manifest: PathBuf,
        /// What cargo says.
        reason: String,
    },
    /// A crate is not among the locked dependencies.
    #[error("crate \"{name}\" is not among the workspace's locked dependencies ({}). Name one that is", manifest.display())]
    UnknownCrate {
        /// The crate.
        name: String,
        /// Manifest of the workspace.
        manifest: PathBuf,
    },
    /// A source file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} {reason}. Correct the file, or name its format", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Files without content.
    #[error("there is no text in {}: all of it is empty. Name files with text", listed(paths))]
    NoText {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// Less text than one batch takes.
    #[error("{} has {found} tokens, one batch takes {needed}. Add text, or lower distill.rows or distill.length", listed(paths))]
    TooShort {
        /// The files.
        paths: Vec<PathBuf>,
        /// Tokens there are.
        found: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// A split has nothing to offer.
    #[error(
        "the {split} split of {what} is empty: no file has more than {needed} tokens. Shorten the task's examples or name other crates"
    )]
    EmptySplit {
        /// Which split.
        split: &'static str,
        /// Of which crate or task.
        what: String,
        /// Tokens an example needs.
        needed: usize,
    },
    /// Lines that are no examples.
    #[error("{} of the examples of {what} cannot be used: {flaws}. Correct these lines, or remove them", flaws.0.len())]
    BadExamples {
        /// Of which task.
        what: String,
        /// All of them.
        flaws: Flaws,
    },
    /// Fewer examples than are asked for.
    #[error("the {split} split of {what} has {found} examples, {wanted} are asked for. Ask for at most {found}, or add examples")]
    TooFewExamples {
        /// Which split.
        split: &'static str,
        /// Of which task.
        what: String,
        /// Examples there are.
        found: usize,
        /// Examples asked for.
        wanted: usize,
    },
    /// A label that is not one token.
    #[error(
        "the label {label:?} of {what} is {tokens} tokens by itself, expected one. Write another label, or compare whole answers with `choices`"
    )]
    LabelTokens {
        /// Of which task.
        what: String,
        /// The label.
        label: String,
        /// Tokens it is.
        tokens: usize,
    },
    /// A label that is no class of the model.
    #[error(
        "{what} has a label that stands for {name:?}, the model tells apart: {}. Write for each label the name of a class, as id2label in the model's config.json has it",
        classes.join(", ")
    )]
    UnknownClass {
        /// Of which task.
        what: String,
        /// What the label stands for.
        name: String,
        /// Classes of the model.
        classes: Vec<String>,
    },
    /// A task for encoders, and a model that is none.
    #[error(
        "{what} compares vectors of texts, which only an encoder makes, and the model generates text. Name an encoder such as BERT, or another task"
    )]
    NoEncoder {
        /// Which task.
        what: String,
    },
    /// A task for decoders, and a model that is none.
    #[error(
        "{what} asks for predicted tokens, and the model is an encoder, which predicts none. Write a retrieval task, one with labels for an encoder with a head for them (as BertForSequenceClassification), or name a model that generates"
    )]
    OnlyEncoder {
        /// Which task.
        what: String,
    },
    /// A chat is asked for, and the model knows none.
    #[error(
        "{what} asks for a chat template, and the model has none. Write chat = false, or add chat_template.jinja to the model's directory"
    )]
    NoChatTemplate {
        /// Which task.
        what: String,
    },
    /// A context that the model does not have.
    #[error("{what} asks for a context of {wanted} tokens, the model was made for {available}. Ask for at most that many")]
    ContextTooLong {
        /// Which task.
        what: String,
        /// Tokens asked for.
        wanted: usize,
        /// Tokens of the model's context.
        available: usize,
    },
    /// More distinct names are asked for than there are.
    #[error("a phonebook of {entries} entries needs as many names, there are {available}. Ask for at most that many entries")]
    TooManyEntries {
        /// Entries asked for.
        entries: usize,
        /// Pairs of a first and a last name there are.
        available: usize,
    },
    /// A parameter of a synthetic task makes no sense.
    #[error(transparent)]
    Parameter(#[from] Parameter),
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
