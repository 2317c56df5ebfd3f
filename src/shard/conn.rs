//! One connection: its socket, what it must remember between reads and writes, its subscriptions, its phase. It marks itself;
//! only the shard's `reap` frees it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::behind::{Behind, Links};
use super::net::Stream;
use super::timers::Timer;
use super::wheel::Tick;
use crate::auth::identity::Identity;
use crate::fanout::cursor::Cursor;
use crate::limits::{OUTBOX_PAUSE_BYTES, PAYLOAD_BYTES_MAX};
use crate::wire::Format;
use crate::wire::close::CloseReason;
use crate::wire::framing::Encoding;
use crate::wire::peer::Peer;

#[derive(Debug)]
pub struct Conn<S> {
    pub stream: S,
    /// Drawn from the shard's counter: with the slot's index it names this connection and no other.
    pub generation: u32,
    pub phase: Phase,
    /// Who is at the other end, and what of its bytes came in part.
    pub peer: Peer,
    /// The timer that runs, and the only tick at which a wheel entry of this connection counts, unless it was put off.
    timer: Timer,
    timer_at: Tick,
    /// When the peer last gave a sign of life.
    pub heard: Tick,
    /// For this connection alone: replies, pongs, the close frame. None when empty.
    pub outbox: Option<Box<Outbox>>,
    pub subscriptions: SmallVec<[Subscription; 1]>,
    /// Which of them are behind.
    pub behind: Behind,
    /// Who is at the other end; None where nobody is asked.
    pub identity: Option<Arc<Identity>>,
    pub flags: Flags,
    pub formats: Formats,
    /// Why it is closing; counted when it is reaped.
    pub reason: CloseReason,
    /// What the shard's account of buffer bytes has for this connection.
    pub charged_bytes: u32,
}

/// Where a connection stands; [`Conn::enter`] changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the PROXY header.
    Proxy,
    /// Reading the request head.
    Handshake,
    /// Messages both ways.
    Open,
    /// The same, and a close frame follows when everything due is sent: the server is stopping, or has asked this one to go.
    Finishing,
    /// Our close frame is queued or sent; the peer's is awaited, its other frames are ignored.
    Closing,
    /// Nothing the peer sends matters any more: the outbox is sent, then our side is shut.
    Ending,
    /// Our side is shut; the peer's end is awaited.
    Shut,
    /// To be reaped.
    Dead,
}

/// Bits of a connection's state, each asked on a hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    /// The kernel took less than offered; nothing is written until the socket's edge.
    pub const BLOCKED: Flags = Flags(1);
    /// On the shard's list of connections that no lap will come by.
    pub const READY: Flags = Flags(1 << 1);
    /// On the list of connections to read.
    pub const READING: Flags = Flags(1 << 2);
    /// The peer's side is closed or failed: read to the end.
    pub const PEER_CLOSED: Flags = Flags(1 << 3);
    /// A ping is unanswered; or a peer that cannot be asked was due to be told, and its socket took nothing.
    pub const PINGED: Flags = Flags(1 << 4);
    /// It was sent something of a channel since its last heartbeat.
    pub const SENT: Flags = Flags(1 << 5);
    /// On the diagnostic echo path.
    pub const ECHO: Flags = Flags(1 << 6);
    /// Reading stopped until the outbox has drained.
    pub const PAUSED: Flags = Flags(1 << 7);
    /// Counted as an open WebSocket connection.
    pub const COUNTED: Flags = Flags(1 << 8);
    /// The message that was under way at the last heartbeat still is.
    pub const UNFINISHED: Flags = Flags(1 << 9);
    /// The first heartbeat has been.
    pub const BEATS: Flags = Flags(1 << 10);
    /// The end of the peer's stream was read: no more will come. What it is owed can still be sent.
    pub const ENDED: Flags = Flags(1 << 11);
    /// The wheel's entry comes before the timer that runs: it is put in anew then.
    pub const PUT_OFF: Flags = Flags(1 << 12);
    /// A token that it brought waits to be verified, with the request head or by a `refresh`.
    pub const VERIFYING: Flags = Flags(1 << 13);
    /// It was told that its token expires.
    pub const WARNED: Flags = Flags(1 << 14);
    /// On the list of those who wait for a place.
    pub const QUEUED: Flags = Flags(1 << 15);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
    pub fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }
    pub fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }
    /// Sets the flag; true if it was not set before.
    pub fn raise(&mut self, flag: Flags) -> bool {
        let was = self.has(flag);
        self.set(flag);
        !was
    }
}

