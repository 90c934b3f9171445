//! Layers ranked once by what a single swap says, then replaced in that order: cheap, and blind to how layers act together.

use serde::{Deserialize, Serialize};

use crate::baselines::replace;
use crate::layout::{Layout, Operator};
use crate::objective::{Objective, Signal};
use crate::search::Search;
use crate::settings::SearchError;
use crate::trace::Verdict;

/// What layers are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranking {
    /// Distillation loss of the layer's student: asks no example.
    LocalImportance,
    /// Divergence from the parent with this layer alone replaced.
    SwapDivergence,
    /// Task loss with this layer alone replaced.
    SwapLoss,
    /// Divergence from the parent with all layers replaced but this one: large where the layer can go.
    RestoreDivergence,
}

impl Ranking {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LocalImportance => "ranked-local-importance",
            Self::SwapDivergence => "ranked-swap-divergence",
            Self::SwapLoss => "ranked-swap-loss",
            Self::RestoreDivergence => "ranked-restore-divergence",
        }
    }
}

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>, ranking: Ranking) -> Result<(), SearchError<O::Error>> {
    let parent = search.current().clone();
    let mut swaps = Vec::new();
    for layer in 0..parent.layers() {
        swaps.push(swap(search, &parent, layer, ranking)?);
    }
    swaps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut layout = parent;
    for (_, layer, operator) in swaps {
        if search.done()? || !search.may_look() {
            break;
        }
        layout = layout.with(layer, operator);
        if search.accept(&layout)? == Verdict::BelowFloor {
            break;
        }
    }
    Ok(())
}

/// How well one layer can go, the layer, and the operator to put there.
fn swap<O: Objective>(
    search: &mut Search<'_, O>,
    parent: &Layout,
    layer: usize,
    ranking: Ranking,
) -> Result<(f64, usize, Operator), SearchError<O::Error>> {
    let (preferred, loss) = search.settings.prior[layer];
    let signal = match ranking {
        Ranking::LocalImportance => return Ok((-loss, layer, preferred)),
        Ranking::RestoreDivergence => {
            let restored = replace(&search.settings.prior, |other| other != layer);
            return Ok((search.summary(&restored)?.divergence(), layer, preferred));
        }
        Ranking::SwapDivergence => Signal::Divergence,
        Ranking::SwapLoss => Signal::Loss,
    };
    let mut best = (f64::NEG_INFINITY, layer, preferred);
    for &operator in &search.settings.menu {
        let value = search.summary(&parent.with(layer, operator))?.value(signal);
        if value > best.0 {
            best = (value, layer, operator);
        }
    }
    Ok(best)
}
