//! A connection over long polling (`/poll`): one request after the other, on the same socket where the server keeps it. Called by [`super::connection`].
//!
//! Invariant: the next request is made when everything of the last answer was handed on, from the positions that it led to.

use std::collections::VecDeque;
use std::time::Instant;

use super::broken::{Broken, lost, refused};
use super::connection::Raw;
use super::http::{Exchange, Fault, Head, shown_text};
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use super::target::Target;
use crate::limits::POLL_WAIT_DEFAULT;
use crate::limits::client::{ANSWER_TIMEOUT, EVENT_BYTES_MAX, POLL_PACE, POLL_WAIT_FIRST};
use crate::wire::Format;
use crate::wire::{json, msgpack};

#[derive(Debug)]
pub(super) struct Poll {
    exchange: Exchange,
    format: Format,
    token: Option<String>,
    /// Of the last answer, not handed on yet.
    events: VecDeque<Vec<u8>>,
    keeps_alive: bool,
    answers: u64,
    /// When the last request went.
    asked: Instant,
}

impl Poll {
    /// Connects, and asks for the first time.
    pub fn open(target: &Target, format: Format, subscriptions: &Subscriptions, token: Option<&str>) -> Result<Poll, Broken> {
        if subscriptions.is_empty() {
            return Err(refused("polling needs a channel"));
        }
        let exchange = Exchange::dial(target)?;
        let mut poll = Poll {
            exchange,
            format,
            token: token.map(str::to_owned),
            events: VecDeque::new(),
            keeps_alive: true,
            answers: 0,
            asked: Instant::now(),
        };
        poll.ask(target, subscriptions)?;
        Ok(poll)
    }

    pub fn stream(&self) -> &Stream {
        self.exchange.stream()
    }

    /// Whether what is handed on now is of an answer after the first one: that a channel was subscribed to again then says nothing.
    pub fn is_asking_again(&self) -> bool {
        self.answers > 1
    }

    /// The next event, for which the server is asked as often as needed.
    pub fn next(&mut self, target: &Target, subscriptions: &Subscriptions) -> Result<Raw, Broken> {
        loop {
            if let Some(bytes) = self.events.pop_front() {
                return Ok(Raw { format: self.format, bytes });
            }
            self.ask(target, subscriptions)?;
        }
    }

    fn ask(&mut self, target: &Target, subscriptions: &Subscriptions) -> Result<(), Broken> {
        // Where a channel stands is told with an answer, and what comes before it is known is lost with the connection.
        let wait = if self.answers == 0 || !subscriptions.is_placed() { POLL_WAIT_FIRST } else { POLL_WAIT_DEFAULT };
        let first = format!("format={}&wait={}", self.format.name(), wait.as_secs());
        let kind = format!("application/{}", self.format.name());
        let request = target.request(&first, subscriptions, &kind, self.token.as_deref());
        let answered = |exchange: &mut Exchange| -> Result<Head, Fault> {
            exchange.send(request.as_bytes())?;
            exchange.head(wait + ANSWER_TIMEOUT)
        };
        if self.answers > 0 {
            // A server, or a cache before it, that answers at once with nothing must not make this client spin.
            std::thread::sleep(POLL_PACE.saturating_sub(self.asked.elapsed()));
        }
        self.asked = Instant::now();
        let mut is_used = self.answers > 0;
        if !self.keeps_alive {
            self.exchange = Exchange::dial(target)?;
            is_used = false;
        }
        let head = match answered(&mut self.exchange) {
            // The server may end a connection on which nothing is asked; a GET may be sent again.
            Err(Fault::Ended | Fault::Io(_)) if is_used => {
                self.exchange = Exchange::dial(target)?;
                answered(&mut self.exchange)?
            }
            answer => answer?,
        };
        if head.status != 200 {
            return Err(self.exchange.refused(target, head));
        }
        if head.content_type() != kind {
            let found = shown_text(head.content_type().as_bytes());
            return Err(refused(format!("{} answered with {found:?} and not with {kind}: is it a Campanile?", target.shown())));
        }
        self.keeps_alive = head.keeps_alive;
        let body = self.exchange.whole(head.body, EVENT_BYTES_MAX)?;
        let events = elements(self.format, &body).ok_or_else(|| lost(format!("{} answered with no list of events", target.shown())))?;
        self.events = events;
        self.answers += 1;
        Ok(())
    }
}

/// The elements of one array.
fn elements(format: Format, body: &[u8]) -> Option<VecDeque<Vec<u8>>> {
    let mut found = VecDeque::new();
    match format {
        Format::Msgpack => msgpack::elements(body, &mut |element| found.push_back(element.to_vec())).ok()?,
        Format::Json | Format::Raw => {
            let text = std::str::from_utf8(body).ok()?;
            json::elements(text, &mut |element| found.push_back(element.as_bytes().to_vec())).ok()?;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_array() {
        let json = |text: &str| elements(Format::Json, text.as_bytes()).map(Vec::from);
        assert_eq!(json("[ {\"a\":[1]} , {} ]\n").unwrap(), [b"{\"a\":[1]}".to_vec(), b"{}".to_vec()]);
        assert_eq!(json("[]").unwrap(), Vec::<Vec<u8>>::new());
        for text in ["", "{}", "[1,", "[1] 2", "[1 2]", "null"] {
            assert!(json(text).is_none(), "{text}");
        }
        assert_eq!(elements(Format::Msgpack, &[0x92, 0x80, 0x91, 0x01]).unwrap(), [vec![0x80], vec![0x91, 0x01]]);
        for bytes in [&[0x92, 0x80][..], &[0x91, 0x80, 0x80], &[0x80], &[]] {
            assert!(elements(Format::Msgpack, bytes).is_none(), "{bytes:?}");
        }
    }
}
