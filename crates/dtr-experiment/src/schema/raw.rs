//! The experiment file key by key, as TOML holds it. Tables whose every value is checked in place serve the validated
//! experiment, too. There are no defaults: an experiment says all that its results depend on.

use std::{collections::BTreeMap, path::PathBuf};

use dtr_distill::schedule::Schedule;
use dtr_distill::{Initialise, Loss, Optimiser};
use dtr_eval::task::synthetic::{InContextRecall, Induction, ListOps, Mqar, Needle, SelectiveCopying, VariableTracking};
use dtr_eval::task::{JsonLinesConfig, RetrievalConfig, TextConfig};
use dtr_eval::{Format, Measure};
use dtr_search::{Acceptance, Floor, Racing, Signal, Strategy};
use serde::{Deserialize, Serialize};

use super::device::Precision;

/// Whether a key need not be written down.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawExperiment {
    pub name: String,
    pub seed: u64,
    pub device: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: Precision,
    pub parent: RawParent,
    pub operators: Vec<Operator>,
    pub distill: Distill,
    pub tasks: BTreeMap<String, RawTask>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corpora: BTreeMap<String, Corpus>,
    pub search: Search,
    pub efficiency: Efficiency,
}

/// The table `parent`: a path, or a name on a hub with its revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawParent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A file of tasks alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawTasks {
    pub tasks: BTreeMap<String, RawTask>,
}

/// A table of `tasks`: exactly one of the keys after the first two says its kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawTask {
    pub validation: usize,
    pub test: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phonebook: Option<Phonebook>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet_origin: Option<SnippetOrigin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rust_text: Option<RustText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqar: Option<Mqar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_context_recall: Option<InContextRecall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub induction: Option<Induction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selective_copying: Option<SelectiveCopying>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needle: Option<Needle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable_tracking: Option<VariableTracking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list_ops: Option<ListOps>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_lines: Option<Box<JsonLinesConfig>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Box<RetrievalConfig>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rust_docs: Option<RustDocs>,
}

/// An operator that competes for each layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Operator {
    /// Linear attention with a decayed delta rule after a short causal convolution.
    GatedDelta {
        /// Tokens that the convolution sees.
        convolution: usize,
        /// Whether queries and keys are turned by their positions; not if it is not said.
        #[serde(default)]
        rotary: bool,
    },
    /// Linear attention with a decay that follows from the step size, after a short causal convolution, and a norm behind its gate.
    Mamba2 {
        /// Numbers a head that are written and read by.
        state: usize,
        /// Tokens that the convolution sees.
        convolution: usize,
    },
    /// Softmax attention over the last tokens and the first ones.
    SlidingWindow {
        /// Last tokens seen, the own one included.
        window: usize,
        /// First tokens seen.
        sinks: usize,
    },
    /// Linear attention with a trained feature map.
    Hedgehog {},
    /// A linear map of each token, found in closed form.
    LinearMap {},
}

impl Operator {
    /// Name in the experiment file, in events and of directories.
    pub fn name(&self) -> &'static str {
        match self {
            Self::GatedDelta { .. } => "gated-delta",
            Self::Mamba2 { .. } => "mamba2",
            Self::SlidingWindow { .. } => "sliding-window",
            Self::Hedgehog {} => "hedgehog",
            Self::LinearMap {} => "linear-map",
        }
    }
}

/// How the students are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Distill {
    /// Tokens trained on, at least one step of `accumulate * rows * length`.
    pub tokens: usize,
    /// Tokens for what is found in closed form, at least one row.
    pub calibration_tokens: usize,
    /// Rows a batch.
    pub rows: usize,
    /// Tokens a row.
    pub length: usize,
    /// Batches a step.
    pub accumulate: usize,
    /// What students are trained on.
    pub loss: Loss,
    /// Weight in it of where an answer is predicted, beside 1 elsewhere.
    pub answer_weight: f64,
    /// What moves the matrices.
    pub optimiser: Optimiser,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// The same of operators that want another, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub learning_rates: BTreeMap<String, f64>,
    /// Share of the steps in which the learning rate rises, in `[0, 1)`.
    pub warmup: f64,
    /// How it falls after that.
    pub schedule: Schedule,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Reports, of ten steps each, without progress after which a student learns no more; never, if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Bytes of disk for hidden states that may be used again; none, if it is not said. Changes no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Devices that the students are spread over, from the experiment's on; one, if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<usize>,
    /// Where students start.
    pub initialise: Initialise,
    /// Weight of each task and corpus in drawing rows; positive, of any sum.
    pub mixture: BTreeMap<String, f64>,
}

