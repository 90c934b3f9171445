//! What each command does. Results go to standard output, everything else to standard error.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::AutodiffBackend;
use dtr_attention::TrainBackend;
use dtr_eval::Split;
use dtr_experiment::backend::{self, Work, dispatch};
use dtr_experiment::explain::explain;
use dtr_experiment::html::{Compared, Page};
use dtr_experiment::report::Report;
use dtr_experiment::schema::{Compute, Experiment, load_tasks};
use dtr_experiment::stages::Memory;
use dtr_experiment::words::shell;
use dtr_experiment::{Error, Options, atomic, evaluated, html, log, stages, terminal};
use dtr_models::checkpoint;
use peakmem_alloc::PeakMemAllocTrait;
use serde::Deserialize;
use serde_json::json;

use crate::ALLOCATOR;

mod export;
mod generate;
mod inspect;
mod serve;

pub use export::export;
pub use generate::{GenerateArgs, generate};
pub use inspect::inspect;
pub use serve::{ServeArgs, serve};

/// What the allocator counts.
const MEMORY: Memory = Memory { reset: || ALLOCATOR.reset_peak_memory(), peak: || ALLOCATOR.get_peak_memory() };

/// `dtr run`.
pub fn run(file: &Path, overrides: &[(String, String)], runs: PathBuf, quiet: bool, json: bool) -> Result<(), Error> {
    struct RunWork<'a>(&'a Experiment, &'a Options);
    impl Work for RunWork<'_> {
        type Output = Result<(PathBuf, Report), Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            stages::run::<B>(self.0, self.1, &device)
        }
    }

    let experiment = Experiment::load(file, overrides)?;
    let set = overrides.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
    let words: Vec<String> =
        ["cargo", "xtask", "run"].map(str::to_owned).into_iter().chain([file.display().to_string()]).chain(set).collect();
    let options = Options { runs, quiet, events: json, command: shell(&words), memory: Some(MEMORY) };
    let (directory, report) = dispatch(experiment.compute(), RunWork(&experiment, &options))??;
    if json {
        say(&json!({ "event": "report", "directory": directory, "report": report }).to_string());
    } else {
        say(&format!("{}\nreport: {}", terminal::summary(&report), directory.join("report.html").display()));
    }
    Ok(())
}

/// A result on standard output, if somebody still reads it.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// `dtr distill`.
pub fn distill(file: &Path, overrides: &[(String, String)], runs: PathBuf, quiet: bool, json: bool) -> Result<(), Error> {
    struct DistillWork<'a>(&'a Experiment, &'a Options);
    impl Work for DistillWork<'_> {
        type Output = Result<Vec<stages::Distilled>, Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            stages::distill::<B>(self.0, self.1, &device)
        }
    }

    let experiment = Experiment::load(file, overrides)?;
    let options = Options { runs, quiet, events: false, command: String::new(), memory: None };
    let found = dispatch(experiment.compute(), DistillWork(&experiment, &options))??;
    if json {
        println!("{}", json!(found));
    } else {
        println!("{}", terminal::distilled(&found));
    }
    Ok(())
}

/// `dtr check`.
pub fn check(file: &Path, overrides: &[(String, String)]) -> Result<(), Error> {
    struct CheckWork<'a>(&'a Experiment);
    impl Work for CheckWork<'_> {
        type Output = Result<stages::Plan, Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            stages::plan::<B::InnerBackend>(self.0, &device)
        }
    }

    let experiment = Experiment::load(file, overrides)?;
    let plan = dispatch(experiment.compute(), CheckWork(&experiment))??;
    print!("{}", terminal::plan(&experiment, &plan));
    Ok(())
}

/// `dtr report` of one run.
pub fn report(directory: &Path, json: bool) -> Result<(), Error> {
    let events = log::read(&directory.join("events.jsonl"))?;
    let report = Report::from_events(&events);
    let experiment = directory.join("experiment.toml").display().to_string();
    let command = shell(&["cargo".into(), "xtask".into(), "run".into(), experiment]);
    let (path, page) = (directory.join("report.html"), Page { command: &command, live: false });
    stages::write_report(&report, &events, page, &directory.join("report.json"), &path)?;
    if json {
        say(&json!(report).to_string());
    } else {
        say(&format!("{}\nreport: {}", terminal::summary(&report), path.display()));
    }
    Ok(())
}

/// `dtr report` of several runs.
pub fn compare(directories: &[PathBuf], output: &Path, json: bool) -> Result<(), Error> {
    let read = |directory: &PathBuf| {
        let events = log::read(&directory.join("events.jsonl"))?;
        let path = directory.join("experiment.toml");
        let experiment = std::fs::read_to_string(&path).map_err(|source| Error::Io { action: "read", path, source })?;
        // Runs of one name in different directories are told apart by the whole of their paths.
        let same = directories.iter().filter(|other| other.file_name() == directory.file_name()).count() > 1;
        let name = directory.file_name().filter(|_| !same);
        let label = name.map_or_else(|| directory.display().to_string(), |name| name.to_string_lossy().into_owned());
        Ok(Compared { label, report: Report::from_events(&events), events, experiment })
    };
    let runs = directories.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
    atomic::write(output, html::compare(&runs).as_bytes())?;
    if json {
        let row = |run: &Compared| json!({ "run": run.label, "report": run.report });
        say(&json!(runs.iter().map(row).collect::<Vec<_>>()).to_string());
    } else {
        say(&format!("{}\ncomparison: {}", terminal::comparison(&runs), output.display()));
    }
    Ok(())
}

