//! Answer keys of the synthetic tasks: solvers that see only tokens or text find what is labelled, in generated examples and in
//! published ones.

mod solvers;
mod support;

use std::collections::BTreeSet;

use dtr_eval::task::synthetic::{Haystack, InContextRecall, Induction, SelectiveCopying, Synthetic, Values};
use dtr_eval::task::{Phonebook, row};
use dtr_eval::{EvalError, Example, Split, Task, random};
use dtr_tests::{golden, tiny_qwen3};
use proptest::prelude::*;
use serde_json::Value;

use support::{SPLITS, answers, drawn, labels, list_ops, mqar, needle, prose, recall, sources, task, tokenizer, tracking};

fn check_mqar(tokens: usize, pairs: usize, vocabulary: usize) {
    let task = task(&mqar(tokens, pairs, vocabulary));
    for (index, example) in drawn(task.as_ref(), 8).iter().enumerate() {
        let pairs_here = example.labelled.len();
        if index < 3 * 8 {
            assert_eq!((example.tokens.len(), pairs_here), (tokens, pairs));
        }
        let context = &example.tokens[..2 * pairs_here];
        assert_eq!(context.iter().collect::<BTreeSet<_>>().len(), context.len(), "keys and values are distinct");
        for (at, value) in labels(example) {
            assert_eq!(solvers::mqar(&example.tokens, pairs_here, at - 1), Some(value));
        }
    }
}

fn check_recall(recall: &InContextRecall) {
    let plain = tokenizer().plain_tokens();
    let rank = |token: u32| plain.binary_search(&token).expect("a plain token");
    let padding = usize::from(recall.key_tokens + recall.value_tokens > 2);
    let pairs = recall.vocabulary - recall.noise_vocabulary - padding;
    let task = task(&Synthetic::InContextRecall(recall.clone()));
    for (index, example) in drawn(task.as_ref(), 8).iter().enumerate() {
        if index < 3 * 8 {
            assert_eq!(example.tokens.len(), recall.tokens);
        }
        let found = solvers::recall(&example.tokens, |token| rank(token) < pairs / 2, |token| (pairs / 2..pairs).contains(&rank(token)));
        assert_eq!(found, labels(example));
    }
}

fn check_text(synthetic: &Synthetic, tokens: usize, unit: usize, solve: impl Fn(&str) -> String) {
    let task = task(synthetic);
    for (index, example) in drawn(task.as_ref(), 5).iter().enumerate() {
        if index < 3 * 5 {
            assert!(example.tokens.len() <= tokens && example.tokens.len() + unit >= tokens, "{} of {tokens}", example.tokens.len());
        }
        for (text, answer) in answers(example) {
            assert_eq!(format!(" {}", solve(&text)), answer, "{text}");
        }
    }
}

/// The next variable, after those that stand behind the question already.
fn next_variable(text: &str) -> String {
    let given = text.rsplit("they are:").next().expect("a question").matches(',').count();
    solvers::variable_tracking(text)[given].clone()
}

#[test]
fn needles_are_found() {
    // No sentence of noise, needle or comment is longer than this in the bundled tokenizer.
    for (haystack, unit) in [(Haystack::Noise, 60), (prose(), 200), (Haystack::Needles, 80)] {
        check_text(&needle(600, haystack.clone(), 1, Values::Numbers), 600, unit, solvers::needle);
        check_text(&needle(700, haystack, 4, Values::Uuids), 700, unit, solvers::needle);
    }
}

#[test]
fn variables_are_tracked() {
    check_text(&tracking(600, 1, 4), 600, 60, next_variable);
    check_text(&tracking(800, 3, 2), 800, 60, next_variable);
    assert_eq!(task(&tracking(600, 1, 4)).examples("vt", Split::Test, 1)[0].answers().len(), 5);
}

#[test]
fn list_ops_have_their_values() {
    check_text(&list_ops(64, 16), 64, 48, |text| solvers::list_ops(text).to_string());
    check_text(&list_ops(400, 200), 400, 200, |text| solvers::list_ops(text).to_string());
}

