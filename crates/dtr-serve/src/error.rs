//! What a client is told when its request cannot be served, in the form of `OpenAI`.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dtr_models::GenerationError;
use serde_json::{Value, json};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Not JSON, or JSON of another shape.
    #[error("the body is not a request: {0}")]
    Body(String),
    /// A parameter that makes no sense, or that this server does not honour.
    #[error("{param} {problem}")]
    Parameter {
        /// Its name.
        param: &'static str,
        /// What was expected, and what was found.
        problem: String,
    },
    /// More tokens than the model or the server takes.
    #[error(
        "the prompt has {prompt} tokens and {new} more are asked for; at most {limit} are possible together. Shorten the prompt or lower max_tokens"
    )]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        new: usize,
        /// The limit.
        limit: usize,
    },
    /// Another model.
    #[error("the model \"{found}\" does not exist here; this server has \"{served}\"")]
    Model {
        /// Asked for.
        found: String,
        /// Served.
        served: String,
    },
    /// No such address.
    #[error("{method} {path} is not served; there are GET /v1/models, POST /v1/completions and POST /v1/chat/completions")]
    Route {
        /// Method of the request.
        method: String,
        /// Path of the request.
        path: String,
    },
    /// The method does not fit the address.
    #[error("{method} does not go with {path}")]
    Method {
        /// Method of the request.
        method: String,
        /// Path of the request.
        path: String,
    },
    /// A body above the limit.
    #[error("the body is larger than {limit} bytes, the limit of this server")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A body that does not come to its end.
    #[error("the body did not arrive within {seconds} seconds")]
    TooSlow {
        /// Seconds waited.
        seconds: u64,
    },
    /// All places are taken.
    #[error("{waiting} sequences are under way or waiting, which is all this server takes; try again later")]
    Busy {
        /// Number of places.
        waiting: usize,
    },
    /// The model's thread has ended.
    #[error("the model has stopped; the server must be started again")]
    Stopped,
}

impl ApiError {
    /// A parameter's error.
    pub(crate) fn parameter(param: &'static str, problem: impl Into<String>) -> Self {
        Self::Parameter { param, problem: problem.into() }
    }

    /// The status that goes with it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Body(_) | Self::Parameter { .. } | Self::Context { .. } => StatusCode::BAD_REQUEST,
            Self::Model { .. } | Self::Route { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `{"error": {"message", "type", "param", "code"}}`.
    pub fn json(&self) -> Value {
        let kind = match self {
            Self::Busy { .. } => "rate_limit_error",
            Self::Stopped => "server_error",
            _ => "invalid_request_error",
        };
        let (param, code) = match self {
            Self::Parameter { param, .. } => (Some(*param), None),
            Self::Context { .. } => (None, Some("context_length_exceeded")),
            Self::Model { .. } => (Some("model"), Some("model_not_found")),
            Self::Busy { .. } => (None, Some("rate_limit_exceeded")),
            _ => (None, None),
        };
        json!({ "error": { "message": self.to_string(), "type": kind, "param": param, "code": code } })
    }
}

impl From<GenerationError> for ApiError {
    fn from(error: GenerationError) -> Self {
        match error {
            GenerationError::Setting { name, expected, found } => Self::parameter(name, format!("must be {expected}, found {found}")),
            GenerationError::Conversation { .. } => Self::parameter("messages", format!("cannot be rendered: {error}")),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), json_body(&self.json())).into_response();
        if matches!(self, Self::Busy { .. }) {
            response.headers_mut().insert(header::RETRY_AFTER, 1.into());
        }
        response
    }
}

/// JSON with its content type.
pub(crate) fn json_body(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string())
}
