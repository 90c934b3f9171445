//! A process that is killed in the middle of its work.

use std::process::{Command, Stdio};
use std::time::Duration;

/// Starts the command and kills it as soon as it is `time`. Whether it had come to its end by then.
pub fn killed(command: &mut Command, mut time: impl FnMut() -> bool) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let ended = loop {
        let ended = child.try_wait().expect("a child").is_some();
        if ended || time() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill().expect("killed");
    child.wait().expect("ended");
    ended
}
