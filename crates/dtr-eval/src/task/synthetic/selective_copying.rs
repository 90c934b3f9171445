//! Selective copying: data among blanks, then the data alone.

use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::symbols::Symbols;
use super::{Parameter, require};
use crate::task::{Example, Split};

/// Blanks with random data at random places among them, a mark, and the data again in their order, all of them labelled.
///
/// # Reference
/// Gu and Dao, arXiv 2312.00752, section 4.1.1 (16 data tokens of a vocabulary of 16, which includes blank and mark, in 4096 tokens).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SelectiveCopying {
    /// Length, the copy included.
    pub tokens: usize,
    /// Data tokens.
    pub copied: usize,
    /// Tokens in use: blank, mark, and those of data.
    pub vocabulary: usize,
}

impl SelectiveCopying {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        require(self.copied > 0, "copied", "at least 1", self.copied, "write a whole number from 1")?;
        let most = self.tokens.saturating_sub(1) / 2;
        let room = format!("at most (tokens - 1) / 2 = {most}");
        require(self.copied <= most, "copied", room, self.copied, "lower copied or raise tokens")?;
        require(self.vocabulary >= 4, "vocabulary", "at least 4", self.vocabulary, "raise it: two tokens are blank and mark")
    }
}

impl Symbols for SelectiveCopying {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    /// Fewer data where they do not fit.
    fn draw(&self, length: usize, _split: Split, random: &mut ChaCha8Rng) -> Example {
        const BLANK: u32 = 0;
        const MARK: u32 = 1;
        let copied = self.copied.min(length.saturating_sub(1) / 2).max(1);
        let length = length.max(2 * copied + 1);
        let data: Vec<u32> = (0..copied).map(|_| random.random_range(MARK + 1..self.vocabulary as u32)).collect();
        let mut tokens = vec![BLANK; length - copied - 1];
        let mut places = index::sample(random, tokens.len(), copied).into_vec();
        places.sort_unstable();
        for (place, &datum) in places.into_iter().zip(&data) {
            tokens[place] = datum;
        }
        tokens.push(MARK);
        tokens.extend(data);
        Example { tokens, labelled: (length - copied..length).collect(), class: None }
    }
}
