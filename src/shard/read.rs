//! What connections send: request heads, frames, commands. Replies go to the connection's outbox; `flush` sends them.

use super::Shard;
use super::close::goodbye;
use super::conn::{Flags, Phase};
use super::net::{Network, Received, Stream};
use super::rate::moment;
use super::timers::Timer;
use crate::bus::ConnToken;
use crate::fanout::naming::ChannelName;
use crate::limits;
use crate::wire::Format;
use crate::wire::close::CloseReason;
use crate::wire::command::{self, Asked, Body, Command, Entry, ErrorCode, Id};
use crate::wire::event::Event;
use crate::wire::http::refusal::{Refusal, RefusalReason};
use crate::wire::inbound;
use crate::wire::peer::Peer;

impl<N: Network> Shard<N> {
    /// Reads from connections whose edge has come, a few rounds each; who has more to say stays on the list.
    pub(super) fn read_ready(&mut self) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let most = if self.laps.is_empty() { limits::READS_PER_TURN } else { limits::READS_PER_TURN_OF_LAPS };
        for _ in 0..most.min(self.reading.len()) {
            if self.deflate.has_inflated_enough() {
                break;
            }
            let Some(token) = self.reading.pop_front() else { break };
            let Some(key) = self.resolve(token) else { continue };
            self.conns[key].flags.clear(Flags::READING);
            self.read(key, &mut scratch);
            if self.conns[key].outbox.as_ref().is_some_and(|outbox| outbox.unsent().len() >= limits::REPLIES_HELD_BYTES) {
                self.visit(key, None);
            }
        }
        self.scratch = scratch;
    }

    pub(super) fn read(&mut self, key: usize, scratch: &mut [u8]) {
        for _ in 0..limits::READ_ROUNDS_PER_TURN {
            let conn = &mut self.conns[key];
            if conn.is_dead() || conn.flags.has(Flags::PAUSED) || conn.flags.has(Flags::ENDED) {
                return;
            }
            let bytes_max = if conn.flags.has(Flags::ECHO) { limits::READ_BYTES } else { limits::CLIENT_READ_BYTES };
            let (count, has_come, drained) = match conn.stream.read(self.net.gear_mut(), scratch, bytes_max) {
                Ok(Received::Bytes { count, drained }) => (count, count > 0, drained),
                Ok(Received::Part { drained }) => (0, true, drained),
                Ok(Received::End) => return self.end_of_stream(key),
                Ok(Received::Later) => break,
                Ok(Received::Queued) => return self.queue(key),
                Ok(Received::Broken) => return self.end_broken(key),
                Err(_) => return self.lose(key, CloseReason::Reset),
            };
            if count > 0 {
                conn.heard = self.tick;
                if conn.flags.has(Flags::PINGED) {
                    conn.flags.clear(Flags::PINGED);
                    self.on_ping_answered(key);
                }
                self.metrics.bytes_received.add(count as u64);
                self.receive(key, &mut scratch[..count]);
            }
            if count > 0 || self.conns[key].stream.buffer_bytes(self.net.gear()) > 0 {
                self.account_buffers(key);
            }
            if self.conns[key].stream.wants_write(self.net.gear()) {
                self.mark_ready(key);
            }
            let conn = &self.conns[key];
            let is_empty = drained && !conn.stream.has_pending(self.net.gear());
            // The end of the stream may lie behind the last bytes: its edge has been.
            if is_empty && !(has_come && conn.flags.has(Flags::PEER_CLOSED)) {
                return;
            }
            if self.deflate.has_inflated_enough() {
                break;
            }
        }
        let token = self.token(key);
        if !self.conns[key].is_dead() && self.conns[key].flags.raise(Flags::READING) {
            self.reading.push_back(token);
        }
    }

    /// No more will come. That does not mean that nothing may be sent: the answers to what came before are, and then the connection ends.
    fn end_of_stream(&mut self, key: usize) {
        let conn = &mut self.conns[key];
        conn.flags.set(Flags::ENDED);
        let phase = conn.phase;
        match phase {
            // The answer to what it asked for is on the way, and perhaps to more.
            Phase::Handshake if conn.outbox_unsent() > 0 => {}
            Phase::Proxy | Phase::Handshake if conn.peer.buffered_bytes() == 0 => return self.kill(key, CloseReason::Gone),
            Phase::Proxy => {
                let text = "the PROXY header ended before it was whole, and this port expects one before every request";
                return self.refuse(key, &Refusal::new(RefusalReason::ProxyHeader, text));
            }
            Phase::Handshake => {
                let text = "the request ended before its head did; a head ends with an empty line";
                return self.refuse(key, &Refusal::new(RefusalReason::BadRequest, text));
            }
            Phase::Open if self.hurry_poll(key) => return,
            Phase::Open | Phase::Finishing => {
                self.end_wait(key, false);
                if self.conns[key].is_dead() || !self.enter_closing(key, CloseReason::Gone) {
                    return;
                }
                self.conns[key].enter(Phase::Ending);
            }
            // The answer to our close frame will not come.
            Phase::Closing => self.conns[key].enter(Phase::Ending),
            Phase::Ending | Phase::Shut | Phase::Dead => {}
        }
        if self.owes_bytes(key) { self.mark_ready(key) } else { self.end(key) }
    }

    /// What it begins with has to wait for others.
    fn queue(&mut self, key: usize) {
        let token = self.token(key);
        if self.conns[key].flags.raise(Flags::QUEUED) {
            self.queued.push_back(token);
        }
    }

    /// Those who had to wait come, as many as there are places for and as this turn can serve: before those who have just come, and with all the time that
    /// a handshake may take before them.
    pub(super) fn call_queued(&mut self) {
        let count = self.net.places().min(self.queued.len()).min(self.handshakes_in_turn());
        let called: Vec<ConnToken> = self.queued.drain(..count).collect();
        for token in called.into_iter().rev() {
            let Some(key) = self.resolve(token) else { continue };
            self.conns[key].flags.clear(Flags::QUEUED);
            if self.conns[key].is_arriving() {
                self.set_timer(key, Timer::Handshake, self.settings.clients.handshake_timeout);
            }
            if self.conns[key].flags.raise(Flags::READING) {
                self.reading.push_front(token);
            }
        }
    }

    /// The peer broke what lies between the socket and its words, and was told so. Our side is shut as soon as it has been.
    fn end_broken(&mut self, key: usize) {
        match self.conns[key].phase {
            Phase::Proxy | Phase::Handshake => {
                self.conns[key].reason = CloseReason::Tls;
                self.conns[key].outbox = None;
                self.set_timer(key, Timer::Close, self.settings.clients.close_timeout);
            }
            Phase::Open | Phase::Finishing => {
                self.end_wait(key, false);
                if self.conns[key].is_dead() || !self.enter_closing(key, CloseReason::Tls) {
                    return;
                }
            }
            Phase::Closing => {}
            Phase::Ending | Phase::Shut | Phase::Dead => return self.end(key),
        }
        self.conns[key].enter(Phase::Ending);
        self.mark_ready(key);
    }

    /// The socket has failed: nothing can be sent any more. A connection that was closing keeps the reason it was closing for.
    pub(super) fn lose(&mut self, key: usize, reason: CloseReason) {
        match self.conns[key].phase {
            Phase::Proxy | Phase::Handshake | Phase::Open | Phase::Finishing => self.kill(key, reason),
            Phase::Closing | Phase::Ending | Phase::Shut | Phase::Dead => self.end(key),
        }
    }

    /// Reads what may have come while this thread was held up: nobody is cut for silence with its answer lying in the socket.
    pub(super) fn last_look(&mut self, key: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.read(key, &mut scratch);
        self.scratch = scratch;
    }

    fn receive(&mut self, key: usize, input: &mut [u8]) {
        let conn = &mut self.conns[key];
        match &mut conn.peer {
            Peer::Unknown(head) if matches!(conn.phase, Phase::Proxy | Phase::Handshake) => match head.take() {
                None => self.read_arrival(key, input),
                Some(mut whole) => {
                    // The rest of a head that came in pieces; what follows it goes on from this copy.
                    whole.extend_from_slice(input);
                    self.read_arrival(key, &mut whole);
                }
            },
            _ => self.read_messages(key, input),
        }
    }

    fn read_arrival(&mut self, key: usize, input: &mut [u8]) {
        if self.conns[key].phase == Phase::Proxy { self.read_proxy(key, input) } else { self.read_head(key, input) }
    }

    /// Appends an event for this connection alone.
    pub(super) fn reply(&mut self, key: usize, event: &Event<'_>) {
        if self.append(key, event) {
            self.mark_ready(key);
        }
    }

    /// The same in the course of a write, or before another reply: whoever is sent it need not be visited for it. False: nothing was to be said.
    pub(super) fn append(&mut self, key: usize, event: &Event<'_>) -> bool {
        let unix_ms = self.unix_ms;
        let conn = &mut self.conns[key];
        let format = conn.formats.next();
        if matches!(&conn.peer, Peer::Poll(poll) if !poll.is_waiting()) {
            // Its answer is whole: behind it another one would begin.
            return false;
        }
        if !matches!(event, Event::Subscribed { .. } | Event::Position { .. }) {
            conn.peer.note_news();
        }
        if format != Format::Raw {
            conn.say(|peer, out| peer.encode_reply(event, format, unix_ms, out));
        }
        format != Format::Raw
    }

    pub(super) fn reply_error(&mut self, key: usize, asked: Asked<'_>, code: ErrorCode, message: &str) {
        self.metrics.command_errors[code as usize].inc();
        self.reply(key, &Event::Error { asked, code, message });
    }

    pub(super) fn read_messages(&mut self, key: usize, input: &mut [u8]) {
        let mut input = input;
        let conn = &mut self.conns[key];
        let bytes_max = if conn.flags.has(Flags::ECHO) { limits::ECHO_MESSAGE_BYTES_MAX } else { self.settings.message_bytes_max };
        while !input.is_empty() && self.conns[key].is_heard() {
            if matches!(&self.conns[key].peer, Peer::Poll(poll) if poll.next.len() + input.len() > self.settings.head_bytes_max) {
                // One request that waits is enough.
                self.conns[key].flags.set(Flags::PAUSED);
            }
            match self.conns[key].peer.next(&mut input, bytes_max) {
                Ok(None) => return,
                Ok(Some(event)) => self.on_said(key, event, bytes_max),
                Err(violation) => {
                    if self.conns[key].phase == Phase::Closing {
                        // Our close frame says why already.
                        self.conns[key].enter(Phase::Ending);
                        return self.mark_ready(key);
                    }
                    return self.fail(key, &violation);
                }
            }
        }
    }

    pub(super) fn on_said(&mut self, key: usize, event: inbound::Event<'_>, message_bytes_max: usize) {
        let conn = &mut self.conns[key];
        if conn.phase == Phase::Closing {
            if let inbound::Event::Close { .. } = event {
                conn.enter(Phase::Ending);
                self.mark_ready(key);
            }
            return;
        }
        match event {
            inbound::Event::Message { text, payload } => {
                self.metrics.messages_received.inc();
                conn.flags.clear(Flags::UNFINISHED);
                if conn.flags.has(Flags::ECHO) {
                    let deflater = self.deflate.deflater();
                    conn.say(|peer, out| peer.encode_echo(text, &payload, deflater, out));
                    return self.after_reply(key);
                }
                self.on_message(key, text, &payload);
                self.after_reply(key);
            }
            inbound::Event::Compressed { text, payload } => self.on_compressed(key, text, &payload, message_bytes_max),
            inbound::Event::Ping(payload) => {
                conn.say(|peer, out| peer.encode_pong(&payload, out));
                self.after_reply(key);
            }
            inbound::Event::Pong(_) => {}
            inbound::Event::Close { code, reason } => {
                let reason = String::from_utf8_lossy(&reason);
                self.echo_close(key, code, &reason);
            }
        }
    }

    /// Whoever asks faster than it reads the answers is not read until it has.
    pub(super) fn after_reply(&mut self, key: usize) {
        self.mark_ready(key);
        let conn = &mut self.conns[key];
        if conn.outbox_unsent() > limits::OUTBOX_PAUSE_BYTES {
            conn.flags.set(Flags::PAUSED);
        }
    }

    fn on_message(&mut self, key: usize, text: bool, message: &[u8]) {
        self.metrics.commands.inc();
        let conn = &mut self.conns[key];
        if conn.formats.fix() && conn.formats.now() != Format::Raw {
            conn.formats.change_to(if text { Format::Json } else { Format::Msgpack });
        }
        let may = self.sources.may_command(key, moment(self.now_ns));
        if let Some(channel) = self.raw_channel(key) {
            return if may { self.publish(key, &channel, message.to_vec(), None, None) } else { self.limit_command(key, Asked::default()) };
        }
        match command::decode(text, message) {
            Ok(command) if may => self.obey(key, command),
            Ok(command) => self.limit_command(key, command.asked()),
            Err(error) if !may => self.limit_command(key, error.asked()),
            Err(error) => self.reply_error(key, error.asked(), error.code, &error.message),
        }
    }

    /// The channel that whatever a client in the raw format sends is published to, if there is one: that which it subscribed to as it connected,
    /// which only its user's own channel may stand before.
    fn raw_channel(&self, key: usize) -> Option<ChannelName> {
        let conn = &self.conns[key];
        if conn.formats.next() != Format::Raw {
            return None;
        }
        let mut first = conn.subscriptions.iter().take(2).map(|subscription| &self.topics[subscription.topic]);
        first.find(|topic| topic.rule.raw_publish).map(|topic| topic.name().clone())
    }

    pub(super) fn limit_command(&mut self, key: usize, asked: Asked<'_>) {
        self.metrics.commands_limited.inc();
        let per_second = self.settings.commands_per_second.unwrap_or_default();
        let message = format!("this connection sends more than {per_second} commands a second; nothing was done");
        self.reply_error(key, asked, ErrorCode::RateLimited, &message);
        if self.sources.is_flooding(key) {
            self.end_with_close(key, CloseReason::Flooding, goodbye(CloseReason::Flooding).text);
        }
    }

    fn obey(&mut self, key: usize, command: Command<'_>) {
        let Command { id, body } = command;
        match body {
            Body::Subscribe { channel, wish } => {
                self.subscribe(key, &channel, id, wish);
                if wish.unread {
                    self.ask_counts(key, std::iter::once(&*channel));
                }
            }
            Body::SubscribeAll { channels } => self.subscribe_all(key, &channels, id.as_ref()),
            Body::History { channel, range, limit } => self.recall(key, &channel, range, limit, id),
            Body::Presence { channel, members } => self.ask_presence(key, &channel, members, id),
            Body::Unsubscribe { channel } => self.unsubscribe(key, &channel, id),
            Body::Publish { channel, payload, idempotency_key } => {
                self.publish(key, &channel, payload.into_owned(), idempotency_key.as_deref(), id);
            }
            Body::MarkRead { channel, epoch, seq } => self.mark_read(key, &channel, epoch, seq, id),
            Body::Unread { channels } => self.count_unread(key, &channels, id),
            Body::Refresh { token } => self.refresh(key, token.as_bytes(), id),
            Body::Ping => self.reply(key, &Event::Pong { id: id.as_ref() }),
        }
    }

    /// Each channel counts as a command, and is answered by itself.
    fn subscribe_all(&mut self, key: usize, channels: &[Entry<'_>], id: Option<&Id>) {
        for (place, entry) in channels.iter().enumerate() {
            if !self.conns[key].is_heard() {
                return;
            }
            let channel = match entry {
                Entry::Good { channel, .. } => Some(channel),
                Entry::Bad { channel, .. } => channel.as_ref(),
            };
            let asked = Asked { id, command: Some(command::SUBSCRIBE), channel: channel.map(|channel| channel.as_ref()) };
            // The first one was paid for with the command.
            if place > 0 && !self.sources.may_command(key, moment(self.now_ns)) {
                self.limit_command(key, asked);
                continue;
            }
            match entry {
                Entry::Good { channel, wish } => self.subscribe(key, channel, id.cloned(), *wish),
                Entry::Bad { code, message, .. } => self.reply_error(key, asked, *code, message),
            }
        }
        let counting = channels.iter().filter_map(|entry| match entry {
            Entry::Good { channel, wish } if wish.unread => Some(&**channel),
            Entry::Good { .. } | Entry::Bad { .. } => None,
        });
        self.ask_counts(key, counting);
    }
}
