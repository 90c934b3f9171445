//! Greedy replacement that looks back: after each layer gained it takes others back while that is better than anything of that
//! size before, and where no layer can be gained any more it exchanges one for something at least as good. Each size only ever
//! gets better, or moves on to a layout it has not stood at, so the search ends.
//!
//! Pudil, Novovičová and Kittler, Floating search methods in feature selection (1994), with exchanges.

use std::collections::{HashMap, HashSet};

use super::greedy;
use crate::layout::{Layout, Operator};
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;

/// Where the search has been.
#[derive(Default)]
struct Memory {
    /// Best value of each number of layers replaced.
    record: HashMap<usize, f64>,
    visited: HashSet<Layout>,
}

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
    let mut memory = Memory::default();
    while !search.done()? {
        if greedy::round(search)? {
            memory.note(search)?;
            while improve(search, &mut memory, restorations, f64::gt)? {}
        } else if !search.may_look() || !improve(search, &mut memory, exchanges, f64::ge)? {
            break;
        }
    }
    // An exchange that gained no layer may still have made the layout better.
    let current = search.current().clone();
    if search.may_look() && !search.is_kept(&current) {
        search.accept(&current)?;
    }
    Ok(())
}

impl Memory {
    fn note<O: Objective>(&mut self, search: &mut Search<'_, O>) -> Result<(), SearchError<O::Error>> {
        let current = search.current().clone();
        let value = search.value(&current)?;
        let best = self.record.entry(current.replaced()).or_insert(value);
        *best = best.max(value);
        self.visited.insert(current);
        Ok(())
    }
}

/// Goes to the best of the layouts that `moves` gives and the search has not stood at, if it is above the floor and passes against
/// the best of its size so far.
fn improve<O: Objective>(
    search: &mut Search<'_, O>,
    memory: &mut Memory,
    moves: fn(&Layout, &[Operator]) -> Vec<Layout>,
    passes: fn(&f64, &f64) -> bool,
) -> Result<bool, SearchError<O::Error>> {
    let mut candidates = moves(search.current(), &search.settings.menu);
    candidates.retain(|layout| !memory.visited.contains(layout));
    let Some(best) = search.best(&candidates, 1)?.pop() else { return Ok(false) };
    let value = search.value(&best)?;
    let better = search.holds(&best)? && memory.record.get(&best.replaced()).is_none_or(|before| passes(&value, before));
    if better {
        search.go_on_from(&best)?;
        memory.note(search)?;
    }
    Ok(better)
}

/// One layer taken back; at least one stays.
fn restorations(layout: &Layout, _menu: &[Operator]) -> Vec<Layout> {
    if layout.replaced() < 2 {
        return Vec::new();
    }
    replaced(layout).map(|layer| layout.with(layer, Operator::PARENT)).collect()
}

/// One layer taken back and another replaced, or one replaced by another operator.
fn exchanges(layout: &Layout, menu: &[Operator]) -> Vec<Layout> {
    let mut found = Vec::new();
    for layer in replaced(layout) {
        let others = menu.iter().filter(|&&operator| operator != layout.operators()[layer]);
        found.extend(others.map(|&operator| layout.with(layer, operator)));
        let without = layout.with(layer, Operator::PARENT);
        let full = (0..layout.layers()).filter(|&other| layout.operators()[other] == Operator::PARENT);
        found.extend(full.flat_map(|other| menu.iter().map(|&operator| without.with(other, operator)).collect::<Vec<_>>()));
    }
    found
}

fn replaced(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    (0..layout.layers()).filter(|&layer| layout.operators()[layer] != Operator::PARENT)
}
