//! Why a request is not served: each reason with its name in the metrics, the status and the words that the client gets, and whether it should
//! come back.

use super::head::Head;
use crate::named::named;
use crate::wire::close::Reconnect::{self, Later, Not};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// One sentence for the person who reads the answer: what was wrong and what is accepted.
    pub message: String,
    /// For 405: what the resource accepts.
    pub(super) allow: &'static str,
    /// For 401: what is asked for (RFC 6750, 3).
    pub(super) challenge: &'static str,
    /// For 429 and 503: what the client is asked to wait.
    pub(super) retry_after_s: u32,
    /// The answer to a HEAD request has no body.
    pub(super) head_only: bool,
    /// Whoever asked reads nothing but an event stream.
    pub is_of_event_stream: bool,
    /// The page that asks, if it may read the answer to what it asked for.
    pub origin: Option<Box<[u8]>>,
}

/// What a 429 or 503 asks a client to wait, at least. Long enough to be a relief, short enough that a restart is not felt as an outage.
const RETRY_AFTER_SECONDS_MIN: u32 = 5;
/// And so many seconds more at most: who was refused together does not come back together.
const RETRY_AFTER_SPREAD: u32 = 25;

macro_rules! refusal_reasons {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $code:literal $phrase:literal, $reconnect:expr, $text:literal;)*) => {
        named! {
            /// Why a request was refused. Each is counted in `campanile_connections_refused_total`.
            RefusalReason { $($(#[$meta])* $variant = $name,)* }
        }

        impl RefusalReason {
            /// The status code and its phrase.
            pub const fn status(self) -> (u16, &'static str) {
                match self { $(RefusalReason::$variant => ($code, $phrase),)* }
            }

            pub const fn reconnect(self) -> Reconnect {
                match self { $(RefusalReason::$variant => $reconnect,)* }
            }

            /// The sentence of the answer; empty where only the occasion has the words.
            pub const fn text(self) -> &'static str {
                match self { $(RefusalReason::$variant => $text,)* }
            }
        }
    };
}

// A new reason is one row here and one in section 2.4 of `docs/protocol.md`.
refusal_reasons! {
    BadRequest = "bad_request", 400 "Bad Request", Not, "";
    /// A PROXY header on a listener that is not marked for it, or a second one.
    ProxyUnexpected = "proxy_unexpected", 400 "Bad Request", Not,
        "This is a PROXY protocol header, and none is expected here: mark the listener (listen = \"proxy+tcp://ADDR\"), or have the proxy send none, or only one.";
    /// A listener that is marked for it, and no good header.
    ProxyHeader = "proxy_header", 400 "Bad Request", Not, "";
    /// Whoever connects to such a listener is no trusted proxy; the connection was closed without an answer.
    ProxyUntrusted = "proxy_untrusted", 400 "Bad Request", Not, "";
    /// No token, or one that is not taken.
    Unauthorized = "unauthorized", 401 "Unauthorized", Not, "";
    /// The page is from where none may connect.
    Origin = "origin", 403 "Forbidden", Not, "pages of this Origin may not connect to this server";
    NotFound = "not_found", 404 "Not Found", Not,
        "Nothing is served here; WebSocket clients connect to /ws or /ws/CHANNEL, event streams to /sse/CHANNEL, and /poll?channel=CHANNEL is for whoever has neither.";
    MethodNotAllowed = "method_not_allowed", 405 "Method Not Allowed", Not, "";
    RequestTimeout = "request_timeout", 408 "Request Timeout", Later, "";
    BodyNotAllowed = "body_not_allowed", 413 "Content Too Large", Not, "The request must not have a body.";
    UpgradeRequired = "upgrade_required", 426 "Upgrade Required", Not, "";
    /// `connections_per_address` is reached.
    ConnectionsPerAddress = "connections_per_address", 429 "Too Many Requests", Later,
        "your address has as many connections as it may; close some, or come back later";
    /// `accepts_per_address` is reached.
    AcceptsPerAddress = "accepts_per_address", 429 "Too Many Requests", Later,
        "your address connects more often than it may; wait before you come back";
    /// `commands_per_second` is reached by somebody who polls.
    Polls = "polls", 429 "Too Many Requests", Later,
        "this connection polls more often than it may send commands; wait before it asks again";
    HeadTooBig = "head_too_big", 431 "Request Header Fields Too Large", Not, "";
    /// `connections_max` is reached.
    ConnectionsMax = "connections_max", 503 "Service Unavailable", Later,
        "this server has as many connections as it may; try another or later";
    /// More are arriving than may be, and this one has taken longest; it was closed without an answer.
    Handshakes = "handshakes", 503 "Service Unavailable", Later, "";
    /// `accepts_per_second` is reached.
    AcceptsPerSecond = "accepts_per_second", 503 "Service Unavailable", Later,
        "this server takes no more new connections in this second; come back later";
    /// The descriptor limit is reached; the connection was closed without an answer.
    Descriptors = "descriptors", 503 "Service Unavailable", Later, "";
    /// More tokens are to be verified than can be within the handshake deadline.
    TokensWaiting = "tokens_waiting", 503 "Service Unavailable", Later,
        "this server has more tokens to verify than it can; try another or later";
    /// `admission_lag`, `admission_logs`, `admission_memory`: those who are connected are served on.
    OverloadedLag = "overloaded_lag", 503 "Service Unavailable", Later,
        "this server is late with what it has to do already; try another or later";
    OverloadedLogs = "overloaded_logs", 503 "Service Unavailable", Later,
        "this server holds as much for slow clients as it may; try another or later";
    OverloadedMemory = "overloaded_memory", 503 "Service Unavailable", Later,
        "this server is short of memory; try another or later";
    /// The key that a token names is being asked for.
    KeyAwaited = "key_awaited", 503 "Service Unavailable", Later, "";
    /// The server is stopping.
    Stopping = "stopping", 503 "Service Unavailable", Later, "the server is stopping";
}

/// With the words that always do.
impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Refusal {
        debug_assert!(!reason.text().is_empty(), "{reason:?} must say what was wrong");
        Refusal::new(reason, reason.text())
    }
}

