//! Routes, bodies, and the life of the server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};
use axum::serve::Listener;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::chat::Chat;
use crate::completions::Completion;
use crate::error::{ApiError, json_body};
use crate::{Served, now};

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How long requests under way may take after the server was told to end.
const GRACE: Duration = Duration::from_secs(30);

/// The routes of a served model.
pub fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(served)
}

/// A listener that accepts no more than so many connections at a time; others wait in the system's queue.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection and its place.
struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { std::future::pending().await };
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Small packets, each a token: they are not to wait for each other. That this can fail does no harm.
        drop(stream.set_nodelay(true));
        (Connection { stream, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Serves `router` to so many connections at a time until the process is told to end (ctrl-c). Requests under way then have half a minute; a second ctrl-c ends it at once.
///
/// # Errors
/// If the listener or the runtime fails.
pub fn serve(router: Router, listener: std::net::TcpListener, connections: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = Bounded { listener: TcpListener::from_std(listener)?, places: Arc::new(Semaphore::new(connections)) };
        let (told, tell) = tokio::sync::oneshot::channel::<()>();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            interrupted().await;
            drop(told);
        });
        tokio::select! {
            result = serving.into_future() => result,
            () = async { let _ = tell.await; tokio::select! { () = interrupted() => {}, () = sleep(GRACE) => {} } } => Ok(()),
        }
    });
    // A tokenizer at work is not waited for.
    runtime.shutdown_background();
    result
}

/// Waits for ctrl-c, or for the signal by which a process is asked to end.
async fn interrupted() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {},
            _ = terminate.recv() => {},
        }
        return;
    }
    let _ = tokio::signal::ctrl_c().await;
}

async fn models(State(served): State<Arc<Served>>) -> Response {
    json_body(&json!({ "object": "list", "data": [described(&served)] })).into_response()
}

async fn model(State(served): State<Arc<Served>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    if name == served.name {
        Ok(json_body(&described(&served)).into_response())
    } else {
        Err(ApiError::Model { found: name, served: served.name.clone() })
    }
}

fn described(served: &Served) -> Value {
    json!({ "id": served.name, "object": "model", "created": now().as_secs(), "owned_by": "dtr", "max_model_len": served.limits.tokens })
}

async fn completions(State(served): State<Arc<Served>>, body: Body) -> Result<Response, ApiError> {
    let request = parsed(&served, body, Completion::parse).await?;
    request.answer(&served).await
}

async fn chat(State(served): State<Arc<Served>>, body: Body) -> Result<Response, ApiError> {
    let request = parsed(&served, body, Chat::parse).await?;
    request.answer(&served).await
}

/// Reads a body whole, and what it asks for on a thread that may take its time: long texts are slow to take apart.
async fn parsed<T: Send + 'static>(
    served: &Arc<Served>,
    body: Body,
    parse: fn(&[u8], &Served) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let limit = served.limits.body_bytes;
    let slow = |_| ApiError::TooSlow { seconds: BODY_TIME.as_secs() };
    // A body that ends too early has nobody left to tell.
    let bytes = timeout(BODY_TIME, to_bytes(body, limit)).await.map_err(slow)?.map_err(|_| ApiError::TooLarge { limit })?;
    let served = Arc::clone(served);
    spawn_blocking(move || parse(&bytes, &served)).await.map_err(|error| ApiError::Body(error.to_string()))?
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::Route { method: method.to_string(), path: uri.path().to_owned() }
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::Method { method: method.to_string(), path: uri.path().to_owned() }
}
