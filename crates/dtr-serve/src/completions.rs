//! `/v1/completions`: texts or tokens continued, with log-probabilities of what is new and, with `echo`, of the prompt.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use dtr_models::generate::TokenScore;
use serde_json::{Map, Value, json};

use crate::Served;
use crate::answer::{self, Head, Piece};
use crate::error::{ApiError, json_body};
use crate::request::{Logprobs, Prompt, Request, Scores, TOP_LOGPROBS, Wish, refuse_others, whole};

/// Tokens added where a request does not say.
const DEFAULT_TOKENS: usize = 16;

/// A request for completions.
#[derive(Debug)]
pub struct Completion {
    wish: Wish,
    /// The text in front of each choice, where it is to be repeated.
    echo: Option<Vec<String>>,
    scored: bool,
}

impl Completion {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is not a request that this server can serve.
    pub fn parse(body: &[u8], served: &Served) -> Result<Self, ApiError> {
        let mut request = Request::parse(body, served)?;
        refuse_others(&[
            ("messages", request.messages.is_some()),
            ("tools", request.tools.is_some()),
            ("chat_template_kwargs", request.chat_template_kwargs.is_some()),
            ("max_completion_tokens", request.max_completion_tokens.is_some()),
            ("top_logprobs", request.top_logprobs.is_some()),
        ])?;
        let top = match request.logprobs {
            None | Some(Logprobs::Wanted(false)) => None,
            Some(Logprobs::Top(top)) => Some(whole("logprobs", Some(top), 0, 0..=TOP_LOGPROBS)?),
            Some(Logprobs::Wanted(true)) => return Err(ApiError::parameter("logprobs", "must be a whole number here, found true")),
        };
        let encode = |text: &String| {
            served.tokenizer.encode_prompt(text).map_err(|error| ApiError::parameter("prompt", format!("cannot be read: {error}")))
        };
        let (prompts, texts) = match request.prompt.take() {
            None => return Err(ApiError::parameter("prompt", "is missing")),
            Some(Prompt::Text(text)) => (vec![encode(&text)?], Some(vec![text])),
            Some(Prompt::Texts(texts)) => (texts.iter().map(encode).collect::<Result<_, _>>()?, Some(texts)),
            Some(Prompt::Tokens(tokens)) => (vec![tokens], None),
            Some(Prompt::TokenLists(lists)) => (lists, None),
        };
        let echo = request.echo.unwrap_or(false);
        let scores = Scores { top, prompt: echo };
        let wish = request.wish(prompts, request.max_tokens, Some(DEFAULT_TOKENS), scores, served)?;
        let shown = |place: usize| match &texts {
            Some(texts) => texts[place / wish.choices].clone(),
            None => served.tokenizer.decode(&wish.sequences[place].prompt).unwrap_or_default(),
        };
        let echo = echo.then(|| (0..wish.sequences.len()).map(shown).collect());
        Ok(Self { wish, echo, scored: top.is_some() })
    }

    /// Lets the model answer.
    ///
    /// # Errors
    /// If the server has no place, or the model's thread ends.
    pub async fn answer(self, served: &Arc<Served>) -> Result<Response, ApiError> {
        let head = Head::new("cmpl", "text_completion", served);
        let pieces = answer::follow(served, &self.wish)?;
        let mut logprobs: Vec<Places> = self.wish.sequences.iter().map(|_| Places::default()).collect();
        let Self { wish, mut echo, scored } = self;
        let served = Arc::clone(served);
        let firsts: Vec<u32> = wish.sequences.iter().map(|sequence| sequence.prompt[0]).collect();
        let mut choice = move |piece: &Piece, streamed: bool| {
            let prompt = echo.as_mut().map(|texts| std::mem::take(&mut texts[piece.choice])).unwrap_or_default();
            let text = prompt + &piece.text;
            let places = &mut logprobs[piece.choice];
            let scores = scored.then(|| {
                let first = (echo.is_some() && places.offset == 0).then(|| firsts[piece.choice]);
                places.logprobs(first, piece.prompt.iter().chain(&piece.scores), &served)
            });
            let quiet = streamed && text.is_empty() && piece.finish.is_none() && !scored;
            (!quiet).then(|| json!({ "index": piece.choice, "text": text, "logprobs": scores, "finish_reason": piece.finish }))
        };
        if wish.stream {
            return Ok(answer::stream(head, wish, pieces, vec![], move |piece| choice(piece, true)));
        }
        let whole = answer::collect(pieces, wish.sequences.len()).await?;
        let choices = whole.iter().filter_map(|piece| choice(piece, false)).collect();
        Ok(json_body(&head.with(choices, Some(answer::usage(&whole, &wish)))).into_response())
    }
}

/// Where the next token of a choice stands in its text, in characters.
#[derive(Debug, Default)]
struct Places {
    offset: usize,
}

impl Places {
    /// The four lists of the protocol. `first` is a token with nothing in front, which therefore has no probability.
    fn logprobs<'a>(&mut self, first: Option<u32>, scores: impl Iterator<Item = &'a TokenScore>, served: &Served) -> Value {
        let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        let mut place = |token: u32| {
            let piece = served.tokenizer.piece(token);
            offsets.push(self.offset);
            self.offset += piece.chars().count();
            tokens.push(piece);
        };
        if let Some(token) = first {
            place(token);
            logprobs.push(None);
            tops.push(Value::Null);
        }
        for score in scores {
            place(score.token);
            logprobs.push(Some(score.logprob));
            let all = score.top.iter().copied().chain([(score.token, score.logprob)]);
            tops.push(all.map(|(token, logprob)| (served.tokenizer.piece(token), json!(logprob))).collect::<Map<_, _>>().into());
        }
        json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
    }
}
