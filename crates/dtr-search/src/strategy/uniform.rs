//! Layouts in which the layers that stay full lie evenly, one of each size: to compare with.

use crate::baselines;
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
    for replaced in 1..=search.settings.layers {
        let layout = baselines::uniform(&search.settings.prior, replaced);
        search.summary(&layout)?;
        if search.is_goal(&layout)? {
            break;
        }
    }
    search.climb()
}
