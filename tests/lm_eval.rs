//! Tasks from files beside lm-evaluation-harness: the same checkpoint, the same examples, the same results one by one.

use std::collections::BTreeMap;

use dtr_eval::generation::TextMetric;
use dtr_eval::records::Splits;
use dtr_eval::task::{Answer, FewShot, JsonLines, JsonLinesConfig, Normalise, Text, TextConfig, TooLong};
use dtr_eval::{BATCH_TOKENS, Metric, Question, Reader, Reply, Split, Task, evaluate, parts};
use dtr_models::chat::{ChatTemplate, Conversation};
use dtr_models::{Decoder, checkpoint};
use dtr_tests::{Inner, golden, tiny_qwen3};
use serde_json::Value;

fn model() -> (Decoder<Inner>, Reader) {
    let (config, model) = checkpoint::load::<Inner>(&tiny_qwen3(), &Default::default()).expect("the bundled parent");
    (model, Reader::load(&tiny_qwen3(), &config).expect("its tokenizer"))
}

fn results(task: &str) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(golden("lm_eval/results.json")).expect("golden results");
    let mut all: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&text).expect("JSON");
    all.remove(task).expect("a task")
}

/// A task on the examples that the harness was given.
fn config(file: &str, prompt: &str, answer: Answer) -> JsonLinesConfig {
    let path = |name: &str| vec![golden(&format!("lm_eval/{name}.jsonl"))];
    JsonLinesConfig {
        files: Splits::Split { training: path("shots"), validation: Vec::new(), test: path(file) },
        id: Some("id".into()),
        prompt: template(prompt),
        delimiter: String::new(),
        answer,
        few_shot: None,
        chat: false,
        context: None,
        too_long: TooLong::Refuse,
    }
}

fn template(text: &str) -> dtr_eval::template::Template {
    text.to_owned().try_into().expect("a template")
}

fn choices(normalise: Normalise) -> Answer {
    Answer::Choices { texts: vec![template("{options}")], right: template("{answer}"), normalise }
}

fn generate(max_tokens: usize) -> Answer {
    Answer::Generate { target: template("{answer}"), metric: TextMetric::ExactMatch, max_tokens, stop: vec!["\n".into()] }
}

/// Questions and replies by id.
fn answers(task: &dyn Task, count: usize) -> BTreeMap<String, (Question, Reply)> {
    let (model, _) = model();
    let (questions, metric) = (task.questions("", Split::Test, count), task.metric());
    assert_eq!(questions.len(), count);
    let replies = parts(&questions, &metric)
        .into_iter()
        .flat_map(|part| evaluate(&model, &questions[part], &metric, BATCH_TOKENS, &Default::default()));
    questions.iter().cloned().zip(replies).map(|(question, reply)| (question.id.clone(), (question, reply))).collect()
}

fn own(config: &JsonLinesConfig, count: usize) -> BTreeMap<String, (Question, Reply)> {
    let (_, reader) = model();
    answers(&JsonLines::open("own", config, &[(Split::Test, count)], &reader).expect("a task"), count)
}

fn check_choices(task: &str, normalise: Normalise, accuracy: &str, config: impl Fn(Answer) -> JsonLinesConfig) {
    let expected = results(task);
    assert!(expected.len() >= 500);
    let found = own(&config(choices(normalise)), expected.len());
    let mut furthest = 0.0_f64;
    for (id, expected) in &expected {
        let (_, reply) = &found[id];
        for (index, found) in reply.log_likelihoods.iter().enumerate() {
            let expected = expected["log_likelihoods"][index].as_f64().expect("a number");
            furthest = furthest.max((f64::from(*found) - expected).abs());
            assert!((f64::from(*found) - expected).abs() < 1e-3, "{id}: {found}, expected {expected}");
        }
        assert_eq!(Some(f64::from(reply.score.score)), expected[accuracy].as_f64(), "{id} {accuracy}");
        let greedy: Vec<bool> = expected["greedy"].as_array().expect("a list").iter().map(|flag| flag == true).collect();
        assert_eq!(reply.greedy, greedy, "{id}");
    }
    let right: f32 = found.values().map(|(_, reply)| reply.score.score).sum();
    assert!(right > 0.0 && right < expected.len() as f32, "{task} {accuracy}: {right} of {}", expected.len());
    println!("{task}: log-likelihoods differ by {furthest:e} at most");
}

#[test]
fn choices_are_those_of_the_harness() {
    for (normalise, accuracy) in [(Normalise::Nothing, "acc"), (Normalise::Characters, "acc_norm"), (Normalise::Bytes, "acc_bytes")] {
        check_choices("choices", normalise, accuracy, |answer| config("choices", "{context}", answer));
    }
}

