//! What is said in HTTP: the upgrade, refusals, the health check. All of it is written by `Answer`, so that no answer is without what all need.

use super::refusal::{Refusal, RefusalReason};
use super::upgrade::Upgrade;
use crate::wire::Format;

/// The pages of which origin may read an answer (Fetch, 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowOrigin {
    /// None, or the request was not a page's.
    Nobody,
    Anybody,
    /// The one that has asked; with its cookies, where these say who a client is.
    Only {
        origin: Box<str>,
        with_cookies: bool,
    },
}

/// One answer, appended as it is told.
#[derive(Debug)]
struct Answer<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Answer<'o> {
    fn begin(out: &'o mut Vec<u8>, (code, phrase): (u16, &str)) -> Answer<'o> {
        debug_assert!((100..1000).contains(&code));
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend([code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8));
        out.push(b' ');
        out.extend_from_slice(phrase.as_bytes());
        out.extend_from_slice(b"\r\n");
        Answer { out }
    }

    fn field(self, name: &str, value: &str) -> Answer<'o> {
        for part in [name, ": ", value, "\r\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
        self
    }

    fn allow(self, allow: &AllowOrigin) -> Answer<'o> {
        let answer = match allow {
            AllowOrigin::Nobody => return self,
            AllowOrigin::Anybody => self.field("Access-Control-Allow-Origin", "*"),
            AllowOrigin::Only { origin, with_cookies } => {
                let answer = self.field("Access-Control-Allow-Origin", origin).field("Vary", "Origin");
                if *with_cookies { answer.field("Access-Control-Allow-Credentials", "true") } else { answer }
            }
        };
        answer.field("Access-Control-Expose-Headers", "Retry-After")
    }

    fn closes_unless(self, keeps_alive: bool) -> Answer<'o> {
        if keeps_alive { self } else { self.field("Connection", "close") }
    }

    /// Ends with the empty line.
    fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// Ends with a plain text. The answer to a HEAD request announces the body that GET would get.
    fn end_with_text(self, text: &str, head_only: bool) {
        let length = text.len().to_string();
        let answer = self.field("Content-Type", "text/plain; charset=utf-8").field("Content-Length", &length);
        answer.out.extend_from_slice(b"\r\n");
        if !head_only {
            answer.out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Appends `101 Switching Protocols`.
pub fn switch_protocols(out: &mut Vec<u8>, upgrade: &Upgrade<'_>) {
    let answer = Answer::begin(out, (101, "Switching Protocols"))
        .field("Upgrade", "websocket")
        .field("Connection", "Upgrade")
        .field("Sec-WebSocket-Accept", &upgrade.accept_key());
    match &upgrade.subprotocol {
        Some(subprotocol) => answer.field("Sec-WebSocket-Protocol", subprotocol).end(),
        None => answer.end(),
    }
}

/// Appends the answer to a request that is not served.
pub fn refuse(out: &mut Vec<u8>, refusal: &Refusal, allow: &AllowOrigin) {
    let answer = Answer::begin(out, refusal.reason.status()).allow(allow);
    let answer = match refusal.reason {
        RefusalReason::MethodNotAllowed => answer.field("Allow", refusal.allow).field("Connection", "close"),
        RefusalReason::Unauthorized => answer.field("WWW-Authenticate", refusal.challenge).field("Connection", "close"),
        // Whoever sends Upgrade must list it under Connection too (RFC 9110, 7.8).
        RefusalReason::UpgradeRequired => {
            answer.field("Upgrade", "websocket").field("Sec-WebSocket-Version", "13").field("Connection", "close, Upgrade")
        }
        reason if matches!(reason.status().0, 429 | 503) => {
            answer.field("Retry-After", &refusal.retry_after_s.to_string()).field("Connection", "close")
        }
        _ => answer.field("Connection", "close"),
    };
    answer.end_with_text(&format!("{}\n", refusal.message), refusal.head_only);
}

/// Appends the answer to a health check: this process accepts and answers.
pub fn health(out: &mut Vec<u8>, head_only: bool, keeps_alive: bool, allow: &AllowOrigin) {
    let answer = Answer::begin(out, (200, "OK")).field("Cache-Control", "no-store").allow(allow);
    answer.closes_unless(keeps_alive).end_with_text("ok\n", head_only);
}

/// Appends the head of an event stream, which ends with the connection. A proxy that collects what it is sent would bring it late, or never.
pub fn event_stream(out: &mut Vec<u8>, allow: &AllowOrigin) {
    let answer = Answer::begin(out, (200, "OK")).field("Content-Type", "text/event-stream").field("Cache-Control", "no-store");
    answer.field("X-Accel-Buffering", "no").field("Connection", "close").allow(allow).end();
}

/// Appends the head of the answer to a poll.
pub fn events(out: &mut Vec<u8>, format: Format, length: usize, keeps_alive: bool, allow: &AllowOrigin) {
    let kind = format!("application/{}", format.name());
    let answer = Answer::begin(out, (200, "OK")).field("Content-Type", &kind).field("Content-Length", &length.to_string());
    answer.field("Cache-Control", "no-store").allow(allow).closes_unless(keeps_alive).end();
}

/// Appends `204 No Content`, the one answer after which an EventSource does not come back and complains of nothing.
pub fn never(out: &mut Vec<u8>, allow: &AllowOrigin) {
    Answer::begin(out, (204, "No Content")).field("Cache-Control", "no-store").allow(allow).field("Connection", "close").end();
}

/// Appends the answer to OPTIONS; a page that asks what it may ask is told that, too.
pub fn options(out: &mut Vec<u8>, methods: &str, keeps_alive: bool, allow: &AllowOrigin) {
    let answer = Answer::begin(out, (204, "No Content")).field("Allow", methods).allow(allow);
    let answer = match allow {
        AllowOrigin::Nobody => answer,
        AllowOrigin::Anybody | AllowOrigin::Only { .. } => answer
            .field("Access-Control-Allow-Methods", methods)
            .field("Access-Control-Allow-Headers", "authorization, last-event-id, content-type")
            .field("Access-Control-Max-Age", "600"),
    };
    answer.closes_unless(keeps_alive).end();
}
