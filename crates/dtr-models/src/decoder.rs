//! The model: embedding, blocks, head; the same for every family and every layout, decoder or encoder.

use burn::module::Initializer;
use burn::nn::{Embedding, EmbeddingConfig, Linear};
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::{MixerBackend, Positions, precision};

use crate::config::{DecoderConfig, Head, Placement, PositionEmbedding};
use crate::layers::{Mlp, Norm, Pooler, linear, project};
use crate::mixer::{Mixer, MixerState};
use crate::pooling::{Pooling, Summary};
use crate::rope::Rotary;

/// What every layer needs to know about the tokens at hand.
#[derive(Debug, Clone)]
pub struct Context<B: Backend> {
    /// Where they stand.
    pub positions: Positions,
    /// Rotary tables for these positions, where positions are rotary.
    pub rotary: Option<Rotary<B>>,
    /// 1 for tokens and 0 for padding, `[B, T]`; `None` without padding.
    pub tokens: Option<Tensor<B, 2>>,
}

/// `x + mixer(norm(x))`, then `x + mlp(norm(x))`; with norms behind the sums, `norm(x + mixer(x))`, then `norm(x + mlp(x))`.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    input_layernorm: Norm<B>,
    /// The attention sublayer, full or linear.
    pub mixer: Mixer<B>,
    post_attention_layernorm: Norm<B>,
    mlp: Mlp<B>,
    #[module(skip)]
    placement: Placement,
}

impl<B: MixerBackend> Block<B> {
    /// What the mixer is fed with, `[B, T, N]`.
    pub fn mixer_input(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match self.placement {
            Placement::Before => self.input_layernorm.forward(x),
            Placement::After => x,
        }
    }

    /// The block's output, given its input and what its mixer made of it.
    pub fn after_mixer(&self, x: Tensor<B, 3>, mixed: Tensor<B, 3>) -> Tensor<B, 3> {
        let mixed = precision::like(mixed, x.dtype());
        match self.placement {
            Placement::Before => {
                let x = x + mixed;
                x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
            }
            Placement::After => {
                let x = self.input_layernorm.forward(x + mixed);
                self.post_attention_layernorm.forward(x.clone() + self.mlp.forward(x))
            }
        }
    }

    /// `x [B, T, N]` -> `[B, T, N]` and the next state.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: MixerState<B>) -> (Tensor<B, 3>, MixerState<B>) {
        let (mixed, state) = self.mixer.forward(self.mixer_input(x.clone()), context, state);
        (self.after_mixer(x, mixed), state)
    }
}

/// A causal language model; or an encoder, whose tokens see each other all: its hidden states are pooled ([`Pooling`]), or it has a head that
/// classifies texts.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    embed_tokens: Embedding<B>,
    embed_positions: Option<Embedding<B>>,
    embed_types: Option<Embedding<B>>,
    embed_norm: Option<Norm<B>>,
    /// The blocks, first to last.
    pub layers: Vec<Block<B>>,
    norm: Option<Norm<B>>,
    pooler: Option<Pooler<B>>,
    head: Option<Linear<B>>,
    #[module(skip)]
    position: PositionEmbedding,
    head_dim: usize,
    encoder: bool,
}

