//! What comes in: bytes into messages, each checked. The hot path of the load generator. How bytes are split stands in [`super::split`].

use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;

use campanile::client::tls::complaint;
use campanile::sys;
use campanile::wire::close::reconnect_delay_ms;
use campanile::wire::frame::Opcode;
use mio::event::Event as Readiness;

use super::connect::summary;
use super::session::{Came, Shaken};
use super::split::{self, Part};
use super::{End, Further, HEAD_BYTES_MAX, READ_BYTES, Worker};
use crate::client::{Phase, Reading};
use crate::events::{self, Event};
use crate::sequence::{UNKNOWN, Verdict};
use crate::stamp::Stamp;
use crate::target::{self, Ready};

/// Service Restart, RFC 6455's register of close codes.
const RESTART: u16 = 1012;

pub(super) enum ReadOnce {
    /// As much as asked for: more may wait.
    Filled,
    /// Less: nothing waits.
    Drained,
    Blocked,
}

/// What a connection comes to that could not be made.
fn unshaken(error: io::Error) -> End {
    match complaint(&error) {
        Some(complaint) => End::Refused(format!("the server {complaint}")),
        None => End::Lost(error),
    }
}

impl Worker {
    pub(super) fn on_ready(&mut self, event: &Readiness) {
        let index = event.token().0;
        let client = &mut self.clients[index];
        let is_over = event.is_read_closed() || event.is_error();
        let result = match client.phase {
            Phase::Idle | Phase::Ended => return,
            Phase::Connecting => {
                if !event.is_writable() && !is_over {
                    return;
                }
                self.greet(index).and_then(|is_said| {
                    if is_said && (self.plan.target.tls.is_some() || event.is_readable() || is_over) {
                        self.read(index, is_over)
                    } else {
                        Ok(())
                    }
                })
            }
            // The edge that told of the handshake's end may have told of more.
            Phase::Shaking => self.shake_hands(index).and_then(|is_said| if is_said { self.read(index, is_over) } else { Ok(()) }),
            Phase::Ready if self.is_slow_now && !self.is_catching_up && client.reading != Reading::Normal => {
                if event.is_error() || event.is_write_closed() { Err(End::Closed(1006)) } else { Ok(()) }
            }
            Phase::Head | Phase::Subscribing | Phase::Ready => {
                if event.is_writable() && (client.spill.is_some() || self.sessions.is_blocked(index)) {
                    self.send(index, &[]);
                }
                if event.is_readable() || is_over { self.read(index, is_over) } else { Ok(()) }
            }
        };
        if let Err(end) = result {
            self.end(index, end);
        }
    }

    /// Whether the request is on its way.
    fn greet(&mut self, index: usize) -> Result<bool, End> {
        let stream = self.clients[index].stream.as_mut().expect("it is connecting");
        if let Some(error) = stream.take_error().ok().flatten() {
            return Err(End::Lost(error));
        }
        match &self.plan.target.tls {
            None => self.say_hello(index).map(|()| true),
            Some(tls) => {
                self.sessions.begin(index, tls).map_err(End::Lost)?;
                self.clients[index].phase = Phase::Shaking;
                self.shake_hands(index)
            }
        }
    }

    fn shake_hands(&mut self, index: usize) -> Result<bool, End> {
        let stream = self.clients[index].stream.as_mut().expect("it is connected");
        match self.sessions.shake_hands(index, stream).map_err(unshaken)? {
            Shaken::UnderWay => Ok(false),
            Shaken::Done { is_resumed } => {
                let counts = &mut self.tally.counts;
                *(if is_resumed { &mut counts.tls_resumed } else { &mut counts.tls_full }) += 1;
                self.say_hello(index).map(|()| true)
            }
        }
    }

