//! An encoder as users of `dtr` meet it: a hybrid of it for a retrieval task of one's own, and what is refused.

mod support;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use support::{dtr, fails, succeeds, workspace};

/// A random BERT with a tokenizer of its own: 35 words, and tokens around each text.
fn encoder(directory: &Path) -> PathBuf {
    let model = directory.join("bert");
    std::fs::create_dir_all(model.join("1_Pooling")).expect("a directory");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(workspace().join("tests/golden/models/bert").join(name), model.join(name)).expect("copied");
    }
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let words: Vec<String> = special.iter().map(|&word| word.to_owned()).chain((4..39).map(|word| format!("w{word}"))).collect();
    let vocabulary: serde_json::Map<String, Value> = words.iter().zip(0..).map(|(word, id)| (word.clone(), json!(id))).collect();
    let token = |id: usize| json!({ "SpecialToken": { "id": special[id], "type_id": 0 } });
    let entry = |id: usize| json!({ "id": special[id], "ids": [id], "tokens": [special[id]] });
    let added = |id: usize| {
        let plain = false;
        json!({ "id": id, "content": special[id], "single_word": plain, "lstrip": plain, "rstrip": plain, "normalized": plain, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": null,
        "added_tokens": [added(2), added(3)],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token(2), { "Sequence": { "id": "A", "type_id": 0 } }, token(3)],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": entry(2), "[SEP]": entry(3) },
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    });
    let write = |name: &str, value: Value| std::fs::write(model.join(name), value.to_string()).expect("written");
    write("tokenizer.json", tokenizer);
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

/// Pairs whose documents hold the words of their queries in another order, and some more.
fn experiment(directory: &Path) -> PathBuf {
    let mut lines = String::new();
    for pair in 0..120_usize {
        let word = |at: usize| format!("w{}", 4 + (pair * 7 + at * at * 3 + pair / 5 * at) % 35);
        let words: Vec<String> = (0..6).map(word).collect();
        let body = format!("{} {} {} w9", words[3], words[0], words[1..].join(" "));
        let _ = writeln!(lines, "{}", json!({ "id": pair, "name": words[0], "summary": words[1..4].join(" "), "body": body }));
    }
    std::fs::write(directory.join("pairs.jsonl"), lines).expect("written");
    let text = r#"
name = "encoder"
seed = 0
device = "flex"
parent.path = "bert"

[[operators]]
gated-delta = { convolution = 4 }
[[operators]]
hedgehog = {}

[tasks.pairs]
validation = 24
test = 24
[tasks.pairs.retrieval]
files = { divided = { files = ["pairs.jsonl"], validation = 0.3, test = 0.3 } }
id = "id"
query = "{name}: {summary}"
document = "{body}"
measure = "reciprocal-rank"

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
"#;
    let path = directory.join("encoder.toml");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn a_hybrid_of_an_encoder_finds_what_its_parent_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let (model, file) = (encoder(directory.path()), experiment(directory.path()));
    let runs = directory.path().join("runs");
    let printed = succeeds(dtr(&["run", "--quiet", "--runs"]).arg(&runs).arg(&file));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("an encoder generates nothing"));
    let mut directories = std::fs::read_dir(&runs).expect("runs").map(|entry| entry.expect("an entry").path());
    let run = directories.find(|path| path.join("report.json").exists()).expect("a run");
    let report: Value = serde_json::from_slice(&std::fs::read(run.join("report.json")).expect("a report")).expect("JSON");
    let task = &report["tasks"]["pairs"];
    assert_eq!((&report["complete"], &task["metric"]), (&json!(true), &json!("reciprocal rank")));
    // A random encoder knows words by their vectors alone; by chance it would be 0.16.
    assert!(task["parent"]["validation"].as_f64() > Some(0.2) && task["m_opt"]["replaced"].as_u64() > Some(0), "{task}");
    let row = &report["efficiency"][0];
    assert!(row["prefill_tokens_per_second"].as_f64() > Some(0.0) && row["decode_tokens_per_second"].is_null(), "{row}");

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

    // What is written is a model again, and scores as it did.
    let hybrid = run.join("hybrid/pairs-m_opt");
    let eval = |model: &Path| -> Value {
        let output = succeeds(dtr(&["eval", "--quiet", "--json", "--model"]).arg(model).arg("--tasks").arg(run.join("experiment.toml")));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    for (model, name) in [(&model, "parent"), (&hybrid, "m_opt")] {
        let (found, wanted) = (eval(model)[0]["score"].as_f64(), task[name]["test"].as_f64());
        assert!((found.expect("a score") - wanted.expect("a score")).abs() < 1e-6, "{name}: {found:?}, reported {wanted:?}");
    }
    fails(dtr(&["generate", "--prompt", "w5", "--model"]).arg(&hybrid), &["is an encoder", "generates none"]);
}

#[test]
fn what_an_encoder_cannot_do_is_refused_with_the_place() {
    let directory = tempfile::tempdir().expect("a directory");
    encoder(directory.path());
    let file = experiment(directory.path());
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
}
