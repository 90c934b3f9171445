//! Text that a model generates, greedily up to a stop string, and how it is compared with what was expected.

use std::collections::HashMap;

use dtr_attention::MixerBackend;
use dtr_models::generate::Session;
use dtr_models::{Decoder, Tokenizer};
use regex::Regex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::reader::Reader;

/// Greedy generation, and the judgement of what comes of it.
#[derive(Debug, Clone)]
pub struct Generation {
    /// How texts are compared.
    pub metric: TextMetric,
    /// Tokens at most.
    pub max_tokens: usize,
    /// Texts that end an answer and are no part of it.
    pub stop: Vec<String>,
    /// Tokens that end it.
    end: Vec<u32>,
    tokenizer: Tokenizer,
    /// Tokens that a stop string can be spread over, at most.
    span: usize,
}

impl PartialEq for Generation {
    /// Of one model's generations, the settings tell them apart.
    fn eq(&self, other: &Self) -> bool {
        (&self.metric, self.max_tokens, &self.stop) == (&other.metric, other.max_tokens, &other.stop)
    }
}

/// How a text is compared with what is right; the best of several right texts counts. White space around both does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextMetric {
    /// 1 if they are the same.
    ExactMatch,
    /// F1 of their words as `SQuAD` counts them: without case, punctuation and articles.
    F1,
    /// F-measure of their longest common subsequence of words, which are runs of `a-z0-9` without case.
    RougeL,
    /// 1 if the right text occurs in it.
    Contains,
    /// 1 if the first match of a pattern, or of its first group, is the right text.
    Regex(Pattern),
}

/// A regular expression that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// A regular expression that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a regular expression: {reason}")]
pub struct PatternError {
    reason: String,
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(pattern: String) -> Result<Self, PatternError> {
        match Regex::new(&pattern) {
            Ok(_) => Ok(Self(pattern)),
            Err(error) => Err(PatternError { reason: error.to_string() }),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl TextMetric {
    /// Name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExactMatch => "exact match of text",
            Self::F1 => "F1",
            Self::RougeL => "ROUGE-L",
            Self::Contains => "contains",
            Self::Regex(_) => "regex match",
        }
    }

    /// Score of a text in `[0, 1]`.
    pub fn score(&self, text: &str, references: &[String]) -> f32 {
        references.iter().map(|reference| self.compare(text.trim(), reference.trim())).fold(0.0, f32::max)
    }

    fn compare(&self, text: &str, reference: &str) -> f32 {
        let bool = |right: bool| f32::from(u8::from(right));
        match self {
            Self::ExactMatch => bool(text == reference),
            Self::Contains => bool(text.contains(reference)),
            Self::F1 => {
                let (text, reference) = (squad_words(text), squad_words(reference));
                let mut left: HashMap<&str, usize> = HashMap::new();
                for word in &reference {
                    *left.entry(word).or_default() += 1;
                }
                let common = text.iter().filter(|word| left.get_mut(word.as_str()).is_some_and(take)).count();
                f1(common, text.len(), reference.len())
            }
            Self::RougeL => {
                let (text, reference) = (rouge_words(text), rouge_words(reference));
                f1(common_subsequence(&text, &reference), text.len(), reference.len())
            }
            Self::Regex(pattern) => {
                let found = Regex::new(&pattern.0).ok().and_then(|pattern| {
                    let groups = pattern.captures(text)?;
                    groups.get(1).or(groups.get(0)).map(|found| found.as_str().trim().to_owned())
                });
                bool(found.is_some_and(|found| found == reference))
            }
        }
    }
}

/// Takes one, if any is left.
fn take(left: &mut usize) -> bool {
    let some = *left > 0;
    *left -= usize::from(some);
    some
}

/// Harmonic mean of precision and recall.
fn f1(common: usize, found: usize, expected: usize) -> f32 {
    if common == 0 { 0.0 } else { 2.0 * common as f32 / (found + expected) as f32 }
}

fn squad_words(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().filter(|character| !character.is_ascii_punctuation()).collect();
    bare.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_owned).collect()
}

