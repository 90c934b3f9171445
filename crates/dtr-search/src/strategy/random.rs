//! Layouts drawn at random, of all sizes: to compare with.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::baselines;
use crate::objective::Objective;
use crate::search::Search;
use crate::settings::SearchError;

pub(super) fn run<O: Objective>(search: &mut Search<'_, O>, layouts: usize, seed: u64) -> Result<(), SearchError<O::Error>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..layouts {
        let replaced = random.random_range(1..=search.settings.layers);
        let layout = baselines::random(&search.settings.prior, replaced, &mut random);
        search.summary(&layout)?;
    }
    search.climb()
}
