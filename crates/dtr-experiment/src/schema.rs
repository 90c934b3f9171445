//! The experiment file: read, overridden from the command line, validated, and written out again in full.

mod device;
mod document;
mod own_tasks;
mod raw;
mod validate;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use dtr_eval::task::{Answer, JsonLinesConfig, RetrievalConfig, Synthetic, TextConfig};
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use self::{
    device::{Compute, Device, Precision, UnknownDevice},
    raw::{
        Corpus, Distill, Efficiency, Goal, Limit, Operator, Phonebook, Recovery, Refit, RustDocs, RustText, Search, SnippetOrigin, Towards,
        Trained,
    },
};
use self::{
    document::{Document, Sources},
    raw::{RawExperiment, RawParent, RawTask, RawTasks},
    validate::Checker,
};
use crate::error::Error;

/// An experiment in which every value makes sense by itself and with the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    name: String,
    seed: u64,
    compute: Compute,
    parent: Parent,
    operators: Vec<Operator>,
    distill: Distill,
    tasks: BTreeMap<String, Task>,
    corpora: BTreeMap<String, Corpus>,
    search: Search,
    efficiency: Efficiency,
}

/// Where the model that an experiment begins with is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// In a directory, absolute and canonical.
    Directory(PathBuf),
    /// In a repository of a hub of models.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

/// Something a model is to do, with the size of the splits it is judged on.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Examples to choose on.
    pub validation: usize,
    /// Examples to report on.
    pub test: usize,
    /// What the examples are.
    pub kind: TaskKind,
}

/// What the examples of a task are.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskKind {
    /// Look up a number in a list of names and numbers.
    Phonebook(Phonebook),
    /// Tell which crate a piece of source text is from.
    SnippetOrigin(SnippetOrigin),
    /// Continue source text.
    RustText(RustText),
    /// A task with a published recipe.
    Synthetic(Synthetic),
    /// Examples of one's own, with prompts and answers.
    JsonLines(Box<JsonLinesConfig>),
    /// Text of one's own.
    Text(TextConfig),
    /// Queries and documents of one's own, for encoders.
    Retrieval(Box<RetrievalConfig>),
    /// Find documentation, for encoders.
    RustDocs(RustDocs),
}

impl TaskKind {
    /// Key in the experiment file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Phonebook(_) => "phonebook",
            Self::SnippetOrigin(_) => "snippet-origin",
            Self::RustText(_) => "rust-text",
            Self::Synthetic(kind) => kind.name(),
            Self::JsonLines(_) => "json-lines",
            Self::Text(_) => "text",
            Self::Retrieval(_) => "retrieval",
            Self::RustDocs(_) => "rust-docs",
        }
    }

    /// Whether it compares vectors of texts: it is for encoders, and for no other model.
    pub fn is_for_encoders(&self) -> bool {
        matches!(self, Self::Retrieval(_) | Self::RustDocs(_))
    }

    /// Whether it asks for the likeliest of several labels, which an encoder can tell, too, if it has a head for them.
    pub fn has_labels(&self) -> bool {
        matches!(self, Self::JsonLines(config) if matches!(config.answer, Answer::Labels { .. }))
    }

    /// Hash of what the examples are.
    pub fn key(&self) -> String {
        match self {
            Self::Phonebook(kind) => key(&(self.name(), kind)),
            Self::SnippetOrigin(kind) => key(&(self.name(), kind)),
            Self::RustText(kind) => key(&(self.name(), kind)),
            Self::Synthetic(kind) => key(kind),
            Self::JsonLines(kind) => key(&(self.name(), kind)),
            Self::Text(kind) => key(&(self.name(), kind)),
            Self::Retrieval(kind) => key(&(self.name(), kind)),
            Self::RustDocs(kind) => key(&(self.name(), kind)),
        }
    }
}

