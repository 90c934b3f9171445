//! Weight files that are damaged, lie, or lead elsewhere: refused by name.

use std::path::{Path, PathBuf};

use dtr_models::checkpoint;
use dtr_tests::{Golden, Inner, difference, golden, ids};
use serde_json::{Value, json};
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";

/// A copy of a sharded checkpoint.
fn shards() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    copy(&golden("models/llama_shards"), directory.path());
    directory
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        if !path.ends_with("expected.safetensors") {
            std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
}

fn index(directory: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join(INDEX)).expect("text")).expect("JSON")
}

fn set_index(directory: &Path, index: &Value) {
    std::fs::write(directory.join(INDEX), index.to_string()).expect("written");
}

/// The message with which a checkpoint is refused, which must have `parts`.
fn refused(directory: &Path, parts: &[&str]) {
    let Err(error) = checkpoint::load::<Inner>(directory, &Default::default()) else { panic!("accepted, expected {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// Refusal of a single file of `header` and `data` bytes.
fn file_refused(length: u64, header: &str, data: usize, parts: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(golden("models/llama_gqa/config.json"), directory.path().join("config.json")).expect("copied");
    let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
    std::fs::write(directory.path().join("model.safetensors"), bytes).expect("written");
    refused(directory.path(), &[&["model.safetensors", "damaged or cut off"], parts].concat());
}

#[test]
fn headers_that_lie_are_refused() {
    let check = |header: &str, data: usize, parts: &[&str]| file_refused(header.len() as u64, header, data, parts);
    file_refused(u64::MAX, "{}", 0, &["its header has 18446744073709551615 bytes, where at most 2 can be"]);
    file_refused(3, "{}", 0, &["its header has 3 bytes"]);
    check("{", 0, &["header: EOF"]);
    check("[]", 0, &["header: invalid type: sequence"]);
    check("\u{0}\u{1}", 0, &["header:"]);
    let one = |shape: &str, end: u64| format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
    check(&one("[4611686018427387904,8]", 16), 16, &["overflow"]);
    check(&one("[18446744073709551616]", 16), 16, &["header:", "invalid"]);
    check(&one("[5]", 16), 16, &["invalid shape, data type, or offset"]);
    check(&one("[-1]", 16), 16, &["header: invalid value"]);
    check(&one("[4]", 16), 12, &["12 bytes of weights, its header describes 16"]);
    check(&one("[4]", 16), 20, &["20 bytes of weights, its header describes 16"]);
    check(&one("[1000000000000]", 4_000_000_000_000), 16, &["16 bytes of weights, its header describes 4000000000000"]);
    let two = |second: &str, from: u32| {
        format!(
            r#"{{"x":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"{second}":{{"dtype":"F32","shape":[1],"data_offsets":[{from},{}]}}}}"#,
            from + 4
        )
    };
    check(&two("y", 8), 12, &["invalid offset for tensor"]);
    check(&two("y", 2), 8, &["invalid offset for tensor"]);
    check(&two("x", 4), 8, &["tensor \"x\" is there twice"]);
    check(&two("x", 0), 4, &["tensor \"x\" is there twice"]);
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(golden("models/llama_gqa/config.json"), directory.path().join("config.json")).expect("copied");
    std::fs::write(directory.path().join("model.safetensors"), [1, 2, 3]).expect("written");
    refused(directory.path(), &["model.safetensors", "it has 3 bytes"]);
}

#[test]
fn an_index_leads_nowhere_else() {
    let outside = tempfile::tempdir().expect("a directory");
    let secret = outside.path().join("secret.safetensors");
    std::fs::copy(golden("models/llama_shards").join(shard(0)), &secret).expect("copied");
    let named = |name: &str, parts: &[&str]| {
        let directory = shards();
        let mut index = index(directory.path());
        for value in index["weight_map"].as_object_mut().expect("a map").values_mut() {
            if *value == json!(shard(0)) {
                *value = json!(name);
            }
        }
        set_index(directory.path(), &index);
        refused(directory.path(), &[&[INDEX, name], parts].concat());
    };
    let no_path = ["no path below its own directory"];
    named(secret.to_str().expect("text"), &no_path);
    named("../secret.safetensors", &no_path);
    named("sub/../../secret.safetensors", &no_path);
    named("", &no_path);
    named(".", &no_path);
    named("missing.safetensors", &["cannot be opened"]);
    #[cfg(unix)]
    {
        let directory = shards();
        let path = directory.path().join(shard(0));
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&secret, &path).expect("linked");
        refused(directory.path(), &[INDEX, &shard(0), "a link that leads out of its directory"]);
    }
}

/// Name of a shard of the golden checkpoint.
fn shard(number: usize) -> String {
    let mut names: Vec<String> = index(&golden("models/llama_shards"))["weight_map"]
        .as_object()
        .expect("a map")
        .values()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names.dedup();
    names.swap_remove(number)
}

#[test]
fn index_and_shards_agree() {
    let check = |change: &dyn Fn(&Path, &mut Value), parts: &[&str]| {
        let directory = shards();
        let mut index = index(directory.path());
        change(directory.path(), &mut index);
        set_index(directory.path(), &index);
        refused(directory.path(), &[&[INDEX], parts].concat());
    };
    check(
        &|_, index| index["weight_map"]["model.norm.weight"] = json!(shard(0)),
        &["lists tensor \"model.norm.weight\" in", "but it lies in"],
    );
    check(&|_, index| index["weight_map"]["spare"] = json!(shard(1)), &["lists tensor \"spare\" in", "which does not hold it"]);
    check(&|_, index| *index = json!({ "metadata": {} }), &["is no index", "weight_map"]);
    check(&|_, index| index["weight_map"]["spare"] = json!(3), &["is no index", "invalid type"]);
    // A shard that nobody misses, with tensors that are elsewhere already.
    let twice = |directory: &Path, index: &mut Value| {
        let bytes = std::fs::read(directory.join(shard(0))).expect("bytes");
        std::fs::write(directory.join("z.safetensors"), bytes).expect("written");
        let map = index["weight_map"].as_object_mut().expect("a map");
        let tensor = map.iter().find(|(_, name)| **name == json!(shard(0))).expect("a tensor").0.clone();
        map.insert(tensor, json!("z.safetensors"));
    };
    check(&twice, &["lists tensor", "but it lies in"]);
    let directory = shards();
    let text = std::fs::read_to_string(directory.path().join(INDEX)).expect("text");
    let again = text.replace("\"weight_map\": {", &format!("\"weight_map\": {{ \"model.norm.weight\": \"{}\",", shard(0)));
    std::fs::write(directory.path().join(INDEX), again).expect("written");
    refused(directory.path(), &["is no index", "tensor \"model.norm.weight\" is there twice"]);
}

#[test]
fn pickles_are_never_read() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(golden("models/llama_gqa/config.json"), directory.path().join("config.json")).expect("copied");
    std::fs::write(directory.path().join("pytorch_model.bin"), b"cos\nsystem\n").expect("written");
    refused(directory.path(), &["pytorch_model.bin is a pickle, which is never read", "safe_serialization=True"]);
}

/// The layout in which the cache of the hub keeps a model: links from a snapshot into the blobs beside it.
#[cfg(unix)]
#[test]
fn a_snapshot_of_the_hub_is_read() {
    let cache = tempfile::tempdir().expect("a directory");
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/0123abcd"));
    std::fs::create_dir_all(&snapshot).expect("created");
    copy(&golden("models/llama_shards"), &blobs);
    for entry in std::fs::read_dir(&blobs).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        std::os::unix::fs::symlink(PathBuf::from("../../blobs").join(&name), snapshot.join(&name)).expect("linked");
    }
    let load = |path: &Path| checkpoint::load::<Inner>(path, &Default::default()).expect("a model").1;
    let rows = Golden::open("models/llama_shards/expected.safetensors").rows("ids");
    let (here, there) = (load(&snapshot).logits(ids(&rows)), load(&golden("models/llama_shards")).logits(ids(&rows)));
    assert!(difference(&here, &there).abs() < f32::EPSILON);
}