/// The format of what is sent, the one that takes its place at the next frame boundary, and whether it stays, in one byte: a connection has none to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats(u8);

impl Formats {
    /// What is left of it is the format that is sent now; above that the next one's.
    const ONE: u8 = 0b111;
    const NEXT: u32 = 3;
    const FIXED: u8 = 1 << 7;

    /// What a client says first may change it.
    pub fn open(format: Format) -> Formats {
        Formats(format as u8 | (format as u8) << Formats::NEXT)
    }

    /// It was chosen and stays.
    pub fn fixed(format: Format) -> Formats {
        Formats(Formats::open(format).0 | Formats::FIXED)
    }

    pub fn now(self) -> Format {
        Format::ALL[usize::from(self.0 & Formats::ONE)]
    }

    pub fn next(self) -> Format {
        Format::ALL[usize::from(self.0 >> Formats::NEXT & Formats::ONE)]
    }

    /// Fixes it; true if it was not before.
    pub fn fix(&mut self) -> bool {
        let was = self.0 & Formats::FIXED != 0;
        self.0 |= Formats::FIXED;
        !was
    }

    pub fn change_to(&mut self, next: Format) {
        self.0 = self.0 & !(Formats::ONE << Formats::NEXT) | (next as u8) << Formats::NEXT;
    }

    pub fn is_changing(self) -> bool {
        self.now() != self.next()
    }

    /// The next one is sent from here on.
    pub fn settle(&mut self) {
        self.0 = self.0 & !Formats::ONE | self.next() as u8;
    }
}

const _: () = assert!(Format::ALL.len() <= Formats::ONE as usize + 1);

/// One subscription: which topic, which member of it, and how far it has been sent. A client may have tens of thousands, so it is laid flat: 24 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Subscription {
    /// The cursor; with [`SETTLED`] in its offset.
    seq: u64,
    offset: u32,
    pub topic: u32,
    /// Its place among the topic's members (of those with its rate, if it is paced), and seven bits.
    place: u32,
    /// Its place on the list of those that are behind.
    pub links: Links,
}

/// Of an offset: it counts bytes of the settled form of a frame. No frame is as long as this.
const SETTLED: u32 = 1 << 31;
const _: () = assert!(2 * PAYLOAD_BYTES_MAX < SETTLED as usize);

const LEAVING: u32 = 1 << 31;
const LEFT: u32 = 1 << 30;
const UNTOLD: u32 = 1 << 29;
const PACED: u32 = 1 << 28;
const OWED: u32 = 1 << 27;
const AHEAD: u32 = 1 << 26;
const ON_PAGES: u32 = 1 << 25;
const BITS: u32 = LEAVING | LEFT | UNTOLD | PACED | OWED | AHEAD | ON_PAGES;

impl Subscription {
    /// A subscription that the bus has not confirmed yet sees nothing; its cursor keeps the number of its waiter instead.
    pub fn waiting(topic: u32, place: u32, waiter: u32) -> Subscription {
        Subscription { seq: u64::MAX, offset: waiter, topic, place, links: Links::OFF }
    }

    /// It wants no more than so many messages a second (`max_rate`): no lap of the topic but those of its rate comes by, and it is sent the newest.
    pub fn set_paced(&mut self) {
        self.place |= PACED;
    }

    pub fn is_paced(&self) -> bool {
        self.place & PACED != 0
    }

