//! One model behind the HTTP interface of `OpenAI`: `/v1/models`, `/v1/completions`, `/v1/chat/completions`.
//!
//! The model runs on a thread of its own ([`engine`]) and knows tokens alone; text, JSON and connections are the async side's.

pub mod error;

pub mod engine;

pub mod answer;
pub mod request;

pub mod chat;
pub mod completions;

pub mod server;

use std::time::{SystemTime, UNIX_EPOCH};

use dtr_models::{ChatTemplate, Tokenizer};

pub use engine::Engine;
pub use error::ApiError;
pub use server::{router, serve};

/// What one client, and all of them together, may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Tokens of a sequence, prompt and answer together.
    pub tokens: usize,
    /// Sequences that are extended together.
    pub batch: usize,
    /// Sequences that may wait for a place among them; more are refused.
    pub queue: usize,
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Bytes of what is remembered of earlier sequences.
    pub memory_bytes: usize,
}

/// A model that is served.
#[derive(Debug)]
pub struct Served {
    /// The name that requests must give.
    pub name: String,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text, if the model has a template.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    /// Rows of the model's embedding.
    pub vocabulary: usize,
    /// What may be asked for.
    pub limits: Limits,
    /// The model itself.
    pub engine: Engine,
}

/// Time since 1970.
fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
