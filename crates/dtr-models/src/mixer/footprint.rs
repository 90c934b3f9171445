//! What a mixer remembers of one sequence, in bytes: measured on a mixer without weights.

use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};

use super::{MixerConfig, MixerState};
use crate::config::DecoderConfig;
use crate::decoder::Context;

/// Bytes of one sequence in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Before the first token, and ever after.
    pub state: usize,
    /// More for each token.
    pub per_token: usize,
    /// Tokens after which nothing is added any more; `None`: it never ends.
    pub most_tokens: Option<usize>,
}

impl Footprint {
    /// Bytes after so many tokens.
    pub fn after(self, tokens: usize) -> usize {
        self.state + self.per_token * self.most_tokens.map_or(tokens, |most| most.min(tokens))
    }
}

impl MixerConfig {
    /// What this mixer remembers in a layer of `config`.
    pub fn footprint<B: MixerBackend>(&self, config: &DecoderConfig, device: &B::Device) -> Footprint {
        let mixer = self.init::<B>(&config.attention, device);
        let state: MixerState<B> = mixer.empty_state(1);
        let empty = state.bytes();
        let positions = Positions::range(0, 1);
        let rotary = config.rope().map(|rope| rope.tables(config.attention.head_dim, &positions, device));
        let token = Tensor::zeros([1, 1, config.attention.hidden], device);
        let (_, state) = mixer.forward(token, &Context { positions, rotary, tokens: None }, state);
        let most_tokens = match *self {
            Self::Softmax { window } => window,
            Self::SlidingWindow { window, sinks } => Some(window + sinks),
            _ => None,
        };
        Footprint { state: empty, per_token: state.bytes() - empty, most_tokens }
    }
}
