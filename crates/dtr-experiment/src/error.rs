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
