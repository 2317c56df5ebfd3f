//! Who gets in: connections taken, request heads judged, what is refused told why.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::conn::{Conn, Flags, Formats, Phase};
use super::identify::{Caller, Entry};
use super::net::{Accepted, Network};
use super::rate::moment;
use super::sources::Standing;
use super::timers::Timer;
use super::wheel::TICKS_PER_SECOND;
use super::{Shard, pack};
use crate::addresses::Source;
use crate::auth::identity::Identity;
use crate::bus::ConnToken;
use crate::life::Stage;
use crate::limits;
use crate::metrics::LoadCause;
use crate::wire::client_id::ClientId;
use crate::wire::close::CloseReason;
use crate::wire::event::Event;
use crate::wire::event_stream;
use crate::wire::http::feed::{Kind, Resume};
use crate::wire::http::head::{FieldRoom, Head};
use crate::wire::http::refusal::{Refusal, RefusalReason};
use crate::wire::http::upgrade::Upgrade;
use crate::wire::http::{self, Outcome, Rules, answer};
use crate::wire::peer::Peer;
use crate::wire::wish::Wish;

impl<N: Network> Shard<N> {
    /// Takes waiting connections. What is too many is refused later, with an HTTP answer, once the head has been read. A door that is being closed is
    /// shut when nobody waits at it any more.
    pub(super) fn accept(&mut self) {
        self.accept_waiting();
        if let Some(left) = self.door_accepts {
            let left = left.saturating_sub(limits::ACCEPTS_PER_TURN);
            self.door_accepts = Some(left);
            if left == 0 || !self.accept_ready {
                self.shut_doors();
            }
        }
    }

    fn accept_waiting(&mut self) {
        if self.accept_retry.is_some_and(|tick| tick <= self.tick) {
            self.accept_retry = None;
            self.accept_ready = true;
        }
        // What waits at a door that is being closed waits for nobody else.
        let is_serving = self.stage == Stage::Serving;
        let most = if is_serving && !self.laps.is_empty() { limits::ACCEPTS_PER_TURN_OF_LAPS } else { limits::ACCEPTS_PER_TURN };
        for _ in 0..most {
            if !self.accept_ready || (self.stage != Stage::Serving && self.door_accepts.is_none()) {
                self.accept_ready = false;
                return;
            }
            if is_serving && self.is_crowded() {
                self.accept_ready = false;
                self.accept_retry = Some(self.tick + limits::ACCEPT_RETRY_TICKS);
                return;
            }
            match self.net.accept() {
                Accepted::Stream { stream, peer, is_proxied } => self.arrive(stream, peer, is_proxied),
                Accepted::Dropped => {
                    self.note_accept_error();
                    self.metrics.refused[RefusalReason::Descriptors as usize].inc();
                }
                Accepted::Gone => {}
                Accepted::None => self.accept_ready = false,
                Accepted::Later => {
                    self.note_accept_error();
                    self.accept_ready = false;
                    self.accept_retry = Some(self.tick + limits::ACCEPT_RETRY_TICKS);
                }
            }
        }
    }

    /// Gives a connection its slot; None: there is none for it.
    pub(super) fn admit(&mut self, mut stream: N::Stream, source: Source, standing: Standing) -> Option<usize> {
        self.metrics.accepted.inc();
        // Where all are being told 503, the socket is simply dropped.
        if !self.has_room_for_stranger() {
            self.metrics.refused[RefusalReason::ConnectionsMax as usize].inc();
            return None;
        }
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let key = self.conns.vacant_key();
        let token = ConnToken { index: key as u32, generation };
        if self.net.register(&mut stream, pack(token)).is_err() {
            self.note_accept_error();
            return None;
        }
        self.sources.enter(key, source, standing, self.tick / TICKS_PER_SECOND, moment(self.now_ns));
        self.conns.insert(Conn::new(stream, generation, self.settings.clients.format, self.tick));
        self.metrics.sockets.inc();
        self.note_stranger(token);
        self.set_timer(token.index as usize, Timer::Handshake, self.settings.clients.handshake_timeout);
        Some(key)
    }

    /// Counts it, and says so once a minute at most: a crowd at the door must not fill the log.
    fn note_accept_error(&mut self) {
        self.metrics.accept_errors.inc();
        if self.accept_warned.is_none_or(|tick| self.tick - tick >= limits::ACCEPT_WARNING_TICKS) {
            self.accept_warned = Some(self.tick);
            tracing::warn!(
                shard = self.index,
                open = self.conns.len(),
                "connections cannot be accepted: out of descriptors or kernel memory; raise `ulimit -n` (LimitNOFILE=), use --fd-table private \
                 with more shards, or lower --connections-max"
            );
        }
    }

