//! An encoder as users of `dtr` meet it: a hybrid of it for a retrieval task of one's own, and what is refused.

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use support::{dtr, fails, succeeds, workspace};

/// A random BERT with a tokenizer of 35 words, which puts tokens around each text; and one with a head for classes.
fn encoder(directory: &Path) -> PathBuf {
    let golden = workspace().join("tests/golden/models");
    let text = std::fs::read_to_string(golden.join("bert_classes/tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    let special = |(id, content): (usize, &str)| {
        let plain = false;
        json!({ "id": id, "content": content, "single_word": plain, "lstrip": plain, "rstrip": plain, "normalized": plain, "special": true })
    };
    tokenizer["added_tokens"] = [(2, "[CLS]"), (3, "[SEP]")].map(special).to_vec().into();
    for (case, name) in [("bert", "bert"), ("bert_classes", "classifier")] {
        let model = directory.join(name);
        std::fs::create_dir_all(model.join("1_Pooling")).expect("a directory");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden.join(case).join(file), model.join(file)).expect("copied");
        }
        std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    }
    let model = directory.join("bert");
    let write = |name: &str, value: Value| std::fs::write(model.join(name), value.to_string()).expect("written");
    write(
        "modules.json",
        json!([
            { "path": "", "type": "sentence_transformers.models.Transformer" },
            { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            { "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" },
        ]),
    );
    write("sentence_bert_config.json", json!({ "max_seq_length": 24, "do_lower_case": false }));
    write("1_Pooling/config.json", json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false }));
    model
}

const RETRIEVAL: &str = r#"[tasks.pairs.retrieval]
query = "{name} : {summary}"
document = "{body}"
measure = "reciprocal-rank""#;

const CLASSES: &str = r#"[tasks.pairs.json-lines]
prompt = "{body}"
delimiter = ""
answer.labels = { tokens = { "0" = "neither", "1" = "glad" }, right = "{mood}" }
too-long = "truncate""#;

/// A search over pairs whose documents hold the words of their queries in another order, and some more; each has a mood.
fn experiment(directory: &Path, parent: &str, task: &str) -> PathBuf {
    let mut lines = String::new();
    for pair in 0..120_usize {
        let word = |at: usize| format!("w{}", 4 + (pair * 7 + at * at * 3 + pair / 5 * at) % 35);
        let words: Vec<String> = (0..6).map(word).collect();
        let body = format!("{} {} {} w9", words[3], words[0], words[1..].join(" "));
        let _ = writeln!(
            lines,
            "{}",
            json!({ "id": pair, "name": words[0], "summary": words[1..4].join(" "), "body": body, "mood": pair / 2 % 2 })
        );
    }
    std::fs::write(directory.join("pairs.jsonl"), lines).expect("written");
    let text = format!(
        r#"
name = "encoder"
seed = 0
device = "flex"
parent.path = "{parent}"

[[operators]]
gated-delta = {{ convolution = 4 }}
[[operators]]
hedgehog = {{}}

[tasks.pairs]
validation = 24
test = 24
{task}
files = {{ divided = {{ files = ["pairs.jsonl"], validation = 0.3, test = 0.3 }} }}
id = "id"

[distill]
tokens = 6400
calibration-tokens = 640
rows = 8
length = 20
accumulate = 1
loss = "normalised-mse"
answer-weight = 1.0
optimiser = "adamw"
learning-rate = 1e-2
warmup = 0.05
schedule = "cosine"
weight-decay = 0.0
[distill.initialise]
projections = "copy"
decay = "distance"
write = "entropy"
gate = "magnitude"
shrink = 0.2
scale = true
ridge = "throughout"
feature-map-steps = 4
[distill.mixture]
pairs = 1.0

[search]
tasks = ["pairs"]
floor = 0.5
strategy = "greedy"
rank = "score"
racing = "off"
acceptance = "point"
swaps = 1
goal = "floor"
random-layouts = 1

[efficiency]
contexts = [16, 64]
decode-tokens = 1
repetitions = 2
"#
    );
    let path = directory.join(format!("{parent}.toml"));
    std::fs::write(&path, text).expect("written");
    path
}

/// Runs an experiment; its run, and what its report says of the task.
fn run(directory: &Path, file: &Path) -> (PathBuf, Value) {
    let runs = directory.join("runs");
    let printed = succeeds(dtr(&["run", "--quiet", "--runs"]).arg(&runs).arg(file));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("an encoder generates nothing"));
    let mut directories = std::fs::read_dir(&runs).expect("runs").map(|entry| entry.expect("an entry").path());
    let run = directories.find(|path| path.join("report.json").exists()).expect("a run");
    let report: Value = serde_json::from_slice(&std::fs::read(run.join("report.json")).expect("a report")).expect("JSON");
    assert_eq!(report["complete"], json!(true));
    (run, report)
}

