//! Layouts of a given size found without search: what a searched one of the same size has to beat.
//!
//! `prior[i]` is the operator that layer `i` gets if it is replaced, and how far it is from the layer it imitates.

use rand::Rng;
use rand::seq::index;

use crate::layout::{Layout, Operator};

/// The layers that stay full lie evenly: the `j`-th of `kept` at `floor((j + 1/2) layers / kept)`.
///
/// # Panics
/// If more layers are to be replaced than there are.
pub fn uniform(prior: &[(Operator, f64)], replaced: usize) -> Layout {
    let (layers, kept) = (prior.len(), prior.len() - replaced);
    let full: Vec<usize> = (0..kept).map(|j| (2 * j + 1) * layers / (2 * kept)).collect();
    replace(prior, |layer| !full.contains(&layer))
}

/// Layers drawn without replacement.
///
/// # Panics
/// If more layers are to be replaced than there are.
pub fn random(prior: &[(Operator, f64)], replaced: usize, random: &mut impl Rng) -> Layout {
    let chosen = index::sample(random, prior.len(), replaced).into_vec();
    replace(prior, |layer| chosen.contains(&layer))
}

/// The layers with the lowest distillation loss, the first ones on a tie.
///
/// # Panics
/// If more layers are to be replaced than there are.
pub fn local_importance(prior: &[(Operator, f64)], replaced: usize) -> Layout {
    let mut order: Vec<usize> = (0..prior.len()).collect();
    order.sort_by(|&a, &b| prior[a].1.total_cmp(&prior[b].1));
    let chosen = &order[..replaced];
    replace(prior, |layer| chosen.contains(&layer))
}

/// The prior's operators where `replaced` says so, the parent's elsewhere.
pub(crate) fn replace(prior: &[(Operator, f64)], replaced: impl Fn(usize) -> bool) -> Layout {
    prior.iter().enumerate().map(|(layer, &(operator, _))| if replaced(layer) { operator } else { Operator::PARENT }).collect()
}