#[test]
fn solvers_agree_with_published_examples() {
    // Zoology's generator, with each value put behind the key that asks for it.
    let tokens = [2, 8, 4, 7, 0, 0, 4, 7, 0, 0, 0, 0, 2, 8, 0];
    assert_eq!([6, 12].map(|at| solvers::mqar(&tokens, 2, at)), [Some(7), Some(8)]);
    // Nangia and Bowman, figure 1.
    assert_eq!(solvers::list_ops("[MAX 2 9 [MIN 4 7 ] 0 ] ="), 9);
    for (name, example) in ruler().as_object().expect("tasks") {
        let prompt = example["prompt"].as_str().expect("text");
        let wanted: Vec<&str> = example["answers"].as_array().expect("answers").iter().filter_map(Value::as_str).collect();
        let found = if name == "vt" { solvers::variable_tracking(prompt) } else { vec![solvers::needle(prompt)] };
        assert_eq!(found, wanted, "{name}");
    }
}

fn ruler() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("ruler.json")).expect("golden prompts")).expect("JSON")
}

/// First and last line of a prompt, with digits and what is asked for taken out; the misprint of `lm_eval`'s VT, too.
fn frame(prompt: &str) -> [String; 2] {
    let key = prompt.rsplit("for ").next().and_then(|rest| rest.split(' ').next()).expect("a key").to_owned();
    let (first, last) = (prompt.split('\n').next().expect("a line"), prompt.rsplit('\n').next().expect("a line"));
    let clean = |line: &str| line.replace(&key, "KEY").replace("assgined", "assigned").replace(|c: char| c.is_ascii_digit(), "");
    [clean(first), clean(last)]
}

#[test]
fn prompts_have_the_wording_of_ruler() {
    let tasks = [
        ("s1", needle(600, Haystack::Noise, 1, Values::Numbers)),
        ("s2", needle(600, prose(), 1, Values::Numbers)),
        ("s3", needle(600, prose(), 1, Values::Uuids)),
        ("mk1", needle(600, prose(), 4, Values::Numbers)),
        ("mk2", needle(600, Haystack::Needles, 1, Values::Numbers)),
        ("mk3", needle(600, Haystack::Needles, 1, Values::Uuids)),
        ("vt", tracking(600, 1, 4)),
    ];
    for (name, synthetic) in tasks {
        let (prompt, _) = answers(&task(&synthetic).examples(name, Split::Test, 1)[0])[0].clone();
        assert_eq!(frame(&prompt), frame(ruler()[name]["prompt"].as_str().expect("text")), "{name}");
        let noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
        let is_noise = ["s1", "vt"].contains(&name);
        assert_eq!([prompt.contains(noise), ruler()[name]["prompt"].as_str().unwrap().contains(noise)], [is_noise; 2], "{name}");
    }
}

#[test]
fn splits_are_disjoint_and_no_special_token_is_used() {
    let tasks = [
        mqar(64, 4, 128),
        Synthetic::InContextRecall(recall(128, 1, 0.2)),
        Synthetic::Induction(Induction { tokens: 64, vocabulary: 16 }),
        Synthetic::SelectiveCopying(SelectiveCopying { tokens: 64, copied: 16, vocabulary: 16 }),
        needle(400, Haystack::Noise, 1, Values::Numbers),
        needle(400, prose(), 1, Values::Numbers),
        tracking(400, 1, 4),
        list_ops(24, 8),
    ];
    let added: Value = serde_json::from_str(&std::fs::read_to_string(tiny_qwen3().join("tokenizer.json")).unwrap()).unwrap();
    let added: Vec<u64> = added["added_tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    for synthetic in tasks {
        let task = task(&synthetic);
        let [training, validation, test] = SPLITS
            .map(|split| task.examples(synthetic.name(), split, 64).into_iter().map(|example| example.tokens).collect::<BTreeSet<_>>());
        assert!(training.is_disjoint(&validation) && training.is_disjoint(&test) && validation.is_disjoint(&test), "{synthetic:?}");
        assert!(training.iter().flatten().all(|&token| !added.contains(&u64::from(token))), "{synthetic:?}");
        let again = task.examples(synthetic.name(), Split::Test, 64);
        assert!(again.iter().all(|example| test.contains(&example.tokens)), "{synthetic:?} is not the same again");
        let row = row(task.as_ref(), 333, &mut random::stream("row")).expect("a row");
        assert!(row.tokens.len() == 333 && row.labelled.iter().all(|&at| at < 333), "{synthetic:?}");
    }
}

