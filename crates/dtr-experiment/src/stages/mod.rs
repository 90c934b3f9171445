//! The stages of an experiment in their order; each skips what an earlier start of the same run has finished.

mod answers;
mod distill;
mod efficiency;
mod evaluate;
mod export;
mod fits;
mod generations;
mod objective;
mod plan;
mod prepare;
mod refit;
mod replay;
mod search;
mod study;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::prelude::Backend;
use dtr_attention::TrainBackend;
use dtr_eval::{Documents, Files, Task};
use dtr_models::{Decoder, MixerConfig};
use dtr_search::Layout;

use crate::backend::memory;
use crate::error::Error;
use crate::events::{Event, Model};
use crate::html::Page;
use crate::log::{EventLog, Listener};
use crate::report::Report;
use crate::run_dir::RunDir;
use crate::schema::{Compute, Experiment};
use crate::terminal::Progress;
use crate::{atomic, html};
use objective::Banks;

pub use distill::{Distilled, distill};
pub use evaluate::{Evaluated, Evaluation, evaluate};
pub use plan::{Memory as PlannedMemory, Plan, Seconds, plan};
pub use prepare::identity;
pub use replay::replay;
pub use study::{Recording, Row, Study, study};

/// Between two pages of a run that goes on.
const PAGE_EVERY: Duration = Duration::from_secs(10);

/// How a run is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory that holds run directories.
    pub runs: PathBuf,
    /// No progress on the terminal.
    pub quiet: bool,
    /// Every event, those of earlier starts first, as a line of JSON on standard output.
    pub events: bool,
    /// The command that reproduces the run, for the report.
    pub command: String,
    /// What the process's allocator can tell of memory, if it can.
    pub memory: Option<Memory>,
}

/// An allocator that counts.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Begins to count anew.
    pub reset: fn(),
    /// Most bytes held at once since then, beyond those held then.
    pub peak: fn() -> usize,
}

/// A run at work: its directory, its log, and its voice.
struct Run<'a> {
    experiment: &'a Experiment,
    operators: Vec<MixerConfig>,
    directory: RunDir,
    log: EventLog,
    progress: Progress,
    command: &'a str,
    memory: Option<Memory>,
    /// Parts in which a batch goes through the device.
    pieces: usize,
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
    in_memory(experiment.compute(), options.quiet, |pieces| attempt::<B>(experiment, options, pieces, device))
}

/// Does `work` with whole batches and, where the device's memory does not suffice, goes on with halves of them: what is finished is on disk.
fn in_memory<T>(compute: Compute, quiet: bool, mut work: impl FnMut(usize) -> Result<T, Error>) -> Result<T, Error> {
    memory::within(|| work(1)).or_else(|reason| {
        let device = compute.device.to_string();
        Progress::new(quiet)
            .warn(&format!("the memory of device \"{device}\" does not suffice ({reason}); going on with batches of half the size"));
        memory::within(|| work(2)).map_err(|reason| Error::DeviceFull { device, reason })
    })?
}

fn attempt<B: TrainBackend>(
    experiment: &Experiment,
    options: &Options,
    pieces: usize,
    device: &B::Device,
) -> Result<(PathBuf, Report), Error> {
    let began = Instant::now();
    let parent = prepare::parent::<B::InnerBackend>(experiment, device)?;
    let texts = prepare::texts(experiment, &parent.reader, &parent.config)?;
    let directory = RunDir::open(&options.runs, experiment)?;
    let (mut log, _) = EventLog::open(directory.events())?;
    log.listen(page(directory.report_html(), options.command.clone()));
    if options.events {
        let path = directory.events();
        say(&std::fs::read_to_string(&path).map_err(|source| Error::Io { action: "read", path, source })?);
        log.listen(Box::new(|line, _| say(&format!("{line}\n"))));
    }
    let operators = prepare::operators(experiment);
    let (progress, command, memory) = (Progress::new(options.quiet), options.command.as_str(), options.memory);
    let mut run = Run { experiment, operators, directory, log, progress, command, memory, pieces };
    run.log.emit(Event::Started {
        experiment: experiment.name().into(),
        device: experiment.compute().to_string(),
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
        let page = Page { command: self.command, live: !report.complete };
        write_report(&report, events, page, &self.directory.report_json(), &self.directory.report_html())?;
        Ok(report)
    }
}

/// Writes both forms of a report.
///
/// # Errors
/// If a file cannot be written.
pub fn write_report(report: &Report, events: &[Event], page: Page<'_>, json: &Path, html: &Path) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(report).map_err(|source| Error::Unstorable { path: json.into(), source })?;
    atomic::write(json, text.as_bytes())?;
    atomic::write(html, html::render(report, events, page).as_bytes())
}

/// Keeps the page of a run that goes on at most so old.
fn page(path: PathBuf, command: String) -> Listener {
    let mut written = Instant::now();
    Box::new(move |_, events| {
        if written.elapsed() >= PAGE_EVERY {
            written = Instant::now();
            let page = html::render(&Report::from_events(events), events, Page { command: &command, live: true });
            // A page that cannot be written now is written behind the stage, where that is an error.
            let _ = atomic::write(&path, page.as_bytes());
        }
    })
}

/// Text for the program that reads standard output, if it still does.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// All that rows and examples are drawn from, by name.
struct Texts {
    tasks: BTreeMap<String, Box<dyn Task>>,
    /// Each with what stands for its content in keys.
    corpora: BTreeMap<String, (Files, String)>,
    /// Whether they are for an encoder, a text at a time.
    encoder: bool,
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
