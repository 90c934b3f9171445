//! What happened in a run: typed events, appended to `events.jsonl`. Terminal, tables and reports are functions of them.

use serde::{Deserialize, Serialize};

/// Part of a task's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Chosen on.
    Validation,
    /// Reported on, never chosen on.
    Test,
}

/// A model of interest within one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// The full-attention model the run began with.
    Parent,
    /// The hybrid with the highest validation score.
    MBest,
    /// The most linear hybrid above the floor.
    MOpt,
}

/// One thing that happened. `layout` is one letter a layer, `S` for the parent's own softmax attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Event {
    /// The run began, or went on after a break.
    Started {
        /// Name in the experiment file.
        experiment: String,
        /// Device as the experiment writes it.
        device: String,
        /// Seed of everything drawn.
        seed: u64,
    },
    /// The parent was read.
    Parent {
        /// `model_type` of its configuration.
        model_type: String,
        /// Number of blocks.
        layers: usize,
        /// Number of weights.
        parameters: usize,
    },
    /// Distillation losses of one operator, every few steps.
    Distilling {
        /// Operator's name.
        operator: String,
        /// Tokens seen so far.
        tokens: usize,
        /// Normalised mean squared error by layer, mean since the last such event.
        normalised_mse: Vec<f32>,
    },
    /// One student is trained, measured on held-out tokens and saved.
    Student {
        /// Layer it stands in for.
        layer: usize,
        /// Operator's name.
        operator: String,
        /// Held-out normalised mean squared error.
        normalised_mse: f64,
    },
    /// All students are there.
    Distilled {
        /// Tokens trained on.
        tokens: usize,
        /// Through the parent and all students together.
        tokens_per_second: f64,
    },
    /// A layout was scored during search, or (round 0) the parent was.
    Evaluated {
        /// Task's name in the experiment.
        task: String,
        /// Round of the search, 0 for the parent.
        round: usize,
        /// What was scored.
        layout: String,
        /// Task metric on the validation split, higher is better.
        score: f64,
        /// Cross-entropy of the answers in nats.
        loss: f64,
        /// Work done in units of one evaluation without any reuse.
        full_evaluation_equivalents: f64,
        /// Time it took.
        seconds: f64,
    },
    /// A round of the search was decided.
    Decided {
        /// Task's name in the experiment.
        task: String,
        /// Round, from 1.
        round: usize,
        /// Best candidate of the round.
        layout: String,
        /// Its score.
        score: f64,
        /// Lowest score allowed.
        minimum: f64,
        /// Whether the swap was committed; otherwise the search ended here.
        committed: bool,
        /// Whether this became `m_best`.
        best: bool,
    },
    /// A search ended.
    Searched {
        /// Task's name in the experiment.
        task: String,
        /// Name of the task's metric.
        metric: String,
        /// Strategy's name.
        strategy: String,
        /// Share of the parent's score that must be kept.
        floor: f64,
        /// Layouts scored.
        evaluations: usize,
        /// Work in units of one evaluation without any reuse.
        full_evaluation_equivalents: f64,
        /// Time it took.
        seconds: f64,
    },
    /// Final scores of the parent, `m_best` or `m_opt`.
    Tested {
        /// Task's name in the experiment.
        task: String,
        /// Which model.
        model: Model,
        /// Its layout.
        layout: String,
        /// Score on the validation split.
        validation: f64,
        /// Score on the test split.
        test: f64,
    },
    /// Scores of a layout found without search, with as many layers replaced as `m_opt`.
    Baseline {
        /// Task's name in the experiment.
        task: String,
        /// `uniform`, `random-<k>`, `local-importance`.
        name: String,
        /// Its layout.
        layout: String,
        /// Score on the validation split.
        validation: f64,
        /// Score on the test split.
        test: f64,
    },
    /// Speed and memory at one context length.
    Efficiency {
        /// Task whose hybrid this is.
        task: String,
        /// Which model.
        model: Model,
        /// Tokens in the context.
        context: usize,
        /// Tokens a second when reading the context, median.
        prefill_tokens_per_second: f64,
        /// Tokens a second when generating after it, median.
        decode_tokens_per_second: f64,
        /// Bytes of keys, values and states held for one sequence.
        cache_bytes: usize,
    },
    /// A hybrid was written as a directory that loads again.
    Exported {
        /// Task's name in the experiment.
        task: String,
        /// Which model.
        model: Model,
        /// Directory, relative to the run directory.
        path: String,
    },
    /// Everything is done.
    Finished {
        /// Wall time of the whole run, breaks left out.
        seconds: f64,
    },
}
