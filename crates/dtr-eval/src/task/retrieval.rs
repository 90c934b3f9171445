//! Retrieval for encoders: a query, and the one document of a pool that answers it. From files of one's own, or from any list of pairs.

use std::collections::BTreeMap;

use dtr_models::Pooling;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Documents, Example, Metric, Question, Split, Task};
use crate::error::EvalError;
use crate::flaw::{Flaw, Flaws};
use crate::reader::Reader;
use crate::records::{self, Collection, Splits};
use crate::retrieval::Measure;
use crate::template::Template;

/// A retrieval task from files of one's own, as one writes it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Where the pairs are: a JSON object a line.
    pub files: Splits,
    /// Field that names a pair; if it is not said, what stands in its line names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is looked for.
    pub query: Template,
    /// The right document.
    pub document: Template,
    /// How the rank of the right document is judged.
    pub measure: Measure,
}

/// A query and its document, before they are tokens.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub id: String,
    pub split: Split,
    pub query: String,
    pub document: String,
}

/// A retrieval task over one encoder's tokens. The pool of a query is made of the documents of all questions that are scored together.
#[derive(Debug)]
pub struct Retrieval {
    measure: Measure,
    pooling: Pooling,
    questions: Collection,
    truncated: BTreeMap<Split, usize>,
}

impl Retrieval {
    /// Reads and checks all pairs of the task `name`; as many as `wanted` must be there to choose and to report on.
    ///
    /// # Errors
    /// If the model is no encoder, a file cannot be read, or lines are no pairs or there are too few of them.
    pub fn open(name: &str, config: &RetrievalConfig, wanted: &[(Split, usize)], reader: &Reader) -> Result<Self, EvalError> {
        let mut found = records::read(&config.files, config.id.as_deref())?;
        let mut pairs = Vec::new();
        for record in found.records {
            let texts = config.query.render(&record.fields).and_then(|query| Ok((query, config.document.render(&record.fields)?)));
            match texts {
                Ok((query, _)) if query.trim().is_empty() => found.flaws.push((record.place, Flaw::EmptyPrompt)),
                Ok((_, document)) if document.trim().is_empty() => found.flaws.push((record.place, Flaw::EmptyAnswer)),
                Ok((query, document)) => pairs.push(Pair { id: record.id, split: record.split, query, document }),
                Err(flaw) => found.flaws.push((record.place, flaw)),
            }
        }
        if !found.flaws.is_empty() {
            return Err(EvalError::BadExamples { what: format!("task \"{name}\""), flaws: Flaws(found.flaws) });
        }
        Self::new(name, pairs, config.measure, wanted, reader)
    }

    /// A task of these pairs. Texts that are longer than the encoder reads are cut at their end, and counted.
    pub(super) fn new(
        name: &str,
        pairs: Vec<Pair>,
        measure: Measure,
        wanted: &[(Split, usize)],
        reader: &Reader,
    ) -> Result<Self, EvalError> {
        let what = format!("task \"{name}\"");
        let pooling = reader.pooling.ok_or_else(|| EvalError::NoEncoder { what: what.clone() })?;
        let most = pooling.tokens.unwrap_or(usize::MAX).min(reader.context.unwrap_or(usize::MAX));
        let (mut questions, mut truncated) = (Vec::new(), BTreeMap::new());
        for Pair { id, split, query, document } in pairs {
            let mut cut = false;
            let mut text = |text: &str| -> Result<Example, EvalError> {
                let tokens = reader.tokenizer.encode_within(text, most)?;
                // One that is as long as can be may have been cut; whether it was is told by its length without a limit.
                cut |= tokens.len() == most && reader.tokenizer.encode_prompt(text)?.len() > most;
                Ok(Example { tokens, ..Example::default() })
            };
            let answers = vec![text(&query)?, text(&document)?];
            *truncated.entry(split).or_default() += usize::from(cut);
            questions.push((split, Question { id, answers, lengths: vec![1; 2], right: 1, references: Vec::new() }));
        }
        let questions = Collection::new(what, questions, wanted)?;
        Ok(Self { measure, pooling, questions, truncated })
    }
}

impl Documents for Retrieval {
    /// The query or the document of a pair, as a text by itself.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let question = self.questions.draw_question(Split::Training, random)?;
        Ok(question.answers[random.random_range(0..2)].clone().within(length))
    }
}

impl Task for Retrieval {
    fn metric(&self) -> Metric {
        Metric::Retrieval(self.measure, self.pooling)
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

    fn truncated(&self, split: Split) -> usize {
        self.truncated.get(&split).copied().unwrap_or(0)
    }
}
