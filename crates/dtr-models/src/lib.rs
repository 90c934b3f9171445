//! Decoders and encoders as data over one block, mixers with parameters, caches, generation, checkpoints, tokenizer, chat templates.

pub mod config;
pub mod error;
pub mod rope;

pub mod mixer;

pub mod decoder;
pub mod layers;

pub mod chat;
pub mod checkpoint;
pub mod export;
pub mod generate;
pub mod pooling;
mod python_json;
pub mod tokenizer;

pub use chat::ChatTemplate;
pub use config::{AttentionShape, DecoderConfig};
pub use decoder::{Context, Decoder};
pub use error::{CheckpointError, ConfigError, GenerationError};
pub use export::{ExportError, Format, Refusal};
pub use mixer::{Mixer, MixerConfig, MixerState};
pub use pooling::Pooling;
pub use tokenizer::Tokenizer;
