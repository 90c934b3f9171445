//! The bundled checkpoint: what transformers computes with it, what its tokenizer gives, and that scoring is generation.

use dtr_eval::batch::{Batch, batches};
use dtr_eval::task::{Normalise, Phonebook};
use dtr_eval::{Example, Metric, Question, Reply, Scorer, Split, Task};
use dtr_models::generate::{Sampling, generate};
use dtr_models::{Decoder, DecoderConfig, MixerConfig, Tokenizer, checkpoint};
use dtr_tests::{Golden, Inner, difference, golden, ids, mixed, tiny_qwen3};
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
    let (questions, examples) = (task.questions("phonebook", Split::Test, 48), task.examples("phonebook", Split::Test, 48));
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
        let path = [0; 8];
        let mut scorer = Scorer::new(&questions, std::slice::from_ref(&(0..48)), task.metric(), (&model, &path), 0, &device);
        let scores = scorer.score(&model, &path, 0..48).0;
        let prompts: Vec<Vec<u32>> = examples.iter().map(|example| example.tokens[..example.labelled[0]].to_vec()).collect();
        let answers = generate(&model, &prompts, 4, Sampling::GREEDY, &[], &device, |_| {});
        for ((example, answer), found) in examples.iter().zip(answers).zip(&scores) {
            let right = example.tokens[example.labelled[0]..] == answer;
            assert_eq!(right, found.score > 0.5, "{}", config.layout());
        }
    }
}

/// The parent with Hedgehog attention where the path is not 0.
fn swapped(config: &DecoderConfig, parent: &Decoder<Inner>, path: &[u64]) -> Decoder<Inner> {
    let mut model = parent.clone();
    for (layer, _) in path.iter().enumerate().filter(|(_, place)| **place != 0) {
        model.layers[layer].mixer = (MixerConfig::Hedgehog {}).init::<Inner>(&config.attention, &Default::default());
    }
    model
}

#[test]
fn shared_prefixes_change_no_score() {
    let (config, parent, tokenizer) = parent();
    let task = Phonebook::new(&tokenizer, 6, "<|phone|>", "<|query|>").expect("a task");
    let questions = task.questions("phonebook", Split::Validation, 150);
    let device = Default::default();
    let scorer = |bytes| Scorer::new(&questions, &[0..100, 100..150], task.metric(), (&parent, &[0; 8]), bytes, &device);
    // All states of a few layouts, of not quite one, and none.
    let (mut roomy, mut narrow, mut plain) = (scorer(1 << 30), scorer(3 << 20), scorer(0));
    let paths: [[u64; 8]; 6] = [
        [0; 8],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 1],
    ];
    let (mut work, mut plain_work) = (0.0, 0.0);
    for range in [0..64, 64..100, 100..150] {
        for path in &paths {
            let model = swapped(&config, &parent, path);
            roomy.favour(&paths[1]);
            narrow.favour(&paths[1]);
            let (scores, full) = plain.score(&model, path, range.clone());
            let (shared, part) = roomy.score(&model, path, range.clone());
            assert_eq!(scores, shared, "{path:?}");
            assert_eq!(scores, narrow.score(&model, path, range.clone()).0, "{path:?}");
            (work, plain_work) = (work + part, plain_work + full);
        }
    }
    // Layers run: 8, 3, 1, 8, 3, 1 of 48.
    assert!((plain_work - 6.0).abs() < 1e-9 && (work - 3.0).abs() < 1e-9, "{work} of {plain_work}");
}

fn text(seed: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * i * 31 + i * 7 + seed * 131) % 2000 + 15) as u32).collect()
}

/// A question whose prompt has so many tokens, with an answer of each of these lengths.
fn choices(seed: usize, prompt: usize, answers: &[usize]) -> Question {
    let prompt = text(seed, prompt);
    let answer = |(place, &length): (usize, &usize)| Example {
        tokens: [&prompt[..], &text(1000 + 10 * seed + place, length)].concat(),
        labelled: (prompt.len()..prompt.len() + length).collect(),
        class: None,
    };
    let answers: Vec<Example> = answers.iter().enumerate().map(answer).collect();
    let lengths = answers.iter().map(|answer| answer.labelled.len()).collect();
    Question { id: seed.to_string(), right: seed % answers.len(), answers, lengths, references: vec![] }
}

