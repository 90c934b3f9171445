//! Mixers: what stands in a layer's attention sublayer, with its parameters and its state.

pub mod attention;
mod footprint;
pub mod gated_delta;
pub mod hedgehog;
pub mod linear_map;
pub mod mamba2;
pub mod projections;
pub mod recurrent;

use burn::nn::Linear;
use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};
use serde::{Deserialize, Serialize};

pub use attention::{Attention, KeyValues};
pub use footprint::Footprint;
pub use gated_delta::GatedDelta;
pub use hedgehog::Hedgehog;
pub use linear_map::LinearMap;
pub use mamba2::Mamba2;
pub use recurrent::RecurrentState;

use crate::config::AttentionShape;
use crate::decoder::Context;

/// Which mixer, with its settings. Serialised in hybrid checkpoints and experiment files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MixerConfig {
    /// The parent's own attention, over all tokens or its own window.
    Softmax {
        /// Latest positions seen; `None`: all.
        window: Option<usize>,
    },
    /// Softmax over the latest tokens and the first few.
    SlidingWindow {
        /// Latest positions seen, the query's own among them.
        window: usize,
        /// First positions, always seen.
        sinks: usize,
    },
    /// Normalised linear attention with learned softmax features.
    Hedgehog {},
    /// Gated delta rule in the form of Qwen3.5's linear layers.
    GatedDelta {
        /// Width of the short convolution.
        convolution: usize,
        /// Whether queries and keys are turned by their positions, as in the parent. No published form does that.
        #[serde(default)]
        rotary: bool,
    },
    /// Mamba-2 in the form of Granite 4's linear layers.
    Mamba2 {
        /// Numbers a head that are written and read by.
        state: usize,
        /// Width of the short convolution.
        convolution: usize,
    },
    /// A linear map of each token: no mixing at all.
    LinearMap {},
}

impl MixerConfig {
    /// The letter in layouts.
    pub fn letter(&self) -> char {
        match self {
            Self::Softmax { .. } => 'S',
            Self::SlidingWindow { .. } => 'W',
            Self::Hedgehog {} => 'H',
            Self::GatedDelta { .. } => 'G',
            Self::Mamba2 { .. } => 'M',
            Self::LinearMap {} => 'L',
        }
    }

    /// The name in files and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Softmax { .. } => "softmax",
            Self::SlidingWindow { .. } => "sliding-window",
            Self::Hedgehog {} => "hedgehog",
            Self::GatedDelta { .. } => "gated-delta",
            Self::Mamba2 { .. } => "mamba2",
            Self::LinearMap {} => "linear-map",
        }
    }

    /// A mixer of this kind for a layer of this shape, without weights of its own yet.
    pub fn init<B: Backend>(&self, shape: &AttentionShape, device: &B::Device) -> Mixer<B> {
        use dtr_attention::Span;
        match *self {
            Self::Softmax { window } => Mixer::Softmax(Attention::new(shape, Span { window, sinks: 0 }, device)),
            Self::SlidingWindow { window, sinks } => {
                Mixer::SlidingWindow(Attention::new(shape, Span { window: Some(window), sinks }, device))
            }
            Self::Hedgehog {} => Mixer::Hedgehog(Hedgehog::new(shape, device)),
            Self::GatedDelta { convolution, rotary } => Mixer::GatedDelta(GatedDelta::new(shape, convolution, rotary, device)),
            Self::Mamba2 { state, convolution } => Mixer::Mamba2(Mamba2::new(shape, state, convolution, device)),
            Self::LinearMap {} => Mixer::LinearMap(LinearMap::new(shape, device)),
        }
    }
}

impl std::fmt::Display for MixerConfig {
    /// The name, and the settings that are not off: `gated-delta (convolution 4)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        let value = serde_json::to_value(self).unwrap_or_default();
        let settings = value[self.name()].as_object().into_iter().flatten();
        let told: Vec<_> =
            settings.filter(|(_, value)| !value.is_null() && **value != false).map(|(key, value)| format!("{key} {value}")).collect();
        if told.is_empty() { Ok(()) } else { write!(f, " ({})", told.join(", ")) }
    }
}

/// An attention sublayer, full or linear.
#[derive(Module, Debug)]
pub enum Mixer<B: Backend> {
    /// The parent's own.
    Softmax(Attention<B>),
    /// Softmax over a window and sinks.
    SlidingWindow(Attention<B>),
    /// Linear attention with Hedgehog features.
    Hedgehog(Hedgehog<B>),
    /// Gated delta rule.
    GatedDelta(GatedDelta<B>),
    /// Mamba-2.
    Mamba2(Mamba2<B>),
    /// No mixing.
    LinearMap(LinearMap<B>),
}

