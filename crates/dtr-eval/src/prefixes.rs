//! Hidden states that layouts share: those in front of a layer depend on the layers before it and on nothing else.

use burn::prelude::*;
use lru::LruCache;

use crate::work::Hidden;

/// What stands in each layer, first layer first: equal beginnings compute the same.
pub type Path = [u64];

/// Hidden states of a block's batches.
pub(crate) type States<B> = Vec<Hidden<B>>;

/// Hidden states in front of a layer, for one block of examples, by what stands in the layers before it.
///
/// Memory is bounded; what was used longest ago goes first. An entry may be known without its states being there (a result
/// that was found on disk would have left them): so the work that a search is planned to take does not depend on how
/// often it was broken off.
#[derive(Debug)]
pub(crate) struct Prefixes<B: Backend> {
    entries: LruCache<(usize, Vec<u64>), Option<States<B>>>,
    bytes: usize,
    limit: usize,
}

impl<B: Backend> Prefixes<B> {
    /// Up to `limit` bytes of states.
    pub fn new(limit: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    /// Whether states of that size have any room.
    pub fn admits(&self, bytes: usize) -> bool {
        bytes <= self.limit
    }

    /// Number of leading layers of `path` whose result is known for `block`.
    pub fn known(&self, block: usize, path: &Path) -> usize {
        (1..path.len()).rev().find(|&layer| self.entries.contains(&(block, path[..layer].to_vec()))).unwrap_or(0)
    }

    /// The longest beginning of `path`, one layer at least, whose states are there; marks it as used.
    pub fn states(&mut self, block: usize, path: &Path) -> Option<(usize, States<B>)> {
        let there = |layer: &usize| matches!(self.entries.peek(&(block, path[..*layer].to_vec())), Some(Some(_)));
        let layer = (1..path.len()).rev().find(there)?;
        let states = self.entries.get(&(block, path[..layer].to_vec()))?.clone()?;
        Some((layer, states))
    }

    /// Stores the states behind `path`, or that they would be there, at the price of `bytes`.
    pub fn insert(&mut self, block: usize, path: &Path, bytes: usize, states: Option<States<B>>) {
        let key = (block, path.to_vec());
        if let Some(entry) = self.entries.get_mut(&key) {
            if states.is_some() {
                *entry = states;
            }
        } else {
            self.entries.put(key, states);
            self.bytes += bytes;
        }
    }

    /// Marks all beginnings of `path` as used.
    pub fn favour(&mut self, block: usize, path: &Path) {
        for layer in 1..path.len() {
            self.entries.promote(&(block, path[..layer].to_vec()));
        }
    }

    /// Lets go of what was used longest ago until the limit holds. `bytes` says what an entry of a block takes.
    pub fn shrink(&mut self, bytes: impl Fn(usize) -> usize) {
        while self.bytes > self.limit {
            let Some(((block, _), _)) = self.entries.pop_lru() else { break };
            self.bytes -= bytes(block);
        }
    }
}
