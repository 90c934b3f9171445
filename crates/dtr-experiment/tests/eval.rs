//! Tasks of one's own as users of `dtr` meet them: scored, broken off and taken up, searched on, refused.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use support::{dtr, fails, succeeds, workspace};

const MODEL: &str = "assets/models/tiny-qwen3";

fn eval(model: &Path, tasks: &Path, more: &[&str]) -> Command {
    let mut command = dtr(&["eval", "--quiet", "--json", "--model"]);
    command.arg(model).arg("--tasks").arg(tasks).args(more);
    command
}

#[track_caller]
fn found(command: &mut Command) -> Value {
    serde_json::from_slice(&succeeds(command).stdout).expect("JSON")
}

/// A file of tasks over golden examples: choices, and generated numbers.
fn tasks(directory: &Path) -> PathBuf {
    let golden = workspace().join("tests/golden/lm_eval").canonicalize().expect("golden examples");
    let task = |name: &str, count: usize, answer: &str| {
        let file = golden.join(format!("{name}.jsonl")).display().to_string();
        format!(
            "[tasks.{name}]\nvalidation = 0\ntest = {count}\n[tasks.{name}.json-lines]\nfiles = {{ split = {{ test = [{file:?}] }} }}\n\
             id = \"id\"\nprompt = \"{{context}}\"\ndelimiter = \"\"\ntoo-long = \"refuse\"\nanswer = {answer}\n"
        )
    };
    let choices = "{ choices = { texts = [\"{options}\"], right = \"{answer}\", normalise = \"nothing\" } }";
    let numbers = "{ generate = { target = \"{answer}\", metric = \"exact-match\", max-tokens = 4, stop = [\"\\n\"] } }";
    let path = directory.join("tasks.toml");
    std::fs::write(&path, task("choices", 400, choices) + &task("numbers", 64, numbers)).expect("written");
    path
}

#[test]
fn an_evaluation_is_stored_and_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let (tasks, out) = (tasks(directory.path()), directory.path().join("out"));
    let (model, store) = (Path::new(MODEL), ["--out", out.to_str().expect("text")]);
    let first = found(&mut eval(model, &tasks, &store));
    assert_eq!((&first[0]["task"], &first[0]["examples"], &first[1]["examples"]), (&"choices".into(), &400.into(), &64.into()));
    let path = out.join("choices.jsonl");
    let text = std::fs::read_to_string(&path).expect("results");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let mean = lines.iter().map(|line| line["score"].as_f64().expect("a score")).sum::<f64>() / 400.0;
    assert!((mean - first[0]["score"].as_f64().expect("a score")).abs() < 1e-9 && lines.len() == 400);
    assert_eq!(lines[0]["log_likelihoods"].as_array().map(Vec::len), Some(4));
    let numbers = std::fs::read_to_string(out.join("numbers.jsonl")).expect("results");
    assert!(numbers.lines().all(|line| line.contains("\"text\":")));

    // Without a place for results, and again with it, the same comes out.
    assert_eq!(found(&mut eval(model, &tasks, &[])), first);
    // What is stored of whole parts is not scored again; the rest is, half a line included.
    let marked = |line: &str| line.replace("\"right\":", "\"right\":9");
    let kept: Vec<String> = text.lines().take(150).enumerate().map(|(at, line)| if at == 0 { marked(line) } else { line.into() }).collect();
    std::fs::write(&path, kept.join("\n") + "\n{\"id\":").expect("written");
    found(&mut eval(model, &tasks, &store));
    let again = std::fs::read_to_string(&path).expect("results");
    let expected: Vec<String> = text.lines().enumerate().map(|(at, line)| if at == 0 { marked(line) } else { line.into() }).collect();
    assert!(again.lines().eq(expected.iter().map(String::as_str)), "{:?}", again.lines().zip(&expected).find(|(a, b)| a != b));

    let printed = succeeds(dtr(&["eval", "--quiet", "--model", MODEL, "--tasks"]).arg(&tasks));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("exact match of text"));
    // Results of other questions are not written over.
    let text = std::fs::read_to_string(&tasks).expect("tasks").replace("test = 400", "test = 300");
    std::fs::write(&tasks, text).expect("written");
    fails(&mut eval(model, &tasks, &store), &["choices.jsonl", "another model, task, split", "--out"]);
    fails(&mut eval(model, &tasks, &["--split", "validation"]), &["validation split of choices has no examples", "--split"]);
}

