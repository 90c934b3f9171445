//! Algorithm 1 of Distill-then-Replace (arXiv 2601.11667): replace the layer that costs least, until the floor is reached.
//!
//! Every round, each layer that is still the parent's is swapped alone, by each operator of the menu; the best candidate is the
//! first with the highest score. It becomes `M_best` if it is at least as good as the best so far, and its swap is kept if it is
//! at or above the floor; else the search ends. With point acceptance, the score as signal and one swap a round this is the
//! paper's algorithm to the letter; where layouts must be confirmed, the next best may follow one that was refused.

use crate::layout::{Layout, Operator};
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;
use crate::trace::Verdict;

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
    while !search.done()? {
        if !round(search)? {
            break;
        }
    }
    Ok(())
}

/// Replaces one layer more, or several; whether it did.
pub(super) fn round<O: Objective>(search: &mut Search<'_, O>) -> Result<bool, SearchError<O::Error>> {
    let mut candidates = search.replacements(search.current());
    let mut swaps = search.settings.swaps;
    while search.may_look() {
        let best = search.best(&candidates, swaps)?;
        let Some(winner) = best.first() else { return Ok(false) };
        if let Some(joint) = together(search, &best)? {
            if search.accept(&joint)? == Verdict::Kept {
                return Ok(true);
            }
            swaps = 1;
            continue;
        }
        match search.accept(winner)? {
            Verdict::Unconfirmed => candidates.retain(|candidate| candidate != winner),
            verdict => return Ok(verdict == Verdict::Kept),
        }
    }
    Ok(false)
}

/// The largest number of `best` swaps that hold together: at or above the floor, and costing at most twice what they cost one by one.
fn together<O: Objective>(search: &mut Search<'_, O>, best: &[Layout]) -> Result<Option<Layout>, SearchError<O::Error>> {
    let current = search.current().clone();
    let before = search.value(&current)?;
    for count in (2..=best.len()).rev() {
        let mut joint = current.clone();
        let mut predicted = 0.0;
        for layout in &best[..count] {
            let (layer, operator) = swapped(&current, layout);
            if joint.operators()[layer] == Operator::PARENT {
                joint = joint.with(layer, operator);
                predicted += search.value(layout)? - before;
            }
        }
        let additive = joint.replaced() > current.replaced() + 1;
        if additive && search.holds(&joint)? && search.value(&joint)? - before >= predicted - f64::abs(predicted) {
            return Ok(Some(joint));
        }
    }
    Ok(None)
}

/// The layer in which a candidate differs, and what stands there.
fn swapped(current: &Layout, candidate: &Layout) -> (usize, Operator) {
    let layer = current.shared_prefix(candidate);
    (layer, candidate.operators()[layer])
}
