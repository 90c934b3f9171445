//! What a search is to do: over which operators, down to which floor, on which evidence, how thriftily, until when.

use std::fmt;

use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::layout::Operator;
use crate::objective::Signal;
use crate::strategy::Strategy;

/// Lowest score that a hybrid may have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Floor {
    /// A share of the parent's score, above 0 and at most 1.
    Share(f64),
    /// A score of its own.
    Score {
        /// In the task's metric, above 0 and at most 1.
        score: f64,
    },
}

impl Floor {
    /// Lowest score allowed.
    pub fn minimum(self, parent_score: f64) -> f64 {
        match self {
            Self::Share(share) => share * parent_score,
            Self::Score { score } => score,
        }
    }

    /// The number itself: the share, or the score.
    pub fn value(self) -> f64 {
        match self {
            Self::Share(share) => share,
            Self::Score { score } => score,
        }
    }
}

impl<'de> Deserialize<'de> for Floor {
    /// A number, or a table with the key `score`: told by hand, so that anything else gets a message of its own.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FloorVisitor;
        impl<'de> Visitor<'de> for FloorVisitor {
            type Value = Floor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share of the parent's score such as 0.95, or a score such as { score = 0.8 }")
            }

            fn visit_f64<E>(self, share: f64) -> Result<Floor, E> {
                Ok(Floor::Share(share))
            }

            fn visit_i64<E>(self, share: i64) -> Result<Floor, E> {
                Ok(Floor::Share(share as f64))
            }

            fn visit_u64<E>(self, share: u64) -> Result<Floor, E> {
                Ok(Floor::Share(share as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Floor, A::Error> {
                match map.next_entry::<String, f64>()? {
                    Some((key, score)) if key == "score" && map.next_key::<String>()?.is_none() => Ok(Floor::Score { score }),
                    _ => Err(A::Error::invalid_value(Unexpected::Map, &self)),
                }
            }
        }
        deserializer.deserialize_any(FloorVisitor)
    }
}

/// How a round finds its best candidate.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Racing {
    /// Every candidate is scored on every example.
    #[default]
    Off,
    /// A candidate is dropped when it cannot win any more, whatever the examples it has not seen; decisions are the same as
    /// without. Only for [`Signal::Score`], which has bounds.
    Exact,
    /// A candidate is dropped when it is worse than the best so far beyond chance. At most this share of rounds loses its
    /// winner: over candidates and looks it is divided (Bonferroni).
    Statistical {
        /// In (0, 1).
        error: f64,
    },
}

/// What a layout must show before it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Acceptance {
    /// Its score on the examples that chose it is at or above the floor, as in the paper.
    #[default]
    Point,
    /// Besides, on examples kept apart for this, the one-sided lower confidence bound of its score, relative to the parent's on
    /// the same examples, is at or above the floor.
    ///
    /// Layouts are looked at in an order that ends with refusals: without retries the first that breaks the floor is
    /// the only one that can be kept by mistake, and each look may spend the whole error (a fixed sequence of tests). Each
    /// retry is one chance more: the error is divided by `retries + 1`.
    Bound {
        /// Which examples are kept apart.
        confirm: Confirm,
        /// Probability that no layout is kept that breaks the floor, in (0, 1).
        confidence: f64,
        /// Refusals after which the search goes on.
        retries: usize,
    },
}

/// Which examples confirm; the others choose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "expected a share such as 0.5, or { training = 512 }")]
pub enum Confirm {
    /// This share of them, in (0, 1).
    Share(f64),
    /// All but the first ones, which the objective has from elsewhere.
    AllBut {
        /// So many examples of the training split: nothing is claimed of them, so none that could confirm is spent on choosing.
        training: usize,
    },
}

impl Acceptance {
    /// Examples that choose and are none of the validation split, in front of it.
    pub fn training(self) -> usize {
        match self {
            Self::Bound { confirm: Confirm::AllBut { training }, .. } => training,
            _ => 0,
        }
    }
}

