//! When a kernel spreads over threads, and room that each thread keeps. How work is cut into tasks never depends on the threads.

use std::cell::RefCell;

use rayon::prelude::*;

/// Multiplications below which starting threads costs more than it saves.
const WORTH: usize = 1 << 17;

/// Runs `task` on each item, on several threads if there are at least [`WORTH`] `multiplications` in all.
///
/// Inside a task of rayon all stays on that thread. Whoever runs tasks there already has work for every core; and a thread
/// that waits for others would take up a foreign task while it holds the lock of Burn's backward pass, and could need the
/// same lock for that.
pub(crate) fn for_each<I: IndexedParallelIterator>(items: I, multiplications: usize, task: impl Fn(I::Item) + Send + Sync) {
    if multiplications >= WORTH && rayon::current_thread_index().is_none() {
        items.for_each(task);
    } else {
        items.with_min_len(usize::MAX).for_each(task);
    }
}

/// Calls `work` with `length` numbers of any value, kept by this thread from call to call: nothing is allocated in decoding.
pub(crate) fn with_scratch(length: usize, work: impl FnOnce(&mut [f32])) {
    thread_local!(static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < length {
            scratch.resize(length, 0.0);
        }
        work(&mut scratch[..length]);
    });
}
