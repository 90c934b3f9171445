//! `/v1/chat/completions`: a conversation, rendered by the model's template and continued.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use dtr_models::chat::Conversation;
use dtr_models::generate::TokenScore;
use minijinja::Value as Data;
use minijinja::value::ValueKind;
use serde_json::{Value, json};

use crate::Served;
use crate::answer::{self, Head, Piece};
use crate::error::{ApiError, json_body};
use crate::request::{Logprobs, Request, Scores, TOP_LOGPROBS, Wish, refuse_others, whole};

/// A request for an answer in a conversation.
#[derive(Debug)]
pub struct Chat {
    wish: Wish,
    scored: bool,
}

impl Chat {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is not a request that this server can serve.
    pub fn parse(body: &[u8], served: &Served) -> Result<Self, ApiError> {
        let mut request = Request::parse(body, served)?;
        refuse_others(&[("prompt", request.prompt.is_some()), ("echo", request.echo.is_some())])?;
        let template = served.chat.as_ref().ok_or_else(|| {
            ApiError::parameter("model", "has no chat template: use /v1/completions, or put a chat_template.jinja into its directory")
        })?;
        let top = whole("top_logprobs", request.top_logprobs, 0, 0..=TOP_LOGPROBS)?;
        let scored = match request.logprobs {
            None => false,
            Some(Logprobs::Wanted(wanted)) => wanted,
            Some(Logprobs::Top(top)) => return Err(ApiError::parameter("logprobs", format!("must be true or false here, found {top}"))),
        };
        let messages = request.messages.take().unwrap_or_default();
        if messages.is_empty() {
            return Err(ApiError::parameter("messages", "must have at least one message"));
        }
        let conversation = Conversation {
            messages: messages.iter().map(plain).collect::<Result<_, _>>()?,
            tools: request.tools.take(),
            add_generation_prompt: true,
            more: request.chat_template_kwargs.take().unwrap_or_default(),
        };
        let text = template.render(&conversation)?;
        let prompt = served.tokenizer.encode(&text).map_err(|error| ApiError::parameter("messages", format!("cannot be read: {error}")))?;
        let scores = Scores { top: scored.then_some(top), prompt: false };
        let wish = request.wish(vec![prompt], request.max_completion_tokens.or(request.max_tokens), None, scores, served)?;
        Ok(Self { wish, scored })
    }

    /// Lets the model answer.
    ///
    /// # Errors
    /// If the server has no place, or the model's thread ends.
    pub async fn answer(self, served: &Arc<Served>) -> Result<Response, ApiError> {
        let Self { wish, scored } = self;
        let pieces = answer::follow(served, &wish)?;
        let tokenizer = Arc::clone(served);
        let logprobs = move |piece: &Piece| {
            scored.then(|| json!({ "content": piece.scores.iter().map(|score| token(score, &tokenizer)).collect::<Vec<_>>() }))
        };
        if wish.stream {
            let head = Head::new("chatcmpl", "chat.completion.chunk", served);
            let role = |index: usize| json!({ "index": index, "delta": { "role": "assistant", "content": "" }, "logprobs": null, "finish_reason": null });
            let roles = (0..wish.sequences.len()).map(role).collect();
            return Ok(answer::stream(head, wish, pieces, roles, move |piece| {
                let quiet = piece.text.is_empty() && piece.finish.is_none() && !scored;
                let delta = if piece.text.is_empty() { json!({}) } else { json!({ "content": piece.text }) };
                (!quiet)
                    .then(|| json!({ "index": piece.choice, "delta": delta, "logprobs": logprobs(piece), "finish_reason": piece.finish }))
            }));
        }
        let whole = answer::collect(pieces, wish.sequences.len()).await?;
        let choice = |piece: &Piece| {
            let message = json!({ "role": "assistant", "content": piece.text });
            json!({ "index": piece.choice, "message": message, "logprobs": logprobs(piece), "finish_reason": piece.finish })
        };
        let head = Head::new("chatcmpl", "chat.completion", served);
        Ok(json_body(&head.with(whole.iter().map(choice).collect(), Some(answer::usage(&whole, &wish)))).into_response())
    }
}

/// A message whose content is text: parts of text are joined, anything else is refused.
fn plain(message: &Data) -> Result<Data, ApiError> {
    let wrong = |problem: &str| ApiError::parameter("messages", problem);
    if message.kind() != ValueKind::Map || message.get_attr("role").ok().and_then(|role| role.as_str().map(str::len)).is_none() {
        return Err(wrong("must be objects with a role"));
    }
    let content = message.get_attr("content").unwrap_or_default();
    let text = match content.kind() {
        ValueKind::String | ValueKind::None | ValueKind::Undefined => return Ok(message.clone()),
        ValueKind::Seq => content.try_iter().map_err(|_| wrong("have a content that cannot be read"))?,
        _ => return Err(wrong("must have a text, or parts of type text, as content")),
    };
    let part = |part: Data| match part.get_attr("text") {
        Ok(text) if text.as_str().is_some() => Ok(text.to_string()),
        _ => Err(wrong("must have parts of type text only: this server reads no images or sounds")),
    };
    let text = text.map(part).collect::<Result<Vec<_>, _>>()?.join("\n");
    let entries = message.try_iter().map_err(|_| wrong("must be objects"))?;
    Ok(Data::from_pairs(entries.map(|key| {
        let value = if key.as_str() == Some("content") { text.clone().into() } else { message.get_item(&key).unwrap_or_default() };
        (key, value)
    })))
}

fn token(score: &TokenScore, served: &Served) -> Value {
    let one = |token: u32, logprob: f32| {
        let piece = served.tokenizer.piece(token);
        json!({ "bytes": piece.as_bytes(), "token": piece, "logprob": logprob })
    };
    let mut entry = one(score.token, score.logprob);
    entry["top_logprobs"] = score.top.iter().map(|&(token, logprob)| one(token, logprob)).collect();
    entry
}
