//! From a body to what the model is to do: every parameter is honoured or refused, none ignored that would change the answer.

use std::collections::BTreeMap;

use dtr_models::generate::{Sampling, Sequence};
use minijinja::Value;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::ApiError;
use crate::{Served, now};

/// Stop strings a request may name.
const STOPS: usize = 16;
/// Likeliest tokens whose log-probabilities a request may ask for.
pub const TOP_LOGPROBS: i64 = 20;

/// A request, of either kind; which parameters go with which kind is checked afterwards.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) messages: Option<Vec<Value>>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) chat_template_kwargs: Option<BTreeMap<String, Value>>,
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_completion_tokens: Option<i64>,
    pub(crate) n: Option<i64>,
    pub(crate) echo: Option<bool>,
    pub(crate) logprobs: Option<Logprobs>,
    pub(crate) top_logprobs: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    skip_special_tokens: Option<bool>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    best_of: Option<i64>,
    logit_bias: Option<BTreeMap<String, f32>>,
    suffix: Option<String>,
    tool_choice: Option<Value>,
    response_format: Option<BTreeMap<String, Value>>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
}

/// One prompt or several, as text or as tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "prompt must be a text, a list of texts, a list of tokens or a list of such lists")]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One list of tokens.
    Tokens(Vec<u32>),
    /// Several lists of tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// A number for completions, a switch for chats.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "logprobs must be a whole number for completions, true or false for chats")]
pub enum Logprobs {
    /// For chats.
    Wanted(bool),
    /// So many of the likeliest tokens.
    Top(i64),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "stop must be a text or a list of texts")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StreamOptions {
    include_usage: bool,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<IgnoredAny>,
}

/// What is common to both kinds of request.
#[derive(Debug, Clone)]
pub struct Wish {
    /// One for each choice: those of the first prompt, then those of the second.
    pub sequences: Vec<Sequence>,
    /// Whether the answer comes piece by piece.
    pub stream: bool,
    /// Whether a stream ends with the number of tokens.
    pub include_usage: bool,
    /// Strings in front of which a text ends.
    pub stops: Vec<String>,
    /// Whether special tokens are left out of the text.
    pub skip_special: bool,
    /// Choices of each prompt.
    pub choices: usize,
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
}

/// Which scores are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scores {
    /// Of the chosen tokens and so many of the likeliest.
    pub top: Option<usize>,
    /// Of the prompt as well.
    pub prompt: bool,
}

/// A whole number within a range.
pub(crate) fn whole(
    param: &'static str,
    value: Option<i64>,
    default: usize,
    range: std::ops::RangeInclusive<i64>,
) -> Result<usize, ApiError> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value as usize),
        Some(value) => {
            Err(ApiError::parameter(param, format!("must be a whole number from {} to {}, found {value}", range.start(), range.end())))
        }
    }
}

fn refuse(param: &'static str, given: bool) -> Result<(), ApiError> {
    if given { Err(ApiError::parameter(param, "is not supported by this server; leave it out")) } else { Ok(()) }
}

impl Request {
    /// Reads a body, and checks that it is meant for this model.
    ///
    /// # Errors
    /// If it is not JSON of the right shape, or names another model.
    pub fn parse(body: &[u8], served: &Served) -> Result<Self, ApiError> {
        let request: Self = serde_json::from_slice(body).map_err(|error| ApiError::Body(error.to_string()))?;
        match &request.model {
            Some(model) if *model == served.name => {}
            Some(model) => return Err(ApiError::Model { found: model.clone(), served: served.name.clone() }),
            None => return Err(ApiError::parameter("model", format!("is missing; this server has \"{}\"", served.name))),
        }
        refuse("presence_penalty", request.presence_penalty.is_some_and(|value| value != 0.0))?;
        refuse("frequency_penalty", request.frequency_penalty.is_some_and(|value| value != 0.0))?;
        refuse("logit_bias", request.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()))?;
        refuse("suffix", request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()))?;
        refuse("best_of", request.best_of.is_some_and(|best| Some(best) != request.n.or(Some(1))))?;
        refuse("tool_choice", request.tool_choice.as_ref().is_some_and(|choice| !matches!(choice.as_str(), Some("auto" | "none"))))?;
        let text = |format: &BTreeMap<String, Value>| format.get("type").and_then(Value::as_str) == Some("text");
        refuse("response_format", request.response_format.as_ref().is_some_and(|format| !text(format)))?;
        Ok(request)
    }

    /// What the model is to do with `prompts`, each a list of tokens; `default` is how many tokens are added where the request does not say.
    ///
    /// # Errors
    /// If a parameter is outside of its range, or there is more to do than the server takes.
    pub fn wish(
        &self,
        prompts: Vec<Vec<u32>>,
        max_tokens: Option<i64>,
        default: Option<usize>,
        scores: Scores,
        served: &Served,
    ) -> Result<Wish, ApiError> {
        let limits = served.limits;
        let choices = whole("n", self.n, 1, 1..=(limits.batch + limits.queue) as i64)?;
        if prompts.is_empty() || prompts.len() * choices > limits.batch + limits.queue {
            let most = limits.batch + limits.queue;
            return Err(ApiError::parameter(
                "prompt",
                format!("must stand for 1 to {most} sequences, found {} times n = {choices}", prompts.len()),
            ));
        }
        let stops = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        };
        if stops.len() > STOPS {
            return Err(ApiError::parameter("stop", format!("must be at most {STOPS} strings, found {}", stops.len())));
        }
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            // As elsewhere, -1 and 0 stand for all tokens.
            top_k: Some(whole("top_k", self.top_k.filter(|&count| count != -1), 0, 0..=i64::from(u32::MAX))?).filter(|&count| count > 0),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            seed: self.seed.map_or_else(|| now().as_nanos() as u64, |seed| seed as u64),
        }
        .check()?;
        let mut sequences = Vec::with_capacity(prompts.len() * choices);
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(ApiError::parameter("prompt", "must have at least one token"));
            }
            if let Some(token) = prompt.iter().find(|&&token| token as usize >= served.vocabulary) {
                return Err(ApiError::parameter("prompt", format!("has token {token}, the vocabulary ends at {}", served.vocabulary - 1)));
            }
            let room = limits.tokens.saturating_sub(prompt.len());
            let count = whole("max_tokens", max_tokens, default.unwrap_or(room), 0..=i64::from(u32::MAX))?;
            if count > room || (room == 0 && max_tokens.is_none()) {
                return Err(ApiError::Context { prompt: prompt.len(), new: count, limit: limits.tokens });
            }
            sequences.extend((0..choices).map(|choice| Sequence {
                prompt: prompt.clone(),
                sampling,
                stream: choice as u64,
                count,
                stop: served.end_tokens.clone(),
                scores: scores.top,
                score_prompt: scores.prompt,
            }));
        }
        Ok(Wish {
            sequences,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.as_ref().is_some_and(|options| options.include_usage),
            stops,
            skip_special: self.skip_special_tokens.unwrap_or(true),
            choices,
            prompt_tokens,
        })
    }
}

/// Refuses parameters of the other kind of request.
pub(crate) fn refuse_others(others: &[(&'static str, bool)]) -> Result<(), ApiError> {
    match others.iter().find(|(_, given)| *given) {
        Some((param, _)) => Err(ApiError::parameter(param, "does not go with this kind of request")),
        None => Ok(()),
    }
}
