//! Variable tracking: which variables hold a value, by way of others.

use std::collections::BTreeSet;

use dtr_models::Tokenizer;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::haystack::{NOISE, Question, Quiz, require_room};
use super::{Parameter, require};
use crate::error::EvalError;
use crate::task::{Documents, Example, Metric, Split, Task};

/// Chains of assignments hidden in noise: `VAR A = 12345`, `VAR B = VAR A`, ... The question is for all variables that hold one value;
/// answers are in the order of assignment.
///
/// # Reference
/// Hsieh et al., arXiv 2404.06654 (RULER, VT: one chain of four hops), whose wording the prompts have, without the worked example in
/// front. The score is the share of variables that are right, each given those before it, in place of those that generated text contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VariableTracking {
    /// Length at most; it falls short by less than the noise that is repeated.
    pub tokens: usize,
    /// Chains, each with a value of its own.
    pub chains: usize,
    /// Assignments of a variable to another in a chain.
    pub hops: usize,
}

impl VariableTracking {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        require(self.chains > 0, "chains", "at least 1", self.chains, "write a whole number from 1")?;
        // Names of five letters are drawn until they differ.
        let most = 10_000 / self.chains;
        require(self.hops < most, "hops", format!("below 10000 / chains = {most}"), self.hops, "lower it")
    }

    fn quiz(&self, questions: usize, random: &mut ChaCha8Rng) -> Quiz {
        let values = distinct(self.chains, random, |random| random.random_range(10_000..100_000).to_string());
        let letter = |random: &mut ChaCha8Rng| char::from(random.random_range(b'A'..=b'Z'));
        let names = distinct(self.chains * (self.hops + 1), random, |random| (0..5).map(|_| letter(random)).collect());
        let chains: Vec<&[String]> = names.chunks(self.hops + 1).collect();
        // Chains run beside each other, each in its order.
        let mut turns: Vec<usize> = (0..names.len()).map(|at| at % self.chains).collect();
        turns.shuffle(random);
        let mut reached = vec![0; self.chains];
        let assignments = turns.into_iter().map(|chain| {
            let (names, at) = (chains[chain], reached[chain]);
            reached[chain] += 1;
            match at {
                0 => format!("VAR {} = {}", names[0], values[chain]),
                _ => format!("VAR {} = VAR {}", names[at], names[at - 1]),
            }
        });
        let question = |(value, names): (&String, &&[String])| Question {
            text: format!(
                "Question: Find all variables that are assigned the value {value} in the text above. Answer: According to the \
                 chain(s) of variable assignment in the text above, {} variables are assigned the value {value}, they are:",
                names.len()
            ),
            answers: names.to_vec(),
        };
        Quiz {
            hidden: assignments.collect(),
            instruction: "Memorize and track the chain(s) of variable assignment hidden in the following text.\n".into(),
            joint: "\n",
            questions: values.iter().zip(&chains).take(questions).map(question).collect(),
        }
    }
}

/// Draws until there are `count` different ones.
fn distinct(count: usize, random: &mut ChaCha8Rng, draw: impl Fn(&mut ChaCha8Rng) -> String) -> Vec<String> {
    let mut seen = BTreeSet::new();
    std::iter::repeat_with(|| draw(random)).filter(|text| seen.insert(text.clone())).take(count).collect()
}

/// The task.
#[derive(Debug)]
pub(super) struct Chains {
    tracking: VariableTracking,
    tokenizer: Tokenizer,
}

impl Chains {
    /// # Errors
    /// If examples have no room.
    pub fn new(tokenizer: &Tokenizer, tracking: VariableTracking) -> Result<Self, Parameter> {
        let mut random = crate::random::stream("variable-tracking");
        require_room(tokenizer, tracking.tokens, || tracking.quiz(1, &mut random))?;
        Ok(Self { tracking, tokenizer: tokenizer.clone() })
    }

    fn draw(&self, length: usize, questions: usize, random: &mut ChaCha8Rng) -> Example {
        let noise = std::iter::repeat_n(NOISE.to_owned(), length);
        self.tracking.quiz(questions, random).example(&self.tokenizer, noise, length, random)
    }
}

impl Task for Chains {
    fn metric(&self) -> Metric {
        Metric::AnswerAccuracy
    }

    fn example(&self, _split: Split, random: &mut ChaCha8Rng) -> Example {
        self.draw(self.tracking.tokens, 1, random)
    }
}

impl Documents for Chains {
    /// A text that asks for every chain.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        Ok(self.draw(length.min(self.tracking.tokens), self.tracking.chains, random))
    }
}
