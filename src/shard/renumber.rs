//! A channel is counted anew: its source has begun another epoch under those who have subscribed.
//!
//! What they have not been sent of the old one they will not get. Each is told the new position by a `subscribed` that nobody asked for, which a lap brings
//! with whatever comes after it; so it costs a socket that takes nothing no memory. A frame that a socket has taken in part is finished:
//! its rest is the connection's own from now on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::net::Network;
use crate::fanout::batch::Channel;
use crate::fanout::cursor::Cursor;
use crate::fanout::log::Slices;
use crate::fanout::topics::{Member, TopicToken};
use crate::wire::close::CloseReason;
use crate::wire::event::Event;

impl<N: Network> Shard<N> {
    pub(super) fn on_renumbered(&mut self, token: TopicToken, channel: Arc<Channel>, seq: u64) {
        let Some(index) = self.topics.resolve(token) else { return };
        let Some(before) = self.topics[index].channel().cloned() else { return };
        let members: Vec<Member> = self.topics.all_members(index).collect();
        self.replays.forget(token);
        let (mut holders, mut leaving) = (Vec::new(), Vec::new());
        for &Member { conn, subscription } in &members {
            let (key, at) = (conn as usize, subscription as usize);
            self.step_out(key, at);
            if self.conns[key].subscriptions[at].is_mid_frame() {
                self.take_frame_over(key, at);
                holders.push(key);
            }
        }
        self.logs.renumber(&mut self.topics, index, channel.clone(), seq + 1);
        self.topics[index].is_refused = false;
        let (mut counted, mut untold) = (0, 0);
        for &Member { conn, subscription } in &members {
            let (key, at) = (conn as usize, subscription as usize);
            let subscription = &mut self.conns[key].subscriptions[at];
            if subscription.waiter().is_some() {
                continue;
            }
            counted += 1;
            if subscription.is_leaving() {
                leaving.push((key, at));
            } else {
                untold += 1;
                subscription.set_cursor(Cursor::at(seq));
                subscription.set_untold();
            }
        }
        // In this order: whoever looks in between sees some twice, and does not take the channel for empty.
        channel.subscribers.fetch_add(counted, Relaxed);
        before.subscribers.fetch_sub(counted, Relaxed);
        if untold > 0 {
            self.logs.make(&mut self.topics, index);
            self.begin_lap(index);
        }
        for (key, at) in leaving {
            self.remove_subscription(key, at);
        }
        for key in holders {
            self.account_buffers(key);
        }
        // Whoever waits for a page of the epoch before begins with the new one.
        for Member { conn, subscription } in self.topics.all_members(index).collect::<Vec<_>>() {
            let (key, at) = (conn as usize, subscription as usize);
            if self.conns[key].subscriptions[at].waiter().is_some() && self.conns[key].is_open() {
                let waiter = self.take_waiter(key, at);
                if let Err(waiter) = self.waits_for_count(key, at, waiter) {
                    self.confirm_from(key, at, &waiter, false);
                }
            }
        }
    }

    /// A member is no longer behind in the topic's log.
    fn step_out(&mut self, key: usize, at: usize) {
        self.forget_left(key, at);
        self.step_off_pages(key, at);
        let subscription = &self.conns[key].subscriptions[at];
        if subscription.is_lagging() {
            let (topic, is_paced) = (subscription.topic, subscription.is_paced());
            self.conns[key].subscriptions[at].set_owed(false);
            self.conns[key].remove_behind(at);
            self.set_lagging(topic, is_paced, true, false);
        }
    }

    /// The rest of a frame goes from the log, which is about to be given up, to the connection itself.
    fn take_frame_over(&mut self, key: usize, at: usize) {
        let conn = &mut self.conns[key];
        let (topic, from) = (conn.subscriptions[at].topic, conn.subscriptions[at].cursor());
        let log = self.topics[topic].log().expect("it holds the frame, or has lost it");
        let mut slices = Slices::new();
        let rest = log.gather_frame_rest(from, conn.encoding(), &mut slices);
        let to = match rest {
            Some(bytes) => log.advance_frame_rest(from, conn.encoding(), bytes, |count, _| self.metrics.messages_sent.add(count)),
            None => log.boundary_after(from),
        };
        if !conn.is_dead() {
            slices.iter().for_each(|rest| conn.outbox.get_or_insert_default().put_first(rest));
        }
        drop(slices);
        conn.subscriptions[at].set_cursor(to);
        self.logs.change(&mut self.topics, topic, |log| log.cursor_moved(from, to));
        if rest.is_some() {
            self.mark_ready(key);
        } else if !self.conns[key].is_dead() {
            // The stream cannot be continued.
            self.metrics.overruns[self.topics[topic].rule.overrun as usize].inc();
            self.kill(key, CloseReason::Overrun);
        }
    }

    /// The subscription's cursor stands where it is to go on.
    pub(super) fn tell_renumbered(&mut self, key: usize, at: usize) {
        let subscription = &mut self.conns[key].subscriptions[at];
        subscription.set_told();
        let seq = subscription.cursor().seq - 1;
        let channel = self.topics[subscription.topic].channel().cloned().expect("it is counted anew");
        let max_rate = self.pace_of(key, at);
        let (name, epoch) = (&channel.name, channel.epoch);
        self.append(key, &Event::Subscribed { id: None, channel: name, epoch, seq, recovered: false, max_rate, unread: None });
    }
}
