//! What a search asks: how good is this layout?

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// How one example went: results of the same example under two layouts can be compared in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Task metric, higher is better.
    pub score: f32,
    /// Cross-entropy in nats, lower is better.
    pub loss: f32,
}

/// How good a layout is, and what it took to find out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean task metric, higher is better.
    pub score: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Example by example, always in the same order.
    pub examples: Vec<Example>,
    /// Work in units of one evaluation without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// Scores layouts. Abstract, so that strategies run on a table of numbers as well as on a model.
pub trait Objective {
    /// Why a layout could not be scored.
    type Error;

    /// Scores `layout`: the same answer whenever it is asked.
    ///
    /// # Errors
    /// If it cannot be scored.
    fn evaluate(&mut self, layout: &Layout) -> Result<Evaluation, Self::Error>;

    /// `layout` is now the one that the next candidates differ from in one layer: what they share can be kept.
    ///
    /// # Errors
    /// If that fails.
    fn committed(&mut self, _layout: &Layout) -> Result<(), Self::Error> {
        Ok(())
    }
}