    pub(super) fn read_head(&mut self, key: usize, input: &mut [u8]) {
        let rules = Rules { echo: self.settings.clients.echo, head_bytes_max: self.settings.head_bytes_max };
        match http::parse(input, &mut FieldRoom::empty(), rules) {
            Outcome::Partial => self.conns[key].peer = Peer::Unknown(Some(Box::new(input.to_vec()))),
            Outcome::Refuse(refusal) => {
                let reason = self.turned_away.get(&(key as u32)).copied();
                self.refuse(key, &if let Some(reason) = reason { refusal.because(reason) } else { refusal });
            }
            Outcome::Health { head, head_only } => {
                if self.is_turned_away(key, &head) {
                    return;
                }
                let allow = self.allow_origin(head.fields.only("origin"));
                self.answer_at_once(key, &head, input, |out, keeps_alive| answer::health(out, head_only, keeps_alive, &allow));
            }
            Outcome::Options { head, methods } => {
                if self.is_turned_away(key, &head) {
                    return;
                }
                let allow = self.allow_origin(head.fields.only("origin"));
                self.answer_at_once(key, &head, input, |out, keeps_alive| answer::options(out, methods, keeps_alive, &allow));
            }
            Outcome::Feed(feed) => {
                if feed.resume == Resume::Never {
                    return self.answer_never(key, &feed.head);
                }
                if feed.kind != Kind::EventStream && !self.may_poll(key, &feed.head) {
                    return;
                }
                // Of whoever speaks for others each request may be another one's.
                let standing = self.sources.standing(key);
                let Some(identity) = self.let_in(key, &feed.head, input, Entry::Feed) else { return };
                let may_ask_again = feed.head.keeps_alive() && self.sources.standing(key) == standing && self.is_serving();
                let bytes = feed.head.bytes;
                self.open_feed(key, &feed, identity, may_ask_again);
                self.read_messages(key, &mut input[bytes..]);
            }
            Outcome::Upgrade(mut upgrade) => {
                let Some(identity) = self.let_in(key, &upgrade.head, input, Entry::Upgrade) else { return };
                upgrade.deflate = self.agree_deflate(&upgrade);
                let frames = upgrade.head.bytes;
                self.open(key, &upgrade, identity);
                self.read_messages(key, &mut input[frames..]);
            }
        }
    }

    /// Who asks for it, if that one may come in, and has been counted. None: it has been refused, or its token is still to be verified.
    fn let_in(&mut self, key: usize, head: &Head<'_>, input: &[u8], entry: Entry) -> Option<Option<Arc<Identity>>> {
        if self.is_turned_away(key, head) {
            return None;
        }
        let refuse = |shard: &mut Self, refusal: Refusal| {
            shard.refuse_request(key, refusal, head);
            None
        };
        if self.is_stopping() {
            return refuse(self, RefusalReason::Stopping.into());
        }
        // All that costs less, before anybody's signature is looked at.
        if let Err(reason) = self.follow_forwarded(key, &head.fields) {
            return refuse(self, reason.into());
        }
        if let Some(cause) = self.load.ask(self.now_ns, &self.host) {
            return refuse(self, overloaded(cause).into());
        }
        if self.connections.load(Relaxed) >= self.settings.connections_max {
            return refuse(self, RefusalReason::ConnectionsMax.into());
        }
        let identity = match self.caller(key, head, entry) {
            Caller::Is(identity) => identity,
            Caller::Refused(refusal) => return refuse(self, refusal),
            Caller::Later => {
                self.wait_for_verifying(key, input.to_vec());
                return None;
            }
        };
        if self.connections.fetch_add(1, Relaxed) >= self.settings.connections_max {
            self.connections.fetch_sub(1, Relaxed);
            return refuse(self, RefusalReason::ConnectionsMax.into());
        }
        Some(identity)
    }

    /// Answers a request that nobody has to wait for. Another one may follow.
    fn answer_at_once(&mut self, key: usize, head: &Head<'_>, input: &[u8], answer: impl FnOnce(&mut Vec<u8>, bool)) {
        let keeps_alive = head.keeps_alive() && self.is_serving();
        if !keeps_alive {
            let mut out = Vec::new();
            answer(&mut out, false);
            return self.end_with_answer(key, &out, CloseReason::Answered);
        }
        let conn = &mut self.conns[key];
        conn.reason = CloseReason::Answered;
        answer(conn.outbox(), true);
        self.after_reply(key);
        self.await_request(key, &input[head.bytes..]);
    }

    pub(super) fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    fn open(&mut self, key: usize, upgrade: &Upgrade<'_>, identity: Option<Arc<Identity>>) {
        self.metrics.connections.inc();
        let conn = &mut self.conns[key];
        conn.flags.set(Flags::COUNTED);
        conn.open((self.peer_of)(upgrade), identity);
        self.count_user(key, 1);
        let conn = &mut self.conns[key];
        if let Some(format) = upgrade.format {
            conn.formats = Formats::fixed(format);
        }
        answer::switch_protocols(conn.outbox(), upgrade);
        self.mark_ready(key);
        self.start_heartbeat(key);
        if upgrade.echo {
            self.conns[key].flags.set(Flags::ECHO);
            return;
        }
        self.send_connected(key);
        let own = self.own_channel(key);
        if let Some(own) = &own {
            self.subscribe_unasked(key, own, None, Wish::default());
        }
        for channel in upgrade.channels.iter().filter(|channel| Some(*channel) != own.as_ref()) {
            self.subscribe(key, channel, None, Wish::default());
        }
    }

