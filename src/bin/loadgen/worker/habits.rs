//! What scenarios ask of clients besides reading: being replaced, sending, reading slowly, dropping all at once, and being checked in the end.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use campanile::sys;
use campanile::wire::frame::Opcode;
use mio::{Interest, Token};
use socket2::SockRef;

use super::{Further, READ_BYTES, Ticker, Worker};
use crate::client::{Client, Phase, Reading};
use crate::sequence::Sequence;
use crate::stamp::Stamp;
use crate::tally::Tally;
use crate::target;

impl Worker {
    pub(super) fn tick(&mut self) {
        let now_ns = sys::monotonic_ns();
        while self.churn.take(now_ns).is_some() {
            self.replace_one();
        }
        while let Some(due_ns) = self.echo.take(now_ns) {
            self.echo_one(due_ns);
        }
        if self.slow_reads.take(now_ns).is_some() {
            self.read_slowly();
            self.slow_reads = Ticker { begin_ns: now_ns, done: 1, ..self.slow_reads };
        }
    }

    /// One client leaves, another takes its place: it need not have what was sent in between.
    pub(super) fn replace_one(&mut self) {
        for _ in 0..self.clients.len() {
            // A step that visits all and jumps about.
            self.churn_turn = (self.churn_turn + 7919) % self.clients.len();
            if self.clients[self.churn_turn].phase == Phase::Ready {
                self.drop_stream(self.churn_turn);
                self.again.push_back((self.now_us(), self.churn_turn as u32));
                return;
            }
            self.churn_turn += 1;
        }
    }

    pub(super) fn echo_one(&mut self, due_ns: u64) {
        self.echo_turn = (self.echo_turn + 1) % self.clients.len();
        let client = &mut self.clients[self.echo_turn];
        if client.phase != Phase::Ready {
            return;
        }
        // Numbered by how many this client has sent; `position` counts nothing else on an echo server.
        let stamp = Stamp { channel: client.channel, seq: client.position, intended_ns: due_ns };
        client.position += 1;
        let mut payload = Vec::with_capacity(self.plan.echo_bytes);
        self.plan.echo_kind.write(stamp, self.plan.echo_bytes, &mut payload);
        self.tally.counts.sent += 1;
        self.send(self.echo_turn, &target::frame(Opcode::Text, &payload));
    }

    pub(super) fn slow_down(&mut self) {
        self.is_slow_now = true;
        self.slow_reads = Ticker::new(1.0 / self.plan.slow_pause.as_secs_f64().max(0.001));
        let Worker { clients, poll, plan, .. } = self;
        for (index, client) in clients.iter_mut().enumerate() {
            // Whoever reads nothing needs no events but the end.
            if client.reading != Reading::Normal
                && let Some(stream) = &mut client.stream
            {
                let _ = poll.registry().reregister(stream, Token(index), Interest::PRIORITY);
                // Not before: with a small window even a client that reads at once is slow.
                let _ = SockRef::from(&*stream).set_recv_buffer_size(plan.slow_receive_bytes);
            }
        }
    }

    pub(super) fn catch_up(&mut self) {
        self.is_catching_up = true;
        self.slow_reads = Ticker::default();
        let Worker { clients, poll, .. } = self;
        for (index, client) in clients.iter_mut().enumerate() {
            if client.reading != Reading::Normal
                && let Some(stream) = &mut client.stream
            {
                let _ = SockRef::from(&*stream).set_recv_buffer_size(READ_BYTES);
                // Registered anew, what waits already is an edge.
                let _ = poll.registry().reregister(stream, Token(index), Interest::READABLE | Interest::WRITABLE);
            }
        }
        // A kernel gives up a closed connection whose other end takes nothing, and tells nobody. Whoever speaks to it is told.
        for index in 0..self.clients.len() {
            if self.clients[index].reading != Reading::Normal {
                self.send(index, &target::frame(Opcode::Ping, b""));
            }
        }
    }

    pub(super) fn read_slowly(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if client.reading == Reading::Slow
                && client.phase == Phase::Ready
                && let Err(end) = self.read_once(index, &mut buffer, self.plan.slow_read_bytes)
            {
                self.end(index, end);
            }
        }
        self.buffer = buffer;
    }

    pub(super) fn storm(&mut self, away: Duration) {
        let (begin_us, per_second) = (self.now_us() + away.as_micros() as u32, self.plan.connects_per_second);
        let mut dropped = 0.0;
        for index in 0..self.clients.len() {
            if self.clients[index].phase == Phase::Ready {
                self.drop_stream(index);
                self.clients[index].resumes = true;
                let after_us = if per_second > 0.0 { dropped * 1e6 / per_second } else { 0.0 };
                self.again.push_back((begin_us + after_us as u32, index as u32));
                dropped += 1.0;
            }
        }
        self.live.store(&self.tally.counts);
    }

    /// Clients that must have got by now what was published: all that are ready and not slow on purpose.
    fn is_held_to_account(&self, client: &Client) -> bool {
        let is_slow = self.is_slow_now && client.reading != Reading::Normal;
        !is_slow && client.phase == Phase::Ready
    }

    /// What a client must have got by now of its first channel, counted from the first message on.
    fn published_to(&self, client: &Client) -> u64 {
        match self.plan.echo_bytes {
            0 => self.plan.published[client.channel as usize].load(Relaxed),
            _ => client.position,
        }
    }

    /// Only of first channels: who has more does not come and go.
    pub(super) fn missing(&self) -> u64 {
        let clients = self.clients.iter().filter(|client| self.is_held_to_account(client));
        clients.map(|client| client.sequence.tail(self.published_to(client)).0).sum()
    }

    pub(super) fn check_tails(&mut self) {
        for index in 0..self.clients.len() {
            if !self.is_held_to_account(&self.clients[index]) {
                continue;
            }
            let published = self.published_to(&self.clients[index]);
            let Worker { clients, further, tally, plan, .. } = self;
            let (client, number) = (&mut clients[index], self.base + index as u32);
            let lost = check_tail(&mut client.sequence, published, number, client.channel, tally);
            tally.counts.lost += lost;
            for (channel, sequence) in further.get_mut(&(index as u32)).into_iter().flat_map(Further::sequences) {
                let published = plan.published[channel as usize].load(Relaxed);
                let lost = check_tail(sequence, published, number, channel, tally);
                tally.counts.lost += lost;
                tally.counts.direct_lost += if plan.has_direct { lost } else { 0 };
            }
        }
    }
}

/// How much of what was published to a channel will not come any more. Expects from now on what follows.
fn check_tail(sequence: &mut Sequence, published: u64, client: u32, channel: u32, tally: &mut Tally) -> u64 {
    let (lost, announced) = sequence.tail(published);
    tally.counts.announced += announced;
    if lost > 0 {
        let next = sequence.next;
        tally.sample(|| format!("client {client}, channel {channel}: {next} to {} never came", published - 1));
    }
    sequence.expect_from(published);
    lost
}
