//! `ListOps`: the value of a nested expression.

use std::collections::BTreeMap;

use dtr_models::Tokenizer;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::haystack::encode;
use super::{Parameter, require};
use crate::corpus::split_of;
use crate::error::EvalError;
use crate::random::fnv1a;
use crate::task::{Documents, Example, Metric, Split, Task};

/// Operations on digits: smallest, largest, median (rounded down), sum modulo 10.
const OPERATIONS: [&str; 4] = ["MIN", "MAX", "MED", "SM"];

/// How often an argument is an expression itself.
const NESTED: f64 = 0.25;

/// Expressions drawn before it is said that none is long enough.
const TRIALS: usize = 10_000;

/// `[MAX 2 9 [MIN 4 7 ] 0 ] = 9`. An argument is an expression with a probability of 1/4, above the greatest depth, else a digit.
/// Expressions outside `shortest..=tokens` are drawn again. The split of an expression is its FNV-1a hash modulo 10, like that of a source
/// file: 0 is validation, 1 test, the rest training.
///
/// # Reference
/// Nangia and Bowman, arXiv 1804.06028; with longer expressions Tay et al., arXiv 2011.04006 (depth 10, 10 arguments, 500 to 2000 tokens).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ListOps {
    /// Longest example, answer included.
    pub tokens: usize,
    /// Shortest example.
    pub shortest: usize,
    /// Operations within each other at most.
    pub depth: usize,
    /// Arguments of an operation at most, 2 at least.
    pub arguments: usize,
}

impl ListOps {
    pub(super) fn check(&self) -> Result<(), Parameter> {
        let most = format!("at most tokens = {}", self.tokens);
        require(self.shortest <= self.tokens, "shortest", most, self.shortest, "lower shortest or raise tokens")?;
        require(self.depth > 0, "depth", "at least 1", self.depth, "write 1 for expressions without others in them")?;
        require(self.arguments >= 2, "arguments", "at least 2", self.arguments, "write a whole number from 2")
    }

    /// Appends an expression piece by piece and returns its value; one too long to be used is left off.
    fn expression(&self, depth: usize, pieces: &mut Vec<String>, random: &mut ChaCha8Rng) -> u32 {
        let operation = *OPERATIONS.choose(random).expect("there are operations");
        pieces.push(format!("{}[{operation}", if pieces.is_empty() { "" } else { " " }));
        let mut arguments = Vec::new();
        for _ in 0..random.random_range(2..=self.arguments) {
            if pieces.len() > self.tokens {
                break;
            }
            arguments.push(if depth < self.depth && random.random_bool(NESTED) {
                self.expression(depth + 1, pieces, random)
            } else {
                let digit = random.random_range(0..10);
                pieces.push(format!(" {digit}"));
                digit
            });
        }
        pieces.push(" ]".into());
        value(operation, arguments)
    }
}

fn value(operation: &str, mut arguments: Vec<u32>) -> u32 {
    arguments.sort_unstable();
    let middle = arguments.len() / 2;
    match (operation, arguments.as_slice()) {
        ("MIN", [smallest, ..]) => *smallest,
        ("MAX", [.., largest]) => *largest,
        ("MED", sorted @ [_, ..]) => u32::midpoint(sorted[middle], sorted[(sorted.len() - 1) / 2]),
        (_, all) => all.iter().sum::<u32>() % 10,
    }
}

/// The task.
#[derive(Debug)]
pub(super) struct Expressions {
    list_ops: ListOps,
    /// Tokens of every piece.
    tokens: BTreeMap<String, Vec<u32>>,
}

impl Expressions {
    /// # Errors
    /// If no expression of some split has the length that is wanted.
    pub fn new(tokenizer: &Tokenizer, list_ops: ListOps) -> Result<Self, Parameter> {
        let digits = (0..10).map(|digit| format!(" {digit}"));
        let operations = OPERATIONS.iter().flat_map(|operation| [format!("[{operation}"), format!(" [{operation}")]);
        let pieces = digits.chain(operations).chain([" ]", " =", "\n"].map(str::to_owned));
        let tokens = pieces.map(|piece| (piece.clone(), encode(tokenizer, &piece))).collect();
        let task = Self { list_ops, tokens };
        let mut random = crate::random::stream("list-ops");
        for split in [Split::Training, Split::Validation, Split::Test] {
            let drawn = (0..TRIALS).any(|_| task.trial(split, &mut random).is_some());
            let ListOps { tokens, shortest, depth, arguments } = task.list_ops;
            require(
                drawn,
                "shortest",
                format!("within reach: of {TRIALS} expressions with depth = {depth} and arguments = {arguments} some must fit"),
                format!("none of {shortest} to {tokens} tokens"),
                "lower shortest, raise tokens, or change depth and arguments",
            )?;
        }
        Ok(task)
    }

    /// An expression with its answer, if it has the right length and is of the split.
    fn trial(&self, split: Split, random: &mut ChaCha8Rng) -> Option<Example> {
        let mut pieces = Vec::new();
        let value = self.list_ops.expression(1, &mut pieces, random);
        let own = split_of(fnv1a(pieces.concat())) == split;
        pieces.push(" =".into());
        let mut tokens: Vec<u32> = pieces.iter().flat_map(|piece| &self.tokens[piece]).copied().collect();
        let from = tokens.len();
        tokens.extend(&self.tokens[&format!(" {value}")]);
        let fits = self.list_ops.shortest <= tokens.len() && tokens.len() <= self.list_ops.tokens;
        (own && fits).then(|| Example { labelled: (from..tokens.len()).collect(), tokens, class: None })
    }
}

impl Task for Expressions {
    fn metric(&self) -> Metric {
        Metric::ExactMatch
    }

    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        std::iter::repeat_with(|| self.trial(split, random)).flatten().next().expect("it is drawn until one is found")
    }
}

impl Documents for Expressions {
    /// Expressions with their answers, one a line.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let mut document = Example::default();
        while document.tokens.len() < length {
            let example = self.example(Split::Training, random);
            document.labelled.extend(example.labelled.iter().map(|at| at + document.tokens.len()));
            document.tokens.extend(example.tokens.iter().chain(&self.tokens["\n"]));
        }
        Ok(document)
    }
}
