//! The functions of durable channels on the server of this bus: loaded when a connection is made anew, or when they were found missing. Sans-IO but for the
//! commands it writes; owned by [`super::server::Server`].

use redis::{ServerError, Value};

use super::awaiting::Asked;
use super::fault::text_of;
use super::library::{Failure, Found, Goal, Install};
use super::link::Link;
use super::target::Target;
use crate::clock::MonotonicNs;

/// Whoever does not let us load them is asked again after this long: an operator may have done it.
const RETRY_NS: u64 = 5_000_000_000;

#[derive(Debug, Default)]
pub struct Loading {
    state: State,
    /// What the operator was told last.
    told: String,
    /// How the server is called where there are others; else empty.
    at: String,
}

#[derive(Debug, Default)]
enum State {
    /// They may be there.
    #[default]
    Unknown,
    Asking {
        install: Install,
        is_asked: bool,
    },
    There,
    Refused {
        retry_at: MonotonicNs,
    },
}

impl Loading {
    pub fn new(at: String) -> Loading {
        Loading { at, ..Loading::default() }
    }

    /// The connection is another one: what was known was of the one before.
    pub fn restart(&mut self) {
        self.state = State::Unknown;
    }

    /// It is another server from now on.
    pub fn retarget(&mut self, target: &Target) {
        if !self.at.is_empty() {
            self.at = format!(" at {target}");
        }
        self.restart();
    }

    /// They are gone. Whoever does not let us load them is not asked more often for that.
    pub fn doubt(&mut self) {
        match self.state {
            State::There => self.state = State::Unknown,
            State::Unknown | State::Asking { .. } | State::Refused { .. } => {}
        }
    }

    /// Whether all was tried that can be, for now.
    pub fn is_settled(&self) -> bool {
        match self.state {
            State::There | State::Refused { .. } => true,
            State::Unknown | State::Asking { .. } => false,
        }
    }

    /// Sends what is to be sent, if they are not known to be there. The connection is ready.
    pub fn write(&mut self, link: &mut Link, now: MonotonicNs) {
        let is_due = match self.state {
            State::Unknown => true,
            State::Refused { retry_at } => now >= retry_at,
            State::Asking { .. } | State::There => false,
        };
        if is_due {
            self.state = State::Asking { install: Install::new(Goal::Load), is_asked: false };
        }
        if let State::Asking { install, is_asked } = &mut self.state
            && !std::mem::replace(is_asked, true)
        {
            let command: Vec<&[u8]> = install.command().into_iter().map(str::as_bytes).collect();
            link.ask(Asked::Library, &command, now);
        }
    }

    /// The server has answered.
    pub fn answered(&mut self, answer: Result<&Value, &ServerError>, now: MonotonicNs) {
        let State::Asking { install, is_asked } = &mut self.state else { return };
        *is_asked = false;
        let error = answer.err().map(text_of);
        let outcome = install.answered(answer.map_err(|_| error.as_deref().unwrap_or_default()));
        match outcome {
            None => {}
            Some(Ok(found)) => {
                (self.state, self.told) = (State::There, String::new());
                match found {
                    Found::Loaded => tracing::info!("the functions of durable channels are loaded into Redis{}", self.at),
                    Found::Replaced { older } => {
                        tracing::info!("the functions of durable channels in Redis{} were of version {older}, and are replaced", self.at)
                    }
                    Found::Nothing | Found::Same | Found::Older { .. } | Found::Newer { .. } => {}
                }
            }
            Some(Err(failure)) => self.refused(&failure, now),
        }
    }

    fn refused(&mut self, failure: &Failure, now: MonotonicNs) {
        self.state = State::Refused { retry_at: now + RETRY_NS };
        let told = failure.to_string();
        if self.told != told {
            tracing::warn!(
                "the functions of durable channels cannot be loaded into Redis{}, and nothing can be published to such a channel of it: {told}",
                self.at
            );
            self.told = told;
        }
    }

    pub fn deadline(&self) -> Option<MonotonicNs> {
        match self.state {
            State::Refused { retry_at } => Some(retry_at),
            State::Unknown | State::Asking { .. } | State::There => None,
        }
    }
}
