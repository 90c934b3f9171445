//! Tasks of one's own as users of `dtr` meet them: scored, broken off and taken up, searched on, refused.

#[path = "support/killed.rs"]
mod killed;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use killed::killed;
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
fn an_evaluation_killed_again_and_again_ends_as_one_that_was_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let tasks = tasks(directory.path());
    let [plain, broken] = ["plain", "broken"].map(|name| directory.path().join(name));
    let evaluated = |out: &Path| eval(Path::new(MODEL), &tasks, &["--out", out.to_str().expect("text")]);
    let expected = found(&mut evaluated(&plain));
    let lines = || std::fs::read_to_string(broken.join("choices.jsonl")).map_or(0, |text| text.lines().count());
    // Once on the way to the first results, then each time that there are more of them.
    assert!(!killed(&mut evaluated(&broken), || broken.join(".lock").exists()), "it was over before it could be killed");
    let mut left = vec![lines()];
    while left.last() < Some(&400) {
        let before = lines();
        killed(&mut evaluated(&broken), || lines() > before);
        left.push(lines());
        assert!(left.last() > Some(&before), "nothing was added: {left:?}");
    }
    // As a kill between the two steps of a write would leave it.
    std::fs::write(broken.join(".dtr-1-0.tmp"), "half").expect("written");
    assert!(left.len() > 2 && left[1] < 400, "it was never broken off in the middle: {left:?}");
    assert_eq!(found(&mut evaluated(&broken)), expected);
    for name in ["choices.jsonl", "choices.json", "numbers.jsonl", "numbers.json"] {
        let [plain, broken] = [&plain, &broken].map(|out| std::fs::read_to_string(out.join(name)).expect(name));
        assert!(plain == broken, "{name} differs");
    }
    let half_written = |path: PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
    assert!(!std::fs::read_dir(&broken).expect("results").any(|entry| half_written(entry.expect("an entry").path())));
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
fn a_parent_that_guesses_is_told_and_one_that_scores_nothing_is_refused() {
    let runs = tempfile::tempdir().expect("a directory");
    // Which of four letters is right follows from nothing in the question.
    let line = |at: usize| json!({ "id": at, "question": format!("case {at}: "), "right": (at * at / 3 + at / 7) % 4 }).to_string();
    let file = runs.path().join("coin.jsonl");
    std::fs::write(&file, (0..200).map(|at| line(at) + "\n").collect::<String>()).expect("written");
    let run = |answer: &str| {
        let task = format!(
            "tasks.coin={{ validation = 40, test = 40, json-lines = {{ files = {{ divided = {{ files = [{file:?}], validation = 0.3, test = 0.3 }} }}, \
             id = \"id\", prompt = \"{{question}}\", delimiter = \"\", too-long = \"refuse\", answer = {answer} }} }}"
        );
        let mut run = dtr(&["run", "configs/own-task.toml", "--quiet", "--json", "--runs"]);
        run.arg(runs.path());
        for set in [
            "distill.tokens=2560",
            "distill.calibration-tokens=1280",
            "tasks.contacts.validation=1",
            "tasks.contacts.test=1",
            "search.tasks=[\"coin\"]",
            "search.strategy=\"uniform\"",
            "efficiency.contexts=[32]",
            "efficiency.decode-tokens=2",
            &task,
        ] {
            run.args(["--set", set]);
        }
        run
    };
    let told = succeeds(&mut run("{ choices = { texts = [\"A\", \"B\", \"C\", \"D\"], right = \"{right}\", normalise = \"nothing\" } }"));
    let warning = String::from_utf8_lossy(&told.stderr);
    assert!(warning.contains("searching coin: the parent scores") && warning.contains("guessing scores 25.0 %"), "{warning}");
    let lines: Vec<Value> = String::from_utf8_lossy(&told.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let event = lines.iter().find(|line| line["event"] == "guessing").expect("an event");
    assert_eq!((&event["task"], &event["chance"], &event["examples"]), (&"coin".into(), &0.25.into(), &40.into()));
    let report = &lines.last().expect("a report")["report"]["tasks"]["coin"]["guessing"];
    assert_eq!(report["score"], event["score"]);
    // No text of the model is this.
    let nothing = "{ generate = { target = \"{right}0123456789\", metric = \"exact-match\", max-tokens = 2, stop = [\"\\n\"] } }";
    fails(&mut run(nothing), &["the search of task \"coin\" cannot go on", "the parent's score is 0"]);
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
