//! Tasks to draw from, and what a solver is given of their examples.

use dtr_eval::corpus::Sources;
use dtr_eval::task::synthetic::{Haystack, InContextRecall, ListOps, Mqar, Needle, Synthetic, Values, VariableTracking};
use dtr_eval::{EvalError, Example, Split, Task, random};
use dtr_models::Tokenizer;
use dtr_tests::tiny_qwen3;

pub const SPLITS: [Split; 3] = [Split::Training, Split::Validation, Split::Test];

pub fn tokenizer() -> Tokenizer {
    Tokenizer::load(&tiny_qwen3(), 2048).expect("the bundled tokenizer")
}

pub fn sources() -> Result<Sources, EvalError> {
    Sources::locate(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
}

pub fn task(synthetic: &Synthetic) -> Box<dyn Task> {
    synthetic.task(&tokenizer(), &mut sources).unwrap_or_else(|error| panic!("{error}"))
}

/// Some examples of every split, and documents of some lengths.
pub fn drawn(task: &dyn Task, count: usize) -> Vec<Example> {
    let mut random = random::stream("answer keys");
    let mut all: Vec<Example> = SPLITS.iter().flat_map(|&split| task.examples("answer keys", split, count)).collect();
    all.extend((1..=count).map(|index| task.document(60 * index, &mut random).expect("a document")));
    for example in &all {
        assert!(example.labelled.is_sorted() && !example.labelled.is_empty());
        assert!(example.labelled[0] > 0 && *example.labelled.last().unwrap() < example.tokens.len());
    }
    all
}

/// Labelled places and their tokens.
pub fn labels(example: &Example) -> Vec<(usize, u32)> {
    example.labelled.iter().map(|&at| (at, example.tokens[at])).collect()
}

/// Text in front of each answer, and the answer.
pub fn answers(example: &Example) -> Vec<(String, String)> {
    let (tokenizer, mut labelled) = (tokenizer(), example.labelled.as_slice());
    let text = |tokens: &[u32]| tokenizer.decode(tokens).expect("text");
    let answer = |length| {
        let (places, rest) = labelled.split_at(length);
        labelled = rest;
        (text(&example.tokens[..places[0]]), text(&example.tokens[places[0]..places[0] + length]))
    };
    example.answers().into_iter().map(answer).collect()
}

pub fn mqar(tokens: usize, pairs: usize, vocabulary: usize) -> Synthetic {
    Synthetic::Mqar(Mqar { tokens, pairs, vocabulary, power: 0.01 })
}

pub fn recall(tokens: usize, motif: usize, noise: f64) -> InContextRecall {
    let noise_vocabulary = if noise > 0.0 { 16 } else { 0 };
    InContextRecall { tokens, vocabulary: 16 + noise_vocabulary, key_tokens: motif, value_tokens: motif, noise, noise_vocabulary }
}

pub fn needle(tokens: usize, haystack: Haystack, keys: usize, values: Values) -> Synthetic {
    Synthetic::Needle(Needle { tokens, haystack, keys, values })
}

pub fn prose() -> Haystack {
    Haystack::Text { crates: vec!["clap_builder".into(), "syn".into()] }
}

pub fn list_ops(tokens: usize, shortest: usize) -> Synthetic {
    Synthetic::ListOps(ListOps { tokens, shortest, depth: 6, arguments: 6 })
}

pub fn tracking(tokens: usize, chains: usize, hops: usize) -> Synthetic {
    Synthetic::VariableTracking(VariableTracking { tokens, chains, hops })
}
