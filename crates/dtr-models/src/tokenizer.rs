//! Text to tokens and back, checked against the model it is used with.

use std::path::{Path, PathBuf};

use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper, TruncationDirection,
};

use crate::error::CheckpointError;

/// Decodes tokens that come one by one into text that is whole characters.
pub struct TextDecoder<'a> {
    stream: tokenizers::DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
    tokenizer: &'a Tokenizer,
}

impl TextDecoder<'_> {
    /// The text that one more token makes certain.
    ///
    /// # Errors
    /// If the token is unknown.
    pub fn push(&mut self, token: u32) -> Result<String, CheckpointError> {
        let text = self.stream.step(token).map_err(|error| self.tokenizer.wrong(&error.to_string()))?;
        Ok(text.unwrap_or_default())
    }
}

/// The tokenizer of a model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `directory`; `vocabulary` is the number of rows of the model's embedding.
    ///
    /// # Errors
    /// If the file cannot be read, or can produce tokens that the model has no embedding for.
    pub fn load(directory: &Path, vocabulary: usize) -> Result<Self, CheckpointError> {
        let path = directory.join("tokenizer.json");
        let wrong = |reason: String| CheckpointError::Tokenizer { path: path.clone(), reason };
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| wrong(format!("not a usable tokenizer.json: {error}")))?;
        let largest = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if largest > vocabulary {
            return Err(wrong(format!(
                "the tokenizer has {largest} tokens, expected at most {vocabulary}, the rows of the model's embedding. Use the tokenizer that belongs to this model"
            )));
        }
        // Files of encoders cut texts and fill them up: batches are made elsewhere, and nothing is cut unasked.
        inner.with_padding(None).with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { inner, path })
    }

    /// Tokens of `text`, nothing added.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        let encoded = self.inner.encode(text, false).map_err(|error| self.wrong(&error.to_string()))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Tokens of `text` as a prompt: with what the tokenizer puts in front of or behind a text by itself, such as a begin token.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        let encoded = self.inner.encode(text, true).map_err(|error| self.wrong(&error.to_string()))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Tokens of `text` as [`Self::encode_prompt`] has them, at most `most` of them: it is the text that is cut at its end, not what is put
    /// around it.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_within(&self, text: &str, most: usize) -> Result<Vec<u32>, CheckpointError> {
        let refused = |error: tokenizers::Error| self.wrong(&error.to_string());
        let around = self.inner.get_post_processor().map_or(0, |around| around.added_tokens(false));
        let mut encoded = self.inner.encode(text, false).map_err(refused)?;
        encoded.truncate(most.saturating_sub(around), 0, TruncationDirection::Right);
        let encoded = self.inner.post_process(encoded, None, true).map_err(refused)?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Text of `tokens`, special tokens included.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, CheckpointError> {
        self.decode_with(tokens, false)
    }

    /// Text of `tokens`, special tokens left out if `skip_special`.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn decode_with(&self, tokens: &[u32], skip_special: bool) -> Result<String, CheckpointError> {
        self.inner.decode(tokens, skip_special).map_err(|error| self.wrong(&error.to_string()))
    }

    /// Text of tokens that come one by one; special tokens are left out if `skip_special`.
    pub fn stream(&self, skip_special: bool) -> TextDecoder<'_> {
        TextDecoder { stream: self.inner.decode_stream(skip_special), tokenizer: self }
    }

    /// The text of one token. Where it is no whole character, the vocabulary's own spelling of it, which no other token has.
    pub fn piece(&self, token: u32) -> String {
        match self.inner.decode(&[token], false) {
            Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => text,
            _ => self.inner.id_to_token(token).unwrap_or_default(),
        }
    }

    /// The token that is exactly `text`.
    ///
    /// # Errors
    /// If there is none.
    pub fn token(&self, text: &str) -> Result<u32, CheckpointError> {
        self.inner
            .token_to_id(text)
            .ok_or_else(|| self.wrong(&format!("\"{text}\" is not a token of this tokenizer. Name a token that it has")))
    }

    /// Tokens that are text by themselves, in the order of ids: neither added ones, special or not, nor parts of characters.
    pub fn plain_tokens(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let text =
            |id: u32| self.inner.decode(&[id], false).is_ok_and(|text| !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER));
        let mut ids: Vec<u32> = self.inner.get_vocab(false).into_values().filter(|id| !added.contains_key(id) && text(*id)).collect();
        ids.sort_unstable();
        ids
    }

    fn wrong(&self, reason: &str) -> CheckpointError {
        CheckpointError::Tokenizer { path: self.path.clone(), reason: reason.into() }
    }
}
