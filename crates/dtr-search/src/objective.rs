//! What a search asks: how good is this layout, and what does it cost to run?

use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// How one example went: results of the same example under two layouts can be compared in pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Task metric in `[0, 1]`, higher is better.
    pub score: f32,
    /// Cross-entropy of the answer in nats, lower is better.
    pub loss: f32,
    /// Kullback-Leibler divergence of the parent's answer from the layout's, `KL(parent || layout)`, in nats a token.
    pub divergence: f32,
}

/// How good a layout is on some examples, and what it took to find out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Example by example, in the order of the objective.
    pub examples: Vec<Example>,
    /// Work in units of one evaluation of all examples without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// What candidates are ranked by. Whether a layout is kept is decided on the task's own metric, whatever ranks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// The task's metric. Coarse: many candidates tie.
    #[default]
    Score,
    /// Cross-entropy of the right answers.
    Loss,
    /// Divergence from the parent's answers.
    Divergence,
}

impl Signal {
    /// The number to make large.
    pub fn of(self, example: &Example) -> f32 {
        match self {
            Self::Score => example.score,
            Self::Loss => -example.loss,
            Self::Divergence => -example.divergence,
        }
    }
}

/// Sums over examples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    count: usize,
    score: f64,
    loss: f64,
    divergence: f64,
}

impl Summary {
    /// Number of examples.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Mean task metric; NaN without examples.
    pub fn score(&self) -> f64 {
        self.score / self.count as f64
    }

    /// Mean cross-entropy in nats.
    pub fn loss(&self) -> f64 {
        self.loss / self.count as f64
    }

    /// Mean divergence from the parent in nats.
    pub fn divergence(&self) -> f64 {
        self.divergence / self.count as f64
    }

    /// The number to make large.
    pub fn value(&self, signal: Signal) -> f64 {
        match signal {
            Signal::Score => self.score(),
            Signal::Loss => -self.loss(),
            Signal::Divergence => -self.divergence(),
        }
    }
}

impl<'a> FromIterator<&'a Example> for Summary {
    fn from_iter<I: IntoIterator<Item = &'a Example>>(examples: I) -> Self {
        examples.into_iter().fold(Self::default(), |sum, example| Self {
            count: sum.count + 1,
            score: sum.score + f64::from(example.score),
            loss: sum.loss + f64::from(example.loss),
            divergence: sum.divergence + f64::from(example.divergence),
        })
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.score += other.score;
        self.loss += other.loss;
        self.divergence += other.divergence;
    }
}

/// Scores layouts. Abstract, so that strategies run on a table of numbers as well as on a model.
pub trait Objective {
    /// Why a layout could not be scored.
    type Error;

    /// Number of examples.
    fn examples(&self) -> usize;

    /// Scores `layout` on some of the examples: the same answer whenever it is asked.
    ///
    /// # Errors
    /// If it cannot be scored.
    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Self::Error>;

    /// What running `layout` costs, in the unit of the search's goal; asked only where there is a goal in cost.
    ///
    /// # Errors
    /// If it cannot be measured.
    fn cost(&mut self, layout: &Layout) -> Result<f64, Self::Error>;

    /// `layout` is about to be judged. Its students may be made anew for that: then [`Self::evaluate`] answers for the new ones where
    /// it is asked about this layout, and the time it took is returned.
    ///
    /// # Errors
    /// If that fails.
    fn refit(&mut self, _layout: &Layout) -> Result<Option<f64>, Self::Error> {
        Ok(None)
    }

    /// The students that were made anew for `layout` last are no better: it has those of before again.
    fn unfit(&mut self, _layout: &Layout) {}

    /// `layout` is now the one that the next candidates differ from in few layers: what they share can be kept. Says whether
    /// what other layouts are worth has changed, because its students are new and theirs as well: then they are asked about again.
    ///
    /// # Errors
    /// If that fails.
    fn committed(&mut self, _layout: &Layout) -> Result<bool, Self::Error> {
        Ok(false)
    }
}
