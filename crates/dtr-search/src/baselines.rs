//! Layouts found without search: what a searched one of the same size has to beat.
//!
//! `operators[i]` is the operator that layer `i` gets if it is replaced.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::layout::{Layout, Operator};

/// The layers that stay full lie evenly: the `j`-th of `kept` at `floor((j + 1/2) layers / kept)`.
///
/// # Panics
/// If more layers are to be replaced than there are.
pub fn uniform(operators: &[Operator], replaced: usize) -> Layout {
    let layers = operators.len();
    let kept = layers - replaced;
    let full: Vec<usize> = (0..kept).map(|j| (2 * j + 1) * layers / (2 * kept)).collect();
    replace(operators, |layer| !full.contains(&layer))
}

/// Layers drawn without replacement; the same on every machine for one seed.
///
/// # Panics
/// If more layers are to be replaced than there are.
pub fn random(operators: &[Operator], replaced: usize, seed: u64) -> Layout {
    let chosen = index::sample(&mut ChaCha8Rng::seed_from_u64(seed), operators.len(), replaced).into_vec();
    replace(operators, |layer| chosen.contains(&layer))
}

/// The layers with the lowest distillation loss, the first ones on a tie.
///
/// # Panics
/// If there is not one loss a layer, or more layers are to be replaced than there are.
pub fn local_importance(operators: &[Operator], replaced: usize, losses: &[f64]) -> Layout {
    assert_eq!(losses.len(), operators.len(), "one loss a layer");
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
    let chosen = &order[..replaced];
    replace(operators, |layer| chosen.contains(&layer))
}

fn replace(operators: &[Operator], replaced: impl Fn(usize) -> bool) -> Layout {
    operators.iter().enumerate().map(|(layer, &operator)| if replaced(layer) { operator } else { Operator::PARENT }).collect()
}