fn rouge_words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    text.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

impl Generation {
    /// Generation by the model that `reader` reads for.
    pub(crate) fn new(metric: TextMetric, max_tokens: usize, stop: Vec<String>, reader: &Reader) -> Self {
        // A token is a byte at least; two more for white space that comes with it.
        let span = stop.iter().map(String::len).max().unwrap_or(0) + 2;
        Self { metric, max_tokens, stop, end: reader.end.clone(), tokenizer: reader.tokenizer.clone(), span }
    }

    /// Continues each prompt by its likeliest tokens. The text of each, up to the first stop string, special tokens left out.
    ///
    /// # Panics
    /// If there is no prompt or an empty one.
    pub fn write<B: MixerBackend>(&self, model: &Decoder<B>, prompts: &[Vec<u32>], device: &B::Device) -> Vec<String> {
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut running = vec![true; prompts.len()];
        let (mut session, mut logits) = Session::start(model, prompts, device);
        for step in 0..self.max_tokens {
            let likeliest: Vec<u32> = logits.argmax(1).into_data().convert::<i64>().iter::<i64>().map(|token| token as u32).collect();
            for ((running, answer), token) in running.iter_mut().zip(&mut answers).zip(&likeliest) {
                if *running && !self.end.contains(token) {
                    answer.push(*token);
                    *running = !self.stopped(answer);
                } else {
                    *running = false;
                }
            }
            if step + 1 == self.max_tokens || !running.contains(&true) {
                break;
            }
            logits = session.step(&likeliest);
        }
        answers.iter().map(|tokens| self.text(tokens)).collect()
    }

    /// Whether a stop string ends in the last tokens.
    fn stopped(&self, tokens: &[u32]) -> bool {
        let last = &tokens[tokens.len().saturating_sub(self.span)..];
        // A token without text is unknown to the tokenizer: the model has more rows than it. It ends nothing.
        self.tokenizer.decode(last).is_ok_and(|text| self.stop.iter().any(|stop| text.contains(stop.as_str())))
    }

    fn text(&self, tokens: &[u32]) -> String {
        let mut text = self.tokenizer.decode_with(tokens, true).unwrap_or_default();
        if let Some(end) = self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metric: TextMetric, text: &str, references: &[&str]) -> f32 {
        metric.score(text, &references.iter().map(|&reference| reference.to_owned()).collect::<Vec<_>>())
    }

    /// F1 and ROUGE-L stand beside their reference implementations in `tests/lm_eval.rs`.
    #[test]
    fn texts_are_compared_as_the_metric_says() {
        let regex = |pattern: &str| TextMetric::Regex(pattern.to_owned().try_into().expect("a pattern"));
        for (metric, text, references, expected) in [
            (TextMetric::ExactMatch, " yes\n", &["yes"][..], 1.0),
            (TextMetric::ExactMatch, "Yes", &["yes"], 0.0),
            (TextMetric::ExactMatch, "no", &["yes", "no"], 1.0),
            (TextMetric::Contains, "I say yes.", &["yes"], 1.0),
            (TextMetric::Contains, "ye", &["yes"], 0.0),
            (TextMetric::F1, "The cat, a cat!", &["cat"], 2.0 / 3.0),
            (TextMetric::F1, "dog", &["cat", "the dog"], 1.0),
            (TextMetric::RougeL, "a b c d", &["a c e"], 4.0 / 7.0),
            (regex("[0-9]+"), "it is 42, not 7", &["42"], 1.0),
            (regex("answer is ([0-9]+)"), "3 or so: the answer is 42", &["42"], 1.0),
            (regex("[0-9]+"), "no number", &["42"], 0.0),
        ] {
            assert!((score(metric.clone(), text, references) - expected).abs() < 1e-6, "{metric:?} {text:?}");
        }
        assert!(Pattern::try_from("(".to_owned()).is_err());
    }
}
