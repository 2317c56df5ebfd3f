//! One who watches: the connection from its upgrade on, in JSON of the client protocol. Run by `listener`, in place of HTTP.
//!
//! Invariants: what waits to be sent is one snapshot and the answers to one read. Whoever takes nothing is not read and not sent to, and gets the newest
//! snapshot when it takes something again, or is closed after [`Timeouts::writing`]; so is whoever says nothing for [`SILENT_BEATS`] pings.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{CHANNEL, Frame, Stats};
use crate::control::Timeouts;
use crate::control::socket::Socket;
use crate::control::tally::CutReason;
use crate::limits::control::WATCHER_MESSAGE_BYTES_MAX;
use crate::sys;
use crate::wire::Format;
use crate::wire::close::CloseReason;
use crate::wire::command::{self, Asked, Body, ErrorCode};
use crate::wire::event::{self, Event};
use crate::wire::frame::{Opcode, encode_close, encode_frame};
use crate::wire::framing::Encoding;
use crate::wire::inbound::{self, Inbound};

/// So many pings may go unanswered.
const SILENT_BEATS: u32 = 3;
const READ_BYTES: usize = 4096;

/// What the connection becomes when HTTP has ended on it.
#[derive(Debug)]
pub(in crate::control) struct Watcher {
    newest: watch::Receiver<Option<Frame>>,
    epoch: u64,
    seq: u64,
    _place: OwnedSemaphorePermit,
}

/// What comes next.
enum Step {
    /// The client took bytes.
    Sent,
    /// So many bytes came.
    Read(usize),
    News,
    Beat,
    /// The server stops.
    Stop,
    /// All is said, or nobody is there.
    Over,
}

impl Watcher {
    pub(super) fn new(stats: &Stats, place: OwnedSemaphorePermit) -> Watcher {
        let mut newest = stats.newest.subscribe();
        // The one that is there already counts as news.
        newest.mark_changed();
        Watcher { newest, epoch: stats.epoch, seq: stats.seq.load(Relaxed), _place: place }
    }

    /// Serves it to its end. `early`: what came behind the request. Gives the socket back, and why it was ended if the client has not ended it.
    pub(in crate::control) async fn attend(
        mut self,
        mut stream: Socket,
        early: &Bytes,
        timeouts: &Timeouts,
        mut closed: watch::Receiver<()>,
    ) -> (Socket, Option<CutReason>) {
        let mut talk = Talk::default();
        talk.greet(self.epoch, self.seq, timeouts.beat.as_secs().max(1));
        talk.take(&mut early.to_vec());
        let mut beats = interval_at(Instant::now() + timeouts.beat, timeouts.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = pin!(closed.changed());
        let mut scratch = [0; READ_BYTES];
        let (mut moved, mut silent_beats) = (Instant::now(), 0);
        loop {
            let step = {
                let mut news = pin!(self.newest.changed());
                poll_fn(|cx| {
                    if let Poll::Ready(step) = talk.poll_io(&mut stream, &mut scratch, cx) {
                        return Poll::Ready(step);
                    }
                    if !talk.has_unsent() && news.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Step::News);
                    }
                    // Asked until it has happened, and not again.
                    if !talk.is_closing && stop.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Step::Stop);
                    }
                    beats.poll_tick(cx).map(|_| Step::Beat)
                })
                .await
            };
            match step {
                Step::Sent => moved = Instant::now(),
                Step::Read(bytes) => {
                    silent_beats = 0;
                    talk.take(&mut scratch[..bytes]);
                    moved = Instant::now();
                }
                Step::News => {
                    if let Some(frame) = &*self.newest.borrow_and_update() {
                        talk.unsent.extend_from_slice(frame);
                        moved = Instant::now();
                    }
                }
                // It cannot be heard before it has taken what it was sent.
                Step::Beat if talk.has_unsent() => {
                    if moved.elapsed() >= timeouts.writing {
                        return (stream, Some(CutReason::Unread));
                    }
                }
                Step::Beat if silent_beats == SILENT_BEATS => return (stream, Some(CutReason::Silent)),
                Step::Beat => {
                    silent_beats += 1;
                    encode_frame(&mut talk.unsent, Opcode::Ping, b"");
                    moved = Instant::now();
                }
                Step::Stop => talk.close(CloseReason::Shutdown, None),
                Step::Over => return (stream, None),
            }
        }
    }
}