#[test]
fn large_phonebooks_tell_people_apart_and_have_their_numbers() {
    let task = Phonebook::new(&tokenizer(), 300, "<|phone|>", "<|query|>").expect("a task");
    for example in task.examples("large", Split::Test, 8) {
        let (text, number) = answers(&example)[0].clone();
        let (list, asked) = text.split_once("<|query|>").expect("a question");
        let lines: Vec<(&str, &str)> = list.trim_start_matches("<|phone|>").lines().filter_map(|line| line.split_once(": ")).collect();
        assert_eq!(lines.iter().map(|line| line.0).collect::<BTreeSet<_>>().len(), 300);
        let found: Vec<&str> = lines.iter().filter(|line| format!("{}: ", line.0) == asked).map(|line| line.1).collect();
        assert_eq!(found, [number]);
    }
}

#[test]
fn what_does_not_fit_is_told_by_its_key() {
    for (synthetic, key) in [
        (mqar(64, 17, 128), "pairs"),
        (mqar(64, 4, 64), "vocabulary"),
        (mqar(64, 4, 2048), "vocabulary"),
        (Synthetic::InContextRecall(InContextRecall { vocabulary: 6, ..recall(128, 3, 0.0) }), "vocabulary"),
        (Synthetic::InContextRecall(InContextRecall { noise_vocabulary: 0, ..recall(128, 1, 0.2) }), "noise-vocabulary"),
        (Synthetic::Induction(Induction { tokens: 4, vocabulary: 16 }), "tokens"),
        (Synthetic::SelectiveCopying(SelectiveCopying { tokens: 32, copied: 16, vocabulary: 16 }), "copied"),
        (needle(100, Haystack::Noise, 1, Values::Numbers), "tokens"),
        (needle(600, Haystack::Noise, 5000, Values::Numbers), "keys"),
        (tracking(100, 1, 4), "tokens"),
        (list_ops(64, 65), "shortest"),
        (list_ops(100_000, 99_999), "shortest"),
    ] {
        let error = synthetic.task(&tokenizer(), &mut sources).map(|_| ()).expect_err("a wrong parameter");
        assert!(matches!(&error, EvalError::Parameter(wrong) if wrong.key == key), "{synthetic:?}: {error}");
    }
}

#[test]
fn adjacent_labels_are_one_answer() {
    let example = Example { tokens: vec![0; 9], labelled: vec![2, 3, 5, 7, 8], class: None };
    assert_eq!(example.answers(), [2, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn mqar_has_its_values(pairs in 1usize..64, more in 0usize..40, vocabulary in 0usize..1000) {
        let tokens = 4 * pairs + 2 * more;
        check_mqar(tokens, pairs, tokens + 4 + vocabulary);
    }

    #[test]
    fn recall_has_its_values(motif in 1usize..=3, more in 0usize..100, noise in prop::sample::select(vec![0.0, 0.2, 0.9])) {
        check_recall(&recall(4 * motif + 2 * more, motif, noise));
    }

    #[test]
    fn induction_has_its_answers(tokens in 5usize..300, vocabulary in 3usize..64) {
        let task = task(&Synthetic::Induction(Induction { tokens, vocabulary }));
        for example in drawn(task.as_ref(), 8) {
            let special = example.tokens[example.tokens.len() - 2];
            let after: Vec<usize> = (1..example.tokens.len()).filter(|&at| example.tokens[at - 1] == special).collect();
            prop_assert_eq!(&after[1..], &example.labelled);
            prop_assert!(labels(&example).iter().all(|label| label.1 == solvers::induction(&example.tokens)));
        }
        for example in task.examples("length", Split::Test, 8) {
            prop_assert_eq!((example.tokens.len(), example.labelled.len()), (tokens, 1));
        }
    }

    #[test]
    fn data_are_copied(copied in 1usize..32, more in 0usize..100, vocabulary in 4usize..64) {
        // More blanks than data, so that the solver can tell them.
        let tokens = 3 * copied + 2 + more;
        let task = task(&Synthetic::SelectiveCopying(SelectiveCopying { tokens, copied, vocabulary }));
        for example in SPLITS.iter().flat_map(|&split| task.examples("copy", split, 8)) {
            prop_assert_eq!((example.tokens.len(), example.labelled.len()), (tokens, copied));
            let data: Vec<u32> = labels(&example).into_iter().map(|label| label.1).collect();
            prop_assert_eq!(solvers::selective_copying(&example.tokens[..example.labelled[0] - 1]), data);
        }
    }
}
