//! Language modelling of real text: the next token of held-out Rust files.

use std::collections::BTreeMap;

use dtr_models::Tokenizer;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Documents, Example, Metric, Split, Task};
use crate::corpus::{SourceFile, Sources, files};
use crate::error::EvalError;

/// Consecutive tokens of the files of a split, `SEPARATOR` between files. Every token but the first counts.
#[derive(Debug)]
pub struct RustText {
    length: usize,
    separator: Vec<u32>,
    tokenizer: Tokenizer,
    files: BTreeMap<Split, Vec<SourceFile>>,
}

impl RustText {
    /// Rows of `length` tokens from these crates.
    ///
    /// # Errors
    /// If a crate is unknown, or a split has no text.
    pub fn new(tokenizer: &Tokenizer, sources: &Sources, length: usize, separator: &str, crates: &[String]) -> Result<Self, EvalError> {
        let mut by_split = BTreeMap::new();
        for split in [Split::Training, Split::Validation, Split::Test] {
            let mut all = Vec::new();
            for name in crates {
                all.extend(files(sources, name, split)?);
            }
            if all.is_empty() {
                return Err(EvalError::EmptySplit { split: split.name(), what: "rust-text".into(), needed: length });
            }
            by_split.insert(split, all);
        }
        Ok(Self { length, separator: tokenizer.encode(separator)?, tokenizer: tokenizer.clone(), files: by_split })
    }

    /// `length` tokens from a random place, running on into the files that follow.
    fn window(&self, split: Split, length: usize, random: &mut ChaCha8Rng) -> Vec<u32> {
        let files = &self.files[&split];
        let total: usize = files.iter().map(|file| file.bytes).sum();
        let mut place = random.random_range(0..total);
        let mut index = 0;
        while place >= files[index].bytes {
            place -= files[index].bytes;
            index += 1;
        }
        let tokens = files[index].tokens(&self.tokenizer);
        let start = tokens.len() * place / files[index].bytes;
        let mut window = tokens[start..].to_vec();
        while window.len() < length {
            index = (index + 1) % files.len();
            window.extend(&self.separator);
            window.extend(files[index].tokens(&self.tokenizer));
        }
        window.truncate(length);
        window
    }
}

impl Task for RustText {
    fn metric(&self) -> Metric {
        Metric::TokenAccuracy
    }

    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        Example { tokens: self.window(split, self.length, random), labelled: (1..self.length).collect(), class: None }
    }
}

impl Documents for RustText {
    /// No token matters more than another.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        Ok(Example { tokens: self.window(Split::Training, length, random), ..Example::default() })
    }
}
