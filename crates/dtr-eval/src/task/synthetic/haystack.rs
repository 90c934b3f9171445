//! Text with something hidden in it, questions at its end, and their answers.

use std::collections::BTreeMap;

use dtr_models::Tokenizer;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Parameter, require};
use crate::corpus::{Sources, files};
use crate::error::EvalError;
use crate::task::{Example, Split};

/// What hides needles by saying nothing.
pub(super) const NOISE: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Instructions, what is hidden, and what is asked.
#[derive(Debug)]
pub(super) struct Quiz {
    /// What stands in front of the text.
    pub instruction: String,
    /// Sentences that are hidden, in the order in which they appear.
    pub hidden: Vec<String>,
    /// What stands between sentences.
    pub joint: &'static str,
    /// At least one.
    pub questions: Vec<Question>,
}

/// A question and all answers to it.
#[derive(Debug)]
pub(super) struct Question {
    pub text: String,
    /// Commas come between them, which are not labelled.
    pub answers: Vec<String>,
}

impl Quiz {
    /// The quiz in as much of `haystack` as fits into `length` tokens, or without any.
    pub fn example(
        &self,
        tokenizer: &Tokenizer,
        haystack: impl IntoIterator<Item = String>,
        length: usize,
        random: &mut ChaCha8Rng,
    ) -> Example {
        let (first, others) = self.questions.split_first().expect("a quiz asks something");
        let mut answered = Example::default();
        first.answer(tokenizer, &mut answered);
        for question in others {
            answered.tokens.extend(encode(tokenizer, &format!("\n{}", question.text)));
            question.answer(tokenizer, &mut answered);
        }
        let mut tokens = self.text(tokenizer, &first.text, haystack, length.saturating_sub(answered.tokens.len()), random);
        let labelled = answered.labelled.into_iter().map(|at| at + tokens.len()).collect();
        tokens.extend(answered.tokens);
        Example { tokens, labelled, class: None }
    }

    /// Everything up to the first answer.
    fn text(
        &self,
        tokenizer: &Tokenizer,
        question: &str,
        haystack: impl IntoIterator<Item = String>,
        length: usize,
        random: &mut ChaCha8Rng,
    ) -> Vec<u32> {
        let mut depths: Vec<f64> = self.hidden.iter().map(|_| random.random()).collect();
        depths.sort_by(f64::total_cmp);
        let whole = |units: &[String]| {
            let mut sentences: Vec<&str> = units.iter().map(String::as_str).collect();
            for (index, (sentence, depth)) in self.hidden.iter().zip(&depths).enumerate() {
                sentences.insert((depth * (units.len() + 1) as f64) as usize + index, sentence);
            }
            encode(tokenizer, &format!("{}\n{}\n{question}", self.instruction, sentences.join(self.joint)))
        };
        let room = length.saturating_sub(whole(&[]).len());
        let mut taken = 0;
        let fits = |unit: &String| {
            taken += encode(tokenizer, &format!("{unit}{}", self.joint)).len();
            taken <= room
        };
        let mut units: Vec<String> = haystack.into_iter().take_while(fits).collect();
        // Together, they may be a token longer than one by one.
        loop {
            let tokens = whole(&units);
            if tokens.len() <= length || units.pop().is_none() {
                return tokens;
            }
        }
    }
}

impl Question {
    fn answer(&self, tokenizer: &Tokenizer, example: &mut Example) {
        for (index, answer) in self.answers.iter().enumerate() {
            if index > 0 {
                example.tokens.extend(encode(tokenizer, ","));
            }
            let from = example.tokens.len();
            example.tokens.extend(encode(tokenizer, &format!(" {answer}")));
            example.labelled.extend(from..example.tokens.len());
        }
    }
}

/// Refuses examples without room for a quiz and a sentence of noise.
pub(super) fn require_room(tokenizer: &Tokenizer, tokens: usize, quiz: impl FnMut() -> Quiz) -> Result<(), Parameter> {
    /// Keys and values are of different lengths, and a sentence of noise makes up for those that are longer still.
    const TRIALS: usize = 64;
    let mut random = crate::random::stream("room");
    let bare = std::iter::repeat_with(quiz).take(TRIALS).map(|quiz| quiz.example(tokenizer, [], 0, &mut random).tokens.len());
    let least = bare.max().unwrap_or(0) + encode(tokenizer, &format!("{NOISE}\n")).len();
    let expected = format!("at least {least} for question, answer and what is hidden");
    require(tokens >= least, "tokens", expected, tokens, "raise tokens or hide less")
}

/// Prose of a split: the comments of these crates' files, line by line.
pub(super) fn prose(sources: &Sources, crates: &[String]) -> Result<BTreeMap<Split, Vec<String>>, EvalError> {
    let mut by_split = BTreeMap::new();
    for split in [Split::Training, Split::Validation, Split::Test] {
        let mut lines = Vec::new();
        for name in crates {
            for file in files(sources, name, split)? {
                let comments = file.text().lines().filter_map(|line| line.trim().strip_prefix("//"));
                let comments = comments.map(|line| line.trim_start_matches(['/', '!']).trim());
                lines.extend(comments.filter(|line| !line.is_empty()).map(str::to_owned));
            }
        }
        let expected = format!("crates with comments in the {} split", split.name());
        require(!lines.is_empty(), "haystack.text.crates", expected, crates.join(", "), "name more crates")?;
        by_split.insert(split, lines);
    }
    Ok(by_split)
}

pub(super) fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text).expect("a byte-level tokenizer takes any text")
}
