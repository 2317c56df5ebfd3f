//! What is said in HTTP: the upgrade, refusals, the health check. All of it is written by `Answer`, so that no answer is without what all need.

use super::refusal::{Refusal, RefusalReason};
use super::upgrade::Upgrade;

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
    // A field without a value breaks some browsers.
    let answer = match upgrade.deflate {
        Some(agreed) => answer.field("Sec-WebSocket-Extensions", &agreed.answer()),
        None => answer,
    };
    match &upgrade.subprotocol {
        Some(subprotocol) => answer.field("Sec-WebSocket-Protocol", subprotocol).end(),
        None => answer.end(),
    }
}

/// Appends the answer to a request that is not served.
pub fn refuse(out: &mut Vec<u8>, refusal: &Refusal) {
    let answer = Answer::begin(out, refusal.reason.status());
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
pub fn health(out: &mut Vec<u8>, head_only: bool) {
    Answer::begin(out, (200, "OK")).field("Cache-Control", "no-store").field("Connection", "close").end_with_text("ok\n", head_only);
}
