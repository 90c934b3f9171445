//! What happened in a run: typed events, appended to `events.jsonl`. Terminal, tables and reports are functions of them.

use dtr_search::{Confirmation, Floor, Refitted, Verdict};
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
    /// Every layer replaced by one operator: what speed and memory could become, whatever the score.
    AllLinear,
}

impl Model {
    /// Its name in files and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::MBest => "m_best",
            Self::MOpt => "m_opt",
            Self::AllLinear => "all_linear",
        }
    }
}

/// Speed and memory at one context length, one sequence at a time. Ranges are the lowest and the highest of the measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Efficiency {
    /// Tokens in the context.
    pub context: usize,
    /// Which model.
    pub model: Model,
    /// Task whose hybrid this is, or is compared with.
    pub task: String,
    /// Its layout; empty in logs of before.
    #[serde(default)]
    pub layout: String,
    /// Tokens a second when reading the context, median.
    pub prefill_tokens_per_second: f64,
    /// Their range.
    #[serde(default)]
    pub prefill_tokens_per_second_range: Option<[f64; 2]>,
    /// Tokens a second when generating after it, median; an encoder generates none.
    pub decode_tokens_per_second: Option<f64>,
    /// Their range.
    #[serde(default)]
    pub decode_tokens_per_second_range: Option<[f64; 2]>,
    /// Seconds from the whole context to the first token after it, median.
    #[serde(default)]
    pub first_token_seconds: Option<f64>,
    /// Their range.
    #[serde(default)]
    pub first_token_seconds_range: Option<[f64; 2]>,
    /// Bytes of the model's weights and of the most that was held beside them at once; unknown where the device has memory of its own.
    #[serde(default)]
    pub peak_bytes: Option<usize>,
    /// Bytes of keys, values and states held for one sequence at the end of the context.
    pub cache_bytes: usize,
}

/// An example that parent and `m_opt` answer differently. Each token of an answer is the likeliest after the right ones before it; where
/// documents are looked for, the answer is the one that is found first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Task's name in the experiment.
    pub task: String,
    /// Its place in the test split.
    pub example: usize,
    /// Text before the answer, or its end where it is long; the query of a document.
    pub prompt: String,
    /// The right answer, or the part of it where the two first part.
    pub expected: String,
    /// What the parent says there.
    pub parent: String,
    /// What `m_opt` says there.
    pub hybrid: String,
    /// The parent's score on the example.
    pub parent_score: f64,
    /// The score of `m_opt`.
    pub hybrid_score: f64,
}

/// A parent that guesses: what a hybrid keeps of such a score says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guessing {
    /// Its score on the examples that choose.
    pub score: f64,
    /// Where that score lies on examples of their kind, with 95 % confidence (Wilson).
    pub interval: [f64; 2],
    /// What guessing scores, which is not below that.
    pub chance: f64,
    /// How many examples there are.
    pub examples: usize,
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
    /// A search begins.
    Searching {
        /// Task's name in the experiment.
        task: String,
        /// Name of the task's metric.
        metric: String,
        /// Examples of the validation split.
        validation: usize,
        /// Examples of the test split.
        test: usize,
    },
    /// A layout was scored during search, or (round 0) the parent was.
    Evaluated {
        /// Task's name in the experiment.
        task: String,
        /// Round of the search, 0 for the parent.
        round: usize,
        /// What was scored.
        layout: String,
        /// First example of the validation split it was scored on.
        from: usize,
        /// Behind the last one.
        to: usize,
        /// Task metric, higher is better.
        score: f64,
        /// Cross-entropy of the answers in nats.
        loss: f64,
        /// Divergence from the parent's answers in nats.
        divergence: f64,
        /// Work done in units of one evaluation without any reuse.
        full_evaluation_equivalents: f64,
        /// Time it took.
        seconds: f64,
    },
    /// A layout was kept or refused.
    Decided {
        /// Task's name in the experiment.
        task: String,
        /// Round, from 1.
        round: usize,
        /// Where the search stood.
        before: String,
        /// What was proposed.
        layout: String,
        /// Its score on the examples that choose.
        score: f64,
        /// Lowest score allowed there.
        minimum: f64,
        /// What became of it.
        verdict: Verdict,
        /// Whether this became `m_best`.
        best: bool,
        /// What other examples say of it, where they were asked.
        confirmation: Option<Confirmation>,
        /// What new students did for it, where they were made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refitted: Option<Refitted>,
    },
    /// The parent is not better at a task than guessing, as far as its examples tell.
    Guessing {
        /// Task's name in the experiment.
        task: String,
        /// By how little.
        #[serde(flatten)]
        found: Guessing,
    },
    /// A search ended.
    Searched {
        /// Task's name in the experiment.
        task: String,
        /// Name of the task's metric.
        metric: String,
        /// Strategy's name.
        strategy: String,
        /// Lowest score: a share of the parent's, or a score.
        floor: Floor,
        /// Whether the goal was reached.
        reached: bool,
        /// Layouts scored, on however many examples.
        evaluations: usize,
        /// Work in units of one evaluation without any reuse.
        full_evaluation_equivalents: f64,
        /// Time it took.
        seconds: f64,
    },
    /// `m_opt` was trained towards the parent's answers, and that did it good: from here on it is meant by its name.
    Recovered {
        /// Task's name in the experiment.
        task: String,
        /// Score before, on examples that confirm, or that choose where none do.
        before: f64,
        /// And after.
        after: f64,
        /// Score on the test split before.
        test_before: f64,
        /// And after.
        test_after: f64,
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
    /// An example that parent and `m_opt` answer differently, one of a few.
    Answered(Answer),
    /// Speed and memory of a model at one context length.
    Efficiency(Efficiency),
    /// A model was not measured at one context length, because that would take more memory than there is.
    TooLong {
        /// Task whose hybrid this is.
        task: String,
        /// Which model.
        model: Model,
        /// Its layout.
        layout: String,
        /// Tokens in the context.
        context: usize,
        /// Bytes it would take, going by shorter contexts.
        needed_bytes: usize,
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
