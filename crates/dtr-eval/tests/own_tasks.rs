//! Tasks from files: what becomes a question, and that nothing bad is passed over in silence.

use std::path::{Path, PathBuf};

use dtr_eval::records::Splits;
use dtr_eval::task::{JsonLines, JsonLinesConfig, Text, TextConfig};
use dtr_eval::{EvalError, Reader, Split, Task};
use dtr_models::DecoderConfig;
use serde_json::{Value, json};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3")
}

fn reader(directory: &Path) -> Reader {
    let config = std::fs::read_to_string(model().join("config.json")).expect("a configuration");
    let config = DecoderConfig::from_json(&serde_json::from_str(&config).expect("JSON")).expect("a configuration");
    Reader::load(directory, &config).expect("a tokenizer")
}

/// A task over lines, all in the test split, with some keys of its own.
fn open_with(lines: &[u8], keys: &Value, reader: &Reader) -> Result<JsonLines, EvalError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.jsonl");
    std::fs::write(&path, lines).expect("written");
    let mut config = json!({
        "files": { "split": { "test": [path] } },
        "id": "id",
        "prompt": "Q: {q}\nA:",
        "delimiter": " ",
        "answer": { "exact": { "target": "{a}" } },
        "too-long": "refuse",
    });
    config.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    let config: JsonLinesConfig = serde_json::from_value(config).expect("a task");
    JsonLines::open("own", &config, &[(Split::Test, 1)], reader)
}

fn open(lines: &str, keys: &Value) -> JsonLines {
    open_with(lines.as_bytes(), keys, &reader(&model())).unwrap_or_else(|error| panic!("{error}"))
}

/// The text of prompt and answer of each question, by split, in the order of their ids.
fn texts(task: &JsonLines, split: Split) -> Vec<(String, String, String)> {
    let reader = reader(&model());
    let text = |tokens: &[u32]| reader.tokenizer().decode(tokens).expect("text");
    let questions = task.questions("own", split, usize::MAX);
    let mut texts: Vec<_> = questions
        .iter()
        .map(|question| {
            let (example, border) = (question.example(), question.example().labelled[0]);
            assert_eq!(example.labelled, (border..example.tokens.len()).collect::<Vec<_>>());
            (question.id.clone(), text(&example.tokens[..border]), text(&example.tokens[border..]))
        })
        .collect();
    texts.sort();
    texts
}

