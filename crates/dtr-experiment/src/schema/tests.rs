//! Good experiments load, and every bad one is told what was expected, what came and where.

use std::fs;

use super::*;

fn quickstart_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml")
}

fn load(path: &Path, overrides: &[(&str, &str)]) -> Result<Experiment, Error> {
    let overrides: Vec<_> = overrides.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Experiment::load(path, &overrides)
}

/// The quickstart after some overrides.
pub(crate) fn quickstart(overrides: &[(&str, &str)]) -> Experiment {
    load(&quickstart_path(), overrides).unwrap_or_else(|error| panic!("{error}"))
}

/// The quickstart after `edits`, each of the first such place, must fail where `¦` stands, with a message that holds all `parts`.
fn check(edits: &[(&str, &str)], parts: &[&str]) {
    let mut text = fs::read_to_string(quickstart_path()).unwrap();
    for (old, new) in edits {
        assert!(text.contains(old), "{old:?} is not in the quickstart");
        text = text.replacen(old, new, 1);
    }
    let models = quickstart_path().parent().unwrap().join("../assets/models");
    let text = text.replace("../assets/models", models.to_str().unwrap());
    let (before, after) = text.split_once('¦').unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, [before, after].concat()).unwrap();

    let error = load(&path, &[]).expect_err(after);
    let Error::Invalid(invalid) = &error else { panic!("{error}") };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    assert_eq!(invalid.place, format!("{}:{line}:{column}", path.display()), "{error}");
    assert_eq!(invalid.span.offset(), before.len(), "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is missing in {error}");
    }
}

/// The quickstart with one override must fail, naming the override and all `parts`.
fn check_override(key: &str, value: &str, parts: &[&str]) {
    let error = load(&quickstart_path(), &[("seed", "7"), (key, value)]).expect_err(key);
    let shown = error.to_string();
    for part in [format!("--set {key}={value}: ").as_str()].iter().chain(parts) {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}

#[test]
fn quickstart_is_valid() {
    let experiment = quickstart(&[]);
    assert_eq!(experiment.name(), "quickstart");
    assert_eq!(experiment.compute().device, Device::Flex);
    assert_eq!(experiment.operators(), [Operator::GatedDelta { convolution: 4, rotary: false }]);
    assert_eq!(experiment.search().tasks, ["phonebook", "snippet-origin"]);
    assert_eq!(experiment.tasks()["rust-text"].kind.name(), "rust-text");
    assert!(matches!(experiment.parent(), Parent::Directory(path) if path.is_absolute() && path.ends_with("tiny-qwen3")));
}

#[test]
fn resolved_experiment_loads_to_an_equal_one() {
    let synthetic = load(&quickstart_path().with_file_name("synthetic.toml"), &[]).unwrap();
    let window = "[{sliding-window = {window = 32, sinks = 0}}, {hedgehog = {}}, {mamba2 = {state = 64, convolution = 4}}]";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("experiment.toml");
    for experiment in [
        synthetic,
        quickstart(&[]),
        load(&quickstart_path().with_file_name("own-task.toml"), &[]).unwrap(),
        quickstart(&[("operators", window), ("seed", "18446744073709551615"), ("device", "cuda:1")]),
        quickstart(&[("distill.learning-rate", "1e-300"), ("distill.warmup", "0.1")]),
    ] {
        fs::write(&path, experiment.to_toml()).unwrap();
        let again = load(&path, &[]).unwrap();
        assert_eq!(again, experiment);
        assert_eq!((again.to_toml(), again.hash()), (experiment.to_toml(), experiment.hash()));
    }
}

#[test]
fn hash_is_the_same_on_every_machine_and_tells_experiments_apart() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("tiny-qwen3");
    fs::create_dir(&elsewhere).unwrap();
    let moved = quickstart(&[("parent.path", elsewhere.to_str().unwrap())]);
    let experiment = quickstart(&[]);
    assert_ne!(moved, experiment);
    assert_eq!(moved.hash(), experiment.hash());
    assert_eq!(experiment.hash().len(), 8);
    assert_ne!(quickstart(&[("seed", "1")]).hash(), experiment.hash());
}

#[test]
fn keys_depend_on_every_part() {
    assert_eq!(key(&("student", 1, [0.5])), key(&("student", 1, [0.5])));
    assert_ne!(key(&("student", 1, [0.5])), key(&("student", 1, [0.25])));
    assert_eq!(key("x").len(), 16);
}

#[test]
fn overrides_replace_and_add() {
    let experiment = quickstart(&[
        ("device", "cuda:1"),
        ("distill.tokens", "3_000"),
        ("distill.mixture", "{ rust-text = 1 }"),
        ("tasks.phonebook.phonebook.entries", "8"),
        ("search.tasks", "[\"phonebook\"]"),
        ("name", "a"),
        ("name", "b"),
    ]);
    assert_eq!(experiment.compute().device, Device::Cuda(Some(1)));
    assert_eq!(experiment.distill().tokens, 3000);
    assert_eq!(experiment.distill().mixture, BTreeMap::from([("rust-text".to_owned(), 1.0)]));
    let TaskKind::Phonebook(phonebook) = &experiment.tasks()["phonebook"].kind else { panic!() };
    assert_eq!((phonebook.entries, phonebook.question.as_str()), (8, "<|query|>"));
    assert_eq!(experiment.search().tasks, ["phonebook"]);
    assert_eq!(experiment.name(), "b");
}

