//! How layouts are proposed. A strategy is one file: it asks what candidates are worth and proposes what to keep.

mod beam;
mod exhaustive;
mod floating;
mod front;
mod greedy;
mod random;
mod ranked;
mod uniform;

use serde::{Deserialize, Serialize};

use crate::objective::Objective;
use crate::search::Search;
use crate::settings::{SearchError, Settings};

pub use exhaustive::all_layouts;
pub use ranked::Ranking;

/// How layouts are proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// Algorithm 1 of arXiv 2601.11667: each round the best swap is kept while the floor holds.
    #[default]
    Greedy,
    /// Greedy, which also takes back and exchanges what it replaced (sequential floating search).
    Floating,
    /// The best layouts of each size, each extended by one layer.
    Beam {
        /// How many.
        width: usize,
    },
    /// Layers are ranked once, then replaced in that order.
    Ranked(Ranking),
    /// What stays full lies evenly. Searches nothing: to compare with.
    Uniform,
    /// Layouts drawn at random. To compare with.
    Random {
        /// How many.
        layouts: usize,
        /// The same for the same seed.
        seed: u64,
    },
    /// Every layout: the ceiling, for few layers.
    Exhaustive,
    /// The Pareto front of score against cost, pushed outwards by single changes.
    Front {
        /// Layouts scored, at most.
        layouts: usize,
    },
}

impl Strategy {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Floating => "floating",
            Self::Beam { .. } => "beam",
            Self::Ranked(ranking) => ranking.name(),
            Self::Uniform => "uniform",
            Self::Random { .. } => "random",
            Self::Exhaustive => "exhaustive",
            Self::Front { .. } => "front",
        }
    }

    /// Layouts scored, at most, parent included: for plans and progress.
    pub fn layouts(self, layers: usize, menu: usize) -> usize {
        match self {
            Self::Greedy => 1 + menu * layers * (layers + 1) / 2,
            // Taking back and exchanging has no bound of its own; this is what it usually takes.
            Self::Floating => 1 + menu * layers * (layers + 1),
            Self::Beam { width } => 1 + width * menu * layers * (layers + 1) / 2,
            Self::Ranked(_) => 1 + (menu + 1) * layers,
            Self::Uniform => 1 + layers,
            Self::Random { layouts, .. } | Self::Front { layouts } => 1 + layouts,
            Self::Exhaustive => exhaustive::layouts(layers, menu).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn check<E>(self, settings: &Settings) -> Result<(), SearchError<E>> {
        let few = |count: usize, what: &str| {
            let what = format!("{} with {what} 0", self.name());
            if count > 0 { Ok(()) } else { Err(SearchError::Settings { what, remedy: "Give at least 1" }) }
        };
        match self {
            Self::Beam { width } => few(width, "width"),
            Self::Random { layouts, .. } | Self::Front { layouts } => few(layouts, "layouts"),
            Self::Exhaustive => exhaustive::check(settings),
            Self::Greedy | Self::Floating | Self::Ranked(_) | Self::Uniform => Ok(()),
        }
    }

    pub(crate) fn run<O: Objective>(self, search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
        match self {
            Self::Greedy => greedy::run(search),
            Self::Floating => floating::run(search),
            Self::Beam { width } => beam::run(search, width),
            Self::Ranked(ranking) => ranked::run(search, ranking),
            Self::Uniform => uniform::run(search),
            Self::Random { layouts, seed } => random::run(search, layouts, seed),
            Self::Exhaustive => exhaustive::run(search),
            Self::Front { layouts } => front::run(search, layouts),
        }
    }
}
