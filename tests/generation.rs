//! Generation against transformers; sequences that fork, leave and join; text as it is made.

use std::collections::VecDeque;

use burn::prelude::*;
use dtr_models::generate::{Batch, Finish, Progress, Sampling, Sequence, Session, TextStream, generate};
use dtr_models::{Decoder, DecoderConfig, Tokenizer, checkpoint};
use dtr_tests::{Golden, Inner, difference, golden, mixed, tiny_qwen3};
use proptest::prelude::*;
use serde_json::Value;

fn parent() -> (DecoderConfig, Decoder<Inner>, Tokenizer) {
    let (config, model) = checkpoint::load::<Inner>(&tiny_qwen3(), &Default::default()).expect("the bundled parent");
    let tokenizer = Tokenizer::load(&tiny_qwen3(), config.vocabulary).expect("its tokenizer");
    (config, model, tokenizer)
}

fn facts() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("generation.json")).expect("golden facts")).expect("JSON")
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().expect("tokens").iter().map(|token| token.as_u64().expect("a token") as u32).collect()
}

/// Prompts and outputs of transformers.
fn rows(value: &Value) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    value.as_array().expect("rows").iter().map(|row| (tokens(&row["prompt"]), tokens(&row["output"]))).unzip()
}

#[test]
fn greedy_generation_in_batches_is_that_of_transformers() {
    let ((config, model, _), facts) = (parent(), facts());
    let penalised = Sampling { repetition_penalty: 1.3, ..Sampling::GREEDY };
    for (name, sampling, count) in [("greedy", Sampling::GREEDY, 64), ("penalised", penalised, 16)] {
        let (prompts, wanted) = rows(&facts[name]);
        assert_eq!(prompts.len(), count);
        for (prompts, wanted) in prompts.chunks(16).zip(wanted.chunks(16)) {
            let found = generate(&model, prompts, 24, sampling, &config.end_tokens(), &Default::default(), |_| {});
            assert_eq!(found, wanted, "{name}");
        }
    }
}

#[test]
fn logits_are_processed_as_by_transformers() {
    let (facts, file) = (facts(), Golden::open("generation.safetensors"));
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    let numbers = |name: &str| -> Vec<f32> { file.float::<Inner, 2>(name).into_data().iter::<f32>().collect() };
    let (scores, processed, seen) = (numbers("scores"), numbers("processed"), file.rows("seen"));
    let cases = facts["cases"].as_array().expect("cases");
    let vocabulary = scores.len() / cases.len();
    for (row, case) in cases.iter().enumerate() {
        let sampling = Sampling {
            temperature: number(&case["temperature"]),
            top_k: case["top_k"].as_u64().map(|count| count as usize),
            top_p: number(&case["top_p"]),
            repetition_penalty: number(&case["repetition_penalty"]),
            seed: 0,
        };
        let mut found = scores[row * vocabulary..(row + 1) * vocabulary].to_vec();
        sampling.process(&mut found, &seen[row].iter().map(|&token| token as u32).collect::<Vec<_>>());
        for (token, (found, wanted)) in found.iter().zip(&processed[row * vocabulary..]).enumerate() {
            let equal =
                if wanted.is_finite() { (found - wanted).abs() <= 1e-6 * wanted.abs() } else { found.to_bits() == wanted.to_bits() };
            assert!(equal, "{case}, token {token}: {found}, expected {wanted}");
        }
    }
}

#[test]
fn a_session_that_forks_joins_and_goes_on_gives_the_logits_of_one_pass() {
    let model = mixed();
    let device = Default::default();
    let text = |seed: u32, length: u32| -> Vec<u32> { (0..length).map(|i| (i * i * 31 + i * 7 + seed * 131) % 2000 + 15).collect() };
    let whole = |tokens: &[u32]| Session::<Inner>::start(&model, &[tokens.to_vec()], &device).1;
    let same = |logits: &Tensor<Inner, 2>, rows: &[&Vec<u32>]| {
        for (index, row) in rows.iter().enumerate() {
            let found = difference(&logits.clone().narrow(0, index, 1), &whole(row));
            assert!(found <= 1e-4, "row {index}: {found:e}");
        }
    };
    let mut all = [text(0, 30), text(1, 7), text(2, 19)];
    let (mut session, logits) = Session::start(&model, &all, &device);
    same(&logits, &all.each_ref());

    let more = [text(3, 5), text(4, 21), text(5, 1)];
    let logits = session.extend(&more);
    all.iter_mut().zip(&more).for_each(|(row, more)| row.extend(more));
    same(&logits, &all.each_ref());

    // Row 2 twice, row 1 once; the kept session goes on as if nothing had been.
    let mut forked = session.select(&[2, 1, 2]);
    let logits = forked.step(&[40, 41, 42]);
    let next = |row: &[u32], token: u32| [row, &[token]].concat();
    let forks = [next(&all[2], 40), next(&all[1], 41), next(&all[2], 42)];
    same(&logits, &forks.each_ref());
    let logits = session.extend(&[vec![50], vec![51], vec![52, 53]]);
    let kept = [next(&all[0], 50), next(&all[1], 51), next(&next(&all[2], 52), 53)];
    same(&logits, &kept.each_ref());

    let mut joined = forked.select(&[1]).join(session).join(Session::start(&model, &[text(6, 3)], &device).0);
    let rows = [&forks[1], &kept[0], &kept[1], &kept[2], &text(6, 3)].map(|row| next(row, 60));
    same(&joined.step(&[60; 5]), &rows.each_ref());
    let mut last = joined.select(&[4]);
    assert!(last.cache_bytes() < joined.cache_bytes() / 5, "padding that no row needs is dropped");
    same(&last.step(&[61]), &[&next(&rows[4], 61)]);
}