    /// One that is paced: its turn has come, and its socket has not taken the message.
    pub fn set_owed(&mut self, is_owed: bool) {
        self.place = if is_owed { self.place | OWED } else { self.place & !OWED };
    }

    pub fn is_owed(&self) -> bool {
        self.place & OWED != 0
    }

    /// It began beyond the head of its log, behind what had come and was held back: some of that may be passed over.
    pub fn set_ahead(&mut self, is_ahead: bool) {
        self.place = if is_ahead { self.place | AHEAD } else { self.place & !AHEAD };
    }

    pub fn is_ahead(&self) -> bool {
        self.place & AHEAD != 0
    }

    /// Whether something is to be asked before it is sent what its log has from its cursor on.
    pub fn is_apart(&self) -> bool {
        self.place & (PACED | AHEAD) != 0
    }

    /// Its place among the topic's members.
    pub fn place(&self) -> u32 {
        self.place & !BITS
    }

    pub fn set_place(&mut self, place: u32) {
        debug_assert_eq!(place & BITS, 0, "connections end far below 2^25");
        self.place = self.place & BITS | place;
    }

    /// Unsubscribed in the middle of a frame: it ends with the frame.
    pub fn is_leaving(&self) -> bool {
        self.place & LEAVING != 0
    }

    pub fn set_leaving(&mut self) {
        self.place |= LEAVING;
    }

    /// Notes that it is our bound on a visit that leaves it behind, which its topic counts (`left`). True: that is new.
    pub fn note_left(&mut self) -> bool {
        let is_new = self.place & LEFT == 0;
        self.place |= LEFT;
        is_new
    }

    /// Takes the note away; whether there was one.
    pub fn forget_left(&mut self) -> bool {
        let was_left = self.place & LEFT != 0;
        self.place &= !LEFT;
        was_left
    }

    /// The channel is counted anew, which it has to be told before anything else; its cursor stands before the number that it will be told to go on with.
    pub fn is_untold(&self) -> bool {
        self.place & UNTOLD != 0
    }

    pub fn set_untold(&mut self) {
        self.place |= UNTOLD;
    }

    pub fn set_told(&mut self) {
        self.place &= !UNTOLD;
    }

    /// What it is sent next is older than the log of its topic.
    pub fn is_on_pages(&self) -> bool {
        self.place & ON_PAGES != 0
    }

    pub fn set_on_pages(&mut self, is_on_pages: bool) {
        self.place = if is_on_pages { self.place | ON_PAGES } else { self.place & !ON_PAGES };
    }

    /// The waiter's number while the bus has not confirmed the subscription.
    pub fn waiter(&self) -> Option<u32> {
        (self.seq == u64::MAX).then_some(self.offset)
    }

    /// The waiter is taken; the subscription waits on under this number.
    pub fn forget_waiter(&mut self, none: u32) {
        self.offset = none;
    }

    pub fn cursor(&self) -> Cursor {
        Cursor { seq: self.seq, offset: self.offset & !SETTLED, is_settled: self.offset & SETTLED != 0 }
    }

    pub fn set_cursor(&mut self, cursor: Cursor) {
        debug_assert!(cursor.offset < SETTLED && (cursor.is_mid_frame() || !cursor.is_settled));
        (self.seq, self.offset) = (cursor.seq, cursor.offset | if cursor.is_settled { SETTLED } else { 0 });
    }

    pub fn is_mid_frame(&self) -> bool {
        self.offset > 0 && self.waiter().is_none()
    }

    /// Counted in its topic's `lagging`.
    pub fn is_lagging(&self) -> bool {
        !self.links.is_off() && !self.is_leaving()
    }
}

/// Whole frames, back to back, the first `sent` bytes of which are with the kernel.
#[derive(Debug, Default)]
pub struct Outbox {
    pub bytes: Vec<u8>,
    pub sent: usize,
}

impl Outbox {
    /// Puts the rest of a frame that the socket has taken in part before everything else.
    pub fn put_first(&mut self, rest: &[u8]) {
        let sent = self.sent;
        self.bytes.splice(sent..sent, rest.iter().copied());
    }

