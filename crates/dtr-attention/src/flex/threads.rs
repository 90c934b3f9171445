//! When a kernel spreads over threads. How it is cut into tasks never depends on that, so the numbers do not either.

use rayon::prelude::*;

/// Multiplications below which starting threads costs more than it saves.
const WORTH: usize = 1 << 17;

/// Runs `task` on each item, on several threads if there are at least [`WORTH`] `multiplications` in all.
///
/// Inside a task of rayon all stays on that thread. Whoever runs tasks there already has work for every core; and a thread
/// that waits for others would take up a foreign task while it holds the lock of Burn's backward pass, and could need the
/// same lock for that.
pub(super) fn for_each<I: IndexedParallelIterator>(items: I, multiplications: usize, task: impl Fn(I::Item) + Send + Sync) {
    if multiplications >= WORTH && rayon::current_thread_index().is_none() {
        items.for_each(task);
    } else {
        items.with_min_len(usize::MAX).for_each(task);
    }
}
