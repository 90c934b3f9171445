//! From the fields of an example to a question: prompt and answers as texts, then as tokens that fit the context.

use dtr_models::CheckpointError;
use serde_json::Value;

use super::json_lines::{Answer, JsonLinesConfig, Normalise, TooLong};
use super::{Example, Question};
use crate::flaw::Flaw;
use crate::reader::{Reader, Turn};
use crate::records::Record;
use crate::template::{Fields, Template};

/// Makes questions of records.
pub(super) struct Writer<'a> {
    pub config: &'a JsonLinesConfig,
    pub reader: &'a Reader,
    /// Tokens the model reads at most.
    pub context: usize,
}

impl Writer<'_> {
    /// An example with its right answer, to be shown.
    pub fn turn(&self, fields: &Fields) -> Result<Turn, Flaw> {
        let (texts, right) = self.answers(fields)?;
        Ok(Turn { prompt: self.config.prompt.render(fields)?, answer: Some(texts[right].clone()) })
    }

    /// The answers of an example, and which one is right.
    fn answers(&self, fields: &Fields) -> Result<(Vec<String>, usize), Flaw> {
        let (texts, right) = match &self.config.answer {
            Answer::Choices { texts, right, .. } => {
                let texts = texts.iter().map(|text| text.texts(fields)).collect::<Result<Vec<_>, _>>()?.concat();
                if texts.len() < 2 {
                    return Err(Flaw::TooFewChoices { found: texts.len() });
                }
                let right = right_choice(&texts, right, fields)?;
                (texts, right)
            }
            Answer::Labels { tokens, right } => {
                let found = right.render(fields)?;
                let token = tokens.get(&found).ok_or_else(|| Flaw::NoSuchAnswer {
                    found: format!("{found:?}"),
                    expected: format!("one of the labels {}", tokens.keys().cloned().collect::<Vec<_>>().join(", ")),
                })?;
                (vec![token.clone()], 0)
            }
            Answer::Exact { target } => (vec![target.render(fields)?], 0),
            Answer::Generate { target, stop, .. } => {
                let texts = target.texts(fields)?;
                let stop = |text: &String| stop.iter().find(|stop| text.contains(stop.as_str())).cloned();
                if let Some(stop) = texts.iter().find_map(stop) {
                    return Err(Flaw::StopInAnswer { stop });
                }
                (texts, 0)
            }
        };
        if texts.is_empty() || texts.iter().any(|text| text.trim().is_empty()) {
            return Err(Flaw::EmptyAnswer);
        }
        Ok((texts, right))
    }

    /// The question, and whether its prompt was cut.
    pub fn question(&self, record: &Record, shots: &[Turn]) -> Result<(Question, bool), Flaw> {
        let (texts, right) = self.answers(&record.fields)?;
        let prompt = self.prompt(&record.fields, shots)?;
        let delimiter = if self.config.chat { "" } else { self.config.delimiter.as_str() };
        let mut question = Question { id: record.id.clone(), answers: Vec::new(), lengths: Vec::new(), right, references: Vec::new() };
        let mut cut = false;
        let mut add = |before: Vec<u32>, answer: Vec<u32>, room: usize| {
            let (example, shorter) = self.example(before, answer, room)?;
            cut |= shorter;
            question.lengths.push(example.labelled.len());
            question.answers.push(example);
            Ok(())
        };
        match &self.config.answer {
            Answer::Choices { .. } | Answer::Exact { .. } => {
                for text in &texts {
                    let (before, answer) = self.reader.encode_pair(&prompt, &format!("{delimiter}{text}"))?;
                    let room = answer.len().saturating_sub(1);
                    add(before, answer, room)?;
                }
            }
            Answer::Labels { .. } if self.reader.is_encoder() => {
                let (text, cut) = self.classified(&format!("{prompt}{delimiter}"), &texts[0])?;
                return Ok((Question::single(record.id.clone(), text), cut));
            }
            // One token, whatever stands before it.
            Answer::Labels { .. } => add(self.reader.encode(&format!("{prompt}{delimiter}"))?, self.plain(&texts[0])?, 0)?,
            Answer::Generate { max_tokens, .. } => {
                let answer = self.plain(&format!("{delimiter}{}", texts[0]))?;
                let room = answer.len().max(*max_tokens);
                add(self.reader.encode(&prompt)?, answer, room)?;
                question.references = texts;
                return Ok((question, cut));
            }
        }
        if let Answer::Choices { normalise, .. } = self.config.answer {
            for (length, text) in question.lengths.iter_mut().zip(&texts) {
                *length = match normalise {
                    Normalise::Nothing => 1,
                    Normalise::Tokens => *length,
                    Normalise::Characters => text.chars().count(),
                    Normalise::Bytes => text.len(),
                };
            }
        }
        Ok((question, cut))
    }

    /// A text of this class for an encoder to read, and whether it was cut.
    fn classified(&self, text: &str, class: &str) -> Result<(Example, bool), Flaw> {
        let refused = |error: CheckpointError| Flaw::Refused { reason: error.to_string() };
        let mut tokens = self.reader.tokenizer.encode_prompt(text).map_err(refused)?;
        let cut = tokens.len() > self.context;
        if cut && self.config.too_long == TooLong::Refuse {
            return Err(Flaw::PromptTooLong { tokens: tokens.len(), context: self.context });
        }
        if cut {
            tokens = self.reader.tokenizer.encode_within(text, self.context).map_err(refused)?;
        }
        if tokens.is_empty() {
            return Err(Flaw::EmptyPrompt);
        }
        Ok((Example { tokens, labelled: Vec::new(), class: self.reader.class(class) }, cut))
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>, Flaw> {
        self.reader.tokenizer.encode(text).map_err(|error| Flaw::Refused { reason: error.to_string() })
    }

    fn prompt(&self, fields: &Fields, shots: &[Turn]) -> Result<String, Flaw> {
        let prompt = self.config.prompt.render(fields)?;
        if self.config.chat {
            let mut turns: Vec<Turn> = shots.to_vec();
            turns.push(Turn { prompt, answer: None });
            return self.reader.converse(&turns);
        }
        let separator = self.config.few_shot.as_ref().map_or("", |few| few.separator.as_str());
        let mut text = String::new();
        for shot in shots {
            for part in [&shot.prompt, &self.config.delimiter, shot.answer.as_deref().unwrap_or(""), separator] {
                text.push_str(part);
            }
        }
        Ok(text + &prompt)
    }

    /// Prompt and answer in one sequence, in which the prompt leaves `room` tokens of the context free.
    fn example(&self, mut before: Vec<u32>, answer: Vec<u32>, room: usize) -> Result<(Example, bool), Flaw> {
        if answer.is_empty() {
            return Err(Flaw::EmptyAnswer);
        }
        if before.is_empty() {
            return Err(Flaw::EmptyPrompt);
        }
        if room >= self.context {
            return Err(Flaw::AnswerTooLong { tokens: room.max(answer.len()), context: self.context });
        }
        let excess = (before.len() + room).saturating_sub(self.context);
        if excess > 0 {
            if self.config.too_long == TooLong::Refuse {
                return Err(Flaw::PromptTooLong { tokens: before.len() + room, context: self.context });
            }
            before.drain(..excess);
        }
        let labelled = (before.len()..before.len() + answer.len()).collect();
        before.extend(answer);
        Ok((Example { tokens: before, labelled, class: None }, excess > 0))
    }
}

/// Place of the right choice.
fn right_choice(texts: &[String], right: &Template, fields: &Fields) -> Result<usize, Flaw> {
    let none = |found: String, expected: String| Flaw::NoSuchAnswer { found, expected };
    if let Some((_, Value::Number(number))) = right.value(fields)? {
        let place = number.as_u64().and_then(|place| usize::try_from(place).ok()).filter(|&place| place < texts.len());
        return place.ok_or_else(|| none(number.to_string(), format!("a place from 0 to {}", texts.len() - 1)));
    }
    let found = right.render(fields)?;
    texts.iter().position(|text| *text == found).ok_or_else(|| none(format!("{found:?}"), "one of the choices".into()))
}