#[test]
fn sequences_come_and_go_and_none_minds() {
    let (_, model, _) = parent();
    let device = Default::default();
    let (prompts, _) = rows(&facts()["greedy"]);
    let sampled = |row: usize| Sampling { temperature: 0.9, top_k: Some(30), top_p: 0.9, seed: row as u64, ..Sampling::GREEDY };
    let sequence = |row: usize| Sequence {
        sampling: if row.is_multiple_of(3) { Sampling::GREEDY } else { sampled(row) },
        scores: row.is_multiple_of(2).then_some(3),
        score_prompt: row.is_multiple_of(4),
        ..Sequence::new(prompts[row].clone(), 3 + row)
    };
    let alone = |row: usize| {
        let mut batch = Batch::new(&model, &device);
        let mut all = batch.admit(vec![(row, sequence(row))]);
        while !batch.is_empty() {
            all.extend(batch.step());
        }
        all
    };
    let mut batch = Batch::new(&model, &device);
    let mut found = vec![Vec::new(); 9];
    for arriving in [vec![0, 1, 2], vec![], vec![3], vec![], vec![], vec![4, 5, 6, 7], vec![8]] {
        for progress in batch.admit(arriving.into_iter().map(|row| (row, sequence(row))).collect()).into_iter().chain(batch.step()) {
            found[progress.key].push(progress);
        }
        // Who waits for 7 has gone away.
        batch.retain(|key| *key != 7);
    }
    while !batch.is_empty() {
        for progress in batch.step() {
            found[progress.key].push(progress);
        }
    }
    assert_eq!(batch.cache_bytes(), 0);
    found[7].clear();
    for row in (0..9).filter(|row| *row != 7) {
        let wanted = alone(row);
        assert_eq!(found[row].len(), wanted.len(), "row {row}");
        assert_eq!(wanted.last().map(|progress| progress.finish), Some(Some(Finish::Length)));
        for (found, wanted) in found[row].iter().zip(&wanted) {
            assert_eq!((found.token, found.finish), (wanted.token, wanted.finish), "row {row}");
            let scores = |progress: &dtr_models::generate::Progress<usize>| {
                progress.prompt.iter().chain(&progress.score).cloned().collect::<Vec<_>>()
            };
            let (found, wanted) = (scores(found), scores(wanted));
            assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(&wanted) {
                assert_eq!(found.token, wanted.token);
                assert!((found.logprob - wanted.logprob).abs() <= 1e-3, "{found:?} {wanted:?}");
            }
        }
    }
}

#[test]
fn equal_prompts_are_read_once_and_draw_for_themselves() {
    let (_, model, _) = parent();
    let prompt: Vec<u32> = (20..60).collect();
    let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::GREEDY };
    let found = generate(&model, &vec![prompt.clone(); 4], 12, sampling, &[], &Default::default(), |_| {});
    assert!((1..4).all(|row| found[row] != found[0]), "{found:?}");
    assert_eq!(found, generate(&model, &vec![prompt; 4], 12, sampling, &[], &Default::default(), |_| {}));
}

/// All that comes of one sequence.
fn to_its_end(batch: &mut Batch<'_, Inner, ()>, sequence: Sequence) -> (usize, Vec<u32>, Vec<f32>) {
    let mut all = batch.admit(vec![((), sequence)]);
    while !batch.is_empty() {
        all.extend(batch.step());
    }
    let scores = all.iter().flat_map(|progress| progress.prompt.iter().chain(&progress.score)).map(|score| score.logprob).collect();
    (all[0].cached, all.iter().filter_map(|progress| progress.token).collect(), scores)
}