#[test]
fn bad_overrides_name_themselves() {
    check_override("search.flor", "0.9", &["unknown field `flor`", "`floor`"]);
    check_override("serch.floor", "0.9", &["unknown field `serch`", "`search`"]);
    check_override("", "0.9", &["unknown field ``"]);
    check_override("search.floor", "1.5", &["`search.floor` must be a share", "found 1.5"]);
    check_override("search.floor", "high", &["invalid type: string \"high\", expected a share of the parent's score"]);
    check_override("search.floor", "0.5\nx = 1", &["invalid type: string"]);
    check_override("device.index", "1", &["`device`, which is of type string"]);
    check_override("operators.0", "1", &["`operators`, which is of type array"]);
    check_override("device", "gpu", &["one of flex,", "found \"gpu\""]);
    check_override("tasks.new.test", "5", &["missing field `validation`", "in `tasks.new`"]);
    check_override("distill.mixture", "{ phonebook = 1.0, rust-text = -1 }", &["`distill.mixture.rust-text` must be above 0", "found -1"]);
}

#[test]
fn file_keeps_its_places_beside_overrides() {
    let path = quickstart_path();
    let error = load(&path, &[("distill.rows", "1_000_000")]).unwrap_err().to_string();
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().position(|line| line.starts_with("tokens = 200_000")).unwrap() + 1;
    assert!(error.starts_with(&format!("{}:{line}:10: ", path.display())), "{error}");
    assert!(error.contains("rows * length = 160000000 tokens, found 200000"), "{error}");
}

#[test]
fn shape_is_checked() {
    check(&[("seed = 0", "seed = ¦")], &["string values must be quoted"]);
    check(&[("# A first", "¦# A first"), ("seed = 0", "")], &["missing field `seed`"]);
    check(&[("seed = 0", "seed = ¦-1")], &["invalid value: integer `-1`, expected u64", "in `seed`"]);
    check(&[("seed = 0", "seed = ¦0.5")], &["invalid type: floating point", "expected u64"]);
    check(&[("[search]", "¦[search]"), ("floor = 0.95", "")], &["missing field `floor`", "in `search`"]);
    check(&[("floor = 0.95", "floor = 0.95\n¦floors = 1")], &["unknown field `floors`", "`random-layouts`"]);
    check(&[("[efficiency]", "[¦efficiencies]")], &["unknown field", "`efficiency`"]);
    check(&[("gated-delta = {", "¦delta = {")], &["unknown variant `delta`", "`hedgehog`"]);
    check(&[("convolution = 4", "¦kernel = 4")], &["unexpected keys in table: kernel", "available keys: convolution"]);
    check(&[("entries = 16", "entries = ¦\"16\"")], &["expected usize", "in `tasks.phonebook.phonebook.entries`"]);
    check(&[("seed = 0", "seed = 0\n¦seed = 1")], &["duplicate key"]);
}

#[test]
fn values_are_checked() {
    for (old, new, parts) in [
        ("\"quickstart\"", "¦\"../x\"", ["`name` must be", "a-z 0-9 . _ -", "found \"../x\""]),
        ("\"flex\"", "¦\"flex:0\"", ["`device` must be", "one of flex,", "found \"flex:0\""]),
        ("\"../assets/models/tiny-qwen3", "¦\"../assets/models/absent", ["`parent.path` must be", "the directory", "absent"]),
        ("convolution = 4", "convolution = ¦0", ["`operators.0.gated-delta.convolution`", "at least 1", "found 0"]),
        ("tokens = 200_000", "tokens = ¦100", ["`distill.tokens`", "rows * length = 320", "found 100"]),
        ("16_384", "¦159", ["`distill.calibration-tokens`", "one row of length = 160", "found 159"]),
        ("rows = 2 ", "rows = ¦0 ", ["`distill.rows`", "at least 1", "found 0"]),
        ("shrink = 0.2", "shrink = ¦0.0", ["`distill.initialise.shrink`", "above 0", "found 0"]),
        ("length = 160", "length = ¦0", ["`distill.length`", "at least 1", "found 0"]),
        ("1e-2", "¦inf", ["`distill.learning-rate`", "above 0 and finite", "found inf"]),
        ("1e-2", "¦0", ["`distill.learning-rate`", "above 0 and finite", "found 0"]),
        ("warmup = 0.05", "warmup = ¦1.0", ["`distill.warmup`", "below 1", "found 1"]),
        ("weight-decay = 0.3", "weight-decay = ¦nan", ["`distill.weight-decay`", "finite", "found NaN"]),
        ("rust-text = 0.3", "prose = ¦0.3", ["`distill.mixture.prose`", "tasks phonebook, rust-text, snippet-origin", "found `prose`"]),
        ("rust-text = 0.3", "rust-text = ¦0.0", ["`distill.mixture.rust-text`", "above 0", "found 0"]),
        ("validation = 512", "validation = ¦0", ["`tasks.phonebook.validation`", "at least 1", "found 0"]),
        ("[tasks.phonebook]", "¦[tasks.\"a/b\"]", ["`tasks.a/b`", "a-z 0-9 . _ -", "found \"a/b\""]),
        ("syn = \"<|c0|>\"", "syn = ¦\"<|c1|>\"", ["labels.syn`", "a token of its own", "`<|c1|>` a second time"]),
        ("\"<|query|>\"", "¦\"\"", ["`tasks.phonebook.phonebook.question`", "a token", "an empty string"]),
        ("floor = 0.95", "floor = ¦0", ["`search.floor`", "above 0 and at most 1", "found 0"]),
        ("[\"phonebook\", ", "[¦\"fonebook\", ", ["`search.tasks.0`", "one of the tasks", "found `fonebook`"]),
        ("\"snippet-origin\"]", "¦\"phonebook\"]", ["`search.tasks.1`", "unlike all before it", "a second `phonebook`"]),
        ("[512, ", "[¦0, ", ["`efficiency.contexts.0`", "above 0", "found 0"]),
        ("[512, 1024, ", "[1024, ¦512, ", ["`efficiency.contexts.1`", "above 1024", "found 512"]),
        ("decode-tokens = 32", "decode-tokens = ¦0", ["`efficiency.decode-tokens`", "at least 1", "found 0"]),
    ] {
        check(&[(old, new)], &parts);
    }
}

