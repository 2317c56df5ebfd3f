//! Subscriptions that want no more than so many messages a second (`max_rate`): when their laps begin, and what whoever is visited gets. Who they are,
//! and when it is time, is [`crate::fanout::paced`]'s.
//!
//! Such a subscription is on its connection's list of those that are behind from its turn until its socket has taken the message; then it is not, however
//! much has come meanwhile. What it is sent is decided when it is written: the newest that there is.

use smallvec::SmallVec;

use super::Shard;
use super::conn::{Flags, Phase};
use super::laps::Lap;
use super::net::Network;
use crate::fanout::cursor::Cursor;
use crate::fanout::paced::{Begin, Moved, PaceRate};
use crate::fanout::policy::Lost;
use crate::fanout::topics::{Member, TopicToken};
use crate::limits;
use crate::wire::event::GapReason;

impl<N: Network> Shard<N> {
    /// Something was appended.
    pub(super) fn pace(&mut self, topic: u32) {
        let now_ns = self.now_ns;
        let Some(paced) = self.topics.paced_mut(topic) else { return };
        let mut begun: SmallVec<[Begin; 4]> = SmallVec::new();
        paced.news(now_ns, |begin| begun.push(begin));
        let topic = self.topics.token(topic);
        begun.into_iter().for_each(|begin| self.begin_paced(topic, begin));
    }

    /// A member that has just been confirmed may not have got everything.
    pub(super) fn pace_member(&mut self, topic: u32, rate: PaceRate, seq: u64) {
        if seq < self.topics[topic].head()
            && let Some(begin) = self.topics.make_paced(topic).news_for(rate, self.now_ns)
        {
            self.begin_paced(self.topics.token(topic), begin);
        }
    }

    fn begin_paced(&mut self, topic: TopicToken, begin: Begin) {
        match begin {
            Begin::Now { rate, members } => self.start_paced_lap(topic, rate, members),
            Begin::At { rate, due } => self.laps.look_at(Lap { topic, rate: Some(rate) }, due),
        }
    }

    /// A group has waited long enough.
    pub(super) fn on_paced_due(&mut self, topic: TopicToken, rate: PaceRate) {
        let now_ns = self.now_ns;
        let paced = self.topics.resolve(topic).and_then(|index| self.topics.paced_mut(index));
        if let Some(members) = paced.and_then(|paced| paced.is_due(rate, now_ns)) {
            self.start_paced_lap(topic, rate, members);
        }
    }

    fn start_paced_lap(&mut self, topic: TopicToken, rate: PaceRate, members: usize) {
        self.laps.begin(Lap { topic, rate: Some(rate) }, self.tenant(topic.index), members);
        self.spend_on_paced(topic.index, members);
    }

    /// One quantum of a group's lap; returns the units it cost.
    pub(super) fn paced_lap(&mut self, topic: u32, rate: PaceRate) -> usize {
        let mut units = 1;
        let mut visits = 0;
        while visits < limits::FLUSH_VISITS_PER_TOPIC && units < limits::FLUSH_UNITS_PER_TURN {
            let Some(member) = self.topics.paced_mut(topic).and_then(|paced| paced.next_visit(rate)) else { break };
            visits += 1;
            units += if self.is_its_turn(member) { self.visit(member.conn as usize, None) } else { 1 };
        }
        units
    }

    pub(super) fn paced_lap_is_over(&self, topic: u32, rate: PaceRate) -> bool {
        self.topics.paced(topic).is_none_or(|paced| paced.lap_is_over(rate))
    }

    pub(super) fn end_paced_lap(&mut self, topic: u32, rate: PaceRate) {
        let token = self.topics.token(topic);
        if let Some(due) = self.topics.paced_mut(topic).and_then(|paced| paced.end_lap(rate)) {
            self.laps.look_at(Lap { topic: token, rate: Some(rate) }, due);
        }
        self.topics.rest_paced(topic);
        self.logs.retire_if_idle(&mut self.topics, topic, self.now_ns);
    }

    /// A lap has come to this member. Who is asked to go was sent the newest then, and gets nothing after it.
    fn is_its_turn(&mut self, member: Member) -> bool {
        self.conns[member.conn as usize].phase == Phase::Open && self.owe(member)
    }

