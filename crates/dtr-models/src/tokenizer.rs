//! Text to tokens and back, checked against the model it is used with.

use std::path::{Path, PathBuf};

use crate::error::CheckpointError;

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
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| wrong(format!("not a usable tokenizer.json: {error}")))?;
        let largest = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if largest > vocabulary {
            return Err(wrong(format!(
                "the tokenizer has {largest} tokens, expected at most {vocabulary}, the rows of the model's embedding. Use the tokenizer that belongs to this model"
            )));
        }
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

    /// Text of `tokens`, special tokens included.
    ///
    /// # Errors
    /// If a token is unknown.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, CheckpointError> {
        self.inner.decode(tokens, false).map_err(|error| self.wrong(&error.to_string()))
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
