//! Tasks over single tokens: sequences of symbols, each symbol one token of the parent.

use std::fmt::Debug;

use dtr_models::Tokenizer;
use rand_chacha::ChaCha8Rng;

use super::{Parameter, require};
use crate::error::EvalError;
use crate::task::{Documents, Example, Metric, Split, Task};

/// A task over the symbols `0..vocabulary`, whatever they stand for.
pub(super) trait Symbols: Debug + Send + Sync {
    /// Number of symbols.
    fn vocabulary(&self) -> usize;

    /// Symbols of an example.
    fn tokens(&self) -> usize;

    /// Draws a sequence of `length` symbols, or of as many as it takes to ask one question.
    fn draw(&self, length: usize, split: Split, random: &mut ChaCha8Rng) -> Example;
}

/// Symbol `i` is the `i`-th token that is text by itself, in the order of ids.
#[derive(Debug)]
pub(super) struct OverTokens<S> {
    symbols: S,
    alphabet: Vec<u32>,
}

impl<S: Symbols> OverTokens<S> {
    /// # Errors
    /// If the tokenizer has too few such tokens.
    pub fn new(tokenizer: &Tokenizer, symbols: S) -> Result<Self, Parameter> {
        let mut alphabet = tokenizer.plain_tokens();
        require(
            alphabet.len() >= symbols.vocabulary(),
            "vocabulary",
            format!("at most {}, the tokens of the parent that are text by themselves", alphabet.len()),
            symbols.vocabulary(),
            "lower it, and what depends on it",
        )?;
        alphabet.truncate(symbols.vocabulary());
        Ok(Self { symbols, alphabet })
    }

    fn draw(&self, length: usize, split: Split, random: &mut ChaCha8Rng) -> Example {
        let mut example = self.symbols.draw(length, split, random);
        for symbol in &mut example.tokens {
            *symbol = self.alphabet[*symbol as usize];
        }
        example
    }
}

impl<S: Symbols> Task for OverTokens<S> {
    fn metric(&self) -> Metric {
        Metric::TokenAccuracy
    }

    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        self.draw(self.symbols.tokens(), split, random)
    }
}

impl<S: Symbols> Documents for OverTokens<S> {
    /// An example, shorter where a whole one does not fit.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        Ok(self.draw(length.min(self.symbols.tokens()), Split::Training, random))
    }
}