    /// The kernel has this many more bytes. What was sent is freed now and then: a client that never lets the outbox run quite empty
    /// must not make it grow for ever.
    pub fn take_off(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent > OUTBOX_PAUSE_BYTES && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

impl<S> Conn<S> {
    pub fn new(stream: S, generation: u32, format: Format, now: Tick) -> Conn<S> {
        Conn {
            stream,
            generation,
            phase: Phase::Handshake,
            peer: Peer::Unknown(None),
            timer: Timer::Handshake,
            timer_at: 0,
            heard: now,
            outbox: None,
            subscriptions: SmallVec::new(),
            behind: Behind::NOBODY,
            identity: None,
            flags: Flags::default(),
            formats: Formats::open(format),
            reason: CloseReason::Gone,
            charged_bytes: 0,
        }
    }

    /// Where to append frames for this connection alone.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox.get_or_insert_default().bytes
    }

    pub fn outbox_unsent(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.unsent().len())
    }

    /// The subscription whose frame the socket has taken in part; there is at most one.
    pub fn mid_frame(&self) -> Option<usize> {
        self.first_behind().filter(|&at| self.subscriptions[at].is_mid_frame())
    }

    /// What the logs' messages are sent as.
    pub fn encoding(&self) -> Encoding {
        Encoding { format: self.formats.now(), framing: self.peer.framing() }
    }

    /// A format that waits for a frame boundary begins if the socket is at one.
    pub fn settle_format(&mut self) {
        if self.formats.is_changing() && self.mid_frame().is_none() {
            self.formats.settle();
        }
    }

    /// Puts the connection into another phase.
    ///
    /// # Panics
    /// If there is no way from here to there.
    pub fn enter(&mut self, next: Phase) {
        let is_edge = match (self.phase, next) {
            (Phase::Handshake, Phase::Proxy | Phase::Open | Phase::Ending) => true,
            (Phase::Proxy, Phase::Handshake | Phase::Ending) => true,
            (Phase::Open, Phase::Finishing | Phase::Closing | Phase::Ending) => true,
            // Whoever was answered may ask again.
            (Phase::Open, Phase::Handshake) => !self.peer.answers_close(),
            (Phase::Finishing, Phase::Closing | Phase::Ending) => true,
            (Phase::Closing, Phase::Ending) | (Phase::Ending, Phase::Shut) => true,
            (before, Phase::Dead) => before != Phase::Dead,
            _ => false,
        };
        assert!(is_edge, "no way from {:?} to {next:?}", self.phase);
        self.phase = next;
        if !self.is_heard() {
            self.peer.forget();
        }
    }

    /// The request head has told who it is.
    pub fn open(&mut self, peer: Peer, identity: Option<Arc<Identity>>) {
        self.peer = peer;
        self.identity = identity;
        self.enter(Phase::Open);
    }

    /// Appends what only the peer knows how to put.
    pub fn say<R>(&mut self, say: impl FnOnce(&Peer, &mut Vec<u8>) -> R) -> R {
        say(&self.peer, &mut self.outbox.get_or_insert_default().bytes)
    }

    /// Its request head, or what comes before that, is awaited.
    pub fn is_arriving(&self) -> bool {
        matches!(self.phase, Phase::Proxy | Phase::Handshake)
    }

