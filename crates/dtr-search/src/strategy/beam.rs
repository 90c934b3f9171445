//! The best layouts of each size, each extended by one layer: what is best with two layers need not contain what is best with one.

use crate::layout::Layout;
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>, width: usize) -> Result<(), SearchError<O::Error>> {
    let mut beam = vec![search.current().clone()];
    while !beam.is_empty() && !search.is_goal(&beam[0])? {
        let mut candidates: Vec<Layout> = beam.iter().flat_map(|layout| search.replacements(layout)).collect();
        candidates.sort_unstable();
        candidates.dedup();
        beam.clear();
        for layout in search.best(&candidates, width)? {
            if search.holds(&layout)? {
                beam.push(layout);
            }
        }
    }
    search.climb()
}
