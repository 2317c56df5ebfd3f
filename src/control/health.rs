//! `GET /healthz` and `GET /readyz`: whether this thread turns, and whether messages flow. For probes, which must always be answered.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Response;

use super::{State, answer};

/// Says only that this thread turns. A shard asleep does not turn, so its counters prove nothing; whether messages flow is
/// the question of `/readyz`.
pub(super) async fn healthz() -> Response {
    answer::text(StatusCode::OK, "ok\n")
}

pub(super) async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    let Some(reason) = state.not_ready() else {
        return answer::json(StatusCode::OK, serde_json::json!({ "ready": true }));
    };
    let body = serde_json::json!({ "ready": false, "reason": reason });
    answer::retryable(answer::json(StatusCode::SERVICE_UNAVAILABLE, body))
}