#[test]
fn choices_behind_examples_are_those_of_the_harness() {
    check_choices("shots", Normalise::Characters, "acc_norm", |answer| JsonLinesConfig {
        delimiter: " ".into(),
        few_shot: Some(FewShot { examples: 2, separator: "\n\n".into() }),
        ..config("choices", "{context}Next:", answer)
    });
}

#[test]
fn generated_texts_and_their_scores_are_those_of_the_harness() {
    for (task, max_tokens) in [("numbers", 4), ("words", 12)] {
        let expected = results(task);
        assert!(expected.len() >= 500);
        let found = own(&config(task, "{context}", generate(max_tokens)), expected.len());
        for (id, expected) in &expected {
            let (question, reply) = &found[id];
            let text = reply.text.as_deref().expect("a text");
            assert_eq!(Some(text), expected["text"].as_str(), "{id}");
            assert_eq!(Some(f64::from(reply.score.score)), expected["exact_match"].as_f64(), "{id}");
            for (metric, key) in [(TextMetric::F1, "f1"), (TextMetric::RougeL, "rouge_l")] {
                let (found, expected) = (metric.score(text, &question.references), expected[key].as_f64().expect("a number"));
                assert!((f64::from(found) - expected).abs() < 1e-6, "{id} {key}: {found}, expected {expected}");
            }
        }
        let right: f32 = found.values().map(|(_, reply)| reply.score.score).sum();
        assert!(right > 0.0 && right < expected.len() as f32, "{task}: {right}");
    }
}

#[test]
fn whole_texts_have_the_likelihood_of_the_harness() {
    let (_, reader) = model();
    let expected = results("documents");
    let text = std::fs::read_to_string(golden("lm_eval/documents.jsonl")).expect("documents");
    for line in text.lines() {
        let document: Value = serde_json::from_str(line).expect("JSON");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), document["text"].as_str().expect("text")).expect("written");
        let files = Splits::Divided { files: vec![file.path().into()], validation: 0.0, test: 1.0 };
        let task = Text::open("own", &TextConfig { files, length: 256, start: "<|bos|>".into() }, &[], &reader).expect("a task");
        let count = task.questions("", Split::Test, usize::MAX).len();
        let found: f64 = answers(&task, count).values().map(|(_, reply)| f64::from(reply.log_likelihoods[0])).sum();
        let expected = expected[document["id"].as_str().expect("an id")].as_f64().expect("a number");
        assert!((found - expected).abs() < 1e-3 * count as f64, "{}: {found}, expected {expected}", document["id"]);
    }
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let chat = results("chat");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let message = |message: &Value| minijinja::context! { role => text(&message["role"]), content => text(&message["content"]) };
    let messages: Vec<minijinja::Value> = chat["messages"].as_array().expect("messages").iter().map(message).collect();
    for template in chat["templates"].as_array().expect("templates") {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::copy(tiny_qwen3().join("tokenizer_config.json"), directory.path().join("tokenizer_config.json")).expect("copied");
        std::fs::write(directory.path().join("chat_template.jinja"), template["template"].as_str().expect("text")).expect("written");
        let loaded = ChatTemplate::load(directory.path()).expect("a template").expect("a template");
        for (add_generation_prompt, key) in [(true, "prompt"), (false, "text")] {
            let conversation = Conversation { messages: messages.clone(), add_generation_prompt, ..Conversation::default() };
            assert_eq!(loaded.render(&conversation).expect("text"), template[key].as_str().expect("text"), "{}", template["name"]);
        }
    }
}

/// What stands beside an example in a batch changes nothing of what is decided.
#[test]
fn answers_do_not_depend_on_the_batch() {
    let (model, reader) = model();
    let device = Default::default();
    for answer in [choices(Normalise::Characters), generate(12)] {
        let (file, count) = if matches!(answer, Answer::Choices { .. }) { ("choices", 48) } else { ("words", 24) };
        let task = JsonLines::open("own", &config(file, "{context}", answer), &[], &reader).expect("a task");
        let (questions, metric): (_, Metric) = (task.questions("", Split::Test, count), task.metric());
        let together = evaluate(&model, &questions, &metric, BATCH_TOKENS, &device);
        for size in [1, 7, 20] {
            let apart: Vec<Reply> =
                questions.chunks(size).flat_map(|some| evaluate(&model, some, &metric, BATCH_TOKENS, &device)).collect();
            for (a, b) in together.iter().zip(&apart) {
                assert_eq!((a.score.score, &a.greedy, &a.text), (b.score.score, &b.greedy, &b.text));
                for (a, b) in a.log_likelihoods.iter().zip(&b.log_likelihoods) {
                    assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} {b}");
                }
            }
        }
        assert_eq!(together, evaluate(&model, &questions, &metric, BATCH_TOKENS, &device), "the same again");
    }
}
