//! The contract `report.json`: what a run found, as a function of its events. Keys may be added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything a run found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name in the experiment file.
    pub experiment: String,
    /// Device it ran on.
    pub device: String,
    /// Seed of everything drawn.
    pub seed: u64,
    /// False while the run goes on or after it broke off.
    pub complete: bool,
    /// Wall time in seconds, 0 while incomplete.
    pub seconds: f64,
    /// The model the run began with.
    pub parent: Parent,
    /// How the students came out.
    pub distillation: Distillation,
    /// Results by task.
    pub tasks: BTreeMap<String, Task>,
    /// Speed and memory over context length.
    pub efficiency: Vec<Efficiency>,
}

/// The parent model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// `model_type` of its configuration.
    pub model_type: String,
    /// Number of blocks.
    pub layers: usize,
    /// Number of weights.
    pub parameters: usize,
}

/// The distillation stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Tokens trained on.
    pub tokens: usize,
    /// Through the parent and all students together.
    pub tokens_per_second: f64,
    /// One entry a layer and operator.
    pub students: Vec<Student>,
}

/// One trained student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Student {
    /// Layer it stands in for.
    pub layer: usize,
    /// Operator's name.
    pub operator: String,
    /// Held-out `MSE(o, ô) / MSE(o, 0)`.
    pub normalised_mse: f64,
}

/// Scores on both splits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// On the split the search chose on.
    pub validation: f64,
    /// On the split it never saw.
    pub test: f64,
}

/// One layout and its scores.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hybrid {
    /// One letter a layer.
    pub layout: String,
    /// Layers that are no longer the parent's.
    pub replaced: usize,
    /// Score on the split the search chose on.
    pub validation: f64,
    /// Score on the split it never saw.
    pub test: f64,
}

/// A layout found without search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// `uniform`, `random-<k>`, `local-importance`.
    pub name: String,
    /// Its layout and scores.
    #[serde(flatten)]
    pub hybrid: Hybrid,
}

/// Cost of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Strategy's name.
    pub strategy: String,
    /// Share of the parent's score that must be kept.
    pub floor: f64,
    /// Layouts scored.
    pub evaluations: usize,
    /// Work in units of one evaluation without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// Results of one task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What the score is.
    pub metric: String,
    /// The parent's scores.
    pub parent: Scores,
    /// The hybrid with the highest validation score.
    pub m_best: Hybrid,
    /// The most linear hybrid above the floor.
    pub m_opt: Hybrid,
    /// Layouts with as many layers replaced as `m_opt`, found without search.
    pub baselines: Vec<Baseline>,
    /// What the search cost.
    pub search: Search,
}

/// Speed and memory at one context length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Efficiency {
    /// Tokens in the context.
    pub context: usize,
    /// Which model.
    pub model: crate::events::Model,
    /// Task whose hybrid this is.
    pub task: String,
    /// Tokens a second when reading the context, median.
    pub prefill_tokens_per_second: f64,
    /// Tokens a second when generating after it, median.
    pub decode_tokens_per_second: f64,
    /// Bytes of keys, values and states held for one sequence.
    pub cache_bytes: usize,
}