#[test]
fn task_has_one_kind() {
    let second = "phonebook = { entries = 1, start = \"a\", question = \"b\" }\nrust-text = { tokens";
    let expected = "one of the keys phonebook, snippet-origin, rust-text, json-lines, text, mqar";
    check(&[("[tasks.rust-text]", "¦[tasks.rust-text]"), ("rust-text = { tokens", second)], &[expected, "found 2 of them"]);
    check(&[("[tasks.phonebook]", "¦[tasks.phonebook]"), ("phonebook = {", "# {")], &[expected, "found 0 of them"]);
}

#[test]
fn synthetic_tasks_are_checked_at_their_keys() {
    for (kind, key, parts) in [
        ("mqar = { tokens = 64, pairs = 17, vocabulary = 128, power = 1.0 }", "mqar.pairs", ["tokens / 4 = 16", "found 17"]),
        ("induction = { tokens = 4, vocabulary = 16 }", "induction.tokens", ["at least 5", "found 4"]),
        ("selective-copying = { tokens = 8, copied = 0, vocabulary = 16 }", "selective-copying.copied", ["at least 1", "found 0"]),
        ("variable-tracking = { tokens = 99, chains = 0, hops = 1 }", "variable-tracking.chains", ["at least 1", "found 0"]),
        ("list-ops = { tokens = 9, shortest = 10, depth = 1, arguments = 2 }", "list-ops.shortest", ["at most tokens = 9", "found 10"]),
        (
            "needle = { tokens = 99, haystack = { text = { crates = [] } }, keys = 1, values = \"uuids\" }",
            "needle.haystack.text.crates",
            ["at least one crate", "found none"],
        ),
        (
            "in-context-recall = { tokens = 9, vocabulary = 9, key-tokens = 1, value-tokens = 1, noise = 1.0, noise-vocabulary = 1 }",
            "in-context-recall.tokens",
            ["even", "found 9"],
        ),
    ] {
        let value = format!("{{ validation = 1, test = 1, {kind} }}");
        check_override("tasks.new", &value, &[&format!("`tasks.new.{key}` must be "), parts[0], parts[1]]);
    }
}

#[test]
fn lists_and_tables_must_not_be_empty() {
    for (key, value) in [
        ("operators", "[]"),
        ("tasks", "{}"),
        ("search.tasks", "[]"),
        ("distill.mixture", "{}"),
        ("efficiency.contexts", "[]"),
        ("tasks.rust-text.rust-text.crates", "[]"),
    ] {
        check_override(key, value, &[&format!("`{key}` must be "), "found none"]);
    }
    let window = "{sliding-window = {window = 0, sinks = 2}}";
    check_override("operators", &format!("[{window}]"), &["`operators.0.sliding-window.window`"]);
    check_override("distill.learning-rates", "{ hedgehog = 1e-3 }", &["`distill.learning-rates.hedgehog`", "one of the operators"]);
    check_override("distill.learning-rates", "{ gated-delta = 0.0 }", &["`distill.learning-rates.gated-delta`", "above 0 and finite"]);
    check_override("operators", "[{hedgehog = {}}, {hedgehog = {}}]", &["a second `hedgehog`"]);
    check_override("operators", "[{mamba2 = {state = 0, convolution = 4}}]", &["mamba2.state", "at least 1"]);
}

#[test]
fn report_shows_the_line() {
    let error = load(&quickstart_path(), &[("distill.rows", "1_000_000")]).unwrap_err();
    let shown = format!("{:?}", miette::Report::new(error));
    for part in ["tokens = 200_000", "here", "raise tokens, or lower rows, length or accumulate"] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}