    /// Commands are obeyed and messages sent.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing)
    }

    /// What the peer sends is read as its protocol has it.
    pub fn is_heard(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing | Phase::Closing)
    }

    pub fn set_timer(&mut self, timer: Timer, tick: Tick) {
        (self.timer, self.timer_at) = (timer, tick);
        self.flags.clear(Flags::PUT_OFF);
    }

    /// Sets a timer that runs out no sooner than the one before, whose entry is still in the wheel (which has come as far as `done`): that entry will do.
    /// A connection that was upgraded has one entry, not one for the handshake and one for its heartbeat. False: nothing was set.
    pub fn put_timer_off(&mut self, timer: Timer, tick: Tick, done: Tick) -> bool {
        let can_be = done < self.timer_at && self.timer_at <= tick;
        if can_be {
            (self.timer, self.timer_at) = (timer, tick);
            self.flags.set(Flags::PUT_OFF);
        }
        can_be
    }

    /// The timer for which an entry that comes now was to be put in anew, and when it runs out.
    pub fn take_put_off(&mut self) -> Option<(Timer, Tick)> {
        let was_put_off = self.flags.has(Flags::PUT_OFF);
        self.flags.clear(Flags::PUT_OFF);
        was_put_off.then_some((self.timer, self.timer_at))
    }

    /// When the timer that runs runs out.
    pub fn timer_tick(&self) -> Tick {
        self.timer_at
    }

    /// The timer that runs out at this tick, if it still does.
    pub fn timer_of(&self, tick: Tick) -> Option<Timer> {
        (self.timer_at == tick).then_some(self.timer)
    }

    pub fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }
}

impl<S: Stream> Conn<S> {
    /// Heap bytes held for this connection alone; 0 when it is idle.
    pub fn buffer_bytes(&self, gear: &S::Gear) -> usize {
        let stream = self.stream.buffer_bytes(gear);
        stream + self.peer.buffered_bytes() + self.outbox.as_ref().map_or(0, |outbox| outbox.bytes.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs in user memory, besides its member entry (8 bytes) and its wheel entry (12 bytes). A release
    /// build's `TcpStream` is a descriptor of 4 bytes, and `Secured` has 4 more, which is what `[u32; 2]` stands for.
    #[test]
    fn a_connection_fits_two_cache_lines() {
        assert_eq!(size_of::<Conn<[u32; 2]>>(), 96);
        assert_eq!(size_of::<Option<Conn<[u32; 2]>>>(), 96, "the slab finds a niche and adds nothing");
        assert_eq!(size_of::<Subscription>(), 24);
    }

    #[test]
    fn a_subscription_keeps_its_cursor_as_it_is() {
        let mut subscription = Subscription::waiting(7, 0, u32::MAX);
        assert_eq!(subscription.waiter(), Some(u32::MAX));
        for is_settled in [false, true] {
            for offset in [1, SETTLED - 1] {
                let cursor = Cursor { offset, is_settled, ..Cursor::at(5) };
                subscription.set_cursor(cursor);
                assert!(subscription.cursor() == cursor && subscription.is_mid_frame());
            }
        }
        subscription.set_cursor(Cursor::at(6));
        assert!(subscription.cursor() == Cursor::at(6) && !subscription.is_mid_frame());
    }

    #[test]
    fn a_timer_is_put_off_while_the_entry_of_an_earlier_one_is_to_come() {
        let mut conn = Conn::new((), 1, Format::Json, 0);
        assert!(!conn.put_timer_off(Timer::Heartbeat, 300, 0), "none is there");
        conn.set_timer(Timer::Handshake, 100);
        assert!(!conn.put_timer_off(Timer::Close, 50, 10), "it would come too late");
        assert!(!conn.put_timer_off(Timer::Heartbeat, 300, 100), "it has come");
        assert!(conn.put_timer_off(Timer::Heartbeat, 300, 10) && conn.put_timer_off(Timer::Heartbeat, 400, 10));
        assert_eq!((conn.timer_of(100), conn.timer_of(400)), (None, Some(Timer::Heartbeat)));
        assert_eq!(conn.take_put_off(), Some((Timer::Heartbeat, 400)));
        assert_eq!(conn.take_put_off(), None, "an entry comes once");
        assert!(conn.put_timer_off(Timer::Heartbeat, 500, 10));
        conn.set_timer(Timer::Close, 200);
        assert_eq!((conn.take_put_off(), conn.timer_of(200)), (None, Some(Timer::Close)));
    }

    #[test]
    fn an_idle_connection_owns_no_heap() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = mio::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(Conn::new(stream, 1, Format::Json, 0).buffer_bytes(&()), 0);
    }
}
