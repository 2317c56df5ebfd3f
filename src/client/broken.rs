//! How a connection ends, and what is to be done then: the codes of section 11 of `docs/protocol.md`, and HTTP statuses. Called by the transports.

use std::time::Duration;

use super::http::shown_text;
use crate::limits::client::RETRY_AFTER_MAX;
use crate::wire::close::{CloseReason, Reconnect, reconnect_delay_ms};

/// What was asked for will not be had, now or later; trying again would end the same way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    pub why: String,
    /// Of the answer, if it was one of HTTP.
    pub status: Option<u16>,
}

#[derive(Debug)]
pub(super) enum Broken {
    Refused(Refused),
    /// 4008: the log has left this client behind.
    Overrun {
        retry_after: Option<Duration>,
    },
    Lost {
        why: String,
        retry_after: Option<Duration>,
    },
}

pub(super) fn lost(why: impl Into<String>) -> Broken {
    Broken::Lost { why: why.into(), retry_after: None }
}

pub(super) fn refused(why: impl Into<String>) -> Broken {
    Broken::Refused(Refused { why: why.into(), status: None })
}

/// The server has said goodbye; `retry_after`: and when to come back.
pub(super) fn closed(code: u16, reason: &str, retry_after: Option<Duration>) -> Broken {
    let said = CloseReason::of_code(code);
    let retry_after = reconnect_delay_ms(reason).map(Duration::from_millis).or(retry_after).map(|time| time.min(RETRY_AFTER_MAX));
    let reason = shown_text(reason.as_bytes());
    let why = match said {
        Some(CloseReason::Overrun) => return Broken::Overrun { retry_after },
        Some(CloseReason::Restart) => format!("the server restarts ({code})"),
        Some(CloseReason::Shutdown) => format!("the server is stopping ({code})"),
        _ if reason.is_empty() => format!("the server closed the connection ({code})"),
        _ => format!("the server closed the connection ({code}: {reason})"),
    };
    // A code that nobody knows is like 1001.
    match said.and_then(CloseReason::goodbye).map(|goodbye| goodbye.reconnect) {
        Some(Reconnect::Not) => refused(why),
        Some(Reconnect::AtOnce | Reconnect::Later) | None => Broken::Lost { why, retry_after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_whether_to_come_back() {
        for code in [1002, 1007, 1008, 1009, 4002] {
            assert!(matches!(closed(code, "", None), Broken::Refused(_)), "{code}");
        }
        for code in [1001, 1013, 4001, 4029, 1000, 1011, 4999] {
            assert!(matches!(closed(code, "", None), Broken::Lost { retry_after: None, .. }), "{code}");
        }
        assert!(matches!(closed(4008, "channel news", None), Broken::Overrun { retry_after: None }));
        let after = |code, reason: &str, retry_after| match closed(code, reason, retry_after) {
            Broken::Lost { retry_after, why } => (why, retry_after.map(|time| time.as_millis())),
            other => panic!("{other:?}"),
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(after(1012, "reconnect in 40 ms", second), ("the server restarts (1012)".to_owned(), Some(40)));
        assert_eq!(after(1012, "reconnect in 99999999 ms", None).1, Some(60_000));
        assert_eq!(after(1001, "", second).1, Some(1000));
        assert_eq!(after(4999, "\u{1b}[31mred\n", None).0, "the server closed the connection (4999: [31mred)");
    }
}
