//! A published encoder against transformers: `all-MiniLM-L6-v2`, which `golden/fetch_minilm.py` puts into `target/models`. No part of
//! `cargo test`, which needs no network: a step of its own in `.ci/run`.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use dtr_attention::Positions;
use dtr_models::{Pooling, Tokenizer, checkpoint};
use dtr_tests::{Golden, Inner, difference, golden};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/all-MiniLM-L6-v2")
}

/// Vectors of texts in one batch, padded on the right or on the left.
fn embeddings(texts: &[Vec<u32>], left: bool) -> Tensor<Inner, 2> {
    let device = Default::default();
    let (_, model) = checkpoint::load::<Inner>(&directory(), &device).expect("run python3 tests/golden/fetch_minilm.py first");
    let pooling = Pooling::load(&directory()).expect("how it pools");
    let longest = texts.iter().map(Vec::len).max().expect("a text");
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for text in texts {
        let (padding, tokens) = (vec![0; longest - text.len()], text.iter().map(|&token| i64::from(token)).collect::<Vec<_>>());
        let absent = vec![false; padding.len()];
        let present = vec![true; tokens.len()];
        ids.extend(if left { [padding, tokens] } else { [tokens, padding] }.concat());
        mask.push(if left { [absent, present] } else { [present, absent] }.concat());
    }
    let ids = Tensor::from_data(TensorData::new(ids, [texts.len(), longest]), &device);
    let positions = Positions::padded(&mask, &vec![0; texts.len()]);
    let tokens = positions.tokens(&device);
    pooling.pool(model.forward(ids, positions, &mut model.empty_state(texts.len())), tokens)
}

#[test]
fn embeddings_of_minilm_are_those_of_transformers() {
    let texts: Vec<String> = serde_json::from_str(&std::fs::read_to_string(golden("minilm.json")).expect("texts")).expect("JSON");
    let file = Golden::open("minilm.safetensors");
    let vocabulary = checkpoint::load_config(&directory()).expect("run python3 tests/golden/fetch_minilm.py first").vocabulary;
    let tokenizer = Tokenizer::load(&directory(), vocabulary).expect("a tokenizer");
    let most = Pooling::load(&directory()).expect("how it pools").tokens.expect("a longest text");
    let texts: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_within(text, most).expect("tokens")).collect();
    let lengths: Vec<Vec<i64>> = texts.iter().map(|text| vec![text.len() as i64]).collect();
    assert_eq!(lengths, file.rows("lengths"));
    for left in [false, true] {
        let found = difference(&embeddings(&texts, left), &file.float("embeddings"));
        assert!(found <= 1e-4, "embeddings differ by {found:e}");
    }
    // Alone as in a batch.
    for (row, text) in texts.iter().enumerate() {
        let found = difference(&embeddings(std::slice::from_ref(text), false), &file.float::<Inner, 2>("embeddings").narrow(0, row, 1));
        assert!(found <= 1e-4, "text {row} alone: {found:e}");
    }
}