/// The lines are refused with a message that holds the parts.
#[track_caller]
fn refused(lines: &[u8], keys: &Value, parts: &[&str]) {
    let error = open_with(lines, keys, &reader(&model())).expect_err("an error").to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

const GOOD: &str = "{\"id\": 1, \"q\": \"one?\", \"a\": \"1\"}\n";

#[test]
fn prompt_and_answer_are_read_as_one_text() {
    let one = |id: &str, prompt: &str, answer: &str| vec![(id.to_owned(), prompt.to_owned(), answer.to_owned())];
    assert_eq!(texts(&open(GOOD, &json!({})), Split::Test), one("1", "Q: one?\nA:", " 1"));
    // White space at the end of a prompt belongs to the answer.
    let spaced = open(GOOD, &json!({ "prompt": "{q} \n  ", "delimiter": "" }));
    assert_eq!(texts(&spaced, Split::Test), one("1", "one?", " \n  1"));
    // Not where text is generated: there the prompt stands as it is.
    let generate = json!({ "generate": { "target": "{a}", "metric": "f1", "max-tokens": 4, "stop": ["\n"] } });
    let generated = open(GOOD, &json!({ "prompt": "{q} \n  ", "delimiter": "", "answer": generate }));
    assert_eq!(texts(&generated, Split::Test), one("1", "one? \n  ", "1"));
    // Without a field for it, a line is named by what stands in it.
    let unnamed = open(&format!("{GOOD}\n{}", GOOD.replace("one", "two")), &json!({ "id": null }));
    let texts = texts(&unnamed, Split::Test);
    assert!(texts.len() == 2 && texts[0].0 != texts[1].0 && texts[0].0.len() == 16);
}

#[test]
fn choices_have_the_lengths_they_are_compared_by() {
    let line = "{\"id\": \"x\", \"q\": \"?\", \"all\": [\"größer\", \"b c\"], \"right\": \"b c\"}\n";
    for (normalise, lengths) in [("nothing", [1, 1]), ("characters", [6, 3]), ("bytes", [8, 3])] {
        let answer = json!({ "choices": { "texts": ["{all}"], "right": "{right}", "normalise": normalise } });
        let question = open(line, &json!({ "answer": answer })).questions("own", Split::Test, 1).remove(0);
        assert_eq!((question.right, question.answers.len(), question.lengths), (1, 2, lengths.to_vec()), "{normalise}");
    }
    let answer = json!({ "choices": { "texts": ["yes", "no {q}"], "right": "{right}", "normalise": "tokens" } });
    let question = open("{\"id\": 1, \"q\": \"?\", \"right\": 0}", &json!({ "answer": answer })).questions("own", Split::Test, 1).remove(0);
    let tokens: Vec<usize> = question.answers.iter().map(|answer| answer.labelled.len()).collect();
    assert_eq!((question.right, &question.lengths), (0, &tokens));
}

#[test]
fn a_label_is_one_token_behind_the_prompt() {
    let tokens = json!({ "yes": "<|c0|>", "no": "<|c1|>" });
    let keys = json!({ "prompt": "{q}<|crate|>", "delimiter": "", "answer": { "labels": { "tokens": tokens, "right": "{a}" } } });
    let task = open("{\"id\": 1, \"q\": \"ok\", \"a\": \"no\"}", &keys);
    assert_eq!(texts(&task, Split::Test), [("1".into(), "ok<|crate|>".into(), "<|c1|>".into())]);
    let long = json!({ "answer": { "labels": { "tokens": { "yes": "<|c0|>", "no": "nonono" }, "right": "{a}" } } });
    refused(GOOD.as_bytes(), &long, &["\"nonono\"", "tokens by itself", "`choices`"]);
    refused(GOOD.as_bytes(), &keys, &["line 1", "\"1\" is right", "one of the labels no, yes"]);
}

#[test]
fn examples_are_shown_in_front_and_not_distilled_on() {
    let lines = (0..12).map(|n| format!("{{\"id\": {n}, \"q\": \"{n}?\", \"a\": \"{n}!\"}}\n")).collect::<Vec<_>>().concat();
    let directory = tempfile::tempdir().expect("a directory");
    let training = directory.path().join("training.jsonl");
    std::fs::write(&training, &lines).expect("written");
    let test = directory.path().join("test.jsonl");
    std::fs::write(&test, GOOD.replace("1,", "99,")).expect("written");
    let keys = json!({
        "files": { "split": { "training": [training], "test": [test] } },
        "few-shot": { "examples": 2, "separator": "\n\n" },
    });
    let task = open("", &keys);
    assert_eq!(texts(&task, Split::Test)[0].1, "Q: 0?\nA: 0!\n\nQ: 1?\nA: 1!\n\nQ: one?\nA:");
    let training = texts(&task, Split::Training);
    assert!(training.len() == 10 && training.iter().all(|(id, ..)| id != "0" && id != "1"), "{training:?}");
    let keys = json!({ "few-shot": { "examples": 1, "separator": "" } });
    refused(GOOD.as_bytes(), &keys, &["training split", "has 0 examples, 1 are asked for"]);
}

#[test]
fn a_chat_is_put_as_the_models_template_says() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model().join(name), directory.path().join(name)).expect("copied");
    }
    let template = "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}</>{% endfor %}<assistant>";
    std::fs::write(directory.path().join("chat_template.jinja"), template).expect("written");
    let keys = json!({ "chat": true, "prompt": " {q} ", "delimiter": "unused" });
    let task = open_with(GOOD.as_bytes(), &keys, &reader(directory.path())).expect("a task");
    assert_eq!(texts(&task, Split::Test), [("1".into(), "<|bos|><user>one?</><assistant>".into(), "1".into())]);
    refused(GOOD.as_bytes(), &keys, &["task \"own\"", "the model has none", "chat = false"]);
}