impl<B: Backend> Decoder<B> {
    /// A decoder without weights of its own yet.
    pub fn new(config: &DecoderConfig, device: &B::Device) -> Self {
        let DecoderConfig { vocabulary, intermediate, activation, mlp_bias, placement, head, ref attention, .. } = *config;
        let hidden = attention.hidden;
        let norm = || Norm::new(config.norm, hidden, attention.eps, device);
        let table = |rows: usize| EmbeddingConfig::new(rows, hidden).with_initializer(Initializer::Zeros).init(device);
        let positions = match config.position {
            PositionEmbedding::Rotary(_) => None,
            PositionEmbedding::Learned { rows, .. } => Some(rows),
        };
        let block = |mixer: &crate::mixer::MixerConfig| Block {
            input_layernorm: norm(),
            mixer: mixer.init(attention, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(hidden, intermediate, activation, mlp_bias, device),
            placement,
        };
        Self {
            embed_tokens: table(vocabulary),
            embed_positions: positions.map(table),
            embed_types: config.token_types.map(table),
            embed_norm: config.embedding_norm.then(norm),
            layers: config.mixers.iter().map(block).collect(),
            norm: (placement == Placement::Before).then(norm),
            pooler: config.pooler.map(|squash| Pooler::new(hidden, squash, device)),
            head: match head {
                Head::Own => Some(linear(hidden, vocabulary, false, device)),
                Head::Classes => Some(linear(hidden, config.classes.len(), true, device)),
                Head::Tied | Head::Pooled => None,
            },
            position: config.position.clone(),
            head_dim: attention.head_dim,
            encoder: config.is_encoder(),
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
        let device = self.embed_tokens.weight.device();
        let rotary = match &self.position {
            PositionEmbedding::Rotary(rope) => Some(rope.tables(self.head_dim, &positions, &device)),
            PositionEmbedding::Learned { .. } => None,
        };
        Context { rotary, tokens: positions.tokens(&device), positions }
    }

    /// Tokens, with their places where these are learned vectors: `ids [B, T]` -> `[B, T, N]`.
    ///
    /// # Panics
    /// If a token stands behind the last position that has a vector: see [`DecoderConfig::position_limit`].
    pub fn embed(&self, ids: Tensor<B, 2, Int>, positions: &Positions) -> Tensor<B, 3> {
        let device = ids.device();
        let mut x = self.embed_tokens.forward(ids);
        let [batch, time, hidden] = x.dims();
        if let (Some(table), PositionEmbedding::Learned { offset, .. }) = (&self.embed_positions, &self.position) {
            let rows = positions.values::<B>(&device).add_scalar(*offset as f64).int();
            x = x + table.forward(rows).expand([batch, time, hidden]);
        }
        if let Some(types) = &self.embed_types {
            x = x + types.weight.val().narrow(0, 0, 1).unsqueeze();
        }
        match &self.embed_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// Whether every token sees all others: such a model generates no text.
    pub fn is_encoder(&self) -> bool {
        self.encoder
    }

    /// Whether a sequence of so many tokens is the same read in pieces and read at once: no encoder's is, and by `dynamic` rotary scaling
    /// none beyond the trained context.
    pub fn reads_in_pieces(&self, length: usize) -> bool {
        let same = match &self.position {
            PositionEmbedding::Rotary(rope) => rope.reads_in_pieces(length),
            PositionEmbedding::Learned { .. } => true,
        };
        same && !self.encoder
    }

    /// Width of the hidden states.
    pub fn hidden(&self) -> usize {
        self.embed_tokens.weight.dims()[1]
    }

    /// Logits in single precision at least, `x [B, T, N]` -> `[B, T, vocabulary]`; of an encoder `[B, T, classes]`, of which those of a text's
    /// first token are the text's.
    ///
    /// # Panics
    /// If the model is an encoder without a head.
    pub fn head(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        assert!(!self.encoder || self.head.is_some(), "an encoder without a head has no logits: its hidden states are pooled");
        let x = match (&self.norm, &self.pooler) {
            (Some(norm), _) => norm.forward(x),
            (None, Some(pooler)) => pooler.forward(x),
            (None, None) => x,
        };
        precision::single(match &self.head {
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
        let mut x = self.embed(ids, &context.positions);
        let before = std::mem::take(states);
        for (layer, state) in self.layers.iter().zip(before) {
            let (next, state) = layer.forward(x, &context, state);
            x = next;
            states.push(state);
        }
        x
    }

    /// What an encoder's pooler makes of texts, `f(x W + b)` of the first token's hidden state; `None` if there is no pooler.
    /// `tokens [B, T]` is 1 for tokens and 0 for padding, `None` without padding.
    ///
    /// # Shapes
    /// `x [B, T, N]` -> `[B, N]`.
    pub fn pooled(&self, x: Tensor<B, 3>, tokens: Option<Tensor<B, 2>>) -> Option<Tensor<B, 2>> {
        let pooler = self.pooler.as_ref()?;
        Some(pooler.forward(first(x, tokens)).squeeze_dim(1))
    }

    /// Logits of the classes of texts, `ids [B, T]` at `positions` -> `[B, classes]`.
    ///
    /// # Panics
    /// If the model is no encoder with a head.
    pub fn classify(&self, ids: Tensor<B, 2, Int>, positions: Positions) -> Tensor<B, 2> {
        assert!(self.encoder, "a decoder has no classes");
        let (batch, tokens) = (ids.dims()[0], positions.tokens(&ids.device()));
        let hidden = self.forward(ids, positions, &mut self.empty_state(batch));
        self.head(first(hidden, tokens)).squeeze_dim(1)
    }

    /// Logits of whole sequences without padding, `ids [B, T]` -> `[B, T, vocabulary]`.
    pub fn logits(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [batch, time] = ids.dims();
        let positions = Positions::range(0, time);
        let hidden = self.forward(ids, positions, &mut self.empty_state(batch));
        self.head(hidden)
    }
}

/// Hidden states of first tokens, `x [B, T, N]` -> `[B, 1, N]`.
fn first<B: Backend>(x: Tensor<B, 3>, tokens: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
    Pooling { summary: Summary::First, normalise: false, tokens: None }.pool(x, tokens).unsqueeze_dim(1)
}
