//! The log-in: HELLO, or AUTH and CLIENT SETNAME where HELLO is not to be had, whatever words (or silence) say so.

use redis::ServerError;

use super::{Link, Phase};
use crate::bus::redis::awaiting::Asked;
use crate::bus::redis::fault::{Fault, is_too_many};
use crate::bus::redis::resp::Reply;
use crate::clock::MonotonicNs;

/// How long a server that hangs up at HELLO is spoken to without it. We lose nothing by RESP2.
const WITHOUT_HELLO_NS: u64 = 600_000_000_000;

/// What an error in answer to HELLO means.
enum Hello {
    /// The server cannot speak RESP3, or does not let us: log in without it.
    Without,
    /// Another way to log in would be refused as well.
    Refused,
}

impl Hello {
    fn refused_with(error: &ServerError, has_password: bool) -> Hello {
        match error.code() {
            // It says so to a HELLO that did carry AUTH if it never looked at it.
            "NOAUTH" if has_password => Hello::Without,
            "NOAUTH" | "WRONGPASS" | "DENIED" | "LOADING" | "BUSY" | "MASTERDOWN" => Hello::Refused,
            _ if is_too_many(error) => Hello::Refused,
            // Too old, renamed, forbidden, unsupported: the words for it vary.
            _ => Hello::Without,
        }
    }
}

impl Link {
    pub(super) fn greet(&mut self, now: MonotonicNs) {
        (self.phase, self.is_resp3) = (Phase::Greeting, false);
        if self.target.resp2_only || now < self.without_hello_until {
            return self.greet_in_resp2(now);
        }
        let target = self.target.clone();
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &target.password {
            hello.extend([b"AUTH".as_slice(), target.user().unwrap_or("default").as_bytes(), password.as_bytes()]);
        }
        hello.extend([b"SETNAME".as_slice(), b"campanile"]);
        self.ask(Asked::Hello, &hello, now);
    }

    fn greet_in_resp2(&mut self, now: MonotonicNs) {
        let target = self.target.clone();
        match (&target.password, target.user()) {
            (Some(password), Some(user)) => {
                self.ask(Asked::Auth { is_named: true }, &[b"AUTH", user.as_bytes(), password.as_bytes()], now);
            }
            // What follows is asked when it is known to have worked: SELECT would be refused before.
            (Some(password), None) => self.ask(Asked::Auth { is_named: false }, &[b"AUTH", password.as_bytes()], now),
            (None, _) => self.introduce(now),
        }
    }

    /// In RESP2, after AUTH.
    fn introduce(&mut self, now: MonotonicNs) {
        self.ask(Asked::SetName, &[b"CLIENT", b"SETNAME", b"campanile"], now);
        self.settle_in(now);
    }

    fn settle_in(&mut self, now: MonotonicNs) {
        if self.target.db != 0 {
            self.ask(Asked::Select, &[b"SELECT", self.target.db.to_string().as_bytes()], now);
        }
        if self.asks_timeout {
            self.ask(Asked::Timeout, &[b"CONFIG", b"GET", b"timeout"], now);
        }
    }

    /// Whether the log-in is over. The answer about the timeout is not waited for.
    fn has_logged_in(&self) -> bool {
        matches!(self.awaiting.oldest(), None | Some((Asked::Timeout, _)))
    }

    /// True when nothing of the log-in is unanswered.
    pub(super) fn take_greeting_replies(&mut self, now: MonotonicNs) -> Result<bool, Fault> {
        while !self.has_logged_in() {
            let Some(reply) = self.decoder.next_reply()? else {
                if self.fill(now)?.is_none() {
                    return Ok(false);
                }
                continue;
            };
            if reply == Reply::Push {
                continue;
            }
            match (self.awaiting.answered(), reply) {
                (Some(Asked::Hello), Reply::Error(error)) => match Hello::refused_with(error, self.target.password.is_some()) {
                    Hello::Without => self.greet_in_resp2(now),
                    Hello::Refused => return Err(Fault::refused(error)),
                },
                (Some(Asked::Auth { is_named: true }), Reply::Error(error)) if self.target.is_default_user() && error.code() == "ERR" => {
                    let target = self.target.clone();
                    let password = target.password.as_deref().unwrap_or_default();
                    self.ask(Asked::Auth { is_named: false }, &[b"AUTH", password.as_bytes()], now);
                }
                (Some(Asked::Auth { is_named: false }), Reply::Error(error)) if is_password_superfluous(error) => self.introduce(now),
                (Some(Asked::SetName), Reply::Error(error)) if !is_too_many(error) && error.code() != "NOAUTH" => {}
                (_, Reply::Error(error)) => return Err(Fault::refused(error)),
                (Some(Asked::Hello), _) => {
                    self.is_resp3 = true;
                    self.settle_in(now);
                }
                (Some(Asked::Auth { .. }), _) => self.introduce(now),
                _ => {}
            }
            self.flush()?;
        }
        Ok(true)
    }

    /// It hung up when it was told HELLO: no answer, but one can be had without HELLO, perhaps.
    pub(super) fn leaves_hello_out(&mut self, now: MonotonicNs) -> bool {
        let is_hello = matches!(self.phase, Phase::Greeting) && matches!(self.awaiting.oldest(), Some((Asked::Hello, _)));
        if is_hello {
            self.without_hello_until = now.saturating_add(WITHOUT_HELLO_NS);
        }
        is_hello
    }
}

/// The server asks for none; HELLO would have taken it, too. If it does want a log-in, it says so at the next command.
fn is_password_superfluous(error: &ServerError) -> bool {
    let told = error.details().unwrap_or_default();
    told.contains("no password is set") || told.contains("without any password configured")
}
