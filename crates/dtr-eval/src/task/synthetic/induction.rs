//! Induction heads: what followed a token the last time.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::symbols::Symbols;
use super::{Parameter, require};
use crate::task::{Example, Split};

/// Training sequences ask once in so many tokens.
const SPACING: usize = 16;

/// Random symbols; at a random place stands a special one, never used otherwise, and at the end again. What follows it there is what
/// followed it first. In training it is asked for in between as well.
///
/// # Reference
/// Olsson et al., arXiv 2209.11895; as a task with one special token Gu and Dao, arXiv 2312.00752, section 4.1.2 (vocabulary 16,
/// 256 tokens).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Induction {
    /// Length.
    pub tokens: usize,
    /// Tokens in use, the special one included.
    pub vocabulary: usize,
}

/// Special token, token, anything, special token, token.
const SHORTEST: usize = 5;

impl Induction {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        require(self.tokens >= SHORTEST, "tokens", format!("at least {SHORTEST}"), self.tokens, "raise it")?;
        require(self.vocabulary >= 3, "vocabulary", "at least 3", self.vocabulary, "raise it: one token is special")
    }
}

impl Symbols for Induction {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn draw(&self, length: usize, split: Split, random: &mut ChaCha8Rng) -> Example {
        let length = length.max(SHORTEST);
        let places = (length - 3) / 2;
        let count = if split == Split::Training { length.div_ceil(SPACING).min(places) } else { 1 };
        let offset = random.random_range(0..2);
        let mut special: Vec<usize> = index::sample(random, places, count).into_iter().map(|place| 2 * place + offset).collect();
        special.push(length - 2);
        special.sort_unstable();
        let mut ordinary = || random.random_range(1..self.vocabulary as u32);
        let answer = ordinary();
        let mut tokens: Vec<u32> = (0..length).map(|_| ordinary()).collect();
        for &at in &special {
            tokens[at] = 0;
            tokens[at + 1] = answer;
        }
        Example { tokens, labelled: special[1..].iter().map(|at| at + 1).collect(), class: None }
    }
}