#[test]
fn choices_go_on_from_one_prompt_and_score_as_each_from_its_beginning() {
    let (_, parent, _) = parent();
    let (model, device) = (mixed(), Default::default());
    let lengths = [&[5, 5, 5, 5][..], &[1, 9, 3, 2], &[4, 70], &[2, 2, 1], &[8]];
    let questions: Vec<Question> = (0..40).map(|seed| choices(seed, 1 + seed * seed % 150, lengths[seed % 5])).collect();
    let alone: Vec<Question> =
        questions.iter().flat_map(|question| &question.answers).map(|answer| Question::single(String::new(), answer.clone())).collect();
    let replies = |questions: &[Question], bytes| {
        let all = std::slice::from_ref(&(0..questions.len())).to_vec();
        let mut scorer = Scorer::new(questions, &all, Metric::Choice(Normalise::Tokens), (&parent, &[0; 8]), bytes, &device);
        // What was kept of the first layout is gone on from.
        scorer.replies(&parent, &[0; 8], 0..questions.len());
        scorer.replies(&model, &[0, 0, 1, 1, 1, 1, 1, 0], 0..questions.len()).0
    };
    let (together, apart): (Vec<Reply>, Vec<Reply>) = (replies(&questions, 0), replies(&alone, 0));
    assert_eq!(together, replies(&questions, 1 << 30));
    let mut apart = apart.into_iter();
    let mut furthest = 0.0_f32;
    for (question, reply) in questions.iter().zip(&together) {
        let own: Vec<Reply> = apart.by_ref().take(question.answers.len()).collect();
        for (place, own) in own.iter().enumerate() {
            let (found, wanted) = (reply.log_likelihoods[place], own.log_likelihoods[0]);
            furthest = furthest.max((found - wanted).abs() / wanted.abs().max(1.0));
            assert_eq!(reply.greedy[place], own.greedy[0], "question {}, answer {place}", question.id);
        }
        let labelled = question.answers.iter().map(|answer| answer.labelled.len() as f32);
        let divergence =
            own.iter().zip(labelled.clone()).map(|(own, count)| own.score.divergence * count).sum::<f32>() / labelled.sum::<f32>();
        assert!((divergence - reply.score.divergence).abs() <= 1e-5 * divergence.max(1.0), "{divergence} {}", reply.score.divergence);
        let best = |values: Vec<f32>| (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        let by_length = |at: usize, nats: f32| nats / question.lengths[at] as f32;
        let wanted = best(own.iter().enumerate().map(|(at, own)| by_length(at, own.log_likelihoods[0])).collect());
        assert_eq!(reply.score.score > 0.5, wanted == Some(question.right), "question {}", question.id);
    }
    assert!(furthest <= 1e-5, "{furthest:e}");
}

#[test]
fn a_prompt_is_read_once_where_that_is_less_work() {
    let read = |question: &Question, in_pieces: bool| -> usize {
        batches::<Inner>(std::slice::from_ref(question), |_| in_pieces, 4096, &Default::default()).iter().map(Batch::tokens).sum()
    };
    // The last token of the prompt predicts the first of each answer.
    assert_eq!(read(&choices(0, 100, &[5; 4]), true), 99 + 4 * 6);
    assert_eq!(read(&choices(0, 100, &[5; 4]), false), 4 * 105);
    assert_eq!(read(&choices(0, 100, &[5]), true), 105);
    assert_eq!(read(&choices(0, 4, &[5; 4]), true), 4 * 9);
}

#[test]
fn divergence_from_the_parent_is_that_of_the_distributions() {
    use burn::tensor::activation::log_softmax;
    let (config, parent, tokenizer) = parent();
    let task = Phonebook::new(&tokenizer, 6, "<|phone|>", "<|query|>").expect("a task");
    let (questions, examples) = (task.questions("phonebook", Split::Validation, 3), task.examples("phonebook", Split::Validation, 3));
    let path = [0, 0, 0, 1, 0, 0, 0, 0];
    let model = swapped(&config, &parent, &path);
    let mut scorer = Scorer::new(&questions, std::slice::from_ref(&(0..3)), task.metric(), (&parent, &[0; 8]), 0, &Default::default());
    let found = scorer.score(&model, &path, 0..3).0;
    for (example, found) in examples.iter().zip(found) {
        let ids: Vec<i64> = example.tokens.iter().map(|&token| i64::from(token)).collect();
        let answer = |model: &Decoder<Inner>| {
            let all = log_softmax(model.logits(ids_of(&ids)), 2);
            all.narrow(1, example.labelled[0] - 1, example.labelled.len())
        };
        let (p, q) = (answer(&parent), answer(&model));
        let divergence: f32 = (p.clone().exp() * (p - q)).sum_dim(2).mean().into_scalar();
        assert!((divergence - found.divergence).abs() < 1e-4 * divergence.max(1.0), "{divergence} {}", found.divergence);
        assert!(divergence > 0.0);
    }
    let own = scorer.score(&parent, &[0; 8], 0..3).0;
    assert!(own.iter().all(|own| own.divergence.abs() < 1e-5));
}

fn ids_of(ids: &[i64]) -> burn::tensor::Tensor<Inner, 2, burn::tensor::Int> {
    let length = ids.len();
    burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(ids.to_vec(), [1, length]), &Default::default())
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
    assert!(dtr_eval::task::Phonebook::new(&tokenizer, 64 * 64 + 1, "<|phone|>", "<|query|>").is_err());
    assert!(tokenizer.token("<|nowhere|>").is_err());
}