/// What is written is a model again, and scores as it did.
fn scores_again(run: &Path, parent: &Path, task: &Value) {
    let eval = |model: &Path| -> Value {
        let output = succeeds(dtr(&["eval", "--quiet", "--json", "--model"]).arg(model).arg("--tasks").arg(run.join("experiment.toml")));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    for (model, name) in [(parent, "parent"), (&run.join("hybrid/pairs-m_opt"), "m_opt")] {
        let (found, wanted) = (eval(model)[0]["score"].as_f64(), task[name]["test"].as_f64());
        assert!((found.expect("a score") - wanted.expect("a score")).abs() < 1e-6, "{name}: {found:?}, reported {wanted:?}");
    }
}

#[test]
fn a_hybrid_of_an_encoder_finds_what_its_parent_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let (model, file) = (encoder(directory.path()), experiment(directory.path(), "bert", RETRIEVAL));
    let (run, report) = run(directory.path(), &file);
    let task = &report["tasks"]["pairs"];
    assert_eq!(task["metric"], json!("reciprocal rank"));
    // A random encoder knows words by their vectors alone; by chance it would be 0.16.
    assert!(task["parent"]["validation"].as_f64() > Some(0.2) && task["m_opt"]["replaced"].as_u64() > Some(0), "{task}");
    let row = &report["efficiency"][0];
    assert!(row["prefill_tokens_per_second"].as_f64() > Some(0.0) && row["decode_tokens_per_second"].is_null(), "{row}");
    scores_again(&run, &model, task);
    fails(dtr(&["generate", "--prompt", "w5", "--model"]).arg(run.join("hybrid/pairs-m_opt")), &["is an encoder", "generates none"]);

    // What each finds first is a document of the split, and the right one where the rank says so.
    let lines = std::fs::read_to_string(directory.path().join("pairs.jsonl")).expect("pairs");
    let pairs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let differing = task["differing"].as_array().expect("a list");
    assert!(!differing.is_empty(), "{task}");
    for answer in differing {
        let own = |pair: &&Value| {
            let query = format!("{} [UNK] {}", pair["name"].as_str().expect("text"), pair["summary"].as_str().expect("text"));
            answer["prompt"] == query && answer["expected"] == pair["body"]
        };
        assert!(pairs.iter().any(|pair| own(&pair)), "{answer}");
        assert_ne!(answer["parent_score"], answer["hybrid_score"]);
        for model in ["parent", "hybrid"] {
            assert!(pairs.iter().any(|pair| pair["body"] == answer[model]), "{answer}");
            let first = answer[format!("{model}_score")] == 1.0;
            assert_eq!(answer[model] == answer["expected"], first, "{answer}");
        }
    }
}

#[test]
fn a_hybrid_of_an_encoder_with_a_head_classifies() {
    let directory = tempfile::tempdir().expect("a directory");
    encoder(directory.path());
    let file = experiment(directory.path(), "classifier", CLASSES);
    let (run, report) = run(directory.path(), &file);
    let task = &report["tasks"]["pairs"];
    assert_eq!(task["metric"], json!("accuracy"));
    assert!(task["m_opt"]["replaced"].as_u64() > Some(0), "{task}");
    scores_again(&run, &directory.path().join("classifier"), task);
}

#[test]
fn what_an_encoder_cannot_do_is_refused_with_the_place() {
    let directory = tempfile::tempdir().expect("a directory");
    encoder(directory.path());
    let file = experiment(directory.path(), "bert", RETRIEVAL);
    let check = |sets: &[&str], parts: &[&str]| {
        let mut command = dtr(&["check"]);
        command.arg(&file);
        for set in sets {
            command.args(["--set", set]);
        }
        fails(&mut command, parts);
    };
    check(&["search.racing='exact'"], &["`search.racing`", "must be `off`", "pairs"]);
    check(&["efficiency.contexts=[64, 256]"], &["efficiency.contexts", "128 positions", "256 tokens"]);
    check(&["search.goal={ prefill-seconds = { at-most = 1.0, context = 300 } }"], &["search.goal", "128 positions", "300 tokens"]);
    check(&["distill.length=200"], &["distill.length", "128 positions"]);
    check(&["operators=[{ sliding-window = { window = 4, sinks = 1 } }]"], &["sliding-window looks back only"]);
    check(&["operators=[{ gated-delta = { convolution = 4, rotary = true } }]"], &["no rotations"]);
    check(&["search.goal={ decode-seconds = { at-most = 1.0, context = 64 } }"], &["search.goal", "generates nothing"]);
    check(&["tasks.pairs.retrieval.measure={ hit = 0 }"], &["tasks.pairs.retrieval.measure", "at least 1"]);
    check(&["tasks.pairs.retrieval.document='{nothing}'"], &["no field \"nothing\""]);
    let parent = format!("parent.path={:?}", workspace().join("assets/models/tiny-qwen3").canonicalize().expect("the bundled parent"));
    check(&[&parent], &["task \"pairs\" compares vectors of texts", "encoder"]);
    fails(
        dtr(&["eval", "--quiet", "--tasks", "configs/own-task.toml", "--model"]).arg(directory.path().join("bert")),
        &["task \"contacts\" asks for predicted tokens", "is an encoder"],
    );
    let eval = |model: &str, parts: &[&str]| {
        let file = experiment(directory.path(), "classifier", &CLASSES.replace("glad", "merry"));
        fails(dtr(&["eval", "--quiet", "--tasks"]).arg(file).arg("--model").arg(directory.path().join(model)), parts);
    };
    eval("bert", &["task \"pairs\" asks for predicted tokens", "an encoder with a head"]);
    eval("classifier", &["task \"pairs\"", "\"merry\"", "sad, glad, neither", "id2label"]);
}
