//! Recall of pairs that come again: in-context, noisy and fuzzy recall of MAD.

use std::ops::{Range, RangeInclusive};

use rand::Rng;
use rand::seq::{IndexedRandom, index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::symbols::Symbols;
use super::{Parameter, require};
use crate::task::{Example, Split};

/// Pairs of a key and a value, drawn again and again; a value is labelled where its key has come before, and the last key has.
/// Keys and values come from halves of their own of the vocabulary, noise from a part of its own.
///
/// | in the paper | `key-tokens`, `value-tokens` | `noise` |
/// |---|---|---|
/// | in-context recall | 1 | 0 |
/// | noisy in-context recall | 1 | 0.2 |
/// | fuzzy in-context recall | 3 | 0 |
///
/// Keys and values of several tokens have distinct ones; values have 1 to `value-tokens`, keys `key-tokens`, and from 1 on in
/// training. The last symbol then pads on the left.
///
/// # Reference
/// Poli et al., arXiv 2403.17844, with questions at every key. Here noise comes only after the first pair, so that there
/// is always a pair to ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InContextRecall {
    /// Length; even for single tokens.
    pub tokens: usize,
    /// Tokens in use, those of noise included.
    pub vocabulary: usize,
    /// Longest key.
    pub key_tokens: usize,
    /// Longest value.
    pub value_tokens: usize,
    /// Share of noise in place of pairs, in `[0, 1)`.
    pub noise: f64,
    /// Tokens that are noise.
    pub noise_vocabulary: usize,
}

impl InContextRecall {
    fn longest(&self) -> usize {
        self.key_tokens + self.value_tokens
    }

    /// Symbols of keys, of values, and of noise.
    fn parts(&self) -> [Range<usize>; 3] {
        let padding = usize::from(self.longest() > 2);
        let end = self.vocabulary.saturating_sub(padding);
        let pairs = end.saturating_sub(self.noise_vocabulary);
        [0..pairs / 2, pairs / 2..pairs, pairs..end]
    }

    pub(super) fn check(&self) -> Result<(), Parameter> {
        for (key, value) in [("key-tokens", self.key_tokens), ("value-tokens", self.value_tokens)] {
            require(value > 0, key, "at least 1", value, "write 1 for single tokens")?;
        }
        let least = 2 * self.longest();
        let room = format!("at least 2 (key-tokens + value-tokens) = {least}");
        require(self.tokens >= least, "tokens", room, self.tokens, "raise tokens: a pair has to come twice")?;
        let filled = self.longest() > 2 || self.tokens.is_multiple_of(2);
        require(filled, "tokens", "even", self.tokens, "pairs take two tokens each")?;
        require((0.0..1.0).contains(&self.noise), "noise", "a share of at least 0 and below 1", self.noise, "write 0.0 for none")?;
        let named = self.noise == 0.0 || self.noise_vocabulary > 0;
        require(named, "noise-vocabulary", "at least 1 where there is noise", self.noise_vocabulary, "16 in the paper")?;
        let [keys, values, _] = self.parts();
        require(
            keys.len() >= self.key_tokens && values.len() >= self.value_tokens && values.len() > 1,
            "vocabulary",
            "large enough for distinct tokens in keys and values beside those of noise and padding",
            format!("{}, which leaves {} for keys and {} for values", self.vocabulary, keys.len(), values.len()),
            "raise vocabulary, or lower noise-vocabulary",
        )
    }
}

impl Symbols for InContextRecall {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn draw(&self, length: usize, split: Split, random: &mut ChaCha8Rng) -> Example {
        let [keys, values, noise] = self.parts();
        let shortest_key = if split == Split::Training { 1 } else { self.key_tokens };
        let longest = self.longest();
        let length = length.max(2 * longest);
        let mut pairs: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        let (mut tokens, mut labelled) = (Vec::new(), Vec::new());
        while tokens.len() + 2 * longest <= length {
            let key = motif(&keys, shortest_key..=self.key_tokens, random);
            let value = motif(&values, 1..=self.value_tokens, random);
            if !pairs.is_empty() && random.random_bool(self.noise) {
                tokens.extend((0..key.len() + value.len()).map(|_| random.random_range(noise.clone()) as u32));
                continue;
            }
            let known = pairs.iter().find(|pair| pair.0 == key).cloned();
            let pair = known.clone().unwrap_or((key, value));
            let answer = push(&mut tokens, &pair);
            match known {
                Some(_) => labelled.extend(answer),
                None => pairs.push(pair),
            }
        }
        let answer = push(&mut tokens, pairs.choose(random).expect("the first one is a pair"));
        labelled.extend(answer);
        // Pairs of two tokens fill what is even without it.
        let padding = if longest > 2 { length - tokens.len() } else { 0 };
        tokens.splice(0..0, std::iter::repeat_n(self.vocabulary as u32 - 1, padding));
        Example { tokens, labelled: labelled.into_iter().map(|at| at + padding).collect(), class: None }
    }
}

/// Appends a pair, and says where its value stands.
fn push(tokens: &mut Vec<u32>, (key, value): &(Vec<u32>, Vec<u32>)) -> Range<usize> {
    tokens.extend(key);
    tokens.extend(value);
    tokens.len() - value.len()..tokens.len()
}

/// Distinct symbols.
fn motif(symbols: &Range<usize>, sizes: RangeInclusive<usize>, random: &mut ChaCha8Rng) -> Vec<u32> {
    let size = random.random_range(sizes);
    index::sample(random, symbols.len(), size).into_iter().map(|index| (symbols.start + index) as u32).collect()
}
