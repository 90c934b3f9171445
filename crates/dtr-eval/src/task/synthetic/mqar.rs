//! Recall, dense: multi-query associative recall.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::symbols::Symbols;
use super::{Parameter, require};
use crate::task::{Example, Split};

/// `D` pairs of a key and its value, then `N - 2D` random symbols in which every key stands once more, its value behind it. Of the
/// `(N - 2D) / 2` places for it, place `i` (from 1) has a weight of `i^(power - 1)`. Keys are distinct from `[1, V / 2)`, values
/// distinct from `[V / 2, V)`.
///
/// # Reference
/// Arora et al., arXiv 2312.04927. There the value is only the target behind its key; here it stands in the sequence,
/// too, because labelled tokens do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mqar {
    /// Length `N`, even.
    pub tokens: usize,
    /// Pairs `D`, at most `N / 4`.
    pub pairs: usize,
    /// Tokens `V` in use, more than `N`.
    pub vocabulary: usize,
    /// How far questions lie from their pairs: 0.01 in the paper, 1 for anywhere.
    pub power: f64,
}

impl Mqar {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        require(self.tokens.is_multiple_of(2), "tokens", "even", self.tokens, "pairs take two tokens each")?;
        require(self.pairs > 0, "pairs", "at least 1", self.pairs, "write a whole number from 1")?;
        let most = self.tokens / 4;
        require(self.pairs <= most, "pairs", format!("at most tokens / 4 = {most}"), self.pairs, "lower pairs or raise tokens")?;
        let least = format!("above tokens = {}", self.tokens);
        require(self.vocabulary > self.tokens, "vocabulary", least, self.vocabulary, "raise vocabulary or lower tokens")?;
        let sound = self.power > 0.0 && self.power <= 1.0;
        require(sound, "power", "above 0 and at most 1", self.power, "write 0.01 as in the paper, or 1.0 for anywhere")
    }
}

impl Symbols for Mqar {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    /// Fewer pairs where they do not fit.
    fn draw(&self, length: usize, _split: Split, random: &mut ChaCha8Rng) -> Example {
        let pairs = self.pairs.min(length / 4).max(1);
        let length = (length / 2 * 2).max(4 * pairs);
        let half = self.vocabulary / 2;
        let keys = index::sample(random, half - 1, pairs);
        let values = index::sample(random, self.vocabulary - half, pairs);
        let weight = |place: usize| ((place + 1) as f64).powf(self.power - 1.0);
        let places = index::sample_weighted(random, (length - 2 * pairs) / 2, weight, pairs).expect("weights are in (0, 1]");
        let mut tokens: Vec<u32> = (0..length).map(|_| random.random_range(0..self.vocabulary as u32)).collect();
        let mut labelled = Vec::new();
        for (pair, (key, (value, place))) in keys.iter().zip(values.iter().zip(places.iter())).enumerate() {
            for at in [2 * pair, 2 * (pairs + place)] {
                tokens[at] = key as u32 + 1;
                tokens[at + 1] = (half + value) as u32;
            }
            labelled.push(2 * (pairs + place) + 1);
        }
        labelled.sort_unstable();
        Example { tokens, labelled, class: None }
    }
}
