//! Everything that can go wrong in an experiment outside the mathematics: what was expected, what came, what to do.

use std::{io, path::PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};

/// Errors of this crate. Print them as [`miette::Report`]s to show the place, the cause and the remedy.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// The experiment file, or an override of it, is not a valid experiment.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(Box<Invalid>),

    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    #[diagnostic(help("{}", remedy(source)))]
    Io {
        /// What was attempted, such as `read`.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },

    /// A run directory was made by another experiment.
    #[error(
        "{} belongs to another experiment: line {line} of its experiment.toml is `{found}`, \
         experiment `{experiment}` has `{expected}` there",
        directory.display()
    )]
    #[diagnostic(help(
        "give the experiment another `name`, choose another directory with --runs, or delete {} if it is no longer wanted",
        directory.display()
    ))]
    OtherExperiment {
        /// The run directory.
        directory: PathBuf,
        /// Name of the experiment that was to run.
        experiment: String,
        /// First line in which they differ, from 1.
        line: usize,
        /// That line of the experiment that was to run.
        expected: String,
        /// That line of the experiment in the directory.
        found: String,
    },

    /// Another process works on the run.
    #[error("another process is working on the run in {}", directory.display())]
    #[diagnostic(help("wait for that process or end it, then run the same command again: finished work is kept"))]
    Locked {
        /// The run directory.
        directory: PathBuf,
    },

    /// A line of the event log, other than a last one cut off by a kill, is not an event.
    #[error("line {line} of {} is not an event", path.display())]
    #[diagnostic(help(
        "delete that line if it was edited by hand; otherwise move the file away and run again: \
         finished units are found and announced anew"
    ))]
    DamagedLog {
        /// The log.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// A result cannot be stored as JSON, most often because a number in it is not finite.
    #[error("a result for {} cannot be stored", path.display())]
    #[diagnostic(help("a number in it is likely not finite: when training has diverged, lower distill.learning-rate and run again"))]
    Unstorable {
        /// The file it was meant for.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    #[diagnostic(help("{}", checkpoint_remedy(.0)))]
    Checkpoint(#[from] dtr_models::CheckpointError),

    /// A model cannot be exported.
    #[error(transparent)]
    #[diagnostic(help("{}", export_remedy(.0)))]
    Export(#[from] dtr_models::ExportError),

    /// A task cannot be made.
    #[error(transparent)]
    Task(#[from] dtr_eval::EvalError),

    /// A task's parameters do not go with the parent's tokenizer.
    #[error("task {task} cannot be made")]
    InTask {
        /// Task's name.
        task: String,
        /// What is wrong.
        source: Box<dtr_eval::EvalError>,
    },

    /// A parent by its name on a hub, and no hub in this build.
    #[error("the parent {repository} is on a hub of models, and this dtr was built without access to one")]
    #[diagnostic(help(
        "run `cargo xtask run`, which builds what the experiment needs, or build with `--features hub`; or download the model and name its directory as parent.path"
    ))]
    NoHub {
        /// The repository.
        repository: String,
    },

    /// Something cannot be had from a hub.
    #[error("{repository} at {revision}: {reason}")]
    #[diagnostic(help("{remedy}"))]
    Hub {
        /// The repository.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// What went wrong, never with the token in it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },

    /// The parent has not got what the experiment asks for.
    #[error("`{key}` does not go with the parent: {reason}")]
    #[diagnostic(help("{remedy}"))]
    NotForParent {
        /// Key in the experiment file.
        key: &'static str,
        /// Why not.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },

    /// Text is asked of an encoder.
    #[error("the model in {} is an encoder: it makes vectors of texts and generates none", directory.display())]
    #[diagnostic(help("give the directory of a model that generates; what an encoder is good at, `dtr eval` tells by a retrieval task"))]
    Encoder {
        /// Its directory.
        directory: PathBuf,
    },

    /// More tokens than the model has learnt positions for.
    #[error("{tokens} tokens are asked for, the model has learnt {limit} positions")]
    #[diagnostic(help("ask for at most {limit} tokens, prompt and answer together"))]
    TooManyPositions {
        /// Tokens asked for.
        tokens: usize,
        /// Positions there are.
        limit: usize,
    },

    /// Students cannot be trained.
    #[error(transparent)]
    Distill(#[from] dtr_distill::DistillError),

    /// A directory without a search to explain.
    #[error("there is no search in {}", directory.display())]
    #[diagnostic(help("give the directory of a run, such as runs/quickstart-1a2b3c4d, whose students are trained"))]
    NoSearch {
        /// The directory.
        directory: PathBuf,
    },

    /// A run whose scores do not carry a study.
    #[error("the run in {} does not carry this study: it needs an exhaustive search without racing, point acceptance, and more examples than a draw uses ({used} of {examples})", directory.display())]
    #[diagnostic(help("run configs/studies/exhaustive.toml to its end first, and draw a smaller share of its examples"))]
    NoStudy {
        /// The run directory.
        directory: PathBuf,
        /// Examples scored there.
        examples: usize,
        /// Examples that a search may use.
        used: usize,
    },

    /// What is stored of a search does not belong together.
    #[error("{} is of another experiment than the rest of the search of {task}: its decisions would come out differently", path.display())]
    #[diagnostic(help(
        "a trace explains only what this version of dtr evaluated for it; run the experiment again in a directory of its own"
    ))]
    OtherTrace {
        /// The file.
        path: PathBuf,
        /// Task's name.
        task: String,
    },

    /// A task without examples to score.
    #[error("the {split} split of {task} has no examples: the task says {split} = 0")]
    #[diagnostic(help("write how many examples it shall have, or choose the other split with --split"))]
    NoExamples {
        /// Task's name.
        task: String,
        /// Which split.
        split: &'static str,
    },

    /// Results of something else are in the way.
    #[error("the results in {} are of another model, task, split or device", path.display())]
    #[diagnostic(help("choose another directory with --out, or delete the task's two files there if they are no longer wanted"))]
    OtherResults {
        /// Where they are.
        path: PathBuf,
    },

    /// All examples of a split have one answer.
    #[error("all {examples} examples of the {split} split of {task} have the same answer: whoever always gives it scores 100 %")]
    #[diagnostic(help("give the task more examples, or more classes: a search on this split would replace every layer"))]
    OneAnswer {
        /// Task's name.
        task: String,
        /// Which split.
        split: &'static str,
        /// How many there are.
        examples: usize,
    },

    /// A task's layouts cannot be searched.
    #[error("the search of task \"{task}\" cannot go on: {reason}")]
    Search {
        /// Task's name in the experiment.
        task: String,
        /// Why not.
        reason: String,
    },

    /// The parent is itself a hybrid.
    #[error("{} is no parent: layer {layer} of its layout {layout} is not full attention", directory.display())]
    #[diagnostic(help("name the full-attention model that the hybrid was made of"))]
    NotAParent {
        /// The model's directory.
        directory: PathBuf,
        /// First layer that is something else.
        layer: usize,
        /// Its layout.
        layout: String,
    },

    /// A unit that was just written cannot be read.
    #[error("{} is gone, it was there when this run began", path.display())]
    #[diagnostic(help("let no other program change the run directory, then run the same command again"))]
    LostUnit {
        /// The unit.
        path: PathBuf,
    },

    /// The device is not part of this build.
    #[error("device \"{device}\" is not built in; this binary has: {built}")]
    #[diagnostic(help("run `cargo xtask run`, which builds what the experiment's device needs, or build with `--features {feature}`"))]
    NotBuilt {
        /// What was asked for.
        device: String,
        /// Its cargo feature.
        feature: &'static str,
        /// Features there are.
        built: String,
    },

    /// The device is not part of this machine.
    #[error("device \"{device}\" cannot be used: {reason}")]
    #[diagnostic(help("choose another with --device, or make its driver available"))]
    NoDevice {
        /// What was asked for.
        device: String,
        /// What the driver says.
        reason: String,
    },

    /// The device does not compute in that element type.
    #[error("device \"{device}\" does not compute in {precision}, but in {known}")]
    #[diagnostic(help("set `dtype` to one of these, or choose another device; `cargo xtask devices` lists what each can do"))]
    NoPrecision {
        /// What was asked for.
        device: String,
        /// In which element type.
        precision: &'static str,
        /// What it does compute in.
        known: String,
    },

    /// Something was larger than the device's memory, even in batches of half the size.
    #[error("the memory of device \"{device}\" does not suffice: {reason}")]
    #[diagnostic(help(
        "shorten rows and texts (`distill.length`), set `dtype` to a smaller one, or choose a device with more memory; finished work is kept and found again"
    ))]
    DeviceFull {
        /// The device.
        device: String,
        /// What its driver says.
        reason: String,
    },

    /// A line of a token file is not what it should be.
    #[error("line {line} of {} {reason}", path.display())]
    #[diagnostic(help("each line is {{\"tokens\": [1, 2, 3]}} with at least one token, each below the model's vocabulary size"))]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },

    /// A setting of generation that makes no sense, or a conversation that the model's template refuses.
    #[error(transparent)]
    Generation(#[from] dtr_models::GenerationError),

    /// A chat with a model that has no template for it.
    #[error("the model in {} has no chat template", directory.display())]
    #[diagnostic(help("leave out --chat, or put the template that the model was trained with into that directory as chat_template.jinja"))]
    NoChatTemplate {
        /// The model's directory.
        directory: PathBuf,
    },

    /// Nothing can be served at an address.
    #[error("cannot serve at {address}")]
    #[diagnostic(help("choose a free port with --port (0 takes any), and with --host an address of this machine"))]
    Serve {
        /// Host and port.
        address: String,
        /// Why not.
        source: io::Error,
    },

    /// One file for the states of several prompts.
    #[error("a state of {prompts} prompts cannot be saved in one file")]
    #[diagnostic(help("give one --prompt with --save-state: what several prompts begin with"))]
    SeveralStates {
        /// How many there are.
        prompts: usize,
    },

    /// A prompt of one token has nothing in front of it that could be saved.
    #[error("the prompt has one token, and all but the last are saved")]
    #[diagnostic(help("give a longer --prompt with --save-state"))]
    EmptyState,

    /// There is nothing to continue.
    #[error("the prompt has no tokens")]
    #[diagnostic(help("give some text with --prompt"))]
    EmptyPrompt,
}