#[test]
fn prompts_are_read_in_pieces_while_others_go_on() {
    let (model, device) = (mixed(), Default::default());
    let text = |seed: u32, length: u32| -> Vec<u32> { (0..length).map(|i| (i * i * 31 + i * 7 + seed * 131) % 2000 + 15).collect() };
    let sequence = |seed: u32, length: u32| Sequence { scores: Some(0), score_prompt: true, ..Sequence::new(text(seed, length), 12) };
    let alone = |sequence: Sequence| to_its_end(&mut Batch::new(&model, &device), sequence);
    let mut batch = Batch::new(&model, &device);
    let (first, long) = (sequence(0, 10), sequence(1, 70));
    let mut waiting =
        VecDeque::from([("first", first.clone()), ("long", long.clone()), ("long too", long.clone()), ("next", sequence(2, 5))]);
    let mut all: Vec<(usize, Progress<&str>)> = Vec::new();
    for round in 0.. {
        batch.begin(&mut waiting, 4 - batch.len(), 16);
        let progress = batch.read(16).into_iter().chain(batch.step());
        all.extend(progress.map(|progress| (round, progress)));
        if batch.is_empty() && waiting.is_empty() {
            break;
        }
    }
    for (key, expected, begins) in [("first", first, 0), ("long", long.clone(), 5), ("long too", long, 5), ("next", sequence(2, 5), 6)] {
        let own: Vec<&(usize, Progress<&str>)> = all.iter().filter(|(_, progress)| progress.key == key).collect();
        assert_eq!(own[0].0, begins, "{key}: five pieces of 16 tokens, a round each");
        // A token a round from the first one on, whatever others do; two in the round of the first.
        assert!(own[1..].iter().enumerate().all(|(at, (round, _))| *round == begins + at), "{key}");
        let (_, tokens, scores) = alone(expected);
        assert_eq!(own.iter().filter_map(|(_, progress)| progress.token).collect::<Vec<_>>(), tokens, "{key}");
        let found = own.iter().flat_map(|(_, progress)| progress.prompt.iter().chain(&progress.score)).map(|score| score.logprob);
        let found: Vec<f32> = found.collect();
        assert_eq!(found.len(), scores.len());
        assert!(found.iter().zip(&scores).all(|(a, b)| (a - b).abs() <= 1e-3), "{key}");
    }
}

#[test]
fn what_is_remembered_is_gone_on_from_and_bounded() {
    let (model, device) = (mixed(), Default::default());
    let text = |seed: u32| -> Vec<u32> { (0..40).map(|i| (i * i * 31 + i * 7 + seed * 131) % 2000 + 15).collect() };
    let mut batch = Batch::new(&model, &device).remembering(1 << 26);
    let mut again = |prompt: &[u32], count: usize| to_its_end(&mut batch, Sequence::new(prompt.to_vec(), count));
    let alone = |prompt: &[u32], count| to_its_end(&mut Batch::new(&model, &device), Sequence::new(prompt.to_vec(), count));
    let (cached, tokens, _) = again(&text(0), 9);
    assert_eq!((cached, &tokens), (0, &alone(&text(0), 9).1));
    assert_eq!(again(&text(0), 9), (40, tokens.clone(), vec![]));
    // All of an answer but its last token was read.
    let further = [&text(0)[..], &tokens, &text(1)].concat();
    assert_eq!(again(&further, 9), (48, alone(&further, 9).1, vec![]));
    let other = [&text(0)[..], &text(2)].concat();
    assert_eq!(again(&other, 9), (40, alone(&other, 9).1, vec![]));

    // Room for two: what was used longest ago is forgotten.
    let mut batch = Batch::new(&model, &device).remembering(1 << 26);
    to_its_end(&mut batch, Sequence::new(text(0), 0));
    let one = batch.remembered_bytes();
    let mut batch = Batch::new(&model, &device).remembering(2 * one);
    let known = [0, 1, 0, 2, 0, 1].map(|seed| {
        let (cached, ..) = to_its_end(&mut batch, Sequence::new(text(seed), 0));
        assert!(batch.remembered_bytes() <= 2 * one);
        cached > 0
    });
    assert_eq!(known, [false, false, true, false, true, false]);
    let mut small = Batch::new(&model, &device).remembering(one - 1);
    to_its_end(&mut small, Sequence::new(text(0), 0));
    assert_eq!((to_its_end(&mut small, Sequence::new(text(0), 0)).0, small.remembered_bytes()), (0, 0));
}

