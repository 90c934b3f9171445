//! The bundled checkpoint: what transformers computes with it, what its tokenizer gives, and that scoring is generation.

use dtr_eval::task::Phonebook;
use dtr_eval::{Metric, Scorer, Split, Task};
use dtr_models::generate::{Sampling, generate};
use dtr_models::{Decoder, DecoderConfig, MixerConfig, Tokenizer, checkpoint};
use dtr_tests::{Golden, Inner, difference, golden, ids, tiny_qwen3};
use serde_json::Value;

fn parent() -> (DecoderConfig, Decoder<Inner>, Tokenizer) {
    let (config, model) = checkpoint::load::<Inner>(&tiny_qwen3(), &Default::default()).expect("the bundled parent");
    let tokenizer = Tokenizer::load(&tiny_qwen3(), config.vocabulary).expect("its tokenizer");
    (config, model, tokenizer)
}

fn facts() -> Value {
    let text = std::fs::read_to_string(golden("tiny_qwen3.json")).expect("golden facts");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn logits_agree_with_transformers() {
    let (_, model, _) = parent();
    let file = Golden::open("tiny_qwen3.safetensors");
    for text in ["phone", "recall"] {
        let logits = model.logits(ids(&file.rows(&format!("{text}_ids"))));
        let time = logits.dims()[1];
        let found = difference(&logits.narrow(1, time - 8, 8), &file.float(&format!("{text}_logits")));
        assert!(found <= 1e-4, "{text}: {found:e}");
    }
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    let (_, model, tokenizer) = parent();
    let facts = facts();
    let prompt = tokenizer.encode(facts["prompt"].as_str().expect("text")).expect("tokens");
    assert_eq!(prompt.len() as u64, facts["prompt_length"].as_u64().expect("a length"));
    let found = generate(&model, &[prompt], 8, Sampling::GREEDY, &[], &Default::default(), |_| {});
    let wanted = Golden::open("tiny_qwen3.safetensors").rows("greedy_ids");
    assert_eq!(found[0].iter().map(|&token| i64::from(token)).collect::<Vec<_>>(), wanted[0]);
    assert_eq!(tokenizer.decode(&found[0]).expect("text"), facts["greedy"].as_str().expect("text"));
}

#[test]
fn the_tokenizer_gives_the_reference_ids() {
    let (_, _, tokenizer) = parent();
    for example in facts()["tokenizer"].as_array().expect("examples") {
        let text = example["text"].as_str().expect("text");
        let wanted: Vec<u32> = example["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
        assert_eq!(tokenizer.encode(text).expect("tokens"), wanted, "{text}");
        assert_eq!(tokenizer.decode(&wanted).expect("text"), example["decoded"].as_str().expect("text"));
    }
}

#[test]
fn the_phonebook_score_is_exact_match_of_generation() {
    let (mut config, mut model, tokenizer) = parent();
    let task = Phonebook::new(&tokenizer, 16, "<|phone|>", "<|query|>").expect("a task");
    assert_eq!(task.metric(), Metric::ExactMatch);
    let examples = task.examples("phonebook", Split::Test, 48);
    let device = Default::default();
    // A narrow window in some layers makes part of the answers wrong.
    for damaged in [vec![], vec![0], vec![2, 3], vec![2, 5]] {
        for layer in damaged {
            let narrow = MixerConfig::SlidingWindow { window: 24, sinks: 0 };
            let mut mixer = narrow.init::<Inner>(&config.attention, &device);
            if let (dtr_models::Mixer::SlidingWindow(to), dtr_models::Mixer::Softmax(from)) = (&mut mixer, &model.layers[layer].mixer) {
                to.projections = from.projections.clone();
                model.layers[layer].mixer = mixer;
                config.mixers[layer] = narrow;
            }
        }
        let scores = Scorer::new(&examples, task.metric(), &model, 0, &device).score(&model, 0);
        let prompts: Vec<Vec<u32>> = examples.iter().map(|example| example.tokens[..example.labelled[0]].to_vec()).collect();
        let answers = generate(&model, &prompts, 4, Sampling::GREEDY, &[], &device, |_| {});
        for ((example, answer), (score, _)) in examples.iter().zip(answers).zip(&scores.examples) {
            let right = example.tokens[example.labelled[0]..] == answer;
            assert_eq!(right, *score > 0.5, "{}", config.layout());
        }
    }
}

#[test]
fn shared_prefixes_change_no_score() {
    let (config, model, tokenizer) = parent();
    let task = Phonebook::new(&tokenizer, 6, "<|phone|>", "<|query|>").expect("a task");
    let examples = task.examples("phonebook", Split::Validation, 40);
    let device = Default::default();
    let swapped = |model: &Decoder<Inner>, layer: usize| {
        let mut model = model.clone();
        model.layers[layer].mixer = (MixerConfig::Hedgehog {}).init::<Inner>(&config.attention, &device);
        model
    };
    let mut cached = Scorer::new(&examples, task.metric(), &model, 1 << 30, &device);
    let plain = Scorer::new(&examples, task.metric(), &model, 0, &device);
    cached.rebase(&model, 0);
    for layer in 0..config.layers() {
        assert_eq!(cached.score(&swapped(&model, layer), layer), plain.score(&swapped(&model, layer), 0));
    }
    let base = swapped(&model, 5);
    cached.rebase(&base, 5);
    for layer in [0, 4, 6, 7] {
        let candidate = swapped(&base, layer);
        assert_eq!(cached.score(&candidate, layer.min(7)), plain.score(&candidate, 0));
    }
}

#[test]
fn examples_do_not_depend_on_how_many_are_drawn() {
    let (_, _, tokenizer) = parent();
    let task = Phonebook::new(&tokenizer, 16, "<|phone|>", "<|query|>").expect("a task");
    let few = task.examples("phonebook", Split::Test, 10);
    assert_eq!(few, task.examples("phonebook", Split::Test, 30)[..10]);
    assert_ne!(few, task.examples("phonebook", Split::Validation, 10));
    for example in &few {
        assert_eq!(example.tokens.len(), 1 + 16 * 9 + 1 + 4 + 4);
        assert_eq!(example.labelled.len(), 4);
    }
    assert!(dtr_eval::task::Phonebook::new(&tokenizer, 65, "<|phone|>", "<|query|>").is_err());
    assert!(tokenizer.token("<|nowhere|>").is_err());
}
