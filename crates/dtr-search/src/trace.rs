//! What a search did, evaluation by evaluation and decision by decision. Its results are derived from it.

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// One evaluated layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Round, 0 for the parent.
    pub round: usize,
    /// What was scored.
    pub layout: Layout,
    /// Its score.
    pub score: f64,
    /// Its cross-entropy in nats.
    pub loss: f64,
    /// Work in units of one evaluation without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// What became of a round's best candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Round, from 1.
    pub round: usize,
    /// The candidate.
    pub layout: Layout,
    /// Its score.
    pub score: f64,
    /// Lowest score allowed.
    pub minimum: f64,
    /// Whether its swap was kept; otherwise the search ended here.
    pub committed: bool,
    /// Whether it is at least as good as the best so far, the parent included.
    pub best: bool,
}

/// A whole search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Where it began.
    pub parent: Layout,
    /// Lowest score allowed.
    pub minimum: f64,
    /// Everything scored, in order.
    pub evaluations: Vec<Step>,
    /// One decision a round.
    pub decisions: Vec<Decision>,
}

impl Trace {
    /// The layout with the highest score, the most linear one on a tie.
    pub fn m_best(&self) -> &Layout {
        self.last(|decision| decision.best)
    }

    /// The most linear layout above the floor.
    pub fn m_opt(&self) -> &Layout {
        self.last(|decision| decision.committed)
    }

    fn last(&self, chosen: impl Fn(&Decision) -> bool) -> &Layout {
        self.decisions.iter().rev().find(|decision| chosen(decision)).map_or(&self.parent, |decision| &decision.layout)
    }

    /// Work of all evaluations in units of one without any reuse.
    pub fn full_evaluation_equivalents(&self) -> f64 {
        self.evaluations.iter().map(|step| step.full_evaluation_equivalents).sum()
    }

    /// Time of all evaluations.
    pub fn seconds(&self) -> f64 {
        self.evaluations.iter().map(|step| step.seconds).sum()
    }

    /// Evaluated layouts that no other beats in score without replacing fewer layers, most linear last.
    pub fn pareto_front(&self) -> Vec<&Step> {
        let mut steps: Vec<&Step> = self.evaluations.iter().collect();
        steps.sort_by(|a, b| b.layout.replaced().cmp(&a.layout.replaced()).then(b.score.total_cmp(&a.score)));
        let mut best = f64::NEG_INFINITY;
        steps.retain(|step| {
            let better = step.score > best;
            best = best.max(step.score);
            better
        });
        steps.reverse();
        steps
    }
}
