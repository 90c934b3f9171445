//! How a model reads prompts: its tokenizer with the tokens it puts in front of a text, its chat template, its longest context.

use std::path::Path;

use dtr_models::chat::{ChatTemplate, Conversation};
use dtr_models::{DecoderConfig, Pooling, Tokenizer};
use jiff::ZonedDateTime;
use minijinja::{Value, context};

use crate::error::EvalError;
use crate::flaw::Flaw;

/// Templates that name the day name this one, so that prompts are the same every day.
const TODAY: &str = "2024-07-26T00:00:00+00:00[UTC]";

/// What a task needs to know of a model.
#[derive(Debug)]
pub struct Reader {
    pub(crate) tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    /// Tokens of the longest context, if it is known.
    pub(crate) context: Option<usize>,
    /// How an encoder makes one vector of a text; `None` for a model that generates.
    pub(crate) pooling: Option<Pooling>,
    /// Names of the classes that an encoder's head tells apart; none without such a head.
    classes: Vec<String>,
    /// Positions there are vectors for, where positions are learned: no text may be longer.
    limit: Option<usize>,
    /// Tokens that end a text.
    pub(crate) end: Vec<u32>,
    /// Text of what the tokenizer puts in front of every text by itself; often nothing.
    start: String,
}

/// One turn of a conversation: what is asked, and the answer where it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub prompt: String,
    pub answer: Option<String>,
}

impl Reader {
    /// Of the model in `directory`.
    ///
    /// # Errors
    /// If tokenizer or chat template cannot be read.
    pub fn load(directory: &Path, config: &DecoderConfig) -> Result<Self, EvalError> {
        let tokenizer = Tokenizer::load(directory, config.vocabulary)?;
        let start = tokenizer.decode(tokenizer.encode_prompt("")?.get(..1).unwrap_or(&[]))?;
        let chat = ChatTemplate::load(directory)?;
        let pooling = config.is_encoder().then(|| Pooling::load(directory)).transpose()?;
        Ok(Self {
            pooling,
            classes: config.classes.clone(),
            limit: config.position_limit(),
            tokenizer,
            chat,
            context: config.max_positions,
            end: config.end_tokens(),
            start,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens of the longest text there can be; `None` where there is no end to positions.
    pub fn position_limit(&self) -> Option<usize> {
        self.limit
    }

    /// Whether the model is an encoder.
    pub fn is_encoder(&self) -> bool {
        self.pooling.is_some()
    }

    /// Names of the classes that an encoder's head tells apart; none without such a head.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The class of this name, if there is one.
    pub(crate) fn class(&self, name: &str) -> Option<u32> {
        self.classes.iter().zip(0..).find_map(|(class, index)| (class == name).then_some(index))
    }

    pub(crate) fn has_chat(&self) -> bool {
        self.chat.is_some()
    }

    /// Turns as the chat template puts them, ready for the next answer.
    pub(crate) fn converse(&self, turns: &[Turn]) -> Result<String, Flaw> {
        let refused = |reason: String| Flaw::Refused { reason };
        let chat = self.chat.as_ref().ok_or_else(|| refused("the model has no chat template".into()))?;
        let mut messages: Vec<Value> = Vec::new();
        for turn in turns {
            messages.push(context! { role => "user", content => &turn.prompt });
            messages.extend(turn.answer.as_ref().map(|answer| context! { role => "assistant", content => answer }));
        }
        let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
        let today: ZonedDateTime = TODAY.parse().map_err(|error: jiff::Error| refused(error.to_string()))?;
        chat.render_at(&conversation, today).map_err(|error| refused(error.to_string()))
    }

    /// Tokens of a whole text: with what the tokenizer puts in front, unless it stands there already.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Flaw> {
        let begun = !self.start.is_empty() && text.starts_with(&self.start);
        let tokens = if begun { self.tokenizer.encode(text) } else { self.tokenizer.encode_prompt(text) };
        tokens.map_err(|error| Flaw::Refused { reason: error.to_string() })
    }

    /// Tokens of a prompt and of what follows it, read as one text. White space at the end of the prompt belongs to what follows:
    /// so do tokenizers take it, which join a space with the word behind it.
    pub(crate) fn encode_pair(&self, prompt: &str, following: &str) -> Result<(Vec<u32>, Vec<u32>), Flaw> {
        let before = self.encode(prompt.trim_end())?;
        let whole = self.encode(&format!("{prompt}{following}"))?;
        // Where the border falls into a token, that token counts as the prompt's.
        let following = whole.get(before.len()..).unwrap_or_default().to_vec();
        Ok((before, following))
    }
}
