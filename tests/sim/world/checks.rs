//! What must hold after each step, when somebody is cut off or told the end, and when everything is calm again.

use std::sync::atomic::Ordering::Relaxed;

use campanile::auth::rules::Access;
use campanile::bus::ShardMessage;
use campanile::bus::order::Order;
use campanile::life::Stage;
use campanile::wire::close::CloseReason;
use campanile::wire::framing::Encoding;

use super::{CHANNELS, LOG_BYTES, Sent, Simulation};

impl Simulation {
    /// Nobody is judged too slow while the logs have room, the channel's own and all together.
    pub(super) fn check_overruns(&mut self, at: usize) {
        for overrun in std::mem::take(&mut self.peers[at].client.overruns) {
            // The channel may be counted anew since, which it has not been told.
            let since = std::iter::successors(self.successors.get(&overrun.epoch), |epoch| self.successors.get(epoch));
            assert!(
                self.was_overrun(overrun.epoch, overrun.from) || since.copied().any(|epoch| self.was_overrun(epoch, 0)),
                "too slow for {} from {} on, when there was room for all that it had not got",
                overrun.channel,
                overrun.from
            );
        }
    }

    /// Whether what was sent in this epoch from this number on may have been too much for its log, or for all logs.
    fn was_overrun(&self, epoch: u64, from: u64) -> bool {
        let missed = |sent: &&Sent| sent.epoch == epoch && sent.end > from;
        let Some(first) = self.sent.iter().position(|sent| missed(&sent)) else { return false };
        let channel: usize = self.sent.iter().filter(missed).map(|sent| sent.bytes_max).sum();
        // What was held before may have been asked for in more formats since.
        let all: usize =
            Encoding::COUNT * self.sent[first].held_before + self.sent[first..].iter().map(|sent| sent.bytes_max).sum::<usize>();
        // A log drops whole batches, the oldest of which may hold most of what is allowed.
        4 * channel > self.log_bytes || all > self.log_bytes_total
    }

    /// Who was told the end of a connection after saying its last has had all its answers.
    pub(super) fn check_end(&self, at: usize) {
        let peer = &self.peers[at];
        let Some(said_ns) = peer.last_said_ns else { return };
        let wires = self.wires.borrow();
        // It may have been cut off before, and not have read so far.
        let cut_off = [
            CloseReason::Buffers,
            CloseReason::Overrun,
            CloseReason::HeartbeatTimeout,
            CloseReason::TokenExpired,
            CloseReason::TokenRevoked,
            CloseReason::Disconnected,
        ];
        let may_be_cut_off = cut_off.iter().any(|&reason| self.rig.metrics.closed[reason as usize].get() > 0);
        let in_time = wires.now_ns - said_ns < 1_900_000_000;
        if !in_time || wires.pipes[peer.pipe].reset || may_be_cut_off {
            return;
        }
        match peer.client.is_upgraded() {
            // Closed by the server before it had read the last, or cut off in a frame that the logs had no room for.
            true if peer.client.close.is_some_and(|code| code != 1000) => {}
            true if peer.client.is_mid_frame() && self.log_bytes_total == LOG_BYTES[0].1 => {}
            true => assert_eq!(peer.client.echoes, peer.pings_sent, "a pong is not lost because the end of the stream came with the ping"),
            false => assert!(peer.client.refused.is_some(), "an answer is not lost because the end of the stream came with the request"),
        }
    }

    pub(super) fn check(&self) {
        let metrics = &self.rig.metrics;
        let log_bytes = metrics.log_bytes.get() as usize;
        assert!(log_bytes <= self.log_bytes_total, "invariant 4: {log_bytes} bytes in logs");
        assert!(metrics.buffer_bytes.get() as usize <= self.buffer_bytes + 100_000, "invariant 4: buffers");
        let closed: u64 = metrics.closed.iter().map(|counter| counter.get()).sum();
        assert_eq!(metrics.accepted.get(), metrics.sockets.get() + closed, "invariant 8: every close is counted once");
        let gone = self.wires.borrow().pipes.iter().filter(|pipe| pipe.server_gone).count() as u64;
        assert_eq!(closed, gone, "invariant 8: and frees its socket");
        self.check_unasked();
    }

    /// Whoever cannot be asked whether it lives, and takes what it is sent, is not cut off for saying nothing.
    fn check_unasked(&self) {
        let cut_off = [
            CloseReason::Buffers,
            CloseReason::Overrun,
            CloseReason::TokenExpired,
            CloseReason::TokenRevoked,
            CloseReason::Disconnected,
            CloseReason::Restart,
        ];
        if self.rig.shard.is_finished() || cut_off.iter().any(|&reason| self.rig.metrics.closed[reason as usize].get() > 0) {
            return;
        }
        for peer in self.peers.iter().filter(|peer| peer.client.unasked && peer.takes_all && peer.client.is_upgraded()) {
            if peer.is_stream && peer.client.client_id.is_empty() {
                // Perhaps told to come back later, which is said by a stream.
                continue;
            }
            let pipe = &self.wires.borrow().pipes[peer.pipe];
            // The close frame may not have been read.
            let has_reason = pipe.reset || pipe.client_closed || peer.mute || peer.broke_protocol || peer.last_said_ns.is_some();
            assert!(has_reason || !pipe.server_gone, "cut off for silence");
        }
    }

