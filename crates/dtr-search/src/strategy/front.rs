//! The Pareto front of score against cost, pushed outwards: every layout on it is changed in one layer in every way, and what no
//! other beats in both joins, until nothing joins or the allowance is spent (Pareto local search, Paquete et al. 2004).

use crate::layout::{Layout, Operator};
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;

/// A layout on the front.
struct Member {
    layout: Layout,
    value: f64,
    cost: f64,
    expanded: bool,
}

impl Member {
    /// At least as good in both, better in one.
    fn beats(&self, other: &Self) -> bool {
        self.value >= other.value && self.cost <= other.cost && (self.value > other.value || self.cost < other.cost)
    }
}

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>, layouts: usize) -> Result<(), SearchError<O::Error>> {
    let mut operators = vec![Operator::PARENT];
    operators.extend(&search.settings.menu);
    let mut seen = vec![search.current().clone()];
    let mut front = vec![member(search, search.current().clone())?];
    while let Some(next) = front.iter_mut().find(|member| !member.expanded) {
        next.expanded = true;
        let from = next.layout.clone();
        for layer in 0..from.layers() {
            for &operator in &operators {
                let layout = from.with(layer, operator);
                if seen.len() > layouts || seen.contains(&layout) {
                    continue;
                }
                seen.push(layout.clone());
                let new = member(search, layout)?;
                if search.holds(&new.layout)? && !front.iter().any(|other| other.beats(&new)) {
                    front.retain(|other| !new.beats(other));
                    front.push(new);
                }
            }
        }
    }
    search.climb()
}

fn member<O: Objective>(search: &mut Search<'_, O>, layout: Layout) -> Result<Member, SearchError<O::Error>> {
    let (value, cost) = (search.value(&layout)?, search.cost(&layout)?);
    Ok(Member { layout, value, cost, expanded: false })
}
