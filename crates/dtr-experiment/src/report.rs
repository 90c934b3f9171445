//! The contract `report.json`: what a run found, as a function of its events. Keys may be added, never renamed.

use std::collections::BTreeMap;

use dtr_search::{Confirmation, Floor, Verdict};
use serde::{Deserialize, Serialize};

use crate::events::{Event, Model};

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

impl Task {
    /// How a hybrid stands to the floor on the test split: what it keeps of the parent's score, or the score itself.
    pub fn standing(&self, hybrid: &Hybrid) -> Option<f64> {
        if self.search.floor_is_score { Some(hybrid.test) } else { self.kept(hybrid) }
    }

    /// Share of the parent's test score that a hybrid keeps; nothing where the parent scores 0.
    pub fn kept(&self, hybrid: &Hybrid) -> Option<f64> {
        (self.parent.test > 0.0).then(|| hybrid.test / self.parent.test)
    }
}

impl Report {
    /// What is known after these events, of a run that is done, goes on, or broke off. Where a thing was said twice, the later counts.
    pub fn from_events(events: &[Event]) -> Self {
        let mut report = Self::default();
        for event in events {
            report.add(event);
        }
        report
    }

    fn add(&mut self, event: &Event) {
        match event.clone() {
            Event::Started { experiment, device, seed } => (self.experiment, self.device, self.seed) = (experiment, device, seed),
            Event::Parent { model_type, layers, parameters } => self.parent = Parent { model_type, layers, parameters },
            Event::Student { layer, operator, normalised_mse } => {
                let students = &mut self.distillation.students;
                students.retain(|student| (student.layer, &student.operator) != (layer, &operator));
                students.push(Student { layer, operator, normalised_mse });
            }
            Event::Distilled { tokens, tokens_per_second } => {
                (self.distillation.tokens, self.distillation.tokens_per_second) = (tokens, tokens_per_second);
            }
            Event::Searched { task, metric, strategy, floor, reached, evaluations, full_evaluation_equivalents, seconds } => {
                let task = self.task(task);
                task.metric = metric;
                let (floor, floor_is_score) = (floor.value(), matches!(floor, Floor::Score { .. }));
                task.search = Search { strategy, floor, floor_is_score, reached, evaluations, full_evaluation_equivalents, seconds };
            }
            Event::Decided { task, verdict: Verdict::Kept, confirmation, .. } => self.task(task).confirmation = confirmation,
            Event::Recovered { task, before, after, test_before, test_after } => {
                self.task(task).recovery = Some(Recovered { before, after, test_before, test_after });
            }
            Event::Tested { task, model, layout, validation, test } => {
                let hybrid = Hybrid { replaced: replaced(&layout), layout, validation, test };
                let task = self.task(task);
                match model {
                    Model::Parent => task.parent = Scores { validation, test },
                    Model::MBest => task.m_best = hybrid,
                    Model::MOpt => task.m_opt = hybrid,
                }
            }
            Event::Baseline { task, name, layout, validation, test } => {
                let baselines = &mut self.task(task).baselines;
                baselines.retain(|baseline| baseline.name != name);
                baselines.push(Baseline { name, hybrid: Hybrid { replaced: replaced(&layout), layout, validation, test } });
            }
            Event::Efficiency { task, model, context, prefill_tokens_per_second, decode_tokens_per_second, cache_bytes } => {
                self.efficiency.retain(|row| (row.context, row.model, &row.task) != (context, model, &task));
                self.efficiency.push(Efficiency { context, model, task, prefill_tokens_per_second, decode_tokens_per_second, cache_bytes });
            }
            Event::Finished { seconds } => (self.complete, self.seconds) = (true, seconds),
            Event::Evaluated { task, .. } => {
                self.task(task);
            }
            Event::Distilling { .. } | Event::Decided { .. } | Event::Exported { .. } => {}
        }
    }

    fn task(&mut self, name: String) -> &mut Task {
        self.tasks.entry(name).or_default()
    }
}

/// Layers of a layout that are not the parent's.
pub(crate) fn replaced(layout: &str) -> usize {
    layout.chars().filter(|&letter| letter != 'S').count()
}