/// When a search has what it was asked for. It also ends when nothing more can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Goal {
    /// As many layers as the floor allows.
    #[default]
    Floor,
    /// So many layers.
    Replaced(usize),
    /// A cost of at most this, in the objective's unit.
    Cost(f64),
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How layouts are proposed.
    pub strategy: Strategy,
    /// Layers of the parent.
    pub layers: usize,
    /// What may stand in them instead; the first wins ties.
    pub menu: Vec<Operator>,
    /// What every layer gets where nothing is known of the task: the operator that imitates it best, and its loss.
    pub prior: Vec<(Operator, f64)>,
    /// Lowest score allowed.
    pub floor: Floor,
    /// What candidates are ranked by.
    pub signal: Signal,
    /// How thriftily.
    pub racing: Racing,
    /// On which evidence a layout is kept.
    pub acceptance: Acceptance,
    /// Swaps that one round may commit together, at least 1.
    pub swaps: usize,
    /// When to stop.
    pub goal: Goal,
}

/// A search that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum SearchError<E> {
    /// A number outside its range.
    #[error("{what} is {found}, expected {expected}")]
    Range {
        /// Which.
        what: &'static str,
        /// What was given.
        found: f64,
        /// What is possible.
        expected: &'static str,
    },
    /// Settings that contradict each other, or a space too large.
    #[error("{what}. {remedy}")]
    Settings {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A share of such a score is no lower bound.
    #[error(
        "the parent's score is {score}, expected a finite number above 0: a share of it is no floor. Check the task, its split and the parent"
    )]
    ParentScore {
        /// The score.
        score: f64,
    },
    /// The parent is not good enough itself.
    #[error(
        "the parent's own score {score:.4} is below the floor {floor:.4}: no hybrid can be asked for more. Lower the floor or improve the parent"
    )]
    ParentBelowFloor {
        /// The parent's score.
        score: f64,
        /// The floor.
        floor: f64,
    },
    /// The objective failed.
    #[error(transparent)]
    Objective(E),
}

impl Settings {
    /// Examples that choose, and examples kept apart, of `examples`.
    pub fn split(&self, examples: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let kept = match self.acceptance {
            Acceptance::Point => 0,
            Acceptance::Bound { confirm: Confirm::Share(share), .. } => (share * examples as f64).round() as usize,
            Acceptance::Bound { confirm: Confirm::AllBut { training }, .. } => examples.saturating_sub(training),
        };
        (0..examples - kept, examples - kept..examples)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check<E>(&self, examples: usize) -> Result<(), SearchError<E>> {
        let inside =
            |what, found: f64, holds: bool, expected| if holds { Ok(()) } else { Err(SearchError::Range { what, found, expected }) };
        let settings = |holds: bool, what: String, remedy| if holds { Ok(()) } else { Err(SearchError::Settings { what, remedy }) };
        let floor = self.floor.value();
        inside("the floor", floor, floor > 0.0 && floor <= 1.0, "a number above 0 and at most 1")?;
        if let Racing::Statistical { error } = self.racing {
            inside("the error of racing", error, error > 0.0 && error < 1.0, "a number between 0 and 1")?;
        }
        if let Acceptance::Bound { confirm, confidence, .. } = self.acceptance {
            if let Confirm::Share(share) = confirm {
                inside("the share of examples kept apart", share, share > 0.0 && share < 1.0, "a number between 0 and 1")?;
            }
            inside("the confidence", confidence, confidence > 0.0 && confidence < 1.0, "a number between 0 and 1")?;
        }
        let menu = "Give at least one layer, and at least one operator, none twice and none the parent's";
        settings(self.layers > 0, "the model has no layers".into(), menu)?;
        settings(!self.menu.is_empty(), "the menu has no operator".into(), menu)?;
        settings(self.prior.len() == self.layers, format!("the prior knows {} of {} layers", self.prior.len(), self.layers), menu)?;
        for (index, operator) in self.menu.iter().enumerate() {
            settings(*operator != Operator::PARENT, "the menu holds S, the parent's own attention".into(), menu)?;
            settings(!self.menu[..index].contains(operator), format!("the menu holds {} twice", operator.letter()), menu)?;
        }
        let (select, confirm) = self.split(examples);
        let bound = matches!(self.acceptance, Acceptance::Bound { .. });
        settings(
            !select.is_empty() && (!bound || !confirm.is_empty()),
            format!("of {examples} validation examples, {} choose and {} confirm", select.len(), confirm.len()),
            "Give more validation examples",
        )?;
        settings(
            self.racing != Racing::Exact || self.signal == Signal::Score,
            "exact racing needs a signal with bounds".into(),
            "Rank by the score, or race statistically",
        )?;
        settings(self.swaps > 0, "a round commits 0 swaps".into(), "Give at least 1")?;
        self.strategy.check(self)
    }
}