/// What was said, and what is still to be said.
#[derive(Debug, Default)]
struct Talk {
    inbound: Inbound,
    unsent: Vec<u8>,
    /// Of them.
    sent: usize,
    /// A close frame is among them; after it nothing comes.
    is_closing: bool,
}

impl Talk {
    fn has_unsent(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Writes what there is; reads when there is nothing.
    fn poll_io(&mut self, stream: &mut Socket, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<Step> {
        if self.has_unsent() {
            return Pin::new(stream).poll_write(cx, &self.unsent[self.sent..]).map(|written| match written {
                Ok(bytes) if bytes > 0 => {
                    self.sent += bytes;
                    if !self.has_unsent() {
                        (self.unsent, self.sent) = (Vec::new(), 0);
                    }
                    Step::Sent
                }
                _ => Step::Over,
            });
        }
        if self.is_closing {
            return Poll::Ready(Step::Over);
        }
        let mut buffer = ReadBuf::new(scratch);
        Pin::new(stream).poll_read(cx, &mut buffer).map(|read| match (read, buffer.filled().len()) {
            (Ok(()), bytes @ 1..) => Step::Read(bytes),
            _ => Step::Over,
        })
    }

    fn greet(&mut self, epoch: u64, seq: u64, heartbeat_seconds: u64) {
        let client_id = format!("{:020x}", fastrand::u64(..));
        self.say(&Event::Connected { client_id: &client_id, heartbeat_seconds });
        self.say(&Event::Subscribed { id: None, channel: CHANNEL, epoch, seq, recovered: false, max_rate: None, unread: None });
    }

    fn say(&mut self, event: &Event<'_>) {
        event::encode(event, Encoding::web_socket(Format::Json), sys::unix_ms(), &mut self.unsent);
    }

    /// What the client has sent.
    fn take(&mut self, mut input: &mut [u8]) {
        while !input.is_empty() && !self.is_closing {
            match self.inbound.next(&mut input, WATCHER_MESSAGE_BYTES_MAX) {
                Ok(None) => return,
                Ok(Some(inbound::Event::Message { text, payload })) => self.obey(text, &payload),
                Ok(Some(inbound::Event::Ping(payload))) => encode_frame(&mut self.unsent, Opcode::Pong, &payload),
                // Nothing compressed was agreed to: it is a violation before it gets here.
                Ok(Some(inbound::Event::Pong(_) | inbound::Event::Compressed { .. })) => {}
                Ok(Some(inbound::Event::Close { code, reason })) => {
                    match code {
                        Some(code) => encode_close(&mut self.unsent, code, &String::from_utf8_lossy(&reason)),
                        None => encode_frame(&mut self.unsent, Opcode::Close, b""),
                    }
                    self.is_closing = true;
                }
                Err(violation) => self.close(violation.close_reason(), Some(&violation.to_string())),
            }
        }
    }

    /// A ping is answered. There is nothing else to ask for.
    fn obey(&mut self, text: bool, message: &[u8]) {
        match command::decode(text, message) {
            Ok(command) if command.body == Body::Ping => self.say(&Event::Pong { id: command.id.as_ref() }),
            Ok(command) => self.refuse(
                command.asked(),
                ErrorCode::NotAllowed,
                "this connection brings the channel $stats and takes no command but ping",
            ),
            Err(error) => self.refuse(error.asked(), error.code, &error.message),
        }
    }

    fn refuse(&mut self, asked: Asked<'_>, code: ErrorCode, message: &str) {
        self.say(&Event::Error { asked, code, message });
    }

    fn close(&mut self, reason: CloseReason, words: Option<&str>) {
        let goodbye = reason.goodbye().expect("it is told");
        encode_close(&mut self.unsent, goodbye.code, words.unwrap_or(goodbye.text));
        self.is_closing = true;
    }
}
