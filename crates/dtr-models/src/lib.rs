//! Decoders as data over one block, mixers with parameters, caches, generation, checkpoints, tokenizer.

pub mod config;
pub mod error;
pub mod rope;

pub mod mixer;

pub mod decoder;
pub mod layers;

pub mod checkpoint;
pub mod generate;
pub mod tokenizer;

pub use config::{AttentionShape, DecoderConfig};
pub use decoder::{Context, Decoder};
pub use error::{CheckpointError, ConfigError};
pub use mixer::{Mixer, MixerConfig, MixerState};
pub use tokenizer::Tokenizer;
