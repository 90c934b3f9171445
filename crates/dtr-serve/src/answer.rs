//! From the model's events to pieces of text, as long as somebody waits for them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use dtr_models::generate::{Finish, TextStream, TokenScore};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::engine::{Event, Running};
use crate::error::ApiError;
use crate::request::Wish;
use crate::{Served, now};

/// Pieces that may wait for a slow reader before the model is no longer listened to.
const WAITING: usize = 64;

/// What one sequence has gone on by.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// Which choice of the request.
    pub choice: usize,
    /// Text that is certain.
    pub text: String,
    /// Scores of the prompt's tokens but the first, with the first piece.
    pub prompt: Vec<TokenScore>,
    /// Tokens of the prompt that were read before, with the first piece.
    pub cached: usize,
    /// Scores of new tokens.
    pub scores: Vec<TokenScore>,
    /// New tokens.
    pub tokens: usize,
    /// `stop` or `length`, with the last piece of the choice.
    pub finish: Option<&'static str>,
}

/// Starts the work on a request and follows it until its end, or until the receiver is dropped.
///
/// # Errors
/// If the server has no place for it.
pub fn follow(served: &Arc<Served>, wish: &Wish) -> Result<Receiver<Result<Piece, ApiError>>, ApiError> {
    let running = served.engine.submit(wish.sequences.clone())?;
    let (sender, receiver) = channel(WAITING);
    let (served, wish) = (Arc::clone(served), wish.clone());
    tokio::spawn(async move {
        if let Err(error) = pass_on(&served, &wish, running, &sender).await {
            // If nobody listens any more, nobody wants to know.
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(receiver)
}

async fn pass_on(served: &Served, wish: &Wish, mut running: Running, sender: &Sender<Result<Piece, ApiError>>) -> Result<(), ApiError> {
    let text = || TextStream::new(&served.tokenizer, wish.stops.clone(), wish.skip_special);
    let mut texts: Vec<Option<TextStream>> = wish.sequences.iter().map(|_| Some(text())).collect();
    while texts.iter().any(Option::is_some) {
        let event = tokio::select! {
            event = running.events.recv() => event.ok_or(ApiError::Stopped)?,
            () = sender.closed() => return Ok(()),
        };
        let choice = event.choice;
        let Some(piece) = piece(served, &mut texts[choice], event) else { continue };
        if texts[choice].is_none() {
            running.leave(choice);
        }
        if sender.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What an event adds; `None` after the end of the text, which a stop string can bring before the model knows of it.
fn piece(served: &Served, text: &mut Option<TextStream>, event: Event) -> Option<Piece> {
    let Event { choice, prompt, cached, token, score, finish } = event;
    let mut stream = text.take()?;
    let (scores, tokens) = (score.into_iter().collect(), token.iter().len());
    let mut piece = Piece { choice, prompt, cached, scores, tokens, ..Piece::default() };
    if let Some(token) = token.filter(|token| !served.end_tokens.contains(token)) {
        piece.text = stream.push(token).unwrap_or_default();
    }
    piece.finish = match finish {
        _ if stream.stopped() => Some("stop"),
        Some(Finish::Stop) => Some("stop"),
        Some(Finish::Length) => Some("length"),
        None => None,
    };
    if piece.finish.is_some() {
        piece.text += &stream.finish().unwrap_or_default();
    } else {
        *text = Some(stream);
    }
    Some(piece)
}

/// Everything that comes of a request, piece after piece of each choice.
///
/// # Errors
/// If the model's thread ends before.
pub async fn collect(mut pieces: Receiver<Result<Piece, ApiError>>, choices: usize) -> Result<Vec<Piece>, ApiError> {
    let mut all: Vec<Piece> = (0..choices).map(|choice| Piece { choice, ..Piece::default() }).collect();
    while let Some(piece) = pieces.recv().await {
        let Piece { choice, text, prompt, cached, scores, tokens, finish } = piece?;
        let whole = &mut all[choice];
        whole.text += &text;
        whole.prompt.extend(prompt);
        whole.scores.extend(scores);
        whole.tokens += tokens;
        whole.cached += cached;
        whole.finish = finish;
    }
    Ok(all)
}

/// Number of tokens read and made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    tokens: usize,
    cached: usize,
}

impl Usage {
    /// Counts a piece. A prompt counts once, with its first choice.
    pub fn add(&mut self, piece: &Piece, wish: &Wish) {
        self.tokens += piece.tokens;
        if piece.choice.is_multiple_of(wish.choices) {
            self.cached += piece.cached;
        }
    }

    /// As it is told.
    pub fn json(self, wish: &Wish) -> Value {
        json!({
            "prompt_tokens": wish.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": wish.prompt_tokens + self.tokens,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

/// Of all pieces together.
pub fn usage(pieces: &[Piece], wish: &Wish) -> Value {
    let mut usage = Usage::default();
    for piece in pieces {
        usage.add(piece, wish);
    }
    usage.json(wish)
}

/// What responses have in common.
#[derive(Debug, Clone)]
pub struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    /// A name for a new response, beginning with `prefix`.
    pub fn new(prefix: &str, object: &'static str, served: &Served) -> Self {
        let now = now();
        Self { id: format!("{prefix}-{:x}", now.as_nanos()), object, created: now.as_secs(), model: served.name.clone() }
    }

    /// A response with these choices.
    pub fn with(&self, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut response =
            json!({ "id": self.id, "object": self.object, "created": self.created, "model": self.model, "choices": choices });
        if let Some(usage) = usage {
            response["usage"] = usage;
        }
        response
    }
}

/// A response piece by piece: server-sent events, the last of them `[DONE]`. `chunk` gives the choice of a piece, `None` where there is nothing to tell.
pub fn stream(
    head: Head,
    wish: Wish,
    mut pieces: Receiver<Result<Piece, ApiError>>,
    first: Vec<Value>,
    mut chunk: impl FnMut(&Piece) -> Option<Value> + Send + 'static,
) -> Response {
    let (sender, receiver) = channel(1);
    tokio::spawn(async move {
        let mut usage = Usage::default();
        let send = async |value: String| sender.send(value).await.is_ok();
        for choice in first {
            if !send(head.with(vec![choice], None).to_string()).await {
                return;
            }
        }
        while let Some(piece) = pieces.recv().await {
            let event = match piece {
                Ok(piece) => {
                    usage.add(&piece, &wish);
                    chunk(&piece).map(|choice| head.with(vec![choice], None))
                }
                Err(error) => Some(error.json()),
            };
            match event {
                Some(event) if !send(event.to_string()).await => return,
                None if sender.is_closed() => return,
                _ => {}
            }
        }
        if wish.include_usage && !send(head.with(vec![], Some(usage.json(&wish))).to_string()).await {
            return;
        }
        send("[DONE]".to_owned()).await;
    });
    Sse::new(Events(receiver)).into_response()
}

/// Events as they come.
struct Events(Receiver<String>);

impl Stream for Events {
    type Item = Result<sse::Event, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(sse::Event::default().data(event))))
    }
}
