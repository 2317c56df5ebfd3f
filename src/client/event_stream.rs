//! A connection over an event stream (`/sse`), from the request to its end. Called by [`super::connection`].

use std::borrow::Cow;
use std::time::Duration;

use super::broken::{Broken, closed, lost, refused};
use super::connection::Raw;
use super::event::{Event, Received};
use super::http::{Body, Exchange, refusal, shown_text};
use super::stream::Stream;
use super::stream_reader::{Block, Piece, StreamReader};
use super::subscriptions::Subscriptions;
use super::target::Target;
use crate::limits::client::{ANSWER_TIMEOUT, EVENT_BYTES_MAX, RETRY_AFTER_MAX, SILENCE_MAX};
use crate::wire::Format;

#[derive(Debug)]
pub(super) struct EventStream {
    exchange: Exchange,
    body: Body,
    reader: StreamReader,
    /// Of the body, from `taken` on.
    content: Vec<u8>,
    taken: usize,
    /// When the server wants this client back.
    retry_after: Option<Duration>,
    /// The event that showed that there is a stream.
    first: Option<Raw>,
}

impl EventStream {
    /// Connects, and waits for the first event: a stream that only says when to come back is a refusal.
    pub fn open(target: &Target, subscriptions: &Subscriptions, token: Option<&str>) -> Result<EventStream, Broken> {
        let mut exchange = Exchange::dial(target)?;
        exchange.send(target.request("format=json", subscriptions, "text/event-stream", token).as_bytes())?;
        let head = exchange.head(ANSWER_TIMEOUT)?;
        match head.status {
            200 if head.content_type() == "text/event-stream" => {}
            200 => {
                let kind = shown_text(head.content_type().as_bytes());
                return Err(refused(format!("{} answered with {kind:?}, which is no event stream: is it a Campanile?", target.shown())));
            }
            204 => return Err(refused(format!("{} says that this client is not to come back (204)", target.shown()))),
            _ => return Err(exchange.refused(target, head)),
        }
        let mut stream = EventStream {
            exchange,
            body: head.body,
            reader: StreamReader::default(),
            content: Vec::new(),
            taken: 0,
            retry_after: None,
            first: None,
        };
        stream.set_silence(ANSWER_TIMEOUT);
        stream.first = Some(stream.read(target)?);
        stream.set_silence(SILENCE_MAX);
        Ok(stream)
    }

    pub fn stream(&self) -> &Stream {
        self.exchange.stream()
    }

    /// How long the server may say nothing.
    pub fn set_silence(&self, silence: Duration) {
        let _ = self.stream().socket().set_read_timeout(Some(silence));
    }

    /// Waits for the next event.
    pub fn next(&mut self, target: &Target) -> Result<Raw, Broken> {
        match self.first.take() {
            Some(first) => Ok(first),
            None => self.read(target),
        }
    }

    fn read(&mut self, target: &Target) -> Result<Raw, Broken> {
        loop {
            if let Some((is_farewell, bytes)) = self.next_event() {
                let raw = Raw { format: Format::Json, bytes };
                return if is_farewell { Err(self.farewell(target, &raw)) } else { Ok(raw) };
            }
            self.content.drain(..std::mem::take(&mut self.taken));
            if self.content.len() > EVENT_BYTES_MAX {
                return Err(lost(format!("{} sent an event of more than {EVENT_BYTES_MAX} bytes", target.shown())));
            }
            match self.exchange.more(&mut self.body, &mut self.content, None) {
                Ok(true) => {}
                Ok(false) => return Err(self.lost("the event stream has ended")),
                Err(fault) => return Err(self.lost(&fault.to_string())),
            }
        }
    }

    /// The next event that has come, and whether it is the last one.
    fn next_event(&mut self) -> Option<(bool, Vec<u8>)> {
        loop {
            let mut input = &self.content[self.taken..];
            let before = input.len();
            let piece = self.reader.next(&mut input)?;
            self.taken += before - input.len();
            let Piece::Block(Block { name, data, retry_ms }) = piece else { continue };
            if let Some(retry_ms) = retry_ms {
                self.retry_after = Some(Duration::from_millis(retry_ms).min(RETRY_AFTER_MAX));
            }
            match (name, data) {
                // Where each channel stands is told by what came before.
                (_, None) | (b"position", _) => {}
                (name, Some(data)) => return Some((name == b"close", Cow::into_owned(data))),
            }
        }
    }

    fn lost(&self, why: &str) -> Broken {
        Broken::Lost { why: why.to_owned(), retry_after: self.retry_after }
    }

    fn farewell(&self, target: &Target, raw: &Raw) -> Broken {
        match Received::read(raw.format, &raw.bytes).map(|received| received.event) {
            // A request that is refused for a time, as an EventSource can be told it.
            Ok(Event::Close(close)) if (400..600).contains(&close.code) => {
                match refusal(target, close.code, None, close.reason.as_bytes()) {
                    Broken::Lost { why, .. } => Broken::Lost { why, retry_after: self.retry_after },
                    other => other,
                }
            }
            Ok(Event::Close(close)) => closed(close.code, &close.reason, self.retry_after),
            _ => self.lost("the server has ended the event stream"),
        }
    }
}
