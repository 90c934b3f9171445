//! `dtr export` and `dtr inspect` as commands.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{dtr, fails, succeeds, workspace};

const PARENT: &str = "assets/models/tiny-qwen3";

/// The bundled parent with other mixers in its configuration.
fn hybrid(root: &Path, mixers: &Value) -> PathBuf {
    let directory = root.join("hybrid");
    std::fs::create_dir(&directory).expect("a directory");
    let parent = workspace().join(PARENT);
    std::fs::copy(parent.join("model.safetensors"), directory.join("model.safetensors")).expect("copied");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(parent.join("config.json")).expect("text")).expect("JSON");
    let config = json!({ "model_type": "dtr", "dtr": { "mixers": mixers, "parent": config } });
    std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
    directory
}

fn inspected(directory: &str) -> Value {
    let output = succeeds(&mut dtr(&["inspect", directory, "--json"]));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_parent_is_exported_and_its_directory_complete() {
    let root = tempfile::tempdir().expect("a directory");
    let output = root.path().join("out");
    let path = output.display().to_string();
    succeeds(&mut dtr(&["export", PARENT, "--format", "qwen3-5", "--output", &path]));
    let mut files: Vec<_> = std::fs::read_dir(&output).expect("files").map(|entry| entry.expect("a file").file_name()).collect();
    files.sort();
    assert_eq!(files, ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(output.join("config.json")).expect("text")).expect("JSON");
    assert_eq!(config["model_type"], "qwen3_5_text");
    assert_eq!(config["eos_token_id"], 2);
    fails(&mut dtr(&["export", PARENT, "--format", "qwen3-5", "--output", &path]), &["is not an empty directory", "--output"]);
}

#[test]
fn wrong_calls_are_told_what_to_do() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("out").display().to_string();
    fails(
        &mut dtr(&["export", PARENT, "--format", "gguf", "--output", &path]),
        &["no format \"gguf\"", "parent, qwen3-5, qwen3-next, granite-hybrid, fla"],
    );
    fails(&mut dtr(&["export", "docs", "--format", "parent", "--output", &path]), &["docs/config.json", "does not exist"]);
    fails(&mut dtr(&["export", PARENT, "--format", "fla", "--output", &path]), &["no exact form as fla", "layers 0, 1, 2", "dtr inspect"]);
    fails(&mut dtr(&["inspect", "docs"]), &["docs/config.json"]);
    assert!(!root.path().join("out").exists());
}

#[test]
fn inspect_tells_what_a_hybrid_is() {
    let root = tempfile::tempdir().expect("a directory");
    let softmax = json!({ "softmax": { "window": null } });
    let delta = json!({ "gated-delta": { "convolution": 4 } });
    let window = json!({ "sliding-window": { "window": 32, "sinks": 4 } });
    let map = json!({ "linear-map": {} });
    let mixers = json!([softmax, softmax, delta, delta, softmax, delta, window, map]);
    let directory = hybrid(root.path(), &mixers).display().to_string();
    let found = inspected(&directory);
    assert_eq!(found["family"], "qwen3");
    assert_eq!(found["layout"], "SSGGSGWL");
    // 4 heads of 32: three inputs of a convolution over 3 * 128 channels, and a matrix a head, in three layers.
    assert_eq!(found["state_bytes_per_sequence"], 3 * 4 * (3 * 3 * 128 + 4 * 32 * 32));
    // Keys and values of 2 heads of 32 in four layers.
    assert_eq!(found["cache_bytes_per_token"], 4 * 4 * 2 * 2 * 32);
    assert_eq!(found["mixers"][2]["most_tokens"], 36);
    assert_eq!(found["mixers"][1]["layers"], json!([2, 3, 5]));
    for format in ["parent", "qwen3-5", "qwen3-next", "granite-hybrid", "fla"] {
        assert_eq!(found["export"][format]["possible"], false);
    }
    let output = succeeds(&mut dtr(&["inspect", &directory]));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["SSGGSGWL", "gated-delta (convolution 4): layers 2-3, 5", "at most 36 tokens", "layer 6 is sliding-window (sinks 4, window 32)"]
    {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn inspect_reads_headers_and_finds_files_cut_off() {
    let found = inspected(PARENT);
    // Embedding and head; attention, MLP and norms of eight layers; the last norm.
    let layer = 2 * 128 * 128 + 2 * 128 * 64 + 2 * 32 + 3 * 128 * 384 + 2 * 128;
    assert_eq!(found["parameters"], 2 * 2048 * 128 + 8 * layer + 128);
    assert_eq!(found["export"]["qwen3-5"], json!({ "possible": true, "reason": null }));
    let root = tempfile::tempdir().expect("a directory");
    let directory = hybrid(root.path(), &json!(vec![json!({ "linear-map": {} }); 8]));
    let weights = directory.join("model.safetensors");
    let file = std::fs::File::options().write(true).open(&weights).expect("a file");
    file.set_len(file.metadata().expect("a length").len() - 4).expect("cut");
    fails(&mut dtr(&["inspect", &directory.display().to_string()]), &["model.safetensors", "damaged or cut off"]);
}