    /// It is a member's turn: it is behind from now on, if there is anything for it. Whether it can be sent now.
    fn owe(&mut self, member: Member) -> bool {
        let Member { conn, subscription } = member;
        let (key, at) = (conn as usize, subscription as usize);
        let conn = &mut self.conns[key];
        let subscription = conn.subscriptions[at];
        let topic = subscription.topic;
        let is_behind = subscription.waiter().is_none() && subscription.cursor().seq < self.topics[topic].head();
        if conn.is_dead() || subscription.is_leaving() || !is_behind {
            return false;
        }
        conn.subscriptions[at].set_owed(true);
        let is_blocked = conn.flags.has(Flags::BLOCKED);
        if !subscription.is_lagging() {
            conn.push_behind(at);
            self.set_lagging(topic, true, false, true);
        }
        !is_blocked
    }

    /// The server stops: whatever a connection's subscriptions would have got in their time they get now.
    pub(super) fn owe_all(&mut self, key: usize) {
        for at in 0..self.conns[key].subscriptions.len() {
            if self.conns[key].subscriptions[at].is_paced() {
                self.owe(Member { conn: key as u32, subscription: at as u32 });
            }
        }
    }

    /// A subscription that is behind goes on at the newest message, and is told what it has passed over. False: there is nothing for it any more.
    pub(super) fn go_to_newest(&mut self, key: usize, at: usize) -> bool {
        let subscription = &mut self.conns[key].subscriptions[at];
        let topic = &self.topics[subscription.topic];
        let (newest, head) = (topic.newest(), topic.head());
        let from = subscription.cursor().seq + u64::from(subscription.is_untold());
        if subscription.is_untold() {
            subscription.set_cursor(Cursor::at(newest.max(from)));
            self.tell_renumbered(key, at);
        } else if from < newest {
            subscription.set_cursor(Cursor::at(newest));
            // With the logs full, even the newest one may be gone.
            let reason = if topic.has_messages() { GapReason::MaxRate } else { GapReason::Overrun };
            let name = topic.name().clone();
            self.tell_lost(key, &name, Lost { from, to: newest - 1, reason });
        }
        newest.max(from) < head
    }

    /// A subscription was sent something: that was its turn. Gaps behind the newest message that its socket has not taken any more are for the next
    /// one: a message that comes meanwhile must not be sent with them before its time.
    pub(super) fn end_turn(&mut self, key: usize, at: usize) {
        let subscription = &mut self.conns[key].subscriptions[at];
        subscription.set_owed(false);
        let (topic, cursor) = (subscription.topic, subscription.cursor());
        let has_gaps_left = self.topics[topic]
            .log()
            .is_some_and(|log| log.has_gaps_alone(if cursor.is_mid_frame() { log.boundary_after(cursor) } else { cursor }));
        if has_gaps_left && let Some(rate) = self.pace_of(key, at) {
            self.pace_member(topic, rate, cursor.seq);
        }
    }

    /// The rate of a subscription that has one.
    pub(super) fn pace_of(&self, key: usize, at: usize) -> Option<PaceRate> {
        let subscription = &self.conns[key].subscriptions[at];
        let paced = self.topics.paced(subscription.topic).filter(|_| subscription.is_paced())?;
        Some(paced.rate_of(Member { conn: key as u32, subscription: at as u32 }, subscription.place()))
    }

    /// Takes a subscription, which is about to go, out of its group.
    pub(super) fn remove_paced(&mut self, key: usize, at: usize) {
        let gone = self.conns[key].subscriptions[at];
        let paced = self.topics.paced_mut(gone.topic).expect("it is paced");
        let Some(Moved { member, has_escaped }) = paced.remove(Member { conn: key as u32, subscription: at as u32 }, gone.place()) else {
            return;
        };
        let Member { conn, subscription } = member;
        self.conns[conn as usize].subscriptions[subscription as usize].set_place(gone.place());
        if has_escaped && self.is_its_turn(member) {
            self.mark_ready(conn as usize);
        }
    }
}
