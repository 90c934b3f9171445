//! A task from files of one's own: a JSON object a line, a prompt as a template, and one of four kinds of answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::writer::Writer;
use super::{Documents, Example, Metric, Question, Split, Task};
use crate::error::EvalError;
use crate::flaw::Flaws;
use crate::generation::{Generation, TextMetric};
use crate::reader::Reader;
use crate::records::{self, Collection, Record, Splits};
use crate::template::Template;

/// A task from files of one's own, as one writes it down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct JsonLinesConfig {
    /// Where the examples are.
    pub files: Splits,
    /// Field that names an example; if it is not said, what stands in its line names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What stands in front of the answer.
    pub prompt: Template,
    /// What stands between prompt and answer; not in a chat.
    pub delimiter: String,
    /// What is expected, and how it is judged.
    pub answer: Answer,
    /// Examples with their answers in front of each prompt; none, if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    /// Whether prompts are turns of a conversation, put as the model's chat template says.
    #[serde(default)]
    pub chat: bool,
    /// Tokens of the longest prompt with its answer; those of the model, if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// What becomes of prompts that are longer.
    pub too_long: TooLong,
}

/// What is expected of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, rename_all_fields = "kebab-case")]
pub enum Answer {
    /// The likeliest of several texts.
    Choices {
        /// The texts: templates, of which one that is nothing but a field may stand for a list.
        texts: Vec<Template>,
        /// Which one is right: its place, from 0, if this is a number, else its text.
        right: Template,
        /// What log-likelihoods are divided by.
        normalise: Normalise,
    },
    /// The likeliest of several tokens, or of several classes where the model is an encoder with a head for them.
    Labels {
        /// The token of each label, or the name of its class.
        tokens: BTreeMap<String, String>,
        /// The right label.
        right: Template,
    },
    /// A text, each token of which is to be the likeliest; no text is generated to find out.
    Exact {
        /// The text.
        target: Template,
    },
    /// Generated text.
    Generate {
        /// What is right: one text, or a field with a list of them.
        target: Template,
        /// How both are compared.
        metric: TextMetric,
        /// Tokens to generate at most.
        max_tokens: usize,
        /// Texts that end an answer and are no part of it.
        stop: Vec<String>,
    },
}

/// What the log-likelihood of an answer is divided by before it is compared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// 1.
    Nothing,
    /// Its tokens.
    Tokens,
    /// Its characters, without the delimiter.
    Characters,
    /// Its bytes, without the delimiter.
    Bytes,
}

/// Examples in front of a prompt: the first ones of the training split, in the order of its files. They are not distilled on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FewShot {
    /// How many.
    pub examples: usize,
    /// What stands behind each; not in a chat.
    pub separator: String,
}

/// What becomes of prompts that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// The task is refused.
    Refuse,
    /// They lose tokens on the left, those of an encoder on the right, and are counted.
    Truncate,
}

/// A task from files of one's own.
#[derive(Debug)]
pub struct JsonLines {
    metric: Metric,
    questions: Collection,
    truncated: BTreeMap<Split, usize>,
}

impl JsonLines {
    /// Reads and checks all examples of the task `name`; as many as `wanted` must be there to choose and to report on.
    ///
    /// # Errors
    /// If a file cannot be read, lines are no examples or there are too few of them, and if the model lacks what the task asks for.
    pub fn open(name: &str, config: &JsonLinesConfig, wanted: &[(Split, usize)], reader: &Reader) -> Result<Self, EvalError> {
        let what = || format!("task \"{name}\"");
        if config.chat && !reader.has_chat() {
            return Err(EvalError::NoChatTemplate { what: what() });
        }
        let context = match (config.context, reader.context) {
            (Some(wanted), Some(available)) if wanted > available => {
                return Err(EvalError::ContextTooLong { what: what(), wanted, available });
            }
            (wanted, available) => wanted.or(available).unwrap_or(usize::MAX - 1),
        };
        let metric = metric(&what(), config, reader)?;
        let mut found = records::read(&config.files, config.id.as_deref())?;
        let writer = Writer { config, reader, context };
        let shots = config.few_shot.as_ref().map_or(0, |few| few.examples);
        let training = found.records.iter().filter(|record| record.split == Split::Training).count();
        if training < shots {
            let split = Split::Training.name();
            return Err(EvalError::TooFewExamples { split, what: what(), found: training, wanted: shots });
        }
        let mut left = shots;
        let (shown, asked): (Vec<Record>, Vec<Record>) = found.records.into_iter().partition(|record| {
            let taken = left > 0 && record.split == Split::Training;
            left -= usize::from(taken);
            taken
        });
        let mut turns = Vec::new();
        for record in shown {
            match writer.turn(&record.fields) {
                Ok(turn) => turns.push(turn),
                Err(flaw) => found.flaws.push((record.place, flaw)),
            }
        }
        let made: Vec<_> = asked.into_par_iter().map(|record| (writer.question(&record, &turns), record)).collect();
        let (mut questions, mut truncated) = (Vec::new(), BTreeMap::new());
        for (question, record) in made {
            match question {
                Ok((question, cut)) => {
                    *truncated.entry(record.split).or_default() += usize::from(cut);
                    questions.push((record.split, question));
                }
                Err(flaw) => found.flaws.push((record.place, flaw)),
            }
        }
        if !found.flaws.is_empty() {
            return Err(EvalError::BadExamples { what: what(), flaws: Flaws(found.flaws) });
        }
        Ok(Self { metric, questions: Collection::new(what(), questions, wanted)?, truncated })
    }
}

impl Task for JsonLines {
    fn metric(&self) -> Metric {
        self.metric.clone()
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

impl Documents for JsonLines {
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let example = self.questions.draw(Split::Training, random)?;
        Ok(if example.class.is_some() { example.within(length) } else { example })
    }
}

fn metric(what: &str, config: &JsonLinesConfig, reader: &Reader) -> Result<Metric, EvalError> {
    Ok(match &config.answer {
        Answer::Choices { normalise, .. } => Metric::Choice(*normalise),
        Answer::Exact { .. } => Metric::ExactMatch,
        Answer::Generate { metric, max_tokens, stop, .. } => {
            Metric::Generated(Arc::new(Generation::new(metric.clone(), *max_tokens, stop.clone(), reader)))
        }
        Answer::Labels { tokens, .. } if reader.is_encoder() => {
            let class = |name: &String| {
                let unknown = || EvalError::UnknownClass { what: what.into(), name: name.clone(), classes: reader.classes().to_vec() };
                reader.class(name).ok_or_else(unknown)
            };
            Metric::Label(tokens.values().map(class).collect::<Result<_, _>>()?)
        }
        Answer::Labels { tokens, .. } => {
            let token = |label: &String| match reader.tokenizer.encode(label)?.as_slice() {
                [token] => Ok(*token),
                tokens => Err(EvalError::LabelTokens { what: what.into(), label: label.clone(), tokens: tokens.len() }),
            };
            Metric::Label(tokens.values().map(token).collect::<Result<_, _>>()?)
        }
    })
}
