//! The stages of an experiment in their order; each skips what an earlier start of the same run has finished.

mod distill;
mod efficiency;
mod evaluate;
mod export;
mod objective;
mod prepare;
mod refit;
mod replay;
mod search;
mod study;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::prelude::Backend;
use dtr_attention::TrainBackend;
use dtr_eval::{Documents, Files, Task};
use dtr_models::{Decoder, MixerConfig};
use dtr_search::Layout;

use crate::error::Error;
use crate::events::{Event, Model};
use crate::log::EventLog;
use crate::report::Report;
use crate::run_dir::RunDir;
use crate::schema::Experiment;
use crate::terminal::Progress;
use crate::{atomic, html};
use objective::Banks;

pub use distill::{Distilled, distill};
pub use evaluate::{Evaluated, Evaluation, evaluate};
pub use prepare::{Plan, plan};
pub use replay::replay;
pub use study::{Recording, Row, Study, study};

/// How a run is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory that holds run directories.
    pub runs: PathBuf,
    /// No progress on the terminal.
    pub quiet: bool,
    /// The command that reproduces the run, for the report.
    pub command: String,
}

/// A run at work: its directory, its log, and its voice.
struct Run<'a> {
    experiment: &'a Experiment,
    operators: Vec<MixerConfig>,
    directory: RunDir,
    log: EventLog,
    progress: Progress,
    command: &'a str,
}

/// The layouts a task's search ended with, each with the generation of its students.
struct Found<B: Backend> {
    task: String,
    m_best: (Layout, usize),
    m_opt: (Layout, usize),
    banks: Banks<B>,
    /// `m_opt` after recovery, if that did it good.
    recovered: Option<Decoder<B>>,
}

impl<B: Backend> Found<B> {
    /// The models a task is reported with.
    fn models(&self) -> [(Model, (Layout, usize)); 3] {
        let parent = (Layout::parent(self.m_opt.0.layers()), 0);
        [(Model::Parent, parent), (Model::MBest, self.m_best.clone()), (Model::MOpt, self.m_opt.clone())]
    }
}

/// Does what is still to be done of `experiment` and returns the run directory and the report.
///
/// # Errors
/// The first thing that goes wrong; what was finished until then is kept and found again.
pub fn run<B: TrainBackend>(experiment: &Experiment, options: &Options, device: &B::Device) -> Result<(PathBuf, Report), Error> {
    let began = Instant::now();
    let parent = prepare::parent::<B::InnerBackend>(experiment, device)?;
    let texts = prepare::texts(experiment, &parent)?;
    let directory = RunDir::open(&options.runs, experiment)?;
    let (log, _) = EventLog::open(directory.events())?;
    let operators = prepare::operators(experiment);
    let mut run = Run { experiment, operators, directory, log, progress: Progress::new(options.quiet), command: &options.command };
    run.log.emit(Event::Started {
        experiment: experiment.name().into(),
        device: experiment.device().to_string(),
        seed: experiment.seed(),
    })?;
    run.log.emit(Event::Parent {
        model_type: parent.config.model_type.clone(),
        layers: parent.config.layers(),
        parameters: parent.parameters(),
    })?;

    let bank = run.distill::<B>(&parent, &texts, &options.runs, device)?;
    run.write_report()?;
    let mut found = Vec::new();
    for name in &experiment.search().tasks {
        found.push(run.search::<B>(&parent, &bank, name, &texts, device)?);
        run.write_report()?;
    }
    run.measure(&parent, &found, device)?;
    run.export(&parent, &found)?;
    if !run.log.events().iter().any(|event| matches!(event, Event::Finished { .. })) {
        run.log.emit(Event::Finished { seconds: began.elapsed().as_secs_f64() })?;
    }
    let report = run.write_report()?;
    Ok((run.directory.path().to_path_buf(), report))
}

impl Run<'_> {
    /// Writes `report.json` and `report.html` as far as things are known.
    fn write_report(&self) -> Result<Report, Error> {
        let events = self.log.events();
        let report = Report::from_events(events);
        write_report(&report, events, self.command, &self.directory.report_json(), &self.directory.report_html())?;
        Ok(report)
    }
}

/// Writes both forms of a report.
///
/// # Errors
/// If a file cannot be written.
pub fn write_report(report: &Report, events: &[Event], command: &str, json: &Path, page: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(report).map_err(|source| Error::Unstorable { path: json.into(), source })?;
    atomic::write(json, text.as_bytes())?;
    atomic::write(page, html::render(report, events, command).as_bytes())
}

/// All that rows and examples are drawn from, by name.
struct Texts {
    tasks: BTreeMap<String, Box<dyn Task>>,
    /// Each with what stands for its content in keys.
    corpora: BTreeMap<String, (Files, String)>,
}

impl Texts {
    /// What the distillation draws rows from.
    fn documents(&self, name: &str) -> &dyn Documents {
        match self.tasks.get(name) {
            Some(task) => task.as_ref(),
            None => &self.corpora[name].0,
        }
    }
}
