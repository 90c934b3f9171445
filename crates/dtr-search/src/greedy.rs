//! Algorithm 1 of Distill-then-Replace (arXiv 2601.11667): replace the layer that costs least, until the floor is reached.

use thiserror::Error;

use crate::layout::{Layout, Operator};
use crate::objective::{Evaluation, Objective};
use crate::trace::{Decision, Step, Trace};

/// Share of the parent's score that must be kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor(f64);

/// A search that cannot be done.
#[derive(Debug, Error)]
pub enum SearchError<E> {
    /// A floor is a share.
    #[error("the floor is {found}, expected a share of the parent's score above 0 and at most 1")]
    Floor {
        /// What was given.
        found: f64,
    },
    /// A share of such a score is no lower bound.
    #[error(
        "the parent's score is {score}, expected a finite number that is not negative: a share of it is no floor. Check the task and the parent"
    )]
    ParentScore {
        /// The score.
        score: f64,
    },
    /// Nothing to search over.
    #[error("{what}. Give at least one layer, and at least one operator, none twice and none the parent's")]
    Menu {
        /// What is wrong with it.
        what: String,
    },
    /// The objective failed.
    #[error(transparent)]
    Objective(E),
}

/// What happens during a search, as it happens.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A layout was scored.
    Evaluated(&'a Step),
    /// A round was decided.
    Decided(&'a Decision),
}

impl Floor {
    /// A share of the parent's score.
    ///
    /// # Errors
    /// If it is not above 0 and at most 1.
    pub fn share<E>(share: f64) -> Result<Self, SearchError<E>> {
        if share > 0.0 && share <= 1.0 { Ok(Self(share)) } else { Err(SearchError::Floor { found: share }) }
    }

    /// Lowest score allowed.
    pub fn minimum(self, parent_score: f64) -> f64 {
        self.0 * parent_score
    }
}

/// Every round, each layer that is still the parent's is swapped alone, by each operator of `menu`; the best candidate is the
/// first with the highest score. It becomes `M_best` if it is at least as good as the best so far, and its swap is kept if it
/// is at or above the floor; else the search ends.
///
/// # Errors
/// If there is nothing to search over, the parent's score bears no floor, or the objective fails.
pub fn greedy<O: Objective>(
    objective: &mut O,
    layers: usize,
    menu: &[Operator],
    floor: Floor,
    observe: &mut dyn FnMut(Observation<'_>),
) -> Result<Trace, SearchError<O::Error>> {
    check(layers, menu)?;
    let parent = Layout::parent(layers);
    let mut trace = Trace { parent: parent.clone(), minimum: 0.0, evaluations: Vec::new(), decisions: Vec::new() };
    let parent_score = score(objective, 0, &parent, &mut trace, observe)?;
    if !parent_score.is_finite() || parent_score < 0.0 {
        return Err(SearchError::ParentScore { score: parent_score });
    }
    trace.minimum = floor.minimum(parent_score);
    let (mut current, mut best) = (parent, parent_score);
    for round in 1..=layers {
        let mut winner: Option<(Layout, f64)> = None;
        for layer in (0..layers).filter(|&layer| current.operators()[layer] == Operator::PARENT) {
            for &operator in menu {
                let candidate = current.with(layer, operator);
                let found = score(objective, round, &candidate, &mut trace, observe)?;
                if found.is_finite() && winner.as_ref().is_none_or(|(_, highest)| found > *highest) {
                    winner = Some((candidate, found));
                }
            }
        }
        let Some((layout, found)) = winner else { break };
        let decision =
            Decision { round, committed: found >= trace.minimum, best: found >= best, score: found, minimum: trace.minimum, layout };
        best = best.max(found);
        observe(Observation::Decided(&decision));
        trace.decisions.push(decision);
        let Some(decision) = trace.decisions.last().filter(|decision| decision.committed) else { break };
        objective.committed(&decision.layout).map_err(SearchError::Objective)?;
        current = decision.layout.clone();
    }
    Ok(trace)
}

fn score<O: Objective>(
    objective: &mut O,
    round: usize,
    layout: &Layout,
    trace: &mut Trace,
    observe: &mut dyn FnMut(Observation<'_>),
) -> Result<f64, SearchError<O::Error>> {
    let Evaluation { score, loss, full_evaluation_equivalents, seconds, .. } =
        objective.evaluate(layout).map_err(SearchError::Objective)?;
    let step = Step { round, layout: layout.clone(), score, loss, full_evaluation_equivalents, seconds };
    observe(Observation::Evaluated(&step));
    trace.evaluations.push(step);
    Ok(score)
}

fn check<E>(layers: usize, menu: &[Operator]) -> Result<(), SearchError<E>> {
    let wrong = |what: String| Err(SearchError::Menu { what });
    if layers == 0 {
        return wrong("the model has no layers".into());
    }
    if menu.is_empty() {
        return wrong("the menu has no operator".into());
    }
    for (index, operator) in menu.iter().enumerate() {
        if *operator == Operator::PARENT {
            return wrong("the menu holds S, the parent's own attention".into());
        }
        if menu[..index].contains(operator) {
            return wrong(format!("the menu holds {} twice", operator.letter()));
        }
    }
    Ok(())
}
