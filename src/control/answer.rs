//! How the control port spells its answers: JSON, plain text, and errors a person understands. Called by every endpoint.
//!
//! Invariant: every error is a JSON object with `error`, and with `accepted` where something else would have been taken.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What `Retry-After` says wherever trying again may help: reconnects to Redis begin well below a second apart.
const RETRY_AFTER_SECONDS: &str = "1";

/// An answer other than 200.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    error: String,
    accepted: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), accepted: None }
    }

    /// 400, with what would have been taken.
    pub(super) fn bad_request(error: impl Into<String>, accepted: impl Into<String>) -> Problem {
        Problem::with_accepted(StatusCode::BAD_REQUEST, error, accepted)
    }

    pub(super) fn with_accepted(status: StatusCode, error: impl Into<String>, accepted: impl Into<String>) -> Problem {
        Problem { accepted: Some(accepted.into()), ..Problem::new(status, error) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({ "error": self.error });
        if let Some(accepted) = self.accepted {
            body["accepted"] = accepted.into();
        }
        retryable(json(self.status, body))
    }
}

/// Adds `Retry-After` to a 503.
pub(super) fn retryable(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

pub(super) fn json(status: StatusCode, body: serde_json::Value) -> Response {
    (status, Json(body)).into_response()
}

pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}
