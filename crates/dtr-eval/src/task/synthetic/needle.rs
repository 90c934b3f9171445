//! Needles in haystacks: a sentence somewhere in a long text.

use std::collections::BTreeMap;

use dtr_models::Tokenizer;
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::haystack::{NOISE, Question, Quiz, prose, require_room};
use super::words::{ADJECTIVES, NOUNS};
use super::{Parameter, require};
use crate::corpus::Sources;
use crate::error::EvalError;
use crate::task::{Documents, Example, Metric, Split, Task};

/// Sentences that give keys their values, hidden in a text; the question is for the value of one key.
///
/// | in the paper | `haystack` | `keys` | `values` |
/// |---|---|---|---|
/// | S1 | `noise` | 1 | `numbers` |
/// | S2 | `text` | 1 | `numbers` |
/// | S3 | `text` | 1 | `uuids` |
/// | MK1 | `text` | 4 | `numbers` |
/// | MK2, MK3 | `needles` | 1 | `numbers`, `uuids` |
///
/// # Reference
/// Hsieh et al., arXiv 2404.06654 (RULER), appendix B, whose wording the prompts have. Here prose is the comments of Rust sources, no
/// two keys are the same, and the score is exact match of the answer and not whether generated text contains it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Needle {
    /// Length at most; it falls short by less than a sentence.
    pub tokens: usize,
    /// What needles are hidden in.
    pub haystack: Haystack,
    /// Needles.
    pub keys: usize,
    /// What they hold.
    pub values: Values,
}

/// What needles are hidden in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Haystack {
    /// The same sentences over and over.
    Noise,
    /// Comments of source files.
    Text {
        /// Crates that they are from.
        crates: Vec<String>,
    },
    /// Needles with other keys.
    Needles,
}

/// What needles hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Values {
    /// Seven digits.
    Numbers,
    /// Random UUIDs.
    Uuids,
}

impl Values {
    fn name(self) -> &'static str {
        match self {
            Self::Numbers => "number",
            Self::Uuids => "uuid",
        }
    }

    fn draw(self, random: &mut ChaCha8Rng) -> String {
        match self {
            Self::Numbers => random.random_range(1_000_000..10_000_000).to_string(),
            Self::Uuids => {
                // Version 4, variant 1 of RFC 9562.
                let bits = random.random::<u128>() & !(0xF << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
                let hex = format!("{bits:032x}");
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
        }
    }
}

/// Keys there are.
const KEYS: usize = ADJECTIVES.len() * NOUNS.len();

/// Questions that a document asks at most.
const QUESTIONS: usize = 4;

impl Needle {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        require(self.keys > 0, "keys", "at least 1", self.keys, "write a whole number from 1")?;
        require(self.keys <= KEYS, "keys", format!("at most {KEYS}, the keys there are"), self.keys, "lower it")?;
        let named = !matches!(&self.haystack, Haystack::Text { crates } if crates.is_empty());
        require(named, "haystack.text.crates", "at least one crate", "none", "add one of the workspace's locked dependencies")
    }

    fn needle(&self, (key, value): &(String, String)) -> String {
        format!("One of the special magic {}s for {key} is: {value}.", self.values.name())
    }

    fn question(&self, (key, value): &(String, String)) -> Question {
        let what = format!("special magic {} for {key} mentioned in the provided text", self.values.name());
        Question { text: format!("What is the {what}? The {what} is"), answers: vec![value.clone()] }
    }

    /// A quiz over the pairs that are hidden, and asks for the first of them.
    fn quiz(&self, hidden: &[(String, String)], questions: usize, random: &mut ChaCha8Rng) -> Quiz {
        let name = self.values.name();
        let mut needles: Vec<String> = hidden.iter().map(|pair| self.needle(pair)).collect();
        needles.shuffle(random);
        Quiz {
            instruction: format!(
                "A special magic {name} is hidden within the following text. Make sure to memorize it. I will quiz you about the {name} afterwards."
            ),
            hidden: needles,
            joint: if matches!(self.haystack, Haystack::Text { .. }) { " " } else { "\n" },
            questions: hidden[..questions].iter().map(|pair| self.question(pair)).collect(),
        }
    }

    /// All keys in random order, each with a value, as they are needed.
    fn pairs<'r>(&self, random: &'r mut ChaCha8Rng) -> impl Iterator<Item = (String, String)> + use<'r> {
        let (values, order) = (self.values, index::sample(random, KEYS, KEYS));
        let key = |key: usize| format!("{}-{}", ADJECTIVES[key / NOUNS.len()], NOUNS[key % NOUNS.len()]);
        order.into_iter().map(move |index| (key(index), values.draw(random)))
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct Needles {
    needle: Needle,
    tokenizer: Tokenizer,
    prose: BTreeMap<Split, Vec<String>>,
}

impl Needles {
    /// # Errors
    /// If examples have no room, text is missing, or more needles would be needed than there are keys.
    pub fn new(tokenizer: &Tokenizer, sources: &mut dyn FnMut() -> Result<Sources, EvalError>, needle: Needle) -> Result<Self, EvalError> {
        let prose = match &needle.haystack {
            Haystack::Text { crates } => prose(&sources()?, crates)?,
            Haystack::Noise | Haystack::Needles => BTreeMap::new(),
        };
        let mut random = crate::random::stream("needle");
        require_room(tokenizer, needle.tokens, || {
            let hidden: Vec<_> = needle.pairs(&mut random).take(needle.keys).collect();
            needle.quiz(&hidden, 1, &mut random)
        })?;
        let task = Self { needle, tokenizer: tokenizer.clone(), prose };
        if task.needle.haystack == Haystack::Needles {
            let found = task.draw(task.needle.tokens, 1, Split::Training, &mut random).tokens.len();
            let expected = format!("at most about {found}, which needles with all {KEYS} keys fill");
            require(task.needle.tokens < found + found / 10, "tokens", expected, task.needle.tokens, "lower it")?;
        }
        Ok(task)
    }

    fn draw(&self, length: usize, questions: usize, split: Split, random: &mut ChaCha8Rng) -> Example {
        let hidden = self.needle.keys.max(questions);
        let drawn = if self.needle.haystack == Haystack::Needles { KEYS } else { hidden };
        let mut pairs: Vec<_> = self.needle.pairs(random).take(drawn).collect();
        let others = pairs.split_off(hidden);
        let quiz = self.needle.quiz(&pairs, questions, random);
        match &self.needle.haystack {
            Haystack::Noise => quiz.example(&self.tokenizer, std::iter::repeat_n(NOISE.to_owned(), length), length, random),
            Haystack::Needles => quiz.example(&self.tokenizer, others.iter().map(|pair| self.needle.needle(pair)), length, random),
            Haystack::Text { .. } => {
                let lines = &self.prose[&split];
                let start = random.random_range(0..lines.len());
                quiz.example(&self.tokenizer, lines.iter().cycle().skip(start).cloned(), length, random)
            }
        }
    }
}

impl Task for Needles {
    fn metric(&self) -> Metric {
        Metric::ExactMatch
    }

    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        self.draw(self.needle.tokens, 1, split, random)
    }
}

impl Documents for Needles {
    /// A text that asks for several of the keys it hides.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let keys = if self.needle.haystack == Haystack::Needles { KEYS } else { self.needle.keys };
        Ok(self.draw(length.min(self.needle.tokens), keys.min(QUESTIONS), Split::Training, random))
    }
}