impl Distill {
    /// Tokens of a batch.
    pub fn batch(&self) -> usize {
        self.rows * self.length
    }

    /// Highest learning rate of an operator's students, by its name.
    pub fn rate(&self, operator: &str) -> f64 {
        self.learning_rates.get(operator).copied().unwrap_or(self.learning_rate)
    }
}

/// Text of one's own to distil on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Corpus {
    /// Files, relative to the experiment file.
    pub files: Vec<PathBuf>,
    /// What they hold.
    pub format: Format,
    /// Token or text between documents; empty for none.
    pub separator: String,
}

/// Look up a number in a list of names and numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Phonebook {
    /// Names in the list.
    pub entries: usize,
    /// Token before the list.
    pub start: String,
    /// Token before the name asked for.
    pub question: String,
}

/// Tell which crate a piece of source text is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SnippetOrigin {
    /// Tokens of source text.
    pub tokens: usize,
    /// Token after the text.
    pub question: String,
    /// Token that answers, by crate.
    pub labels: BTreeMap<String, String>,
}

/// Continue source text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RustText {
    /// Tokens of source text.
    pub tokens: usize,
    /// Token between files.
    pub separator: String,
    /// Crates that the text is from.
    pub crates: Vec<String>,
}

/// Find the rest of an item's documentation by its name and first paragraph: for encoders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RustDocs {
    /// Crates that the items are from.
    pub crates: Vec<String>,
    /// How the rank of the right document is judged.
    pub measure: Measure,
}

/// Which hybrids are built, and what they must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Search {
    /// Tasks that get a hybrid.
    pub tasks: Vec<String>,
    /// Lowest validation score: a share of the parent's, or a score.
    pub floor: Floor,
    /// How layouts are proposed.
    pub strategy: Strategy,
    /// What candidates are ranked by.
    pub rank: Signal,
    /// How thriftily.
    pub racing: Racing,
    /// On which evidence a layout is kept.
    pub acceptance: Acceptance,
    /// Swaps that one round may commit together.
    pub swaps: usize,
    /// When to stop.
    pub goal: Goal,
    /// Layouts drawn at random to compare with.
    pub random_layouts: usize,
    /// Students made anew on the hybrid's own inputs while the search goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refit: Option<Refit>,
    /// The whole hybrid trained towards the parent's answers when the search is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

/// When a search has what it was asked for. What costs is measured on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Goal {
    /// As many layers as the floor allows.
    Floor,
    /// So many layers.
    Replaced(usize),
    /// Bytes of keys, values and states of one sequence.
    CacheBytes(Limit),
    /// Time to read the context.
    PrefillSeconds(Limit),
    /// Time to generate one token after the context.
    DecodeSeconds(Limit),
}

/// A cost at one context length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limit {
    /// The most it may be.
    pub at_most: f64,
    /// Tokens of context.
    pub context: usize,
}

/// Students made anew on the hybrid's own inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Refit {
    /// After so many layouts kept.
    pub every: usize,
    /// Tokens of the task's own rows trained on each time.
    pub tokens: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// What students are trained towards.
    pub towards: Towards,
    /// Weight in the loss of where an answer is predicted.
    pub answer_weight: f64,
}

/// What students are trained towards on a hybrid's own inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Towards {
    /// What the parent's attention gives there: each student alone, also those that may still be put in.
    Outputs,
    /// What the parent predicts: all students that stand in the hybrid together.
    Answers,
}

/// The whole hybrid trained towards the parent's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recovery {
    /// Tokens of the task's own rows trained on.
    pub tokens: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Weight in the loss of where an answer is predicted.
    pub answer_weight: f64,
    /// Weight of the next token's cross-entropy beside the divergence from the parent.
    pub task_weight: f64,
    /// What is trained: `mixers` that were put in, `all` weights, or all matrices of them by an update of low rank.
    pub trained: Trained,
    /// Whether norms and embeddings, too, where all is trained.
    pub norms_and_embeddings: bool,
}

/// Weights that recovery trains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Trained {
    /// Those of the mixers that were put in.
    Mixers,
    /// Those of all blocks.
    All,
    /// Those of all blocks, matrices by an update of this rank.
    Lora(usize),
}

/// How speed and memory are measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Efficiency {
    /// Context lengths in tokens, rising.
    pub contexts: Vec<usize>,
    /// Tokens generated after each context.
    pub decode_tokens: usize,
    /// Measurements of which the median counts.
    pub repetitions: usize,
}