#[test]
fn a_search_on_an_own_task_finds_what_eval_says() {
    let runs = tempfile::tempdir().expect("a directory");
    let mut run = dtr(&["run", "configs/own-task.toml", "--quiet", "--runs"]);
    run.arg(runs.path());
    for set in [
        "distill.tokens=2560",
        "distill.calibration-tokens=1280",
        "tasks.contacts.validation=32",
        "tasks.contacts.test=48",
        "efficiency.contexts=[32]",
        "efficiency.decode-tokens=2",
    ] {
        run.args(["--set", set]);
    }
    succeeds(&mut run);
    let mut directories = std::fs::read_dir(runs.path()).expect("runs").map(|entry| entry.expect("an entry").path());
    let directory = directories.find(|path| path.join("report.json").exists()).expect("a run");
    let report: Value = serde_json::from_slice(&std::fs::read(directory.join("report.json")).expect("a report")).expect("JSON");
    let task = &report["tasks"]["contacts"];
    assert_eq!(task["metric"], "exact match of text");
    assert!(task["m_opt"]["replaced"].as_u64() > Some(0), "{task}");
    let scored = found(&mut eval(&directory.join("hybrid/contacts-m_opt"), &directory.join("experiment.toml"), &[]));
    let close = |a: &Value, b: &Value| (a.as_f64().expect("a number") - b.as_f64().expect("a number")).abs() < 1e-6;
    assert!(close(&scored[0]["score"], &task["m_opt"]["test"]), "{scored} {task}");
    let parent = found(&mut eval(Path::new(MODEL), &directory.join("experiment.toml"), &["--split", "validation"]));
    assert!(close(&parent[0]["score"], &task["parent"]["validation"]), "{parent} {task}");
}

#[test]
fn bad_tasks_are_refused_with_the_place() {
    let check = |set: &str, parts: &[&str]| fails(&mut dtr(&["check", "configs/own-task.toml", "--set", set]), parts);
    let key = "tasks.contacts.json-lines";
    check(&format!("{key}.prompt='{{name'"), &["--set", "must enclose the name of a field"]);
    check(&format!("{key}.files={{ split = {{ test = [\"none.jsonl\"] }} }}"), &["must be a file", "none.jsonl"]);
    check(&format!("{key}.files={{ split = {{}} }}"), &["must be at least one file"]);
    check(&format!("{key}.files.divided.test=0.8"), &["validation and test at most 1 together", "1.05"]);
    check(&format!("{key}.answer.generate.metric={{ regex = \"(\" }}"), &["not a regular expression"]);
    check(&format!("{key}.answer.generate.stop=[\"\"]"), &["texts that end an answer"]);
    check(&format!("{key}.answer.generate.max-tokens=0"), &["at least 1"]);
    check(&format!("{key}.answer={{ labels = {{ right = \"x\", tokens = {{ a = \"b\" }} }} }}"), &["at least two labels"]);
    check(&format!("{key}.prompt='{{nobody}}'"), &["of the examples of task \"contacts\"", "no field \"nobody\"", "and 476 more"]);
    check("tasks.contacts.validation=400", &["validation split of task \"contacts\" has", "400 are asked for"]);
    check("tasks.contacts.validation=0", &["`tasks.contacts.validation` must be at least 1"]);
    check(&format!("{key}.files.divided={{ files = [\"own-task/contacts.jsonl\"], validation = 0.5, test = 0.5 }}"), &["training split"]);
}
