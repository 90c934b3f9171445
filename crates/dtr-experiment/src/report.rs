//! The contract `report.json`: what a run found, as a function of its events. Keys may be added, never renamed.

mod collect;
pub mod crossover;
pub mod front;
pub mod interval;

use std::collections::BTreeMap;

use dtr_search::Confirmation;
use serde::{Deserialize, Serialize};

use crate::events::Model;
pub use crate::events::{Answer, Efficiency, Guessing};
pub use crossover::{Crossing, Crossover};
pub use front::Point;

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
    /// Context lengths at which models were not measured, because that would take more memory than there is.
    #[serde(default)]
    pub too_long: Vec<TooLong>,
    /// From which context length each hybrid is faster than its parent.
    #[serde(default)]
    pub crossovers: Vec<Crossover>,
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
    /// Where the score on examples of the kind of the validation split lies, with 95 % confidence (Wilson).
    #[serde(default)]
    pub validation_interval: Option<[f64; 2]>,
    /// The same of the test split.
    #[serde(default)]
    pub test_interval: Option<[f64; 2]>,
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
    /// Where the score on examples of the kind of the validation split lies, with 95 % confidence (Wilson).
    #[serde(default)]
    pub validation_interval: Option<[f64; 2]>,
    /// The same of the test split.
    #[serde(default)]
    pub test_interval: Option<[f64; 2]>,
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
    /// Lowest score: a share of the parent's, or the score itself.
    pub floor: f64,
    /// Whether the floor is a score itself.
    pub floor_is_score: bool,
    /// Whether the goal was reached.
    pub reached: bool,
    /// Layouts scored.
    pub evaluations: usize,
    /// Work in units of one evaluation without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// What training the whole hybrid did to its scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// On examples that confirm, before.
    pub before: f64,
    /// And after.
    pub after: f64,
    /// On the test split, before.
    pub test_before: f64,
    /// And after.
    pub test_after: f64,
}

/// Results of one task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What the score is.
    pub metric: String,
    /// The parent's scores.
    pub parent: Scores,
    /// Set where the parent guesses on the examples that choose.
    #[serde(default)]
    pub guessing: Option<Guessing>,
    /// The hybrid with the highest validation score.
    pub m_best: Hybrid,
    /// The most linear hybrid above the floor.
    pub m_opt: Hybrid,
    /// What examples that chose nothing said of `m_opt` when it was kept.
    pub confirmation: Option<Confirmation>,
    /// What recovery did to `m_opt`.
    pub recovery: Option<Recovered>,
    /// Layouts with as many layers replaced as `m_opt`, found without search.
    pub baselines: Vec<Baseline>,
    /// What the search cost.
    pub search: Search,
    /// How many examples the scores rest on.
    #[serde(default)]
    pub examples: Examples,
    /// A few examples of the test split that parent and `m_opt` answer differently.
    #[serde(default)]
    pub differing: Vec<Answer>,
    /// Layouts that no other scored layout beats in score, decoding time and cache at once.
    #[serde(default)]
    pub pareto: Vec<Point>,
}

/// Numbers of examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examples {
    /// Of the split the search chose on.
    pub validation: usize,
    /// Of the split it never saw.
    pub test: usize,
}

/// A model and a context length that is too long for it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooLong {
    /// Task whose hybrid this is.
    pub task: String,
    /// Which model.
    pub model: Model,
    /// Its layout.
    pub layout: String,
    /// Tokens in the context.
    pub context: usize,
    /// Bytes it would take, going by shorter contexts.
    pub needed_bytes: usize,
}

impl Task {
    /// How a hybrid stands to the floor on the test split: what it keeps of the parent's score, or the score itself.
    pub fn standing(&self, hybrid: &Hybrid) -> Option<f64> {
        if self.search.floor_is_score { Some(hybrid.test) } else { self.kept(hybrid) }
    }

    /// Share of the parent's test score that a hybrid keeps; nothing where the parent scores 0.
    pub fn kept(&self, hybrid: &Hybrid) -> Option<f64> {
        (self.parent.test > 0.0).then(|| hybrid.test / self.parent.test)
    }

    /// Whether its hybrids were scored on the test split.
    pub fn tested(&self) -> bool {
        !self.m_opt.layout.is_empty()
    }
}

/// Layers of a layout that are not the parent's.
pub(crate) fn replaced(layout: &str) -> usize {
    layout.chars().filter(|&letter| letter != 'S').count()
}