/// What a mixer remembers of the tokens it has read.
#[derive(Debug, Clone)]
pub enum MixerState<B: Backend> {
    /// Keys and values, of all tokens or of those in the window.
    KeyValues(KeyValues<B>),
    /// Sum of key features times values, `[B, H, D, V + 1]`.
    Linear(Tensor<B, 4>),
    /// Convolution inputs and the recurrence's matrix.
    Recurrent(RecurrentState<B>),
    /// Nothing.
    None,
}

impl<B: Backend> MixerState<B> {
    /// Bytes held, all rows together, in the weights' own precision.
    pub fn bytes(&self) -> usize {
        fn size<B: Backend, const R: usize>(x: &Tensor<B, R>) -> usize {
            x.shape().num_elements() * x.dtype().size()
        }
        match self {
            Self::KeyValues(cache) => cache.bytes(),
            Self::Linear(state) => size(state),
            Self::Recurrent(state) => size(&state.convolution) + size(&state.matrix),
            Self::None => 0,
        }
    }

    /// Hands out its tensors of floats by name, each with its shape, and the positions of a cache.
    pub(crate) fn parts(&self) -> (Vec<(&'static str, TensorData)>, Option<Positions>) {
        match self {
            Self::KeyValues(cache) => cache.used().map_or_else(Default::default, |(k, v, positions)| {
                (vec![("keys", k.into_data()), ("values", v.into_data())], Some(positions))
            }),
            Self::Linear(state) => (vec![("state", state.to_data())], None),
            Self::Recurrent(state) => (vec![("convolution", state.convolution.to_data()), ("matrix", state.matrix.to_data())], None),
            Self::None => Default::default(),
        }
    }

    /// The rows `rows`, any of them any number of times, in this order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        fn select<B: Backend, const R: usize>(x: &Tensor<B, R>, rows: &[usize]) -> Tensor<B, R> {
            x.clone().select(0, attention::row_index(rows, &x.device()))
        }
        match self {
            Self::KeyValues(cache) => Self::KeyValues(cache.select(rows)),
            Self::Linear(state) => Self::Linear(select(state, rows)),
            Self::Recurrent(state) => {
                Self::Recurrent(RecurrentState { convolution: select(&state.convolution, rows), matrix: select(&state.matrix, rows) })
            }
            Self::None => Self::None,
        }
    }

    /// The rows of `self`, then those of `other`, of the same mixer.
    ///
    /// # Panics
    /// If the states are of different kinds.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        fn join<B: Backend, const R: usize>(first: Tensor<B, R>, second: Tensor<B, R>) -> Tensor<B, R> {
            Tensor::cat(vec![first, second], 0)
        }
        match (self, other) {
            (Self::KeyValues(first), Self::KeyValues(second)) => Self::KeyValues(first.join(second)),
            (Self::Linear(first), Self::Linear(second)) => Self::Linear(join(first, second)),
            (Self::Recurrent(first), Self::Recurrent(second)) => Self::Recurrent(RecurrentState {
                convolution: join(first.convolution, second.convolution),
                matrix: join(first.matrix, second.matrix),
            }),
            (Self::None, Self::None) => Self::None,
            _ => panic!("the states belong to different kinds of mixers"),
        }
    }
}