impl Experiment {
    /// Reads the file at `path` and replaces the value of each dotted key in `overrides`, in their order. An override's
    /// value is TOML, or else a string. A relative path to the parent begins at the file's directory.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Invalid`] with the place when the experiment makes no sense.
    pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        let sources = Sources::new(path, text, overrides);
        let document = Document::parse(&sources)?;
        let raw: RawExperiment = document.raw()?;
        let checker = Checker(&document);
        checker.name(&["name"], &raw.name)?;
        checker.operators(&raw.operators)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let tasks = checker.tasks(raw.tasks, directory)?;
        let corpora = checker.corpora(raw.corpora, &tasks, directory)?;
        checker.distill(&raw.distill, &raw.operators, &tasks, &corpora)?;
        checker.search(&raw.search, &tasks)?;
        checker.efficiency(&raw.efficiency)?;
        Ok(Self {
            compute: Compute { device: checker.device(&raw.device)?, dtype: raw.dtype },
            parent: checker.parent(raw.parent, directory)?,
            name: raw.name,
            seed: raw.seed,
            operators: raw.operators,
            distill: raw.distill,
            tasks,
            corpora,
            search: raw.search,
            efficiency: raw.efficiency,
        })
    }

    /// Name, fit for a directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seed of everything drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where and in what it computes.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Where the parent model is found.
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Operators that compete for each layer, of different kinds, in order of preference on ties.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// How the students are trained.
    pub fn distill(&self) -> &Distill {
        &self.distill
    }

    /// All tasks by name, each fit for a directory.
    pub fn tasks(&self) -> &BTreeMap<String, Task> {
        &self.tasks
    }

    /// Text of one's own by name, files as absolute paths.
    pub fn corpora(&self) -> &BTreeMap<String, Corpus> {
        &self.corpora
    }

    /// Which hybrids are built, and what they must keep.
    pub fn search(&self) -> &Search {
        &self.search
    }

    /// How speed and memory are measured.
    pub fn efficiency(&self) -> &Efficiency {
        &self.efficiency
    }

    /// The resolved experiment: overrides applied, the parent's path absolute. It loads again to an equal experiment.
    ///
    /// # Panics
    /// Never: TOML can hold every validated experiment.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.raw(RawParent::from(self.parent.clone()))).expect("a validated experiment is representable as TOML")
    }

    /// Eight hexadecimal digits that name this experiment. Of the parent's path, only the last part counts, so that
    /// machines agree on it.
    pub fn hash(&self) -> String {
        let mut parent = RawParent::from(self.parent.clone());
        parent.path = parent.path.map(|path| path.file_name().unwrap_or_default().into());
        let mut hash = key(&self.raw(parent));
        hash.truncate(8);
        hash
    }

    fn raw(&self, parent: RawParent) -> RawExperiment {
        RawExperiment {
            name: self.name.clone(),
            seed: self.seed,
            device: self.compute.device.to_string(),
            dtype: self.compute.dtype,
            parent,
            operators: self.operators.clone(),
            distill: self.distill.clone(),
            tasks: self.tasks.iter().map(|(name, task)| (name.clone(), RawTask::from(task))).collect(),
            corpora: self.corpora.clone(),
            search: self.search.clone(),
            efficiency: self.efficiency.clone(),
        }
    }
}

/// The tasks of the file at `path`: an experiment, or a file with tasks alone.
///
/// # Errors
/// As [`Experiment::load`].
pub fn load_tasks(path: &Path) -> Result<BTreeMap<String, Task>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let sources = Sources::new(path, text, &[]);
    let document = Document::parse(&sources)?;
    if !document.has_only("tasks") {
        return Ok(Experiment::load(path, &[])?.tasks);
    }
    let raw: RawTasks = document.raw()?;
    Checker(&document).tasks(raw.tasks, path.parent().unwrap_or(Path::new("")))
}

impl From<Parent> for RawParent {
    fn from(parent: Parent) -> Self {
        match parent {
            Parent::Directory(path) => Self { path: Some(path), hub: None, revision: None },
            Parent::Hub { repository, revision } => Self { path: None, hub: Some(repository), revision: Some(revision) },
        }
    }
}

impl From<&Task> for RawTask {
    fn from(task: &Task) -> Self {
        let mut raw = Self { validation: task.validation, test: task.test, ..Self::default() };
        match task.kind.clone() {
            TaskKind::Phonebook(kind) => raw.phonebook = Some(kind),
            TaskKind::SnippetOrigin(kind) => raw.snippet_origin = Some(kind),
            TaskKind::RustText(kind) => raw.rust_text = Some(kind),
            TaskKind::Synthetic(Synthetic::Mqar(kind)) => raw.mqar = Some(kind),
            TaskKind::Synthetic(Synthetic::InContextRecall(kind)) => raw.in_context_recall = Some(kind),
            TaskKind::Synthetic(Synthetic::Induction(kind)) => raw.induction = Some(kind),
            TaskKind::Synthetic(Synthetic::SelectiveCopying(kind)) => raw.selective_copying = Some(kind),
            TaskKind::Synthetic(Synthetic::Needle(kind)) => raw.needle = Some(kind),
            TaskKind::Synthetic(Synthetic::VariableTracking(kind)) => raw.variable_tracking = Some(kind),
            TaskKind::Synthetic(Synthetic::ListOps(kind)) => raw.list_ops = Some(kind),
            TaskKind::JsonLines(kind) => raw.json_lines = Some(kind),
            TaskKind::Text(kind) => raw.text = Some(kind),
            TaskKind::Retrieval(kind) => raw.retrieval = Some(kind),
            TaskKind::RustDocs(kind) => raw.rust_docs = Some(kind),
        }
        raw
    }
}

/// Sixteen hexadecimal digits of the SHA-256 of a value's JSON, to key a unit by all it depends on, for example
/// `key(&(experiment.seed(), layer, operator))`.
///
/// # Panics
/// When JSON cannot hold the value: a map whose keys are not strings or numbers.
pub fn key<T: Serialize + ?Sized>(depends_on: &T) -> String {
    let json = serde_json::to_vec(depends_on).expect("keys of maps are strings or numbers");
    Sha256::digest(json).iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
pub(crate) mod tests;
