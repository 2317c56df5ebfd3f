//! Who is at the other end of a connection: a peer for each kind of protocol. It keeps what has come in part, and whatever the server says to this
//! one connection, replies, heartbeats, the close, becomes the protocol's bytes here and nowhere else.
//!
//! Held by each connection of a shard, which asks no peer what kind it is. What a channel's subscribers are sent is encoded once for all of
//! them; [`Peer::framing`] says in what.

use super::Format;
use super::close::Goodbye;
use super::event::{self, Event};
use super::event_stream;
use super::frame::{Opcode, Violation, encode_close, encode_frame};
use super::framing::{Encoding, Framing};
use super::http::upgrade::Upgrade;
use super::inbound::{self, Inbound};
use super::poll::{self, Poll};

#[derive(Debug)]
pub enum Peer {
    /// Nobody can tell yet: its request head is awaited. What has come of it, if it came in pieces.
    Unknown(Option<Box<Vec<u8>>>),
    /// A WebSocket client (RFC 6455).
    WebSocket {
        inbound: Inbound,
        /// Whether it can be asked if it lives. The simulator has clients that cannot.
        answers_pings: bool,
    },
    /// A client of Server-Sent Events, which says nothing any more.
    EventStream {
        /// It has one channel, so each message tells it where it stands.
        is_of_one: bool,
    },
    /// A client whose request is answered when something comes.
    Poll(Box<Poll>),
}

/// What a heartbeat comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The peer was asked, and has to answer.
    Asked,
    /// It was told that the server lives. Whether it lives itself, only its socket can say.
    Told,
}

impl Peer {
    /// Who asks for this.
    pub fn of(_upgrade: &Upgrade<'_>) -> Peer {
        Peer::web_socket(true)
    }

    pub fn web_socket(answers_pings: bool) -> Peer {
        Peer::WebSocket { inbound: Inbound::default(), answers_pings }
    }

    /// What stands around each message for it.
    pub fn framing(&self) -> Framing {
        match self {
            // It is sent nothing that is framed.
            Peer::Unknown(_) => Framing::WebSocket,
            Peer::WebSocket { .. } => Framing::WebSocket,
            Peer::EventStream { is_of_one: true } => Framing::EventStreamOfOne,
            Peer::EventStream { is_of_one: false } => Framing::EventStream,
            Peer::Poll(_) => Framing::Poll,
        }
    }

    /// Whether silence means anything: a peer that cannot be asked may have nothing to say for as long as it lives.
    pub fn answers_pings(&self) -> bool {
        match self {
            Peer::Unknown(_) | Peer::EventStream { .. } | Peer::Poll(_) => false,
            Peer::WebSocket { answers_pings, .. } => *answers_pings,
        }
    }