    fn say_hello(&mut self, index: usize) -> Result<(), End> {
        let client = &mut self.clients[index];
        let stream = client.stream.as_mut().expect("it is connected");
        let request = self.plan.target.request(self.base + index as u32, client.channel, client.resumes);
        let written = match self.sessions.of(index) {
            Some(session) => session.write(stream, request.as_bytes()),
            None => stream.write(request.as_bytes()),
        };
        match written {
            Ok(count) if count == request.len() => {}
            Ok(_) => return Err(End::Lost(io::Error::other("the request was not taken in one piece"))),
            Err(error) => return Err(End::Lost(error)),
        }
        client.phase = Phase::Head;
        Ok(())
    }

    /// Reads until nothing is left and takes what came.
    pub(super) fn read(&mut self, index: usize, is_over: bool) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            match self.read_once(index, &mut buffer, usize::MAX) {
                // Not filled: nothing is left, and what comes now is a new edge. Unless the end was announced with it.
                Ok(ReadOnce::Drained) if !is_over => break Ok(()),
                Ok(ReadOnce::Drained | ReadOnce::Filled) => {}
                Ok(ReadOnce::Blocked) => break Ok(()),
                Err(end) => break Err(end),
            }
            if self.is_slow_now && !self.is_catching_up && self.clients[index].reading != Reading::Normal {
                break Ok(());
            }
        };
        self.buffer = buffer;
        result
    }

    pub(super) fn read_once(&mut self, index: usize, buffer: &mut Vec<u8>, bytes_max: usize) -> Result<ReadOnce, End> {
        let client = &mut self.clients[index];
        // What the last read left comes first.
        let kept = match &mut client.spill {
            Some(spill) if !spill.incoming.is_empty() => {
                let length = spill.incoming.len();
                if buffer.len() < length + READ_BYTES / 2 {
                    buffer.resize(length * 2 + READ_BYTES, 0);
                }
                buffer[..length].copy_from_slice(&spill.incoming);
                length
            }
            _ => 0,
        };
        let stream = client.stream.as_mut().expect("a client that is connected has a stream");
        let (count, is_filled) = match self.sessions.read(index, stream, &mut buffer[kept..], bytes_max) {
            Ok(Came::Bytes { count, is_filled }) => (count, is_filled),
            Ok(Came::Blocked) => return Ok(ReadOnce::Blocked),
            Ok(Came::End) => return Err(End::Closed(1006)),
            Err(error) => return Err(unshaken(error)),
        };
        self.tally.counts.reads += 1;
        self.tally.counts.bytes += count as u64;
        if let Some(spill) = &mut client.spill {
            spill.incoming.clear();
        }
        let filled = if is_filled { ReadOnce::Filled } else { ReadOnce::Drained };
        let taken = self.take(index, &buffer[..kept + count], sys::monotonic_ns())?;
        let client = &mut self.clients[index];
        if taken < kept + count {
            client.spill().incoming.extend_from_slice(&buffer[taken..kept + count]);
        }
        client.drop_empty_spill();
        Ok(filled)
    }

    /// Takes what is complete and says how much that was.
    pub(super) fn take(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> Result<usize, End> {
        let mut taken = 0;
        if self.clients[index].phase == Phase::Head {
            let Some(length) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
                return if bytes.len() > HEAD_BYTES_MAX { Err(End::Refused("an endless answer".to_owned())) } else { Ok(0) };
            };
            let head = &bytes[..length];
            if !self.plan.target.is_accepted(head) {
                return Err(End::Refused(summary(bytes)));
            }
            taken = length;
            self.upgraded(index)?;
        }
        let transport = self.plan.target.transport;
        loop {
            let Some((part, length)) = split::next(transport, self.plan.target.deflate, &bytes[taken..])? else { return Ok(taken) };
            taken += length;
            match part {
                Part::Compressed { is_text, payload } => self.compressed(index, is_text, payload, now_ns)?,
                Part::Message { is_text, payload } => self.message(index, is_text, &payload, now_ns)?,
                Part::Ping(payload) => {
                    self.tally.counts.pings += 1;
                    self.send(index, &target::frame(Opcode::Pong, payload));
                }
                Part::Heartbeat => self.tally.counts.pings += 1,
                Part::Nothing => {}
                Part::Close { code, reason } => {
                    return Err(match reconnect_delay_ms(&reason) {
                        Some(delay_ms) if code == RESTART && self.plan.comes_back => End::AskedBack(delay_ms),
                        // An event stream has no other way to refuse for a time.
                        _ if (400..600).contains(&code) => End::Refused(format!("{code}: {reason}")),
                        _ => End::Closed(code),
                    });
                }
            }
        }
    }

    pub(super) fn upgraded(&mut self, index: usize) -> Result<(), End> {
        let plan = self.plan.clone();
        let client = &mut self.clients[index];
        client.phase = Phase::Subscribing;
        let (channel, position) = (client.channel, client.position);
        if client.resumes {
            let epoch = self.epochs.get(&channel).copied().unwrap_or_default();
            self.send(index, &plan.target.resume_frame(channel, epoch, position));
            return Ok(());
        }
        if let Some(frame) = plan.target.first_frame(self.base + index as u32, channel) {
            self.send(index, &frame);
        }
        if plan.target.ready == Ready::Upgrade {
            self.is_ready(index);
        }
        Ok(())
    }

    pub(super) fn is_ready(&mut self, index: usize) {
        let now_us = self.now_us();
        let client = &mut self.clients[index];
        if client.phase == Phase::Ready {
            return;
        }
        client.phase = Phase::Ready;
        client.tries = 0;
        if !client.resumes {
            client.sequence.expect_from(self.plan.published[client.channel as usize].load(Relaxed));
        }
        self.tally.counts.connecting -= 1;
        self.tally.counts.ready += 1;
        self.tally.counts.connected += 1;
        self.tally.connect_us.saturating_record(u64::from(now_us.saturating_sub(client.due_us)));
    }

    fn compressed(&mut self, index: usize, is_text: bool, payload: &[u8], now_ns: u64) -> Result<(), End> {
        let mut inflated = self.inflated.take().unwrap_or_default();
        let result = match inflated.message(payload) {
            Ok(message) => {
                self.tally.counts.compressed += 1;
                self.message(index, is_text, message, now_ns)
            }
            Err(why) => Err(End::BadFrame(why.to_string())),
        };
        self.inflated = Some(inflated);
        result
    }

    #[inline]
    pub(super) fn message(&mut self, index: usize, is_text: bool, payload: &[u8], now_ns: u64) -> Result<(), End> {
        let Some((stamp, at)) = Stamp::find(payload, &mut self.hint) else {
            self.event(index, is_text, payload);
            return Ok(());
        };
        let client = &mut self.clients[index];
        let counts = &mut self.tally.counts;
        let is_first = stamp.channel == client.channel;
        let is_direct = self.plan.has_direct && !is_first;
        let sequence = match is_first {
            true => &mut client.sequence,
            false => match self.further.get_mut(&(index as u32)).and_then(|further| further.sequence(stamp.channel)) {
                Some(sequence) => sequence,
                None => {
                    counts.misrouted += 1;
                    return Ok(());
                }
            },
        };
        if self.plan.keeps_positions
            && let Some(seq) = events::seq_before(is_text, &payload[..at])
        {
            client.position = seq;
        }
        let is_slow = self.is_slow_now && client.reading != Reading::Normal;
        if is_slow {
            counts.slow_messages += 1;
        } else {
            counts.messages += 1;
            counts.direct += u64::from(is_direct);
            let latency_us = if is_direct { &mut self.tally.direct_us } else { &mut self.tally.latency_us };
            latency_us.saturating_record(now_ns.saturating_sub(stamp.intended_ns) / 1000);
        }
        let expected = sequence.next;
        match sequence.take(stamp.seq) {
            Verdict::InOrder => {}
            Verdict::Again { count } => counts.again += count,
            Verdict::Hole { lost, announced } => {
                counts.lost += lost;
                counts.direct_lost += if is_direct { lost } else { 0 };
                counts.announced += announced;
                if lost > 0 {
                    let (client, channel) = (self.base + index as u32, stamp.channel);
                    self.tally.sample(|| format!("client {client}, channel {channel}: expected {expected}, got {}", stamp.seq));
                }
            }
            Verdict::Late => {
                counts.lost = counts.lost.saturating_sub(1);
                counts.direct_lost = counts.direct_lost.saturating_sub(u64::from(is_direct));
                counts.reordered += 1;
                self.tally.sample(|| format!("channel {}: {} came after {}", stamp.channel, stamp.seq, expected - 1));
            }
            Verdict::Duplicate => {
                counts.duplicates += 1;
                self.tally.sample(|| format!("channel {}: {} came twice", stamp.channel, stamp.seq));
            }
        }
        Ok(())
    }

    pub(super) fn event(&mut self, index: usize, is_text: bool, payload: &[u8]) {
        let plan = self.plan.clone();
        let client = &mut self.clients[index];
        let is_awaited = client.phase == Phase::Subscribing;
        if let Ready::Message(sign) = &plan.target.ready {
            let is_sign = payload.windows(sign.len()).any(|window| window == sign);
            if is_awaited && is_sign {
                self.is_ready(index);
            } else if is_sign && self.further.get(&(index as u32)).is_some_and(Further::awaits) {
                self.confirmed(index, None);
            } else if !is_awaited {
                self.tally.counts.foreign += 1;
            }
            return;
        }
        match events::read(is_text, payload) {
            Event::Subscribed { id: Some(channel), .. } => self.confirmed(index, u32::try_from(channel).ok()),
            Event::Subscribed { id: None, epoch, seq, recovered } if is_awaited => {
                if client.resumes && !recovered {
                    self.tally.counts.unrecovered += 1;
                    // It is said that something may be missing, though not what.
                    client.sequence.announce(UNKNOWN);
                }
                client.position = seq;
                if plan.comes_back {
                    // The others still have a position of the first server's, and go from it once.
                    self.epochs.entry(client.channel).or_insert(epoch);
                } else {
                    self.epochs.insert(client.channel, epoch);
                }
                self.is_ready(index);
            }
            // Nobody asked: the channel's epoch is over.
            Event::Subscribed { id: None, epoch, seq, recovered: false } => {
                self.tally.counts.renewed += 1;
                client.position = seq;
                client.sequence.renew();
                self.epochs.insert(client.channel, epoch);
            }
            Event::Unsubscribed => self.unsubscribed(index),
            Event::Gap { channel, count, is_outage } => {
                self.tally.counts.gaps += 1;
                let channel = plan.target.channels.number(&channel);
                let further = self.further.get_mut(&(index as u32)).zip(channel).and_then(|(further, channel)| further.sequence(channel));
                let sequence = further.unwrap_or(&mut client.sequence);
                sequence.announce(if is_outage { UNKNOWN } else { u32::try_from(count).unwrap_or(UNKNOWN) });
            }
            Event::Error(refusal) => {
                if !self.was_too_busy(index, &refusal) {
                    self.tally.counts.errors += 1;
                    self.tally.sample(|| format!("the server says {}", refusal.text));
                }
            }
            Event::Subscribed { .. } | Event::Other => self.tally.counts.foreign += u64::from(!is_awaited),
        }
    }

    /// Sends, after what could not be sent before. What the socket does not take waits.
    pub(super) fn send(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return };
        let mut waiting = client.spill.as_mut().map(|spill| std::mem::take(&mut spill.outgoing)).unwrap_or_default();
        let all = if waiting.is_empty() {
            bytes
        } else {
            waiting.extend_from_slice(bytes);
            &waiting
        };
        // A write that fails is seen by the read that follows.
        let written = match self.sessions.of(index) {
            Some(session) => session.write(stream, all).unwrap_or(0),
            None if all.is_empty() => return,
            None => stream.write(all).unwrap_or(0),
        };
        if written < all.len() {
            let rest = all[written..].to_vec();
            client.spill().outgoing = rest;
        }
        client.drop_empty_spill();
    }
}
