//! Classification of real text: which crate a piece of Rust comes from.

use std::collections::BTreeMap;

use dtr_models::Tokenizer;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Documents, Example, Metric, Split, Task};
use crate::corpus::{Sources, files};
use crate::error::EvalError;

/// Consecutive tokens of one file, `QUESTION`, and the label of its crate.
#[derive(Debug)]
pub struct SnippetOrigin {
    length: usize,
    question: Vec<u32>,
    labels: Vec<u32>,
    /// By split and label: the tokens of files long enough.
    files: BTreeMap<Split, Vec<Vec<Vec<u32>>>>,
}

impl SnippetOrigin {
    /// Snippets of `length` tokens from the crates that `labels` names, each with the token that stands for it.
    ///
    /// # Errors
    /// If a crate or token is unknown, or a crate has no file long enough in some split.
    pub fn new(
        tokenizer: &Tokenizer,
        sources: &Sources,
        length: usize,
        question: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, EvalError> {
        let mut by_split = BTreeMap::new();
        for split in [Split::Training, Split::Validation, Split::Test] {
            let mut by_label = Vec::new();
            for name in labels.keys() {
                let found = files(sources, name, split)?;
                let long: Vec<Vec<u32>> =
                    found.iter().map(|file| file.tokens(tokenizer).to_vec()).filter(|tokens| tokens.len() > length).collect();
                if long.is_empty() {
                    return Err(EvalError::EmptySplit { split: split.name(), what: format!("crate \"{name}\""), needed: length });
                }
                by_label.push(long);
            }
            by_split.insert(split, by_label);
        }
        Ok(Self {
            length,
            question: tokenizer.encode(question)?,
            labels: labels.values().map(|label| tokenizer.token(label)).collect::<Result<_, _>>()?,
            files: by_split,
        })
    }
}

impl Task for SnippetOrigin {
    fn metric(&self) -> Metric {
        Metric::ExactMatch
    }

    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        let label = random.random_range(0..self.labels.len());
        let file = self.files[&split][label].choose(random).expect("no split is empty");
        let start = random.random_range(0..file.len() - self.length);
        let mut tokens = file[start..start + self.length].to_vec();
        tokens.extend(&self.question);
        tokens.push(self.labels[label]);
        Example { labelled: vec![tokens.len() - 1], tokens, class: None }
    }
}

impl Documents for SnippetOrigin {
    fn document(&self, _length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        Ok(self.example(Split::Training, random))
    }
}
