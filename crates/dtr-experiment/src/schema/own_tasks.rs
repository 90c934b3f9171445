//! What the types of a task from files of one's own cannot say.

use std::path::Path;

use dtr_eval::records::Splits;
use dtr_eval::task::{Answer, JsonLinesConfig};

use super::validate::Checker;
use crate::error::Error;

impl Checker<'_> {
    /// Checks the task at `key`, and makes its paths canonical.
    pub(super) fn json_lines(&self, key: &[&str], config: &mut JsonLinesConfig, directory: &Path) -> Result<(), Error> {
        let inside = |more: &[&'static str]| [key, more].concat();
        self.splits(&inside(&["files"]), &mut config.files, directory)?;
        if let Some(few) = &config.few_shot {
            self.positive(&inside(&["few-shot", "examples"]), few.examples)?;
        }
        if let Some(context) = config.context {
            self.positive(&inside(&["context"]), context)?;
        }
        match &config.answer {
            Answer::Choices { texts, .. } => {
                self.not_empty(&inside(&["answer", "choices", "texts"]), texts.is_empty(), "at least one text")
            }
            Answer::Labels { tokens, .. } => {
                let key = inside(&["answer", "labels", "tokens"]);
                self.require(tokens.len() >= 2, &key, "at least two labels to tell apart", &tokens.len(), "add labels")?;
                self.unique(&key, tokens.values().map(String::as_str))
            }
            Answer::Exact { .. } => Ok(()),
            Answer::Generate { max_tokens, stop, .. } => {
                self.positive(&inside(&["answer", "generate", "max-tokens"]), *max_tokens)?;
                let key = inside(&["answer", "generate", "stop"]);
                let empty = stop.iter().any(String::is_empty);
                self.require(!empty, &key, "texts that end an answer", &"an empty string", "write stop = [] for none")
            }
        }
    }

    /// Checks where examples come from, and makes the paths canonical.
    pub(super) fn splits(&self, key: &[&str], splits: &mut Splits, directory: &Path) -> Result<(), Error> {
        if let Splits::Divided { validation, test, .. } = *splits {
            for (name, share) in [("validation", validation), ("test", test)] {
                let key = [key, &["divided", name]].concat();
                self.require((0.0..=1.0).contains(&share), &key, "a share from 0 to 1", &share, "write 0.1 for a tenth")?;
            }
            let key = [key, &["divided", "test"]].concat();
            let (sum, remedy) = (validation + test, "what the shares leave is for training");
            self.require(sum <= 1.0, &key, "a share that leaves validation and test at most 1 together", &sum, remedy)?;
        }
        let files = splits.files_mut();
        self.not_empty(key, files.is_empty(), "at least one file")?;
        files.into_iter().try_for_each(|file| self.file(key, file, directory))
    }
}