#[test]
fn bad_lines_are_named_with_what_is_wrong() {
    let check = |line: &[u8], parts: &[&str]| {
        let lines = [GOOD.as_bytes(), line, b"\n"].concat();
        refused(&lines, &json!({}), &[&["1 of the examples of task \"own\"", "line 2 of", "own.jsonl"], parts].concat());
    };
    check(b"{\"id\": 2, \"q\": ", &["is no JSON", "EOF"]);
    check(b"\"text\"", &["is text, expected an object"]);
    check(b"{\"id\": 2, \"q\": \"\xff\"}", &["no UTF-8 text at byte 16"]);
    check(b"{\"id\": 2, \"q\": \"two?\"}", &["no field \"a\""]);
    check(b"{\"id\": 2, \"a\": \"2\"}", &["no field \"q\""]);
    check(b"{\"q\": \"two?\", \"a\": \"2\"}", &["no field \"id\""]);
    check(b"{\"id\": [2], \"q\": \"two?\", \"a\": \"2\"}", &["a list in the field \"id\""]);
    check(b"{\"id\": 2, \"q\": null, \"a\": \"2\"}", &["null in the field \"q\"", "expected text or a number"]);
    check(b"{\"id\": 1, \"q\": \"two?\", \"a\": \"2\"}", &["the id \"1\" of line 1 of"]);
    check(b"{\"id\": 2, \"q\": \"two?\", \"a\": \" \"}", &["an answer without text"]);
}

#[test]
fn all_bad_lines_are_counted() {
    let lines = GOOD.to_owned() + &"{}\n".repeat(7);
    refused(lines.as_bytes(), &json!({}), &["7 of the examples", "line 2 of", "line 5 of", "and 3 more"]);
}

#[test]
fn bad_choices_are_refused() {
    let check = |line: &str, parts: &[&str]| {
        let answer = json!({ "choices": { "texts": ["{all}"], "right": "{right}", "normalise": "nothing" } });
        refused(line.as_bytes(), &json!({ "answer": answer }), &[&["line 1"], parts].concat());
    };
    check("{\"id\": 1, \"q\": \"\", \"all\": [], \"right\": 0}", &["0 choices, expected at least 2"]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\"], \"right\": 0}", &["1 choices"]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\", \"\"], \"right\": 0}", &["an answer without text"]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\", [1]], \"right\": 0}", &["a list in the field \"all\""]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\", \"y\"], \"right\": 2}", &["2 is right, expected a place from 0 to 1"]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\", \"y\"], \"right\": -1}", &["-1 is right"]);
    check("{\"id\": 1, \"q\": \"\", \"all\": [\"x\", \"y\"], \"right\": \"z\"}", &["\"z\" is right, expected one of the choices"]);
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let generate = |target: &str| json!({ "generate": { "target": target, "metric": "contains", "max-tokens": 4, "stop": ["\n", "."] } });
    let check = |line: &str, parts: &[&str]| refused(line.as_bytes(), &json!({ "answer": generate("{a}") }), parts);
    check("{\"id\": 1, \"q\": \"\", \"a\": \"1.\"}", &["the stop string \".\" in it"]);
    check("{\"id\": 1, \"q\": \"\", \"a\": []}", &["an answer without text"]);
    let several = open("{\"id\": 1, \"q\": \"\", \"a\": [\"x\", \"y z\"]}", &json!({ "answer": generate("{a}") }));
    assert_eq!(several.questions("own", Split::Test, 1)[0].references, ["x", "y z"]);
}

