//! Examples in files, one JSON object a line: read whole, checked line by line, divided into splits.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EvalError;
use crate::flaw::{Flaw, Place};
use crate::random::{fnv1a, stream};
use crate::task::{Example, Question, Split};
use crate::template::{Fields, kind};

/// Where the splits of a task come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Splits {
    /// Each from files of its own.
    Split {
        /// Distilled on, and shown in front of a prompt.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        training: Vec<PathBuf>,
        /// Chosen on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        validation: Vec<PathBuf>,
        /// Reported on.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        test: Vec<PathBuf>,
    },
    /// All from the same files, by a hash of the example's id: it stays in its split when others come or go.
    Divided {
        /// The files.
        files: Vec<PathBuf>,
        /// Share to choose on.
        validation: f64,
        /// Share to report on. What remains is distilled on.
        test: f64,
    },
}

impl Splits {
    /// All files, for whoever resolves their paths.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Split { training, validation, test } => training.iter_mut().chain(validation).chain(test).collect(),
            Self::Divided { files, .. } => files.iter_mut().collect(),
        }
    }

    /// All files, each with the split that all of it belongs to, if there is one.
    pub(crate) fn files(&self) -> Vec<(&Path, Option<Split>)> {
        match self {
            Self::Split { training, validation, test } => {
                let lists = [(training, Split::Training), (validation, Split::Validation), (test, Split::Test)];
                lists.into_iter().flat_map(|(paths, split)| paths.iter().map(move |path| (path.as_path(), Some(split)))).collect()
            }
            Self::Divided { files, .. } => files.iter().map(|path| (path.as_path(), None)).collect(),
        }
    }

    /// Split of what has this id and lies in no split's own file.
    pub(crate) fn of(&self, id: &str) -> Split {
        let Self::Divided { validation, test, .. } = *self else { return Split::Training };
        match stream(&format!("split/{id}")).random::<f64>() {
            place if place < validation => Split::Validation,
            place if place < validation + test => Split::Test,
            _ => Split::Training,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub id: String,
    pub split: Split,
    pub place: Place,
    pub fields: Fields,
}

/// All lines that are examples, and those that are none.
pub(crate) struct Records {
    pub records: Vec<Record>,
    pub flaws: Vec<(Place, Flaw)>,
}

/// Reads all lines. Empty ones are none. `id` is the field that names an example; without it, what stands in the line does.
pub(crate) fn read(splits: &Splits, id: Option<&str>) -> Result<Records, EvalError> {
    let (mut records, mut flaws) = (Vec::new(), Vec::new());
    let mut first: HashMap<String, Place> = HashMap::new();
    for (path, split) in splits.files() {
        let bytes = std::fs::read(path).map_err(|source| EvalError::Io { path: path.into(), source })?;
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = Place::new(path, index + 1);
            let found = fields(line).and_then(|fields| Ok((name(&fields, id, line)?, fields)));
            let (id, fields) = match found {
                Ok(found) => found,
                Err(flaw) => {
                    flaws.push((place, flaw));
                    continue;
                }
            };
            if let Some(first) = first.get(&id) {
                flaws.push((place, Flaw::DuplicateId { id, first: first.to_string() }));
                continue;
            }
            first.insert(id.clone(), place.clone());
            records.push(Record { split: split.unwrap_or_else(|| splits.of(&id)), id, place, fields });
        }
    }
    Ok(Records { records, flaws })
}

fn fields(line: &[u8]) -> Result<Fields, Flaw> {
    let text = std::str::from_utf8(line).map_err(|error| Flaw::NotUtf8 { byte: error.valid_up_to() })?;
    match serde_json::from_str(text).map_err(|error| Flaw::NotJson { reason: error.to_string() })? {
        Value::Object(fields) => Ok(fields),
        other => Err(Flaw::NotAnObject { found: kind(&other) }),
    }
}

fn name(fields: &Fields, id: Option<&str>, line: &[u8]) -> Result<String, Flaw> {
    let Some(field) = id else { return Ok(format!("{:016x}", fnv1a(line.trim_ascii()))) };
    match fields.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(Flaw::WrongType { field: field.into(), found: kind(other), expected: "text or a number" }),
        None => Err(Flaw::MissingField { field: field.into() }),
    }
}

/// The questions of a task that are in files: each split's in an order that depends on their ids alone, so that a file that is sorted by
/// class does no harm.
#[derive(Debug)]
pub(crate) struct Collection {
    what: String,
    splits: BTreeMap<Split, Vec<Question>>,
    content: String,
}

impl Collection {
    /// The questions of the task `what`; as many as `wanted` must be there.
    ///
    /// # Errors
    /// If there are too few.
    pub fn new(what: String, questions: Vec<(Split, Question)>, wanted: &[(Split, usize)]) -> Result<Self, EvalError> {
        let place = |(split, question): (Split, Question)| (stream(&format!("order/{}", question.id)).random::<u64>(), split, question);
        let mut placed: Vec<_> = questions.into_iter().map(place).collect();
        placed.sort_by_key(|(place, ..)| *place);
        let mut splits: BTreeMap<Split, Vec<Question>> = BTreeMap::new();
        for (_, split, question) in placed {
            splits.entry(split).or_default().push(question);
        }
        for &(split, wanted) in wanted {
            let found = splits.get(&split).map_or(0, Vec::len);
            if found < wanted {
                return Err(EvalError::TooFewExamples { split: split.name(), what, found, wanted });
            }
        }
        let content = content(&splits);
        Ok(Self { what, splits, content })
    }

    /// The first questions of a split.
    pub fn first(&self, split: Split, count: usize) -> Vec<Question> {
        self.splits.get(&split).into_iter().flatten().take(count).cloned().collect()
    }

    /// Draws the right answer of a question of a split.
    ///
    /// # Errors
    /// If the split is empty.
    pub fn draw(&self, split: Split, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        Ok(self.draw_question(split, random)?.example().clone())
    }

    /// Draws a question of a split.
    ///
    /// # Errors
    /// If the split is empty.
    pub fn draw_question(&self, split: Split, random: &mut ChaCha8Rng) -> Result<&Question, EvalError> {
        let drawn = self.splits.get(&split).and_then(|questions| questions.choose(random));
        let empty = || EvalError::TooFewExamples { split: split.name(), what: self.what.clone(), found: 0, wanted: 1 };
        drawn.ok_or_else(empty)
    }

    /// Stands for all that the questions are: their files, and what tokenizer and chat template make of them.
    pub fn content(&self) -> String {
        self.content.clone()
    }
}

fn content(questions: &BTreeMap<Split, Vec<Question>>) -> String {
    let mut hash = 0;
    for (split, question) in questions.iter().flat_map(|(split, questions)| questions.iter().map(move |question| (split, question))) {
        hash = fnv1a(format!("{hash} {split:?} {question:?}"));
    }
    format!("{hash:016x}")
}