    /// What the connection is known as.
    pub(super) fn client_id(&self, key: usize) -> ClientId {
        ClientId { node: self.node_id, shard: self.index, connection: self.conns[key].generation }
    }

    pub(super) fn send_connected(&mut self, key: usize) {
        use std::io::Write as _;
        let mut client_id = [0u8; 32];
        let mut rest = &mut client_id[..];
        write!(rest, "{}", self.client_id(key)).expect("20 digits fit");
        let unused = rest.len();
        let client_id = std::str::from_utf8(&client_id[..client_id.len() - unused]).expect("hex digits");
        self.reply(key, &Event::Connected { client_id, heartbeat_seconds: self.settings.clients.heartbeat.as_secs() });
    }

    pub(super) fn on_handshake_overdue(&mut self, key: usize) {
        // If this thread was held up, the request may be here already.
        self.last_look(key);
        if !self.conns[key].is_arriving() {
            return;
        }
        let conn = &self.conns[key];
        if conn.reason == CloseReason::Answered && conn.peer.buffered_bytes() == 0 {
            // It has been answered, and asks for nothing more.
            return self.kill(key, CloseReason::Answered);
        }
        let turned_away = self.turned_away.get(&(key as u32)).copied();
        let refusal = if self.is_stopping() {
            // What it would have asked for does not matter: it would have been told this.
            Refusal::from(RefusalReason::Stopping)
        } else if let Some(reason) = turned_away {
            reason.into()
        } else if self.is_verifying(key) {
            Refusal::from(RefusalReason::TokensWaiting)
        } else {
            let seconds = self.settings.clients.handshake_timeout.as_secs_f32();
            let conn = &self.conns[key];
            if conn.phase == Phase::Proxy && conn.peer.buffered_bytes() > 0 {
                let text = format!("no whole PROXY header within {seconds} s, and this port expects one before every request");
                Refusal::new(RefusalReason::ProxyHeader, text)
            } else {
                let text = format!("no complete request head within {seconds} s; send the whole request at once");
                Refusal::new(RefusalReason::RequestTimeout, text)
            }
        };
        if self.is_verifying(key)
            && let Peer::Unknown(Some(head)) = &mut self.conns[key].peer
        {
            // It has asked for something, in whose terms it is answered.
            let head = std::mem::take(&mut **head);
            let rules = Rules { echo: self.settings.clients.echo, head_bytes_max: self.settings.head_bytes_max };
            if let Outcome::Feed(feed) = http::parse(&head, &mut FieldRoom::empty(), rules) {
                return self.refuse_request(key, refusal, &feed.head);
            }
        }
        self.refuse(key, &refusal);
    }

    /// It is to be refused whatever it asks for; it is told so in terms of what it does ask for. False: it is not.
    fn is_turned_away(&mut self, key: usize, head: &Head<'_>) -> bool {
        let reason = self.turned_away.get(&(key as u32)).copied();
        if let Some(reason) = reason {
            self.refuse_request(key, reason.into(), head);
        }
        reason.is_some()
    }

    /// Answers a request that is not served, then ends.
    pub(super) fn refuse_request(&mut self, key: usize, refusal: Refusal, head: &Head<'_>) {
        self.refuse(key, &refusal.asked_by(head));
    }

    /// The same where nothing is known of what was asked for, or the refusal has it.
    pub(super) fn refuse(&mut self, key: usize, refusal: &Refusal) {
        if self.turned_away.remove(&(key as u32)).is_none() {
            self.metrics.refused[refusal.reason as usize].inc();
        }
        let mut answer = Vec::new();
        // Of its generation there is no other one near.
        let refusal = refusal.clone().spread(self.conns[key].generation);
        let allow = self.allow_origin(refusal.origin.as_deref());
        if refusal.is_told_as_stream() {
            answer::event_stream(&mut answer, &allow);
            event_stream::write_farewell(&mut answer, refusal.reason.status().0, &refusal.message, Some(refusal.retry_after_ms()));
        } else {
            answer::refuse(&mut answer, &refusal, &allow);
        }
        let reason = if refusal.reason == RefusalReason::RequestTimeout { CloseReason::HandshakeTimeout } else { CloseReason::Refused };
        self.end_with_answer(key, &answer, reason);
    }

    pub(super) fn end_with_answer(&mut self, key: usize, answer: &[u8], reason: CloseReason) {
        let conn = &mut self.conns[key];
        conn.reason = reason;
        conn.outbox().extend_from_slice(answer);
        conn.enter(Phase::Ending);
        self.set_timer(key, Timer::Close, self.settings.clients.close_timeout);
        self.mark_ready(key);
    }
}

fn overloaded(cause: LoadCause) -> RefusalReason {
    match cause {
        LoadCause::Lag => RefusalReason::OverloadedLag,
        LoadCause::Logs => RefusalReason::OverloadedLogs,
        LoadCause::Memory => RefusalReason::OverloadedMemory,
    }
}