#[test]
fn scores_are_those_of_the_whole_distribution() {
    let (_, model, _) = parent();
    let prompt: Vec<u32> = (0..300).map(|i| (i * 37) % 2000 + 15).collect();
    let mut batch = Batch::new(&model, &Default::default());
    let wish = Sequence { scores: Some(2), score_prompt: true, ..Sequence::new(prompt.clone(), 0) };
    let progress = batch.admit(vec![((), wish)]).remove(0);
    assert_eq!((progress.token, progress.finish, progress.prompt.len()), (None, Some(Finish::Length), prompt.len() - 1));
    let ids = Tensor::<Inner, 1, Int>::from_data(
        TensorData::from(prompt.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().as_slice()),
        &Default::default(),
    );
    let wanted = burn::tensor::activation::log_softmax(model.logits(ids.unsqueeze()), 2).squeeze_dim::<2>(0);
    for (place, score) in progress.prompt.iter().enumerate() {
        let row: Vec<f32> = wanted.clone().narrow(0, place, 1).into_data().iter::<f32>().collect();
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(score.token, prompt[place + 1]);
        let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-3, "{place}: {a} {b}");
        close(score.logprob, row[score.token as usize]);
        for (index, &(token, logprob)) in score.top.iter().enumerate() {
            close(logprob, row[token as usize]);
            close(logprob, sorted[index]);
        }
        assert_eq!(score.top.len(), 2);
    }
}

proptest! {
    #[test]
    fn streamed_text_is_the_text_and_never_half_a_character(tokens in prop::collection::vec(0_u32..2048, 0..40), skip_special: bool) {
        let tokenizer = Tokenizer::load(&tiny_qwen3(), 2048).expect("a tokenizer");
        let whole = tokenizer.decode_with(&tokens, skip_special).expect("text");
        let mut stream = TextStream::new(&tokenizer, vec!["er".into()], skip_special);
        let mut shown = String::new();
        for &token in &tokens {
            shown += &stream.push(token).expect("text");
            prop_assert!(whole.starts_with(&shown), "{shown:?} of {whole:?}");
        }
        let stopped = stream.stopped();
        shown += &stream.finish().expect("text");
        prop_assert_eq!(stopped, whole.contains("er"));
        prop_assert_eq!(shown, whole.split("er").next().expect("a part"));
    }
}

#[test]
fn a_saved_session_goes_on_as_if_there_had_been_no_break() {
    let (model, device) = (mixed(), Default::default());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.safetensors");
    let mut read: Vec<Vec<u32>> = [37, 5, 12].iter().map(|&count| (0..count).map(|i| (i * 31 + count) % 2000).collect()).collect();
    let (mut session, _) = Session::start(&model, &read, &device);
    for step in 0..4 {
        let tokens = [step, step + 100, step + 200];
        session.step(&tokens);
        read.iter_mut().zip(tokens).for_each(|(row, token)| row.push(token));
    }
    session.save(&path, "this model", &read).expect("saved");
    let (mut restored, known) = Session::restore(&model, &path, "this model", &device).expect("restored");
    assert_eq!(known, read);
    assert_eq!(restored.cache_bytes(), session.cache_bytes());
    for step in 0..20 {
        let tokens = [3 * step + 1, step + 50, 900 - step];
        let (found, expected) = (restored.step(&tokens).into_data(), session.step(&tokens).into_data());
        assert_eq!(found, expected, "step {step}");
    }

    let refused = |key: &str, part: &str| {
        let Err(error) = Session::restore(&model, &path, key, &device) else { panic!("accepted, expected {part:?}") };
        let message = error.to_string();
        assert!(message.contains("state.safetensors") && message.contains(part), "{part:?} is missing in: {message}");
    };
    refused("another model", "it is of another model");
    let whole = std::fs::read(&path).expect("bytes");
    for (at, part) in [(whole.len() / 2, "checksum"), (whole.len() - 1, "checksum"), (12, "damaged")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).expect("written");
        refused("this model", part);
    }
    std::fs::write(&path, &whole[..whole.len() - 10]).expect("written");
    refused("this model", "damaged or cut off");
}

#[test]
fn prompts_behind_a_saved_prefix_generate_what_they_generate_alone() {
    let (_, parent, _) = parent();
    let device = Default::default();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.safetensors");
    for model in [parent, mixed()] {
        let prefix: Vec<u32> = (0..30).map(|i| i * 17 % 1900 + 20).collect();
        let prompts: Vec<Vec<u32>> = [1, 9, 4].iter().map(|&more| (0..30 + more).map(|i| i * 17 % 1900 + 20).collect()).collect();
        let alone = generate(&model, &prompts, 24, Sampling::GREEDY, &[], &device, |_| {});
        let (session, _) = Session::start(&model, std::slice::from_ref(&prefix), &device);
        session.save(&path, "key", std::slice::from_ref(&prefix)).expect("saved");
        let (session, known) = Session::restore(&model, &path, "key", &device).expect("restored");
        assert_eq!(known, [prefix]);
        let mut batch = Batch::behind(session, 30, &model, &device);
        let mut found = vec![Vec::new(); prompts.len()];
        let mut progress = batch.admit(prompts.into_iter().map(|prompt| Sequence::new(prompt, 24)).enumerate().collect());
        while !progress.is_empty() {
            for step in &progress {
                found[step.key].extend(step.token);
            }
            progress = batch.step();
        }
        assert_eq!(found, alone);
    }
}
