//! What became of the requests and connections of the control port, for `/metrics`. Counted by the control thread alone.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::State;
use crate::metrics::Counter;
use crate::named::named;

/// The statuses that the port answers with; any other one counts as a fault of ours, 500.
pub(super) const STATUSES: [StatusCode; 20] = [
    StatusCode::SWITCHING_PROTOCOLS,
    StatusCode::OK,
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::CONFLICT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::EXPECTATION_FAILED,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::UPGRADE_REQUIRED,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

named! {
    /// Why a connection of the control port was ended before its client ended it.
    CutReason {
        /// Its place was needed for a newcomer.
        Displaced = "displaced",
        /// No first byte came in time; or, of one who watches, no answer to pings.
        Silent = "silent",
        /// The head did not end in time (408).
        Head = "head",
        /// The head is no HTTP, or too big (400, 431).
        BadHead = "bad_head",
        /// It did not take its answer.
        Unread = "unread",
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    answers: [Counter; STATUSES.len()],
    cut: [Counter; CutReason::ALL.len()],
}

impl Tally {
    pub(super) fn cut(&self, reason: CutReason) {
        self.cut[reason as usize].inc();
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = (u16, u64)> {
        STATUSES.iter().zip(&self.answers).map(|(status, count)| (status.as_u16(), count.get()))
    }

    pub(super) fn cuts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CutReason::ALL.iter().map(|&reason| (reason.name(), self.cut[reason as usize].get()))
    }
}

/// Counts every answer.
pub(super) async fn count(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    let place = |status: StatusCode| STATUSES.iter().position(|&other| other == status);
    let index = place(answer.status()).or_else(|| place(StatusCode::INTERNAL_SERVER_ERROR));
    state.tally.answers[index.expect("it is among them")].inc();
    answer
}