#[test]
fn prompts_beyond_the_context_are_refused_or_cut_and_counted() {
    let line = |words: usize| format!("{{\"id\": {words}, \"q\": \"{}\", \"a\": \"1\"}}\n", "0".repeat(words));
    let lines = line(40) + &line(3);
    let keys = |context: usize, too_long: &str| json!({ "context": context, "too-long": too_long });
    refused(lines.as_bytes(), &keys(20, "refuse"), &["1 of the examples", "line 1", "the context is 20", "too-long"]);
    let cut = open(&lines, &keys(20, "truncate"));
    assert_eq!((cut.truncated(Split::Test), cut.truncated(Split::Validation)), (1, 0));
    let whole = open(&lines, &keys(100, "refuse"));
    assert_eq!(whole.truncated(Split::Test), 0);
    let tokens = |task: &JsonLines| {
        let mut all: Vec<_> = task.questions("own", Split::Test, 2).iter().map(|question| question.example().tokens.clone()).collect();
        all.sort_by_key(Vec::len);
        all
    };
    let (cut, whole) = (tokens(&cut), tokens(&whole));
    // All of them are read but the last, which is only predicted.
    assert_eq!((&cut[0], cut[1].len()), (&whole[0], 21));
    assert!(whole[1].ends_with(&cut[1]), "the right end stays");
    // An answer that fills the context leaves nothing to ask, whatever the task says.
    let long = "{\"id\": 1, \"q\": \"?\", \"a\": \"0000000000000000000000000\"}";
    refused(long.as_bytes(), &keys(20, "truncate"), &["line 1", "an answer of", "the context is 20"]);
    refused(lines.as_bytes(), &keys(5000, "refuse"), &["a context of 5000 tokens", "4096"]);
    refused(b"{\"id\": 1, \"q\": \"\", \"a\": \"1\"}", &json!({ "prompt": "{q}" }), &["a prompt without tokens"]);
}

#[test]
fn a_split_without_enough_examples_is_refused() {
    refused(b"", &json!({}), &["the test split of task \"own\" has 0 examples, 1 are asked for"]);
    let missing = json!({ "files": { "split": { "test": ["/nowhere.jsonl"] } } });
    refused(b"", &missing, &["could not read /nowhere.jsonl"]);
}

#[test]
fn an_example_stays_in_its_split_and_in_its_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("own.jsonl");
    let ids = |count: usize, split: Split| -> Vec<String> {
        let lines = (0..count).map(|n| format!("{{\"id\": \"e{n}\", \"q\": \"?\", \"a\": \"1\"}}\n")).collect::<Vec<_>>().concat();
        std::fs::write(&path, lines).expect("written");
        let keys = json!({ "files": { "divided": { "files": [path], "validation": 0.2, "test": 0.3 } } });
        open("", &keys).questions("own", split, usize::MAX).into_iter().map(|question| question.id).collect()
    };
    let all: Vec<Vec<String>> = [Split::Training, Split::Validation, Split::Test].map(|split| ids(1000, split)).into();
    assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 1000);
    // Three standard deviations.
    assert!(all[1].len().abs_diff(200) < 38 && all[2].len().abs_diff(300) < 44, "{} {}", all[1].len(), all[2].len());
    let fewer = ids(500, Split::Test);
    assert_eq!(all[2].iter().filter(|id| fewer.contains(id)).collect::<Vec<_>>(), fewer.iter().collect::<Vec<_>>());
    assert!(fewer.windows(2).any(|pair| pair[0] > pair[1]), "not in the order of the file");
}

#[test]
fn text_files_are_whole_text_or_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("prose.txt");
    let open = |bytes: &[u8], length: usize| {
        std::fs::write(&path, bytes).expect("written");
        let files = Splits::Divided { files: vec![path.clone()], validation: 0.0, test: 1.0 };
        Text::open("own", &TextConfig { files, length, start: "<|bos|>".into() }, &[(Split::Test, 3)], &reader(&model()))
    };
    let error = |bytes: &[u8], length| open(bytes, length).expect_err("an error").to_string();
    assert!(error(b"let x\xff = 1;", 8).contains("no UTF-8 text at byte 5"));
    assert!(error(b"", 8).contains("there is no text in"));
    assert!(error(b"let x = 1;", 8).contains("has 1 examples, 3 are asked for"));
    assert!(error(b"let x = 1;", 5000).contains("a context of 5000 tokens"));
    assert_eq!(open("let x = 1;\n".repeat(20).as_bytes(), 8).expect("a task").content().len(), 16);
}