/// `dtr trace`.
pub fn trace(directory: &Path) -> Result<(), Error> {
    let experiment = Experiment::load(&directory.join("experiment.toml"), &[])?;
    let events = log::read(&directory.join("events.jsonl"))?;
    for task in &experiment.search().tasks {
        let (trace, whole) = stages::replay(directory, &experiment, &events, task)?;
        println!("{}", explain(task, experiment.search().strategy.name(), &trace, whole));
    }
    Ok(())
}

/// `dtr study`.
pub fn study(directories: &[PathBuf], study: &stages::Study) -> Result<(), Error> {
    let recording = |directory: &PathBuf| {
        let experiment = Experiment::load(&directory.join("experiment.toml"), &[])?;
        let events = log::read(&directory.join("events.jsonl"))?;
        Ok(stages::Recording { root: directory.clone(), experiment, events })
    };
    let recordings = directories.iter().map(recording).collect::<Result<Vec<_>, Error>>()?;
    for task in &recordings[0].experiment.search().tasks {
        let rows = stages::study(&recordings, task, study)?;
        println!("{}", terminal::study(task, study, recordings.len(), &rows));
    }
    Ok(())
}

/// `dtr eval`.
pub fn eval(
    model: &Path,
    compute: Compute,
    tasks: &Path,
    split: Split,
    out: Option<PathBuf>,
    json: bool,
    quiet: bool,
) -> Result<(), Error> {
    struct EvalWork(stages::Evaluation);
    impl Work for EvalWork {
        type Output = Result<Vec<stages::Evaluated>, Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            stages::evaluate::<B::InnerBackend>(&self.0, &device)
        }
    }

    let tasks = load_tasks(tasks)?;
    let evaluation = stages::Evaluation { model: model.into(), tasks, split, out, compute, quiet };
    let found = dispatch(compute, EvalWork(evaluation))??;
    if json {
        println!("{}", json!(found));
    } else {
        println!("{}", evaluated::table(&found));
    }
    Ok(())
}

/// `dtr devices`.
pub fn devices(json: bool) {
    let found = backend::devices();
    say(&if json { json!(found).to_string() } else { terminal::devices(&found) });
}

/// A line of a token file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    tokens: Vec<u32>,
}

/// `dtr score`.
pub fn score(model: &Path, compute: Compute, tokens: &Path) -> Result<(), Error> {
    struct ScoreWork<'a>(&'a Path, Compute, &'a Path);
    impl Work for ScoreWork<'_> {
        type Output = Result<(), Error>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            let (config, model) = checkpoint::load_in::<B::InnerBackend>(self.0, self.1.dtype.into(), &device)?;
            if config.is_encoder() {
                return Err(Error::Encoder { directory: self.0.into() });
            }
            let path = self.2;
            let read = |source| Error::Io { action: "read", path: path.into(), source };
            let file = BufReader::new(std::fs::File::open(path).map_err(read)?);
            for (index, line) in file.lines().enumerate() {
                let wrong = |reason: String| Error::TokenFile { path: path.into(), line: index + 1, reason };
                let Line { tokens } =
                    serde_json::from_str(&line.map_err(read)?).map_err(|error| wrong(format!("is no token line: {error}")))?;
                if tokens.is_empty() {
                    return Err(wrong("has no tokens".into()));
                }
                if let Some(token) = tokens.iter().find(|&&token| token as usize >= config.vocabulary) {
                    return Err(wrong(format!("has token {token}, the vocabulary ends at {}", config.vocabulary - 1)));
                }
                if let Some(limit) = config.position_limit().filter(|&limit| tokens.len() > limit) {
                    return Err(wrong(format!("has {} tokens, the model has learnt {limit} positions", tokens.len())));
                }
                println!("{}", json!({ "logprobs": logprobs::<B>(&model, &tokens, &device) }));
            }
            Ok(())
        }
    }

    dispatch(compute, ScoreWork(model, compute, tokens))?
}

/// `log p(token t | before t)` for `t >= 1`.
fn logprobs<B: TrainBackend>(model: &dtr_models::Decoder<B::InnerBackend>, tokens: &[u32], device: &B::Device) -> Vec<f32> {
    type Inner<B> = <B as AutodiffBackend>::InnerBackend;
    let count = tokens.len() - 1;
    if count == 0 {
        return Vec::new();
    }
    let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let read = Tensor::<Inner<B>, 2, Int>::from_data(TensorData::new(ids[..count].to_vec(), [1, count]), device);
    let targets = Tensor::<Inner<B>, 3, Int>::from_data(TensorData::new(ids[1..].to_vec(), [1, count, 1]), device);
    let chosen = log_softmax(model.logits(read), 2).gather(2, targets);
    chosen.into_data().convert::<f32>().iter::<f32>().collect()
}
