//! Every layout, neighbours in the tree of prefixes one after the other: the ceiling of what any search can find.

use crate::layout::{Layout, Operator};
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::{SearchError, Settings};

/// More would take longer than anybody waits.
const MOST: usize = 1 << 16;

/// `(menu + 1)^layers`, if that is not out of reach.
pub(super) fn layouts(layers: usize, menu: usize) -> Option<usize> {
    (menu + 1).checked_pow(u32::try_from(layers).ok()?).filter(|&count| count <= MOST)
}

pub(super) fn check<E>(settings: &Settings) -> Result<(), SearchError<E>> {
    let (layers, menu) = (settings.layers, settings.menu.len());
    if layouts(layers, menu).is_some() {
        return Ok(());
    }
    let what = format!("{layers} layers with {menu} operators have more than {MOST} layouts");
    Err(SearchError::Settings { what, remedy: "Take another strategy, or fewer operators" })
}

/// Every layout; consecutive ones share the longest prefixes, because the last layer counts up first.
pub fn all_layouts(layers: usize, menu: &[Operator]) -> impl Iterator<Item = Layout> {
    let mut operators = vec![Operator::PARENT];
    operators.extend(menu);
    let mut next = Some(vec![0; layers]);
    std::iter::from_fn(move || {
        let digits = next.clone()?;
        next = (0..layers).rev().find(|&place| digits[place] + 1 < operators.len()).map(|place| {
            let mut digits = digits.clone();
            digits[place] += 1;
            digits[place + 1..].fill(0);
            digits
        });
        Some(digits.iter().map(|&digit| operators[digit]).collect())
    })
}

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
    for layout in all_layouts(search.settings.layers, &search.settings.menu) {
        search.summary(&layout)?;
    }
    search.climb()
}
