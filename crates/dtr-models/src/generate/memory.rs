//! What was read before and may be asked for again: states by the tokens they have read, bounded in bytes.

use burn::prelude::*;
use dtr_attention::MixerBackend;
use lru::LruCache;

use super::session::Session;

/// A state and what it has read.
#[derive(Debug, Clone)]
pub(super) struct Known<'a, B: Backend> {
    /// One row.
    pub session: Session<'a, B>,
    /// Hidden state of the last token in front of the head, `[1, 1, N]`.
    pub last: Tensor<B, 3>,
    /// Tokens read.
    pub length: usize,
}

impl<B: MixerBackend> Known<'_, B> {
    fn bytes(&self) -> usize {
        let last = self.last.shape().num_elements() * self.last.dtype().size();
        self.session.cache_bytes() + last + self.length * size_of::<u32>()
    }
}

/// States at the ends of what was read. A recurrent state cannot be cut, so a prompt goes on from one whose tokens are all its own.
#[derive(Debug)]
pub(super) struct Memory<'a, B: Backend> {
    states: LruCache<Vec<u32>, Known<'a, B>>,
    bytes: usize,
    limit: usize,
}

impl<'a, B: MixerBackend> Memory<'a, B> {
    /// Up to `limit` bytes; what was used longest ago goes first.
    pub fn new(limit: usize) -> Self {
        Self { states: LruCache::unbounded(), bytes: 0, limit }
    }

    /// The state that has read most of what `prompt` begins with, if there is any; it counts as used.
    pub fn recall(&mut self, prompt: &[u32]) -> Option<Known<'a, B>> {
        let begins = self.states.iter().map(|(tokens, _)| tokens).filter(|tokens| prompt.starts_with(tokens));
        let tokens = begins.max_by_key(|tokens| tokens.len())?.clone();
        self.states.get(&tokens).cloned()
    }

    /// Keeps row `row` of a session that has read `tokens` there, the last of them with the hidden state `hidden [1, 1, N]`.
    pub fn keep(&mut self, tokens: &[u32], session: &Session<'a, B>, row: usize, hidden: Tensor<B, 3>) {
        if self.limit == 0 || self.states.get(tokens).is_some() {
            return;
        }
        // Selecting copies: what is kept must not hold on to what it stood among.
        let first = Tensor::from_data([0_i64], &hidden.device());
        let known = Known { session: session.select(&[row]), last: hidden.select(0, first), length: tokens.len() };
        let bytes = known.bytes();
        if bytes > self.limit {
            return;
        }
        self.bytes += bytes;
        self.states.put(tokens.to_vec(), known);
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.states.pop_lru() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