impl<B: Backend> Mixer<B> {
    /// A state from the parts that [`MixerState::parts`] handed out; `part` gives each by its name, if it has the shape asked for.
    pub(crate) fn state_of<E>(
        &self,
        rows: usize,
        positions: Option<Positions>,
        mut part: impl FnMut(&'static str, &[usize]) -> Result<TensorData, E>,
    ) -> Result<MixerState<B>, E> {
        let (device, dtype) = (&self.output().weight.device(), self.output().weight.val().dtype());
        Ok(match self {
            Self::Softmax(mixer) | Self::SlidingWindow(mixer) => MixerState::KeyValues(match positions {
                None => KeyValues::default(),
                Some(positions) => {
                    let shape = mixer.cache_shape(rows, positions.length());
                    let mut tensor = |name| Ok(Tensor::from_data(part(name, &shape)?, (device, dtype)));
                    KeyValues::holding(tensor("keys")?, tensor("values")?, positions)
                }
            }),
            Self::Hedgehog(mixer) => MixerState::Linear(Tensor::from_data(part("state", &mixer.empty_state(rows).dims())?, device)),
            Self::GatedDelta(_) | Self::Mamba2(_) => {
                let MixerState::Recurrent(RecurrentState { convolution, matrix }) = self.empty_state(rows) else {
                    unreachable!("the mixers with a recurrence")
                };
                MixerState::Recurrent(RecurrentState {
                    convolution: Tensor::from_data(part("convolution", &convolution.dims())?, (device, dtype)),
                    matrix: Tensor::from_data(part("matrix", &matrix.dims())?, device),
                })
            }
            Self::LinearMap(_) => MixerState::None,
        })
    }

    /// State before the first token.
    pub fn empty_state(&self, batch: usize) -> MixerState<B> {
        match self {
            Self::Softmax(_) | Self::SlidingWindow(_) => MixerState::KeyValues(KeyValues::default()),
            Self::Hedgehog(mixer) => MixerState::Linear(mixer.empty_state(batch)),
            Self::GatedDelta(mixer) => MixerState::Recurrent(mixer.empty_state(batch)),
            Self::Mamba2(mixer) => MixerState::Recurrent(mixer.empty_state(batch)),
            Self::LinearMap(_) => MixerState::None,
        }
    }
}

impl<B: MixerBackend> Mixer<B> {
    /// Mixes new tokens with those that `state` remembers.
    ///
    /// # Shapes
    /// `x [B, T, N]` -> `[B, T, N]`.
    ///
    /// # Panics
    /// If the state is another mixer's; states come from [`Self::empty_state`] of the same mixer.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: MixerState<B>) -> (Tensor<B, 3>, MixerState<B>) {
        match (self, state) {
            (Self::Softmax(mixer) | Self::SlidingWindow(mixer), MixerState::KeyValues(state)) => {
                let (y, state) = mixer.forward(x, context, state);
                (y, MixerState::KeyValues(state))
            }
            (Self::Hedgehog(mixer), MixerState::Linear(state)) => {
                let (y, state) = mixer.forward(x, context, state);
                (y, MixerState::Linear(state))
            }
            (Self::GatedDelta(mixer), MixerState::Recurrent(state)) => {
                let (y, state) = mixer.forward(x, context, state);
                (y, MixerState::Recurrent(state))
            }
            (Self::Mamba2(mixer), MixerState::Recurrent(state)) => {
                let (y, state) = mixer.forward(x, context, state);
                (y, MixerState::Recurrent(state))
            }
            (Self::LinearMap(mixer), MixerState::None) => (mixer.forward(x), MixerState::None),
            _ => panic!("the state belongs to another kind of mixer"),
        }
    }

    /// Mixes a whole sequence from its beginning.
    pub fn mix(&self, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 3> {
        let state = self.empty_state(x.dims()[0]);
        self.forward(x, context, state).0
    }

    /// What enters the output projection, `[B, T, M]`, and what comes out of the mixer, `[B, T, N]`, over a whole sequence.
    pub fn mix_features(&self, x: Tensor<B, 3>, context: &Context<B>) -> (Tensor<B, 3>, Tensor<B, 3>) {
        let batch = x.dims()[0];
        let features = match self {
            Self::Softmax(mixer) | Self::SlidingWindow(mixer) => mixer.features(x, context, KeyValues::default()).0,
            Self::Hedgehog(mixer) => mixer.features(x, context, mixer.empty_state(batch)).0,
            Self::GatedDelta(mixer) => mixer.features(x, context, mixer.empty_state(batch)).0,
            Self::Mamba2(mixer) => mixer.features(x, context, mixer.empty_state(batch)).0,
            Self::LinearMap(_) => x,
        };
        (features.clone(), crate::layers::project(self.output(), features))
    }
}

impl<B: Backend> Mixer<B> {
    /// The output projection.
    pub fn output(&self) -> &Linear<B> {
        match self {
            Self::Softmax(mixer) | Self::SlidingWindow(mixer) => &mixer.projections.o_proj,
            Self::Hedgehog(mixer) => &mixer.projections.o_proj,
            Self::GatedDelta(mixer) => &mixer.out_proj,
            Self::Mamba2(mixer) => &mixer.out_proj,
            Self::LinearMap(mixer) => &mixer.out_proj,
        }
    }

    /// The output projection, to be changed.
    pub fn output_mut(&mut self) -> &mut Linear<B> {
        match self {
            Self::Softmax(mixer) | Self::SlidingWindow(mixer) => &mut mixer.projections.o_proj,
            Self::Hedgehog(mixer) => &mut mixer.projections.o_proj,
            Self::GatedDelta(mixer) => &mut mixer.out_proj,
            Self::Mamba2(mixer) => &mut mixer.out_proj,
            Self::LinearMap(mixer) => &mut mixer.out_proj,
        }
    }
}
