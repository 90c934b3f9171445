//! What a search did, evaluation by evaluation and decision by decision. Its results are derived from it.

use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// One evaluation of a layout on some examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Round, 0 for the parent.
    pub round: usize,
    /// What was scored.
    pub layout: Layout,
    /// First example.
    pub from: usize,
    /// Behind the last example.
    pub to: usize,
    /// Mean score on them.
    pub score: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Mean divergence from the parent in nats.
    pub divergence: f64,
    /// Work in units of one evaluation of all examples without any reuse.
    pub full_evaluation_equivalents: f64,
    /// Time it took.
    pub seconds: f64,
}

/// What examples that chose nothing say of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Number of examples.
    pub examples: usize,
    /// Score as a share of the parent's, or the score itself, as the floor is given.
    pub estimate: f64,
    /// One-sided lower confidence bound of it.
    pub lower: f64,
    /// The floor.
    pub minimum: f64,
    /// Probability that the bound is above the truth.
    pub error: f64,
}

/// What making a layout's students anew did before it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Refitted {
    /// Mean cross-entropy in nats on the examples that choose with the students of before.
    pub before: f64,
    /// With the new ones.
    pub after: f64,
    /// Time it took to make them.
    pub seconds: f64,
}

impl Refitted {
    /// Whether the new students are those that were judged.
    pub fn kept(&self) -> bool {
        self.after < self.before
    }
}

/// What became of a layout that was proposed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Kept: a result, and where the search goes on.
    Kept,
    /// No result, but where the search goes on, because no layout of this size was better.
    GoneOn,
    /// Refused: its score on the examples that choose is below the floor.
    BelowFloor,
    /// Refused: other examples do not make it sure enough that it holds the floor.
    Unconfirmed,
}

/// A layout that was proposed, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Round, from 1.
    pub round: usize,
    /// Where the search stood.
    pub from: Layout,
    /// What was proposed.
    pub layout: Layout,
    /// Its score on the examples that choose.
    pub score: f64,
    /// Lowest score allowed there.
    pub minimum: f64,
    /// What became of it.
    pub verdict: Verdict,
    /// Whether it is at least as good as the best so far, the parent included.
    pub best: bool,
    /// What other examples say of it, where they were asked.
    pub confirmation: Option<Confirmation>,
    /// What new students did for it, where they were made.
    pub refitted: Option<Refitted>,
}

/// A whole search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Where it began.
    pub parent: Layout,
    /// Lowest score allowed on the examples that choose.
    pub minimum: f64,
    /// Everything scored, in order.
    pub evaluations: Vec<Step>,
    /// Everything decided, in order.
    pub decisions: Vec<Decision>,
    /// Whether the goal was reached.
    pub reached: bool,
}

impl Trace {
    /// The layout with the highest score, the most linear one on a tie.
    pub fn m_best(&self) -> &Layout {
        self.decisions.iter().rev().find(|decision| decision.best).map_or(&self.parent, |decision| &decision.layout)
    }

    /// The most linear layout that was kept, of several the one with the highest score, the last on a tie.
    pub fn m_opt(&self) -> &Layout {
        let kept = self.decisions.iter().filter(|decision| decision.verdict == Verdict::Kept);
        let order = |a: &&Decision, b: &&Decision| a.layout.replaced().cmp(&b.layout.replaced()).then(a.score.total_cmp(&b.score));
        kept.max_by(order).map_or(&self.parent, |decision| &decision.layout)
    }

    /// Work of all evaluations in units of one without any reuse.
    pub fn full_evaluation_equivalents(&self) -> f64 {
        self.evaluations.iter().map(|step| step.full_evaluation_equivalents).sum()
    }

    /// Time of all evaluations, and of making students anew.
    pub fn seconds(&self) -> f64 {
        let refits = self.decisions.iter().filter_map(|decision| decision.refitted).map(|refitted| refitted.seconds);
        self.evaluations.iter().map(|step| step.seconds).chain(refits).sum()
    }

    /// Number of layouts scored, on however many examples.
    pub fn layouts(&self) -> usize {
        let mut layouts: Vec<&Layout> = self.evaluations.iter().map(|step| &step.layout).collect();
        layouts.sort_unstable();
        layouts.dedup();
        layouts.len()
    }
}
