//! Language modelling of text of one's own: perplexity over files.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Documents, Example, Metric, Question, Split, Task};
use crate::error::EvalError;
use crate::reader::Reader;
use crate::records::{Collection, Splits};

/// Perplexity over files, as one writes it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TextConfig {
    /// UTF-8 files. Divided, it is their windows that go to splits.
    pub files: Splits,
    /// Tokens predicted in a window.
    pub length: usize,
    /// Token or text in front of each file, from which its first token is predicted; empty for none: then it is not predicted.
    pub start: String,
}

/// Windows that cover the files: every token counts in exactly one of them.
#[derive(Debug)]
pub struct Text {
    questions: Collection,
}

impl Text {
    /// Reads the files of the task `name`; as many windows as `wanted` must be there to choose and to report on.
    ///
    /// # Errors
    /// If a file cannot be read, is empty or no text, if there are too few windows, or if they are longer than the model's context.
    pub fn open(name: &str, config: &TextConfig, wanted: &[(Split, usize)], reader: &Reader) -> Result<Self, EvalError> {
        let what = || format!("task \"{name}\"");
        if let Some(available) = reader.context.filter(|&available| available < config.length) {
            return Err(EvalError::ContextTooLong { what: what(), wanted: config.length, available });
        }
        let start = reader.tokenizer.encode(&config.start)?;
        let mut questions = Vec::new();
        for (index, (path, split)) in config.files.files().into_iter().enumerate() {
            let bytes = std::fs::read(path).map_err(|source| EvalError::Io { path: path.into(), source })?;
            let text = std::str::from_utf8(&bytes).map_err(|error| EvalError::File {
                path: path.into(),
                reason: format!("is no UTF-8 text at byte {}", error.valid_up_to()),
            })?;
            let mut tokens = start.clone();
            tokens.extend(reader.tokenizer.encode(text)?);
            if tokens.len() < 2 || text.is_empty() {
                return Err(EvalError::NoText { paths: vec![path.into()] });
            }
            for (window, example) in windows(&tokens, config.length).into_iter().enumerate() {
                let id = format!("{index}/{window}");
                questions.push((split.unwrap_or_else(|| config.files.of(&id)), Question::single(id, example)));
            }
        }
        Ok(Self { questions: Collection::new(what(), questions, wanted)? })
    }
}

impl Task for Text {
    fn metric(&self) -> Metric {
        Metric::Probability
    }

    /// # Panics
    /// If the split is empty.
    fn example(&self, split: Split, random: &mut ChaCha8Rng) -> Example {
        self.questions.draw(split, random).expect("a split that examples are asked of is not empty")
    }

    fn questions(&self, _name: &str, split: Split, count: usize) -> Vec<Question> {
        self.questions.first(split, count)
    }

    fn content(&self) -> String {
        self.questions.content()
    }
}

impl Documents for Text {
    /// No token matters more than another.
    fn document(&self, _length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let Example { tokens, .. } = self.questions.draw(Split::Training, random)?;
        Ok(Example { tokens, ..Example::default() })
    }
}

/// Windows of at most `length` predictions, which read as many tokens; the last one begins earlier, to be as long as the others.
fn windows(tokens: &[u32], length: usize) -> Vec<Example> {
    let mut windows = Vec::new();
    let mut done = 1;
    while done < tokens.len() {
        let end = (done + length).min(tokens.len());
        let begin = end.saturating_sub(length + 1);
        windows.push(Example { tokens: tokens[begin..end].to_vec(), labelled: (done - begin..end - begin).collect(), class: None });
        done = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn every_token_but_the_first_counts_once() {
        for (count, length) in [(2, 4), (5, 4), (6, 4), (9, 4), (11, 4), (12, 1)] {
            let tokens: Vec<u32> = (0..count).collect();
            let found = windows(&tokens, length);
            let predicted: Vec<u32> = found.iter().flat_map(|window| window.labelled.iter().map(|&at| window.tokens[at])).collect();
            assert_eq!(predicted, tokens[1..], "{count} by {length}");
            for window in &found {
                assert!(window.labelled[0] > 0 && window.tokens.len() <= length + 1);
                assert!(window.tokens.len() == length + 1 || found.len() == 1, "{window:?}");
            }
        }
    }
}
