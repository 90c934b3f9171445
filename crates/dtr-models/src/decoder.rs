//! The decoder: embedding, blocks, head; the same for every family and every layout.

use burn::module::Initializer;
use burn::nn::{Embedding, EmbeddingConfig, Linear};
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::{MixerBackend, Positions, precision};

use crate::config::DecoderConfig;
use crate::layers::{Mlp, RmsNorm, linear, project};
use crate::mixer::{Mixer, MixerState};
use crate::rope::{Rope, Rotary};

/// What every layer needs to know about the tokens at hand.
#[derive(Debug, Clone)]
pub struct Context<B: Backend> {
    /// Where they stand.
    pub positions: Positions,
    /// Rotary tables for these positions.
    pub rotary: Rotary<B>,
    /// 1 for tokens and 0 for padding, `[B, T]`; `None` without padding.
    pub tokens: Option<Tensor<B, 2>>,
}

/// `x + mixer(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    input_layernorm: RmsNorm<B>,
    /// The attention sublayer, full or linear.
    pub mixer: Mixer<B>,
    post_attention_layernorm: RmsNorm<B>,
    mlp: Mlp<B>,
}

impl<B: MixerBackend> Block<B> {
    /// What the mixer is fed with, `[B, T, N]`.
    pub fn mixer_input(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.input_layernorm.forward(x)
    }

    /// The block's output, given its input and what its mixer made of it.
    pub fn after_mixer(&self, x: Tensor<B, 3>, mixed: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = x.clone() + precision::like(mixed, x.dtype());
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }

    /// `x [B, T, N]` -> `[B, T, N]` and the next state.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: MixerState<B>) -> (Tensor<B, 3>, MixerState<B>) {
        let (mixed, state) = self.mixer.forward(self.mixer_input(x.clone()), context, state);
        (self.after_mixer(x, mixed), state)
    }
}

/// A causal language model.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    embed_tokens: Embedding<B>,
    /// The blocks, first to last.
    pub layers: Vec<Block<B>>,
    norm: RmsNorm<B>,
    lm_head: Option<Linear<B>>,
    #[module(skip)]
    rope: Rope,
    head_dim: usize,
}

impl<B: Backend> Decoder<B> {
    /// A decoder without weights of its own yet.
    pub fn new(config: &DecoderConfig, device: &B::Device) -> Self {
        let DecoderConfig { vocabulary, intermediate, mlp_bias, tied, ref attention, .. } = *config;
        let norm = || RmsNorm::new(attention.hidden, attention.eps, device);
        let block = |mixer: &crate::mixer::MixerConfig| Block {
            input_layernorm: norm(),
            mixer: mixer.init(attention, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(attention.hidden, intermediate, mlp_bias, device),
        };
        Self {
            embed_tokens: EmbeddingConfig::new(vocabulary, attention.hidden).with_initializer(Initializer::Zeros).init(device),
            layers: config.mixers.iter().map(block).collect(),
            norm: norm(),
            lm_head: (!tied).then(|| linear(attention.hidden, vocabulary, false, device)),
            rope: config.rope.clone(),
            head_dim: attention.head_dim,
        }
    }

    /// Element type of weights and hidden states.
    pub fn dtype(&self) -> FloatDType {
        self.embed_tokens.weight.val().dtype().into()
    }
}

impl<B: MixerBackend> Decoder<B> {
    /// What the layers need to know about tokens at these positions.
    pub fn context(&self, positions: Positions) -> Context<B> {
        let device = self.norm.weight.device();
        let rotary = self.rope.tables(self.head_dim, &positions, &device);
        Context { rotary, tokens: positions.tokens(&device), positions }
    }

    /// `ids [B, T]` -> `[B, T, N]`.
    pub fn embed(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        self.embed_tokens.forward(ids)
    }

    /// Logits in single precision at least, `x [B, T, N]` -> `[B, T, vocabulary]`.
    pub fn head(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = self.norm.forward(x);
        precision::single(match &self.lm_head {
            Some(head) => project(head, x),
            None => x.matmul(self.embed_tokens.weight.val().transpose().unsqueeze()),
        })
    }

    /// State before the first token, one a layer.
    pub fn empty_state(&self, batch: usize) -> Vec<MixerState<B>> {
        self.layers.iter().map(|layer| layer.mixer.empty_state(batch)).collect()
    }

    /// Reads `ids [B, T]` at `positions` after what `states` remembers; returns hidden states `[B, T, N]` in front of the head.
    pub fn forward(&self, ids: Tensor<B, 2, Int>, positions: Positions, states: &mut Vec<MixerState<B>>) -> Tensor<B, 3> {
        let context = self.context(positions);
        let mut x = self.embed(ids);
        let before = std::mem::take(states);
        for (layer, state) in self.layers.iter().zip(before) {
            let (next, state) = layer.forward(x, &context, state);
            x = next;
            states.push(state);
        }
        x
    }

    /// Logits of whole sequences without padding, `ids [B, T]` -> `[B, T, vocabulary]`.
    pub fn logits(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [batch, time] = ids.dims();
        let positions = Positions::range(0, time);
        let hidden = self.forward(ids, positions, &mut self.empty_state(batch));
        self.head(hidden)
    }
}