impl Refusal {
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            message: message.into(),
            allow: "GET",
            challenge: "Bearer",
            retry_after_s: RETRY_AFTER_SECONDS_MIN,
            head_only: false,
            is_of_event_stream: false,
            origin: None,
        }
    }

    /// As an answer to this request.
    pub fn asked_by(self, head: &Head<'_>) -> Refusal {
        let origin = head.fields.only("origin").map(Into::into);
        Refusal { is_of_event_stream: super::is_event_stream(head), origin, ..self }
    }

    /// It is told by an event stream: "come back later" can be said there in no other way.
    pub fn is_told_as_stream(&self) -> bool {
        self.is_of_event_stream && self.reason.reconnect() == Later
    }

    pub fn retry_after_ms(&self) -> u64 {
        u64::from(self.retry_after_s) * 1000
    }

    /// Waits are dealt by `lot`, which is another one each time: neighbours in number get what lies far apart.
    pub fn spread(self, lot: u32) -> Refusal {
        // The golden ratio: however many are dealt, they lie evenly.
        let share = (u64::from(lot.wrapping_mul(0x9E37_79B9)) * u64::from(RETRY_AFTER_SPREAD + 1)) >> 32;
        Refusal { retry_after_s: RETRY_AFTER_SECONDS_MIN + share as u32, ..self }
    }

    /// No token was brought, or (`is_bad`) one that is not taken.
    pub fn unauthorized(message: impl Into<String>, is_bad: bool) -> Refusal {
        let challenge = if is_bad { "Bearer error=\"invalid_token\"" } else { "Bearer" };
        Refusal { challenge, ..Refusal::new(RefusalReason::Unauthorized, message) }
    }

    pub(super) fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalReason::BadRequest, message)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Refusal {
        Refusal { allow, ..Refusal::new(RefusalReason::MethodNotAllowed, format!("Accepted methods here: {allow}.")) }
    }
}
