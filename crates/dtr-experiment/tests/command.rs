//! The command `dtr` as its users meet it: a whole small run, killed and resumed; its results used again; bad input refused.

#[path = "support/killed.rs"]
mod killed;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use killed::killed;
use support::{dtr, fails, succeeds, workspace};

/// The quickstart made small: everything it does, on few tokens and examples.
const SMALL: [&str; 13] = [
    "distill.tokens=2560",
    "distill.calibration-tokens=1280",
    "distill.rows=8",
    "distill.mixture={ phonebook = 1.0 }",
    "tasks.phonebook.validation=24",
    "tasks.phonebook.test=24",
    "tasks.snippet-origin.validation=1",
    "tasks.snippet-origin.test=1",
    "search.tasks=[\"phonebook\"]",
    "search.random-layouts=1",
    "efficiency.contexts=[32, 64]",
    "efficiency.decode-tokens=4",
    "efficiency.repetitions=1",
];

fn small_run(runs: &Path, more: &[&str]) -> Command {
    let mut command = dtr(&["run", "configs/quickstart.toml", "--quiet", "--runs"]);
    command.arg(runs);
    for set in SMALL.iter().chain(more) {
        command.args(["--set", set]);
    }
    command
}

fn only_directory(runs: &Path) -> PathBuf {
    // Students of all runs lie beside them under a name with a dot.
    let runs = std::fs::read_dir(runs).expect("runs").map(|entry| entry.expect("an entry").path());
    let mut found = runs.filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    let first = found.next().expect("a run");
    assert!(found.next().is_none(), "more than one run");
    first
}

/// Where students of all runs lie, sorted.
fn shelves(runs: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(runs.join(".students")).expect("students").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> = found.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn report(run: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(run.join("report.json")).expect("a report")).expect("JSON")
}

/// Events that say what was found, without what depends on the clock.
fn findings(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("events.jsonl")).expect("events");
    let mut findings = Vec::new();
    for line in text.lines() {
        let mut event: BTreeMap<String, Value> = serde_json::from_str(line).expect("an event");
        let kind = event["event"].as_str().expect("a kind").to_owned();
        if matches!(kind.as_str(), "evaluated" | "decided" | "student" | "tested" | "baseline" | "searched" | "exported") {
            event.retain(|key, _| !matches!(key.as_str(), "at" | "seconds"));
            let text = serde_json::to_string(&event).expect("JSON");
            if !findings.contains(&text) {
                findings.push(text);
            }
        }
    }
    findings
}

