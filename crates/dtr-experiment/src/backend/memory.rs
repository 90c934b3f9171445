//! Work that may need more memory than the device has.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// What the drivers say when they have no memory left: `CubeCL` of a tensor too large, and the drivers below it.
const COMPLAINTS: [&str; 5] = ["can't allocate buffer", "BufferTooBig", "Not enough memory left", "OUT_OF_MEMORY", "out of memory"];

/// What comes of `work`, or what the driver said when its memory did not suffice. Everything that `work` held is free again then.
///
/// Drivers report it by a panic, on a thread of their own; what panics on the thread that waits for the result is only that there is
/// none. So panics of all threads are listened to meanwhile. Where tensors lie in the memory of the process, it is the operating system that
/// ends it.
///
/// # Errors
/// If memory did not suffice; other panics go on.
pub fn within<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let complaint = Arc::new(Mutex::new(None));
    let earlier = Arc::new(std::panic::take_hook());
    let (heard, others) = (Arc::clone(&complaint), Arc::clone(&earlier));
    std::panic::set_hook(Box::new(move |panic| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = panic.payload_as_str().unwrap_or_default();
        if COMPLAINTS.iter().any(|complaint| text.contains(complaint)) {
            heard.get_or_insert_with(|| said(text));
        }
        // What panics after that panics for want of what was not computed.
        if heard.is_none() {
            drop(heard);
            others(panic);
        }
    }));
    let done = catch_unwind(AssertUnwindSafe(work));
    // Without the listener nobody else has the earlier hook.
    drop(std::panic::take_hook());
    if let Some(earlier) = Arc::into_inner(earlier) {
        std::panic::set_hook(earlier);
    }
    let complaint = complaint.lock().unwrap_or_else(PoisonError::into_inner).take();
    done.or_else(|panic| complaint.map_or_else(|| resume_unwind(panic), Err))
}

/// The line that says it, without what a driver appends of its own call stack.
fn said(text: &str) -> String {
    let line = text.lines().find(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint))).unwrap_or(text);
    line.rsplit_once("value: ").map_or(line, |(_, reason)| reason).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_memory_is_heard_from_any_thread() {
        let found = within(|| {
            let complaint = "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 42\n   0: somewhere";
            let driver = std::thread::spawn(move || panic!("{complaint}"));
            driver.join().expect("a result of the driver");
        });
        assert_eq!(found, Err("can't allocate buffer of size: 42".to_owned()));
        assert_eq!(within(|| 3), Ok(3));
    }

    #[test]
    fn other_panics_go_on() {
        let other = catch_unwind(|| within(|| panic!("of its own"))).expect_err("a panic");
        assert_eq!(other.downcast_ref::<&str>(), Some(&"of its own"));
    }
}
