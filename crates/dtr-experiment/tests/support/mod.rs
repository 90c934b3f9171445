//! The command `dtr` as a process: started in the workspace, expected to succeed or to fail with a clear message.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn dtr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtr"));
    command.args(arguments).current_dir(workspace()).env("NO_COLOR", "1");
    command
}

#[track_caller]
pub fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The command fails without a panic, and its message holds the parts.
#[track_caller]
pub fn fails(command: &mut Command, parts: &[&str]) {
    let output = command.output().expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "accepted, expected {parts:?}");
    assert!(!message.contains("panicked"), "{message}");
    // Messages are folded to the width of the terminal.
    let flat: String = message.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(flat.contains(part), "{part:?} is missing in: {message}");
    }
}