#[test]
fn a_run_killed_again_and_again_ends_as_one_that_was_not() {
    let (plain, broken) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    succeeds(&mut small_run(plain.path(), &[]));
    let mut finished = false;
    for pause in [300, 900, 1500, 2200, 3000] {
        let began = Instant::now();
        finished |= killed(&mut small_run(broken.path(), &[]), || began.elapsed() > Duration::from_millis(pause));
    }
    succeeds(&mut small_run(broken.path(), &[]));
    let (plain, broken) = (only_directory(plain.path()), only_directory(broken.path()));
    assert_eq!(findings(&plain), findings(&broken), "finished early: {finished}");
    for name in [
        "students/gated-delta/layer-00.safetensors",
        "students/gated-delta/layer-07.safetensors",
        "hybrid/phonebook-m_opt/model.safetensors",
    ] {
        assert_eq!(std::fs::read(plain.join(name)).expect(name), std::fs::read(broken.join(name)).expect(name), "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(&broken)
        .expect("a run")
        .filter(|entry| entry.as_ref().expect("an entry").path().extension().is_some_and(|x| x == "tmp"))
        .collect();
    assert!(left.is_empty(), "half-written files: {left:?}");
}

#[test]
fn the_result_of_a_run_is_used_again() {
    let runs = tempfile::tempdir().expect("a directory");
    let first = succeeds(&mut small_run(runs.path(), &["seed=3"]));
    let printed = String::from_utf8_lossy(&first.stdout);
    for part in ["phonebook", "m_opt", "local-importance", "report.html"] {
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
    let run = only_directory(runs.path());
    let report = report(&run);
    for pointer in [
        "/experiment",
        "/device",
        "/seed",
        "/parent/model_type",
        "/parent/layers",
        "/parent/parameters",
        "/distillation/tokens",
        "/distillation/tokens_per_second",
        "/distillation/students/0/layer",
        "/distillation/students/7/operator",
        "/distillation/students/0/normalised_mse",
        "/tasks/phonebook/metric",
        "/tasks/phonebook/parent/validation",
        "/tasks/phonebook/parent/test",
        "/tasks/phonebook/m_best/layout",
        "/tasks/phonebook/m_opt/layout",
        "/tasks/phonebook/m_opt/replaced",
        "/tasks/phonebook/m_opt/validation",
        "/tasks/phonebook/m_opt/test",
        "/tasks/phonebook/search/strategy",
        "/tasks/phonebook/search/floor",
        "/tasks/phonebook/search/evaluations",
        "/tasks/phonebook/search/full_evaluation_equivalents",
        "/tasks/phonebook/search/seconds",
        "/efficiency/0/context",
        "/efficiency/0/model",
        "/efficiency/0/task",
        "/efficiency/0/prefill_tokens_per_second",
        "/efficiency/0/decode_tokens_per_second",
        "/efficiency/0/cache_bytes",
        "/efficiency/0/layout",
        "/efficiency/0/prefill_tokens_per_second_range/1",
        "/efficiency/0/decode_tokens_per_second_range/0",
        "/efficiency/0/first_token_seconds",
        "/efficiency/0/peak_bytes",
        "/crossovers/0/prefill",
        "/crossovers/0/decode",
        "/tasks/phonebook/examples/test",
        "/tasks/phonebook/m_opt/test_interval/0",
        "/tasks/phonebook/pareto/0/decode_seconds",
    ] {
        assert!(report.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer} is missing");
    }
    assert_eq!(report["complete"], true);
    let measured = report["efficiency"].as_array().expect("rows");
    let models: Vec<&str> = measured.iter().take(4).map(|row| row["model"].as_str().expect("a model")).collect();
    assert_eq!(models, ["parent", "m_best", "m_opt", "all_linear"]);
    assert!(measured.iter().all(|row| row["peak_bytes"].as_u64() > row["cache_bytes"].as_u64()), "{measured:?}");
    let page = std::fs::read_to_string(run.join("report.html")).expect("a page");
    for part in ["<svg", "of the parent", "Reproduce", "layers replaced"] {
        assert!(page.contains(part), "{part} is missing in the page");
    }
    for part in [" src=", "href=\"http", "url(", "@import"] {
        assert!(!page.contains(part), "the page loads nothing, but has {part}");
    }

    let model = run.join("hybrid/phonebook-m_opt");
    let model = model.to_str().expect("a path");
    let prompt = "<|phone|>Alice Baker: 4821\nBob Clark: 1733\n<|query|>Alice Baker: ";
    let generate = |more: &[&str]| {
        let output = succeeds(dtr(&["generate", "--model", model, "--prompt", prompt, "--max-new-tokens", "6"]).args(more));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = generate(&[]);
    let json: Value = serde_json::from_str(&generate(&["--json"])).expect("JSON");
    assert_eq!(text, format!("{}\n", json["text"].as_str().expect("text")));
    assert!(json["tokens"].as_array().expect("tokens").len() <= 6);
    assert_eq!(generate(&["--temperature", "0.8", "--seed", "5"]), generate(&["--temperature", "0.8", "--seed", "5"]));

    let tokens = runs.path().join("tokens.jsonl");
    std::fs::write(&tokens, "{\"tokens\": [3, 40, 50, 60]}\n{\"tokens\": [7]}\n").expect("written");
    let output = succeeds(dtr(&["score", "--model", model, "--tokens"]).arg(&tokens));
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let counts: Vec<usize> = lines.iter().map(|line| line["logprobs"].as_array().expect("numbers").len()).collect();
    assert_eq!(counts, [3, 0]);
    assert!(lines[0]["logprobs"].as_array().expect("numbers").iter().all(|value| value.as_f64().is_some_and(|value| value < 0.0)));

    succeeds(dtr(&["report"]).arg(&run));
    // The same command again finds everything done.
    let again = succeeds(&mut small_run(runs.path(), &["seed=3"]));
    assert_eq!(again.stdout, first.stdout);
    // Another experiment under the same hash cannot be: a changed file in the run directory is refused.
    let toml = run.join("experiment.toml");
    std::fs::write(&toml, std::fs::read_to_string(&toml).expect("text").replace("seed = 3", "seed = 4")).expect("written");
    fails(&mut small_run(runs.path(), &["seed=3"]), &["belongs to another experiment", "seed = 4", "--runs"]);

    fails(dtr(&["score", "--model", model, "--tokens", "missing.jsonl"]).arg("--device=flex"), &["cannot read missing.jsonl"]);
    for (line, part) in [
        ("{\"tokens\": [1, 99999]}", "token 99999"),
        ("{\"tokens\": []}", "has no tokens"),
        ("{", "line 1"),
        ("{\"tokens\": [1], \"x\": 2}", "unknown field"),
    ] {
        std::fs::write(&tokens, line).expect("written");
        fails(dtr(&["score", "--model", model, "--tokens"]).arg(&tokens), &["line 1", part]);
    }
    fails(&mut dtr(&["generate", "--model", model, "--prompt", ""]), &["the prompt has no tokens"]);
}

#[test]
fn a_run_is_read_as_lines_of_json_and_beside_another() {
    let runs = tempfile::tempdir().expect("a directory");
    // The second start finds everything done, and tells all of it.
    succeeds(&mut small_run(runs.path(), &["seed=6"]));
    let streamed = succeeds(small_run(runs.path(), &["seed=6"]).arg("--json"));
    let run = only_directory(runs.path());
    let lines: Vec<Value> =
        String::from_utf8_lossy(&streamed.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let logged = std::fs::read_to_string(run.join("events.jsonl")).expect("events");
    assert_eq!(lines.len(), logged.lines().count() + 1);
    assert_eq!((&lines[0]["event"], &lines[lines.len() - 1]["event"]), (&"started".into(), &"report".into()));
    assert_eq!(lines[lines.len() - 1]["report"], self::report(&run));
    let other = runs.path().join("other");
    std::fs::create_dir(&other).expect("a directory");
    let beginning: Vec<&str> = logged.split_inclusive('\n').take(9).collect();
    std::fs::write(other.join("events.jsonl"), beginning.concat()).expect("written");
    std::fs::write(other.join("experiment.toml"), "seed = 5\n").expect("written");
    let compared = runs.path().join("compared.html");
    let output = succeeds(dtr(&["report"]).args([&run, &other]).arg("--output").arg(&compared));
    let printed = String::from_utf8_lossy(&output.stdout);
    for part in ["What differs", "seed", "m_opt", "of parent", "compared.html"] {
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
    assert!(std::fs::read_to_string(&compared).expect("a page").contains("2 runs compared"));
}

#[test]
fn a_plan_is_checked_without_work() {
    let output = succeeds(&mut dtr(&["check", "configs/quickstart.toml"]));
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["quickstart", "qwen3, 8 layers", "students", "at most 37 layouts", "memory"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("made anew"), "{text}");
    // Two refits of 100 steps at eight layers, and a recovery of 50; a step has 640 tokens.
    let more = [
        "search.refit={ every = 3, tokens = 64_000, learning-rate = 1e-3, towards = \"outputs\", answer-weight = 1.0 }",
        "search.recovery={ tokens = 32_100, learning-rate = 1e-3, answer-weight = 1.0, task-weight = 0.0, trained = \"mixers\", norms-and-embeddings = false }",
    ];
    let output = succeeds(&mut dtr(&["check", "configs/quickstart.toml", "--set", more[0], "--set", more[1]]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.matches("students made anew on at most 160000 of its tokens").count() == 2, "{text}");
}

/// The published configurations of two parents, and how many weights their files have.
const PUBLISHED: [(&str, &str, u64); 2] = [
    (
        "qwen2.5-1.5b-tasks",
        r#"{"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": true, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "max_position_embeddings": 131072, "use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 28}"#,
        1_543_714_304,
    ),
    (
        "llama-3.2-3b-tasks",
        r#"{"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
            "rope_theta": 5e5, "max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 32.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#,
        3_212_749_824,
    ),
];

#[test]
fn a_plan_needs_the_configuration_alone() {
    for (name, json, parameters) in PUBLISHED {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("config.json"), json).expect("written");
        let parent = format!("parent={{ path = \"{}\" }}", directory.path().display());
        let file = format!("configs/{name}.toml");
        let output = succeeds(&mut dtr(&["check", &file, "--device", "flex", "--set", &parent]));
        let text = String::from_utf8_lossy(&output.stdout);
        let parameters = format!("28 layers, {parameters} parameters");
        for part in [&parameters, "its weights are not here", "its tokenizer is not here", "28 students", "memory", "GiB", "time"] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        // The weights of another model beside it are seen without being read.
        let weights = workspace().join("assets/models/tiny-qwen3/model.safetensors");
        std::fs::copy(weights, directory.path().join("model.safetensors")).expect("copied");
        fails(&mut dtr(&["check", &file, "--device", "flex", "--set", &parent]), &["model.embed_tokens.weight", "has shape [2048, 128]"]);
    }
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_parent_on_a_hub_needs_a_build_with_access_to_one() {
    let set = "parent={ hub = \"someone/tiny\", revision = \"main\" }";
    fails(
        &mut dtr(&["check", "configs/quickstart.toml", "--set", set]),
        &["someone/tiny is on a hub", "--features hub", "cargo xtask run"],
    );
}

#[test]
fn a_run_in_half_precision_keeps_half_as_much_and_finds_its_way() {
    let runs = tempfile::tempdir().expect("a directory");
    let (single, half) = (runs.path().join("f32"), runs.path().join("bf16"));
    succeeds(&mut small_run(&single, &["seed=3"]));
    succeeds(&mut small_run(&half, &["seed=3", "dtype=bf16"]));
    let [single, half] = [single, half].map(|runs| report(&only_directory(&runs)));
    let cache = |report: &Value| report["efficiency"][0]["cache_bytes"].as_u64().expect("bytes");
    assert_eq!(report_model(&single), report_model(&half));
    assert_eq!(cache(&single), 2 * cache(&half), "keys and values of the parent");
    let students = |report: &Value| -> Vec<f64> {
        let students = report["distillation"]["students"].as_array().expect("students");
        students.iter().map(|student| student["normalised_mse"].as_f64().expect("a number")).collect()
    };
    for (single, half) in students(&single).into_iter().zip(students(&half)) {
        assert!((single - half).abs() < 0.05, "a student is off by {half} in place of {single}");
    }
    assert_eq!(half["device"], "flex in bf16");
}

/// What the efficiency table begins with.
fn report_model(report: &Value) -> (&Value, &Value) {
    (&report["efficiency"][0]["model"], &report["efficiency"][0]["context"])
}

#[test]
fn devices_are_listed() {
    let output = succeeds(&mut dtr(&["devices", "--json"]));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let flex = found.as_array().expect("backends").iter().find(|found| found["backend"] == "flex").expect("the default backend");
    let device = &flex["devices"]["Ok"][0];
    assert_eq!(device["device"], "flex");
    assert!(device["memory"].as_u64().is_some_and(|bytes| bytes > 1 << 28), "{device}");
    assert_eq!(device["dtypes"], serde_json::json!(["f32", "f16", "bf16"]));
    let table = succeeds(&mut dtr(&["devices"]));
    let table = String::from_utf8_lossy(&table.stdout);
    assert!(["flex", "f32 f16 bf16", "not built in", "--backends"].iter().all(|part| table.contains(part)), "{table}");
}

#[test]
fn training_examples_may_choose_and_the_hard_ones_come_first() {
    let runs = tempfile::tempdir().expect("a directory");
    let more = [
        "search.racing=\"exact\"",
        "search.acceptance={ bound = { confirm = { training = 96 }, confidence = 0.6, retries = 0 } }",
        "search.refit={ every = 1, tokens = 640, learning-rate = 1e-3, towards = \"answers\", answer-weight = 4.0 }",
        "search.random-layouts=1",
        "tasks.phonebook.validation=80",
    ];
    succeeds(&mut small_run(runs.path(), &more));
    let run = only_directory(runs.path());
    let (report, directory) = (report(&run), run.to_str().expect("text"));
    let task = &report["tasks"]["phonebook"];
    assert_eq!((task["examples"]["validation"].as_u64(), task["confirmation"]["examples"].as_u64()), (Some(80), Some(80)));
    // Scores of the validation split are of these 80 alone.
    let correct = task["m_opt"]["validation"].as_f64().expect("a score") * 80.0;
    assert!((correct - correct.round()).abs() < 1e-6, "{correct}");
    let unit: Value = serde_json::from_slice(&std::fs::read(run.join("search/phonebook/validation/0/SSSSSSSS/0-96.json")).expect("a unit"))
        .expect("JSON");
    let examples = unit["value"]["examples"].as_array().expect("a list");
    let lost: Vec<(f64, f64)> =
        examples.iter().map(|found| (found["score"].as_f64().expect("a score"), -found["loss"].as_f64().expect("a loss"))).collect();
    assert!(lost.len() == 96 && lost.is_sorted_by(|a, b| a.0 < b.0 || (a.0 - b.0).abs() < 1e-9 && a.1 <= b.1 + 1e-4), "{lost:?}");
    let told = String::from_utf8(succeeds(&mut dtr(&["trace", directory])).stdout).expect("text");
    assert!(told.contains("on 80 other examples") && told.contains("students made anew: loss "), "{told}");
}

#[test]
fn every_room_of_the_search_works_and_its_trace_explains_it() {
    let runs = tempfile::tempdir().expect("a directory");
    let more = [
        "seed=4",
        "search.strategy=\"floating\"",
        "search.rank=\"loss\"",
        "search.racing={ statistical = { error = 0.05 } }",
        "search.acceptance={ bound = { confirm = 0.5, confidence = 0.6, retries = 1 } }",
        "search.swaps=2",
        "search.goal={ cache-bytes = { at-most = 1.0, context = 64 } }",
        "search.refit={ every = 1, tokens = 1280, learning-rate = 1e-3, towards = \"outputs\", answer-weight = 1.0 }",
        "search.recovery={ tokens = 1280, learning-rate = 1e-3, answer-weight = 4.0, task-weight = 0.1, trained = { lora = 2 }, norms-and-embeddings = false }",
        "tasks.phonebook.validation=160",
        "efficiency.contexts=[32, 64, 4_000_000_000]",
    ];
    succeeds(&mut small_run(runs.path(), &more));
    let run = only_directory(runs.path());
    let report = report(&run);
    let search = &report["tasks"]["phonebook"]["search"];
    assert_eq!((search["strategy"].as_str(), search["reached"].as_bool()), (Some("floating"), Some(false)), "one byte is not enough");
    let confirmation = &report["tasks"]["phonebook"]["confirmation"];
    assert!(confirmation["lower"].as_f64().expect("a bound") >= 0.95 && confirmation["examples"] == 80);
    // No machine has the memory for the last context: it is left out and named.
    let too_long = report["too_long"].as_array().expect("a list");
    assert!(!too_long.is_empty() && too_long.iter().all(|row| row["context"] == 4_000_000_000_u64), "{too_long:?}");
    assert!(report["efficiency"].as_array().expect("a list").iter().all(|row| row["context"].as_u64() < Some(100)));
    let directory = run.to_str().expect("text");
    let told = String::from_utf8(succeeds(&mut dtr(&["trace", directory])).stdout).expect("text");
    for part in ["phonebook: floating", "kept, score", "lower bound", "stayed full", "students made anew: loss ", "full evaluations"] {
        assert!(told.contains(part), "{part:?} is missing in {told}");
    }
    let page = std::fs::read_to_string(run.join("report.html")).expect("a page");
    assert!(page.contains("have the students of the distillation"), "baselines are not said to have other students");
    // Nothing is left to do: the second start finds every unit, refits and recovery among them.
    let before = findings(&run);
    succeeds(&mut small_run(runs.path(), &more));
    assert_eq!(findings(&run), before);

    let units = run.join("search/phonebook/validation/0/SSSSSSSS");
    let unit = std::fs::read_dir(units).expect("units").map(|entry| entry.expect("an entry").path()).max().expect("a unit");
    let text = std::fs::read_to_string(&unit).expect("a unit");
    std::fs::write(&unit, text.replacen("\"key\":\"", "\"key\":\"0", 1)).expect("written");
    fails(&mut dtr(&["trace", directory]), &["another experiment", "phonebook"]);
    fails(&mut dtr(&["study", directory]), &["does not carry this study", "exhaustive"]);
}

#[test]
fn students_are_trained_once_for_all_runs_that_want_the_same() {
    let runs = tempfile::tempdir().expect("a directory");
    let directory = runs.path().to_str().expect("text");
    let text = runs.path().join("own.jsonl");
    std::fs::write(&text, "{\"text\": \"let x = 1; let y = x + 2;\"}\n".repeat(200)).expect("written");
    let corpus =
        format!("corpora.own={{ files = [{text:?}], format = {{ json-lines = {{ field = \"text\" }} }}, separator = \"<|eos|>\" }}");
    let more = ["distill.mixture={ phonebook = 0.5, own = 0.5 }", &corpus, "distill.cache-bytes=100_000_000"];
    let distill = |more: &[&str]| {
        let mut command = dtr(&["distill", "configs/quickstart.toml", "--quiet", "--json", "--runs", directory]);
        for set in SMALL.iter().chain(more) {
            command.args(["--set", set]);
        }
        serde_json::from_slice::<Value>(&succeeds(&mut command).stdout).expect("JSON")
    };
    let found = distill(&more);
    assert_eq!((found[0]["operator"].as_str(), found[0]["normalised_mse"].as_array().map(Vec::len)), (Some("gated-delta"), Some(8)));
    assert!(found[0]["scores"]["phonebook"][0].as_f64().is_some_and(|score| score > 0.9), "{found}");
    let student = Path::new(found[0]["directory"].as_str().expect("a place")).join("gated-delta/layer-05.safetensors");
    let made = || std::fs::metadata(&student).and_then(|file| file.modified()).expect("a student");
    let before = made();
    // Another floor, another place for states, another task, another operator with a rate of its own: the same students. Other rows: others.
    let window = "operators=[{ gated-delta = { convolution = 4 } }, { sliding-window = { window = 4, sinks = 0 } }]";
    let others = [
        ["search.floor=0.5", "tasks.snippet-origin.test=2"],
        ["name=other", "distill.cache-bytes=0"],
        [window, "distill.learning-rates={ sliding-window = 1e-3 }"],
    ];
    for others in others {
        succeeds(&mut small_run(runs.path(), &[&more[..], &others].concat()));
    }
    let of = |operator: &str| shelves(runs.path()).iter().filter(|path| path.to_string_lossy().contains(operator)).count();
    assert_eq!((made(), of("gated-delta-"), of("sliding-window-")), (before, 1, 1));
    distill(&[&more[..], &["distill.mixture={ own = 1.0 }"]].concat());
    assert_eq!(of("gated-delta-"), 2);

    let short = runs.path().join("short.txt");
    std::fs::write(&short, "fn main() {}\n").expect("written");
    let refused = |value: String, parts: &[&str]| {
        let mut command = dtr(&["check", "configs/quickstart.toml", "--set", &value, "--set", "distill.mixture={ own = 1.0 }"]);
        fails(&mut command, parts);
    };
    refused(format!("corpora.own={{ files = [{short:?}], format = \"text\", separator = \"\" }}"), &["short.txt", "one batch takes 320"]);
    refused("corpora.own={ files = [\"nowhere.txt\"], format = \"text\", separator = \"\" }".into(), &["no file", "nowhere.txt"]);
    refused(
        format!("corpora.own={{ files = [{short:?}], format = {{ tokens = {{ bytes = 2 }} }}, separator = \"\" }}"),
        &["multiple of 2"],
    );
    refused(
        format!("corpora.own={{ files = [{short:?}], format = {{ json-lines = {{ field = \"t\" }} }}, separator = \"\" }}"),
        &["line 1", "no JSON"],
    );
    let mut command = dtr(&["check", "configs/quickstart.toml", "--set", "distill.loss=\"attention-weights\""]);
    fails(&mut command, &["distill.loss", "hedgehog"]);
}

#[test]
fn bad_input_gets_one_clear_error() {
    let runs = tempfile::tempdir().expect("a directory");
    let check = |set: &str, parts: &[&str]| fails(&mut small_run(runs.path(), &[set]), parts);
    check("search.floor=1.5", &["search.floor", "1.5"]);
    check("search.colour=1", &["colour"]);
    check("device=abacus", &["abacus", "flex"]);
    check("dtype=f8", &["f8", "f32", "bf16"]);
    check("device=cuda", &["\"cuda\" is not built in", "--features cuda"]);
    check("parent.path=nowhere", &["nowhere"]);
    check("parent.hub=someone/tiny", &["`parent` must be either `path`, or `hub` and `revision`", "found path, hub"]);
    check("parent={ hub = \"../tiny\", revision = \"main\" }", &["`parent.hub` must be a repository"]);
    check("parent={ hub = \"someone/tiny\", revision = \"a/../../b\" }", &["`parent.revision` must be a branch"]);
    check("tasks.phonebook.phonebook.entries=5000", &["5000", "4096"]);
    let mqar = "tasks.dense={ validation = 1, test = 1, mqar = { tokens = 64, pairs = 4, vocabulary = 5000, power = 1.0 } }";
    check(mqar, &["task dense", "`vocabulary` must be at most", "found 5000"]);
    check("tasks.snippet-origin.snippet-origin.tokens=100000", &["split", "is empty"]);
    check("tasks.snippet-origin.snippet-origin.labels={ left-pad = \"<|c0|>\", syn = \"<|c1|>\" }", &["left-pad", "locked dependencies"]);
    check("tasks.snippet-origin.snippet-origin.labels={ rayon = \"<|nowhere|>\", syn = \"<|c1|>\" }", &["<|nowhere|>", "not a token"]);
    fails(&mut dtr(&["check", "configs/missing.toml"]), &["cannot read", "configs/missing.toml"]);
    fails(&mut dtr(&["report", "nowhere"]), &["cannot read", "nowhere"]);
    fails(&mut dtr(&["generate", "--model", "nowhere", "--prompt", "x"]), &["nowhere"]);
    let left = std::fs::read_dir(runs.path()).expect("runs").count();
    assert_eq!(left, 0, "nothing was begun");
}

/// `command` in a shell that lets no file grow beyond a hundred kilobytes: writes fail half-way, as on a full disk.
#[cfg(unix)]
fn cramped(command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(workspace()).env("NO_COLOR", "1");
    shell
}

#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_loses_nothing() {
    let runs = tempfile::tempdir().expect("a directory");
    fails(&mut cramped(&small_run(runs.path(), &[])), &["could not write", "layer-00.safetensors", "finished work is kept"]);
    let run = only_directory(runs.path());
    let shelf = shelves(runs.path()).pop().expect("a shelf");
    let left: Vec<_> = std::fs::read_dir(shelf.join("gated-delta")).expect("students").collect();
    assert!(left.is_empty(), "half-written: {left:?}");
    succeeds(&mut small_run(runs.path(), &[]));
    assert_eq!(report(&run)["complete"], true);
}