impl Error {
    /// Why the search of `task` has ended.
    pub(crate) fn of_search(task: &str, error: dtr_search::SearchError<Self>) -> Self {
        match error {
            dtr_search::SearchError::Objective(error) => error,
            other => Self::Search { task: task.into(), reason: other.to_string() },
        }
    }
}

/// What to do about a checkpoint, where its message does not say it.
fn checkpoint_remedy(error: &dtr_models::CheckpointError) -> &'static str {
    match error {
        dtr_models::CheckpointError::Io { source, .. } => remedy(source),
        _ => "run again once the files are right: finished work is kept",
    }
}

/// What to do about an export that did not happen.
fn export_remedy(error: &dtr_models::ExportError) -> &'static str {
    use dtr_models::ExportError::{Checkpoint, Occupied, Refused, Unknown};
    match error {
        Unknown { .. } => "choose one of these with --format",
        Refused { .. } => "`dtr inspect DIR` tells which formats a model has; a run may be limited to operators that have the wanted one",
        Occupied { .. } => "give another directory with --output, or empty this one",
        Checkpoint(dtr_models::CheckpointError::Io { source, .. }) => remedy(source),
        Checkpoint(_) => "give the directory of a model, a parent or a hybrid, whose files are whole",
    }
}

/// What is wrong with an experiment, and where.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{place}: {problem}")]
pub struct Invalid {
    /// `file:line:column`, or `--set key=value`.
    pub place: String,
    /// What is wrong.
    pub problem: Problem,
    /// What to do about it.
    #[help]
    pub remedy: String,
    /// The text that holds the problem.
    #[source_code]
    pub source_code: NamedSource<String>,
    /// The problem's part of that text.
    #[label("here")]
    pub span: SourceSpan,
}

/// Ways in which an experiment can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML, or TOML of another shape: a missing or unknown key, a wrong type.
    #[error("{message}")]
    Shape {
        /// In the words of the TOML reader.
        message: String,
    },
    /// A value of the right type that makes no sense.
    #[error("`{key}` must be {expected}, found {found}")]
    Value {
        /// Dotted key.
        key: String,
        /// What would make sense.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// What to do about a refusal of the operating system.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space, then run the same command again: finished work is kept",
        io::ErrorKind::NotFound => "check the path: it does not exist",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the path writable for this user, or choose another directory with --runs"
        }
        io::ErrorKind::InvalidData => "the file must be UTF-8 text: write it anew",
        _ => "remove the cause, then run the same command again: finished work is kept",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_names_file_cause_and_remedy() {
        let report = miette::Report::new(Error::Io {
            action: "write",
            path: "runs/x/report.json".into(),
            source: io::ErrorKind::StorageFull.into(),
        });
        let shown = format!("{report:?}");
        for part in ["cannot write runs/x/report.json", "no storage space", "free space"] {
            assert!(shown.contains(part), "{part:?} is missing in {shown}");
        }
    }
}