    /// Takes the next thing that it says off `input`, as [`Inbound::next`] does.
    pub fn next<'b>(&mut self, input: &mut &'b mut [u8], message_bytes_max: usize) -> Result<Option<inbound::Event<'b>>, Violation> {
        match self {
            Peer::Unknown(_) => unreachable!("a request head is read as a whole"),
            Peer::WebSocket { inbound, .. } => inbound.next(input, message_bytes_max),
            Peer::EventStream { .. } => Err(Violation::BehindRequest),
            Peer::Poll(poll) => {
                // The next request, which waits for its turn.
                poll.next.extend_from_slice(input);
                *input = &mut [];
                Ok(None)
            }
        }
    }

    /// An event for it alone.
    pub fn encode_reply(&self, event: &Event<'_>, format: Format, unix_ms: u64, out: &mut Vec<u8>) {
        event::encode(event, Encoding { format, framing: self.framing() }, unix_ms, out);
    }

    /// Its own message back, for `/echo`.
    pub fn encode_echo(&self, text: bool, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Peer::Unknown(_) | Peer::EventStream { .. } | Peer::Poll(_) => {}
            Peer::WebSocket { .. } => encode_frame(out, if text { Opcode::Text } else { Opcode::Binary }, payload),
        }
    }

    /// The answer to a ping of its own.
    pub fn encode_pong(&self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Peer::Unknown(_) | Peer::EventStream { .. } | Peer::Poll(_) => {}
            Peer::WebSocket { .. } => encode_frame(out, Opcode::Pong, payload),
        }
    }

    pub fn encode_beat(&self, out: &mut Vec<u8>) -> Beat {
        match self {
            Peer::Unknown(_) | Peer::Poll(_) => Beat::Told,
            Peer::EventStream { .. } => {
                event_stream::write_heartbeat(out);
                Beat::Told
            }
            Peer::WebSocket { answers_pings: true, .. } => {
                encode_frame(out, Opcode::Ping, b"");
                Beat::Asked
            }
            // A pong that nobody asked for is a heartbeat one way (RFC 6455, 5.5.3).
            Peer::WebSocket { answers_pings: false, .. } => {
                encode_frame(out, Opcode::Pong, b"");
                Beat::Told
            }
        }
    }

    /// Why the connection ends, in words of the occasion.
    pub fn encode_close(&self, goodbye: Goodbye, text: &str, out: &mut Vec<u8>) {
        match self {
            Peer::Unknown(_) => {}
            Peer::WebSocket { .. } => encode_close(out, goodbye.code, text),
            Peer::EventStream { .. } => {
                event_stream::write_farewell(out, goodbye.code, text, event_stream::retry_after(goodbye, text));
            }
            Peer::Poll(poll) if poll.is_waiting() => {
                poll::encode(&Event::Close { code: goodbye.code, reason: text }, poll.format, 0, out);
            }
            // Its answer is on the way.
            Peer::Poll(_) => {}
        }
    }

    /// The answer to its own goodbye: an empty one to an empty one.
    pub fn encode_close_echo(&self, code: Option<u16>, text: &str, out: &mut Vec<u8>) {
        match (self, code) {
            (Peer::Unknown(_) | Peer::EventStream { .. } | Peer::Poll(_), _) => {}
            (Peer::WebSocket { .. }, Some(code)) => encode_close(out, code, text),
            (Peer::WebSocket { .. }, None) => encode_frame(out, Opcode::Close, b""),
        }
    }

    /// Whether the end of its connection has an answer of its own to be awaited.
    pub fn answers_close(&self) -> bool {
        matches!(self, Peer::WebSocket { .. })
    }

    /// The poll that has not been answered.
    pub fn waiting_poll(&mut self) -> Option<&mut Poll> {
        match self {
            Peer::Poll(poll) if poll.is_waiting() => Some(poll),
            _ => None,
        }
    }

    pub fn is_waiting_poll(&self) -> bool {
        matches!(self, Peer::Poll(poll) if poll.is_waiting())
    }

    /// Something has come that whoever polls is answered for.
    pub fn note_news(&mut self) {
        if let Some(poll) = self.waiting_poll() {
            poll.has_news = true;
        }
    }

    /// Whether it is sending something that has to be finished.
    pub fn is_message_under_way(&self) -> bool {
        match self {
            Peer::Unknown(_) | Peer::EventStream { .. } | Peer::Poll(_) => false,
            Peer::WebSocket { inbound, .. } => inbound.is_message_under_way(),
        }
    }

    /// Heap bytes held for what has come in part.
    pub fn buffered_bytes(&self) -> usize {
        match self {
            Peer::Unknown(head) => head.as_ref().map_or(0, |head| head.capacity()),
            Peer::WebSocket { inbound, .. } => inbound.buffered_bytes(),
            Peer::EventStream { .. } => 0,
            Peer::Poll(poll) => poll.next.capacity(),
        }
    }

    /// Nothing that it says matters any more: what has come in part goes.
    pub fn forget(&mut self) {
        match self {
            Peer::Unknown(head) => *head = None,
            Peer::WebSocket { inbound, .. } => *inbound = Inbound::default(),
            Peer::EventStream { .. } => {}
            Peer::Poll(poll) => poll.next = Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close::CloseReason;
    use crate::wire::framing::tests::split_frame;

    fn said(peer: &Peer, say: impl FnOnce(&Peer, &mut Vec<u8>)) -> (u8, Vec<u8>) {
        let mut out = Vec::new();
        say(peer, &mut out);
        let (opcode, payload, rest) = split_frame(&out);
        assert!(rest.is_empty());
        (opcode, payload.to_vec())
    }

    #[test]
    fn a_web_socket_is_told_everything_in_frames() {
        let peer = Peer::web_socket(true);
        assert_eq!(said(&peer, |peer, out| assert_eq!(peer.encode_beat(out), Beat::Asked)), (9, vec![]));
        assert_eq!(said(&peer, |peer, out| peer.encode_pong(b"p", out)), (10, b"p".to_vec()));
        assert_eq!(said(&peer, |peer, out| peer.encode_echo(true, b"t", out)), (1, b"t".to_vec()));
        assert_eq!(said(&peer, |peer, out| peer.encode_echo(false, b"b", out)), (2, b"b".to_vec()));
        let goodbye = CloseReason::Shutdown.goodbye().unwrap();
        assert_eq!(said(&peer, |peer, out| peer.encode_close(goodbye, "bye", out)), (8, b"\x03\xE9bye".to_vec()));
        assert_eq!(said(&peer, |peer, out| peer.encode_close_echo(Some(4000), "x", out)), (8, b"\x0F\xA0x".to_vec()));
        assert_eq!(said(&peer, |peer, out| peer.encode_close_echo(None, "", out)), (8, vec![]));
        assert_eq!(
            said(&peer, |peer, out| peer.encode_reply(&Event::Pong { id: None }, Format::Json, 0, out)),
            (1, b"{\"type\":\"pong\"}".to_vec())
        );
    }

    #[test]
    fn whoever_cannot_be_asked_is_told() {
        let peer = Peer::web_socket(false);
        assert_eq!(said(&peer, |peer, out| assert_eq!(peer.encode_beat(out), Beat::Told)), (10, vec![]));
    }

    #[test]
    fn what_came_in_part_goes_when_it_does_not_matter_any_more() {
        let mut stranger = Peer::Unknown(Some(Box::new(b"GET /ws".to_vec())));
        let mut client = Peer::web_socket(true);
        assert!(client.next(&mut [0x81u8].as_mut_slice(), 100).unwrap().is_none());
        assert!(client.is_message_under_way());
        for peer in [&mut stranger, &mut client] {
            assert!(peer.buffered_bytes() > 0);
            peer.forget();
            assert!(peer.buffered_bytes() == 0 && !peer.is_message_under_way());
        }
    }
}