    /// Everything is calm and everybody reads: whoever is still there must have all.
    pub(super) fn settle(&mut self) {
        self.wires.borrow_mut().short = false;
        self.rig.shard.on_listener();
        for round in 0..400 {
            self.bus_turn(true);
            for at in 0..self.peers.len() {
                if !self.peers[at].stalled {
                    self.client_reads(at, usize::MAX);
                }
                if round < 340 && self.peers[at].may_ask_next(&self.wires.borrow()) {
                    self.ask_next(at);
                }
            }
            // Together more than the largest batch to everybody is worth, of the channel with a budget; and then no time for another heartbeat.
            if round % 2 == 0 && round < 350 {
                self.pass_time(100);
            }
            self.turn();
            self.check();
        }
        assert!(self.reloads.iter().all(|answer| answer.try_recv().is_ok()), "a reload is answered, once it is in force");
        let wires = self.wires.clone();
        for peer in &self.peers {
            let pipe = &wires.borrow().pipes[peer.pipe];
            if pipe.server_gone
                || pipe.reset
                || pipe.client_closed
                || peer.stalled
                || peer.client.close.is_some()
                || !peer.client.is_upgraded() && (peer.poll.is_none() || peer.client.polled.is_empty())
            {
                continue;
            }
            if !peer.mute {
                assert_eq!(peer.client.echoes, peer.pings_sent, "invariant 3: every ping is answered, however slow its sender reads");
            }
            assert!(!peer.client.is_mid_frame(), "a frame was begun and not finished");
            let waits = peer.poll.as_ref().is_some_and(|poll| poll.answered == peer.client.answered.len());
            assert!(waits || peer.client.refused.is_some() || peer.client.asked.is_empty(), "never confirmed: {:?}", peer.client.asked);
            for (name, view) in &peer.client.subscriptions {
                assert_ne!(self.settings.channels.of(name).subscribe, Access::Nobody, "nobody may have {name}, and somebody has");
                // Between two polls nobody may have it, and the bus give it up.
                let Some(known) = self.channels.get(name).filter(|_| peer.poll.is_none() || waits) else {
                    assert!(peer.poll.is_some(), "{name} is gone, and somebody has it");
                    continue;
                };
                assert_eq!(
                    (view.epoch, view.seq),
                    (known.channel.epoch, known.seq),
                    "everything up to the head of {name} has arrived or was announced"
                );
            }
        }
        // With nobody stalled nothing is kept, but for the channel with a history.
        if self.peers.iter().all(|peer| !peer.stalled && !peer.mute) {
            assert_eq!(self.rig.metrics.lagging.get(), 0);
            let with_log: Vec<&str> = CHANNELS.into_iter().filter(|name| *name != "kept" && self.rig.shard.has_log(name)).collect();
            assert!(with_log.is_empty(), "a topic keeps no log while nothing is to be sent: {with_log:?}");
            // What a poll will be answered comes together in one.
            let some_poll = self.peers.iter().any(|peer| peer.poll.is_some());
            assert!(some_poll || self.rig.metrics.buffer_bytes.get() == 0, "invariant 5: an idle connection owns no buffer");
        }
        // Everybody goes, all at once or one after the other before: nothing may be left.
        let drains = self.rng.bool();
        if drains {
            self.rig.life.advance(Stage::Draining);
            let (reply, _) = crossbeam_channel::bounded(1);
            let _ = self.rig.to_shard.push(ShardMessage::Order(Order::Depart { reply }));
        }
        for round in 0..400 {
            if round == if drains { 100 } else { 0 } {
                self.rig.to_shard.send(ShardMessage::Stop).expect("the inbox is empty");
            }
            self.pass_time(100);
            self.bus_turn(true);
            for at in 0..self.peers.len() {
                if !self.peers[at].stalled {
                    self.client_reads(at, usize::MAX);
                }
            }
            self.turn();
        }
        assert!(self.rig.shard.is_finished(), "every connection ends within its deadlines");
        self.check();
        assert_eq!((self.rig.metrics.subscriptions.get(), self.rig.metrics.lagging.get()), (0, 0));
        assert_eq!(self.rig.addresses.remembered(), 0, "no address counts connections that are gone");
        self.bus_turn(true);
        self.turn();
        assert_eq!((self.rig.metrics.log_bytes.get(), self.rig.metrics.channels.get()), (0, 0), "topics go with their last subscriber");
        for channel in self.channels.values().map(|known| &known.channel).chain(&self.former) {
            assert_eq!(channel.subscribers.load(Relaxed), 0);
        }
    }
}
