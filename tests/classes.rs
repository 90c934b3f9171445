//! A task with labels over an encoder with a head: each text's score and loss follow from the logits of transformers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use burn::tensor::activation::log_softmax;
use dtr_eval::records::Splits;
use dtr_eval::task::{Answer, JsonLines, JsonLinesConfig, TooLong};
use dtr_eval::{BATCH_TOKENS, EvalError, Question, Reader, Split, Task, evaluate, parts};
use dtr_models::{Decoder, checkpoint};
use dtr_tests::{Golden, Inner, golden};
use serde_json::json;

const TEXTS: usize = 24;

fn model(case: &str) -> (Decoder<Inner>, Reader) {
    let directory = golden(&format!("models/{case}"));
    let (config, model) = checkpoint::load::<Inner>(&directory, &Default::default()).expect("a model");
    (model, Reader::load(&directory, &config).expect("its tokenizer"))
}

/// The class that text `index` is said to have.
fn said(index: usize, classes: usize) -> usize {
    index * 7 % classes
}

/// A task of the golden file's texts, which says that each has one of `classes`, and calls them by number.
fn config(case: &str, directory: &Path, classes: &[&str]) -> JsonLinesConfig {
    let file = Golden::open(&format!("models/{case}/expected.safetensors"));
    let mut lines = String::new();
    for (index, (row, mask)) in file.rows("ids").iter().zip(file.rows("mask")).enumerate() {
        let length = mask.iter().sum::<i64>() as usize;
        let words: Vec<String> = row[1..length - 1].iter().map(|word| format!("w{word}")).collect();
        let _ = writeln!(lines, "{}", json!({ "id": index, "text": words.join(" "), "class": said(index, classes.len()) }));
    }
    let path = directory.join("texts.jsonl");
    std::fs::write(&path, lines).expect("written");
    let template = |text: &str| text.to_owned().try_into().expect("a template");
    JsonLinesConfig {
        files: Splits::Split { training: vec![path.clone()], validation: Vec::new(), test: Vec::new() },
        id: Some("id".into()),
        prompt: template("{text}"),
        delimiter: String::new(),
        answer: Answer::Labels {
            tokens: classes.iter().enumerate().map(|(number, name)| (number.to_string(), (*name).to_owned())).collect(),
            right: template("{class}"),
        },
        few_shot: None,
        chat: false,
        context: None,
        too_long: TooLong::Refuse,
    }
}

fn questions(task: &JsonLines) -> Vec<Question> {
    let questions = task.questions("", Split::Training, TEXTS);
    assert_eq!(questions.len(), TEXTS);
    questions
}

#[test]
fn a_text_has_the_class_that_transformers_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let numbered = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"];
    let cases: [(&str, &[&str]); 5] = [
        ("bert_classes", &["sad", "glad", "neither"]),
        // Some of the head's classes: the likeliest of these counts.
        ("bert_classes", &["neither", "sad"]),
        ("roberta_classes", &numbered[..2]),
        ("xlm_roberta_classes", &numbered[..4]),
        ("distilbert_classes", &numbered),
    ];
    for (case, classes) in cases {
        let (model, reader) = model(case);
        let task = JsonLines::open("texts", &config(case, directory.path(), classes), &[], &reader).expect("a task");
        let (questions, metric) = (questions(&task), task.metric());
        let replies = parts(&questions, &metric)
            .into_iter()
            .flat_map(|part| evaluate(&model, &questions[part], &metric, BATCH_TOKENS, &Default::default()));
        let logits = Golden::open(&format!("models/{case}/expected.safetensors")).float::<Inner, 2>("logits");
        let logarithms: Vec<f32> = log_softmax(logits.clone(), 1).into_data().iter::<f32>().collect();
        let places: Vec<usize> =
            classes.iter().map(|name| reader.classes().iter().position(|class| class == name).expect("a class")).collect();
        let mut right = 0;
        for (question, reply) in questions.iter().zip(replies) {
            let index: usize = question.id.parse().expect("a number");
            let of = |class: usize| logarithms[index * reader.classes().len() + places[class]];
            let label = said(index, classes.len());
            let hit = (0..classes.len()).all(|other| of(other) <= of(label));
            right += usize::from(hit);
            assert_eq!(reply.score.score > 0.5, hit, "{case}, text {index}");
            assert!(
                (reply.score.loss + of(label)).abs() < 1e-4,
                "{case}, text {index}: loss {}, expected {}",
                reply.score.loss,
                -of(label)
            );
        }
        assert!(right > 0 && right < TEXTS, "{case}: {right} of {TEXTS} are told right, which proves little");
    }
}

#[test]
fn long_texts_are_cut_in_front_of_their_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, reader) = model("bert_classes");
    let config = config("bert_classes", directory.path(), &["sad", "glad", "neither"]);
    let short = JsonLinesConfig { context: Some(9), too_long: TooLong::Truncate, ..config.clone() };
    let whole: BTreeMap<String, Question> = questions(&JsonLines::open("texts", &config, &[], &reader).expect("a task"))
        .into_iter()
        .map(|question| (question.id.clone(), question))
        .collect();
    let task = JsonLines::open("texts", &short, &[], &reader).expect("a task");
    let mut cut = 0;
    for question in questions(&task) {
        let (found, whole) = (&question.example().tokens, &whole[&question.id].example().tokens);
        let end = found.len() - 1;
        assert_eq!((end + 1, &found[..end], found[end]), (whole.len().min(9), &whole[..end], 3), "text {}", question.id);
        cut += usize::from(whole.len() > 9);
    }
    assert!(cut > 0 && cut < TEXTS);
    assert_eq!(task.truncated(Split::Training), cut);
    let refused = JsonLinesConfig { too_long: TooLong::Refuse, ..short };
    let error = JsonLines::open("texts", &refused, &[], &reader).expect_err("texts that are too long").to_string();
    assert!(error.contains(&format!("{cut} of the examples")) && error.contains("the context is 9"), "{error}");
}

#[test]
fn labels_that_are_no_classes_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, reader) = model("bert_classes");
    let error = JsonLines::open("texts", &config("bert_classes", directory.path(), &["sad", "merry"]), &[], &reader).expect_err("refused");
    assert!(matches!(error, EvalError::UnknownClass { .. }), "{error}");
    let message = error.to_string();
    for part in ["task \"texts\"", "\"merry\"", "sad, glad, neither", "id2label"] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}
