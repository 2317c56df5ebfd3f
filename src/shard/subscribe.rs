//! Subscriptions of this shard's connections, and what the bus sends for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::conn::Subscription;
use super::net::Network;
use super::rate::moment;
use super::waiters::{Counted, NO_WAITER, Waiter};
use crate::bus::{BusCommand, Creator, JoinRefusal, ShardMessage};
use crate::fanout::batch::{Batch, Channel};
use crate::fanout::cursor::Cursor;
use crate::fanout::paced::PaceRate;
use crate::fanout::policy::Lost;
use crate::fanout::topics::{Member, Topic, TopicToken};
use crate::limits;
use crate::wire::command::{self, Asked, ErrorCode, Id};
use crate::wire::event::{Event, GapReason};
use crate::wire::wish::{Begin, From, Wish};

impl<N: Network> Shard<N> {
    pub(super) fn subscribe(&mut self, key: usize, name: &str, id: Option<Id>, wish: Wish) {
        let asked = Asked::of(command::SUBSCRIBE, name, id.as_ref());
        if self.may_subscribe(key, name, id.as_ref()) && (!wish.unread || self.is_counted(key, name, asked)) {
            self.subscribe_unasked(key, name, id, wish);
        }
    }

    /// The same, whatever the channel's rule says about who may.
    pub(super) fn subscribe_unasked(&mut self, key: usize, name: &str, id: Option<Id>, wish: Wish) {
        let Wish { begin, max_rate, unread } = wish;
        let topic = self.topics.find(name);
        if topic.is_some_and(|topic| self.find_subscription(key, topic).is_some()) {
            return self.reply_error(
                key,
                Asked::of(command::SUBSCRIBE, name, id.as_ref()),
                ErrorCode::AlreadySubscribed,
                "this connection is subscribed to that channel already",
            );
        }
        let subscriptions_max = self.settings.subscriptions_max;
        // One that ends with the frame that the socket is in the middle of is none any more.
        let conn = &self.conns[key];
        let leaving = conn.mid_frame().is_some_and(|at| conn.subscriptions[at].is_leaving());
        if conn.subscriptions.len() - usize::from(leaving) >= subscriptions_max {
            let message = format!("a connection may have {subscriptions_max} subscriptions");
            return self.reply_error(key, Asked::of(command::SUBSCRIBE, name, id.as_ref()), ErrorCode::TooManySubscriptions, &message);
        }
        if topic.is_none() && self.topics.len() >= self.settings.channels_max {
            return self.refuse_channel(key, name, id.as_ref(), JoinRefusal::ChannelsMax);
        }
        if topic.is_some_and(|topic| self.topics[topic].is_refused) {
            return self.refuse_channel(key, name, id.as_ref(), JoinRefusal::NotAllowed);
        }
        if topic.is_none() && !self.sources.may_create(key, moment(self.now_ns)) {
            self.metrics.channels_limited.inc();
            let (burst, per_second) = (self.sources.burst(), self.sources.per_second());
            let message = format!("a connection may add {burst} channels at once and {per_second} a second after that; wait a moment");
            return self.reply_error(key, Asked::of(command::SUBSCRIBE, name, id.as_ref()), ErrorCode::RateLimited, &message);
        }
        let flows = topic.is_some_and(|topic| self.topics[topic].channel().is_some());
        let waiter = Waiter::new(id.clone(), begin, if unread { Counted::Awaited } else { Counted::Not });
        // Where messages flow it is answered at once.
        let (number, waiter) = if flows { (Ok(NO_WAITER), Some(waiter)) } else { (self.waiters.insert(waiter), None) };
        let Ok(number) = number else {
            let message = "too many subscriptions wait for the bus; try again in a moment";
            return self.reply_error(key, Asked::of(command::SUBSCRIBE, name, id.as_ref()), ErrorCode::Busy, message);
        };
        let topic = topic.unwrap_or_else(|| self.topics.insert(name, self.rules.of(name).clone()));
        let member = Member { conn: key as u32, subscription: self.conns[key].subscriptions.len() as u32 };
        // Of the rule's rate and the client's own the smaller counts.
        let rate = [self.topics[topic].rule.max_rate, max_rate.map(step_of)].into_iter().flatten().min();
        let place = match rate {
            None => self.topics[topic].add_member(member),
            Some(rate) => self.topics.make_paced(topic).add(rate, member),
        };
        self.metrics.subscriptions.inc();
        let mut subscription = Subscription::waiting(topic, place, number);
        if rate.is_some() {
            subscription.set_paced();
        }
        self.conns[key].add_subscription(subscription);
        match waiter {
            Some(waiter) => self.confirm(key, member.subscription as usize, waiter),
            None => self.queue_interest(topic),
        }
    }

    /// Messages flow: answers the subscription and sets its cursor, when there is what it begins with.
    pub(super) fn confirm(&mut self, key: usize, at: usize, waiter: Waiter) {
        let waits = self.waits_for_count(key, at, waiter);
        if let Err(waiter) = waits.or_else(|waiter| self.waits_for_page(key, at, waiter)) {
            self.confirm_from(key, at, &waiter, true);
        }
    }

    /// Where in a channel that flows that is.
    pub(super) fn from(&self, topic: u32, begin: Begin) -> From {
        let topic = &self.topics[topic];
        let epoch = topic.channel().map_or(0, |channel| channel.epoch);
        // What is held back is newer than what is in the log, and a gap is no message.
        let in_log = topic.log().filter(|log| log.held().is_none()).and_then(|log| log.newest_message());
        begin.from(epoch, in_log.unwrap_or(topic.arrived() - 1))
    }

    /// The same at once. `with_pages`: also from what is older than the log, if it is here.
    pub(super) fn confirm_from(&mut self, key: usize, at: usize, waiter: &Waiter, with_pages: bool) {
        let topic_index = self.conns[key].subscriptions[at].topic;
        let from = self.from(topic_index, waiter.begin);
        let on_page = if with_pages { self.first_on_page(topic_index, from) } else { None };
        self.logs.retire_if_idle(&mut self.topics, topic_index, self.now_ns);
        let topic = &self.topics[topic_index];
        let channel = topic.channel().cloned().expect("confirmed only when messages flow");
        let Start { cursor, recovered, lost } = match on_page.filter(|_| !self.conns[key].subscriptions[at].is_paced()) {
            Some((first, lost)) => Start { cursor: Cursor::at(first), recovered: lost.is_none(), lost }.reached(from),
            None => Start::find(topic, channel.epoch, from),
        };
        let (is_ahead, is_on_pages) = (cursor.seq > topic.head(), cursor.seq < topic.tail());
        channel.subscribers.fetch_add(1, Relaxed);
        self.note_member(topic_index);
        let subscription = &mut self.conns[key].subscriptions[at];
        subscription.set_cursor(cursor);
        subscription.set_ahead(is_ahead);
        subscription.set_on_pages(is_on_pages);
        // The position from which the client goes on counting: whatever follows has a higher number.
        let seq = lost.map_or(cursor.seq, |lost| lost.from) - 1;
        let max_rate = self.pace_of(key, at);
        let (id, epoch, unread) = (waiter.id.as_ref(), channel.epoch, waiter.counted().up_to(channel.epoch, seq));
        self.reply(key, &Event::Subscribed { id, channel: &channel.name, epoch, seq, recovered, max_rate, unread });
        if let Some(lost) = lost {
            self.tell_lost(key, &channel.name, lost);
        }
        if !recovered && matches!(waiter.begin, Begin::Since(_)) {
            self.conns[key].peer.note_news();
        }
        self.streams.note_sent(key);
        if let Some(rate) = max_rate {
            return self.pace_member(topic_index, rate, cursor.seq);
        }
        // Until it has been flushed the log must not take it for somebody who has everything, nor for somebody who is slow.
        if self.note_behind(key, at) {
            self.note_left(topic_index, Member { conn: key as u32, subscription: at as u32 });
            self.mark_ready(key);
        }
    }

    /// Tells one connection, which is about to be written to, of messages that it will not get, though others may.
    pub(super) fn tell_lost(&mut self, key: usize, channel: &str, lost: Lost) {
        let Lost { from, to, reason } = lost;
        let skipped = match reason {
            GapReason::MaxRate => &self.metrics.messages_paced,
            GapReason::Overrun | GapReason::Expired => &self.metrics.messages_skipped,
            GapReason::Outage | GapReason::Inbox | GapReason::Dropped | GapReason::Refused | GapReason::Budget => {
                unreachable!("everybody loses these, and is told by an entry of the log")
            }
        };
        skipped.add(lost.count());
        self.append(key, &Event::Gap { channel, from, to, reason });
    }

    pub(super) fn unsubscribe(&mut self, key: usize, name: &str, id: Option<Id>) {
        let at = self.topics.find(name).and_then(|topic| self.find_subscription(key, topic));
        let Some(at) = at else {
            let asked = Asked::of(command::UNSUBSCRIBE, name, id.as_ref());
            return self.reply_error(key, asked, ErrorCode::NotSubscribed, "this connection is not subscribed to that channel");
        };
        self.leave(key, at);
        self.reply(key, &Event::Unsubscribed { id: id.as_ref(), channel: name, reason: None });
    }

    /// A connection may have as many subscriptions as a channel has members: the shorter list is searched.
    pub(super) fn find_subscription(&self, key: usize, topic: u32) -> Option<usize> {
        let subscriptions = &self.conns[key].subscriptions;
        let is_it = |at: usize| subscriptions[at].topic == topic && !subscriptions[at].is_leaving();
        if self.topics.member_count(topic) < subscriptions.len() {
            let own = self.topics.all_members(topic).filter(|member| member.conn as usize == key);
            own.map(|member| member.subscription as usize).find(|&at| is_it(at))
        } else {
            (0..subscriptions.len()).find(|&at| is_it(at))
        }
    }

    /// Ends a subscription, now or with the frame that the socket has taken in part.
    pub(super) fn leave(&mut self, key: usize, at: usize) {
        self.step_off_pages(key, at);
        if self.conns[key].subscriptions[at].is_mid_frame() {
            let subscription = &mut self.conns[key].subscriptions[at];
            let (topic, is_paced, was) = (subscription.topic, subscription.is_paced(), subscription.is_lagging());
            // It needs the rest of its frame, which outlives the log, and nothing after it.
            subscription.set_leaving();
            self.set_lagging(topic, is_paced, was, false);
            self.forget_left(key, at);
            self.logs.retire_if_idle(&mut self.topics, topic, self.now_ns);
        } else {
            self.remove_subscription(key, at);
        }
    }

    pub(super) fn remove_subscription(&mut self, key: usize, at: usize) {
        self.step_off_pages(key, at);
        self.forget_left(key, at);
        if self.conns[key].subscriptions[at].is_paced() {
            self.remove_paced(key, at);
        }
        let was_lagging = self.conns[key].subscriptions[at].is_lagging();
        let gone = self.conns[key].swap_remove_subscription(at);
        self.set_lagging(gone.topic, gone.is_paced(), was_lagging, false);
        let before = self.conns[key].subscriptions.len() as u32;
        if let Some(&moved) = self.conns[key].subscriptions.get(at) {
            match self.topics.paced_mut(moved.topic).filter(|_| moved.is_paced()) {
                None => self.topics[moved.topic].renumber_member(moved.place(), at as u32),
                Some(paced) => paced.renumber(Member { conn: key as u32, subscription: before }, moved.place(), at as u32),
            }
        }
        self.metrics.subscriptions.dec();
        match gone.waiter() {
            Some(waiter) => drop(self.waiters.remove(waiter)),
            None => self.uncount(gone),
        }
        if gone.is_paced() {
            self.topics.rest_paced(gone.topic);
        } else {
            self.remove_unpaced(gone);
        }
        if !self.topics.has_members(gone.topic) {
            self.queue_interest(gone.topic);
        }
        self.logs.retire_if_idle(&mut self.topics, gone.topic, self.now_ns);
    }

    fn remove_unpaced(&mut self, gone: Subscription) {
        let moved = self.topics[gone.topic].remove_member(gone.place());
        self.note_removed(gone.topic, gone.place(), moved);
        if let Some(moved) = moved {
            let lap_under_way = !self.topics[gone.topic].lap_is_over();
            self.conns[moved.conn as usize].subscriptions[moved.subscription as usize].set_place(gone.place());
            // What it is due must outlive the lap.
            if lap_under_way
                && !self.conns[moved.conn as usize].is_dead()
                && self.note_behind(moved.conn as usize, moved.subscription as usize)
            {
                self.note_left(gone.topic, moved);
                self.mark_ready(moved.conn as usize);
            }
        }
    }

    /// Takes a confirmed subscription out of its topic's accounts.
    fn uncount(&mut self, gone: Subscription) {
        self.note_member(gone.topic);
        let topic = &mut self.topics[gone.topic];
        if let Some(channel) = topic.channel() {
            channel.subscribers.fetch_sub(1, Relaxed);
        }
        let cursor = gone.cursor();
        if cursor.is_mid_frame() {
            self.logs.change(&mut self.topics, gone.topic, |log| log.cursor_moved(cursor, Cursor::at(cursor.seq + 1)));
        }
    }

    fn queue_interest(&mut self, topic: u32) {
        if !std::mem::replace(&mut self.topics[topic].interest_queued, true) {
            self.interest.push_back(topic);
        }
    }

    /// Tells the bus about topics that got their first member or lost their last; those without members go.
    pub(super) fn tell_interest(&mut self) {
        let mut told = false;
        while let Some(&index) = self.interest.front() {
            let topic = &self.topics[index];
            let wanted = self.topics.has_members(index);
            if wanted != topic.join_sent {
                let (shard, channel, first) = (self.index, topic.name().clone(), self.topics.all_members(index).next());
                let topic = self.topics.token(index);
                let command = match first {
                    Some(Member { conn, .. }) => {
                        let (source, connection) = (self.sources.source(conn as usize), self.conns[conn as usize].generation);
                        BusCommand::Join { shard, topic, channel, creator: Creator { source, shard, connection } }
                    }
                    None => BusCommand::Leave { shard, topic, channel },
                };
                if self.bus.push(command).is_err() {
                    break;
                }
                told = true;
            }
            self.interest.pop_front();
            let topic = &mut self.topics[index];
            topic.interest_queued = false;
            topic.join_sent = wanted;
            if !wanted {
                self.replays.forget(self.topics.token(index));
                let gone = self.topics.remove(index);
                self.logs.forget(&gone);
            }
        }
        if told {
            self.bus.wake();
        }
        if self.interest.is_empty() && self.interest.capacity() > limits::QUEUE_KEPT {
            self.interest = VecDeque::new();
        }
    }

    pub(super) fn drain_inbox(&mut self) {
        self.metrics.inbox_depth.set(self.inbox.len() as u64);
        for _ in 0..limits::INBOX_MESSAGES_PER_TURN {
            let Some(message) = self.inbox.try_recv() else { break };
            if let Some(message) = self.hold_behind_asides(message) {
                self.obey_bus(message);
            }
        }
    }

    pub(super) fn obey_bus(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Batch { topic, batch } => {
                // Here, so that no way out of `on_batch` can forget it.
                self.inbox.release(batch.bytes());
                self.on_batch(topic, batch);
            }
            ShardMessage::Aside { topic, aside } => self.on_aside(topic, aside),
            ShardMessage::Joined { topic, channel, seq, history } => self.on_joined(topic, channel, seq, history),
            ShardMessage::Refused { topic, refusal } => self.on_refused(topic, refusal),
            ShardMessage::Renumbered { topic, channel, seq } => self.on_renumbered(topic, channel, seq),
            ShardMessage::Head { topic, seq } => self.on_head(topic, seq),
            ShardMessage::Page { topic, from, batches } => self.on_page(topic, from, batches),
            ShardMessage::Answer { conn, id, answer } => self.on_answer(conn, id.as_ref(), answer),
            ShardMessage::Marks(news) => self.on_mark_news(&news),
            ShardMessage::Order(order) => self.take_order(order),
            ShardMessage::Stop => self.stop(),
        }
    }

    fn on_joined(&mut self, token: TopicToken, channel: Arc<Channel>, seq: u64, history: Vec<Arc<Batch>>) {
        let Some(index) = self.topics.resolve(token) else { return };
        let head = history.first().map_or(seq + 1, |oldest| oldest.first());
        self.topics[index].serve(channel.clone(), head);
        for batch in history {
            self.logs.append(&mut self.topics, token, batch);
        }
        if seq >= self.topics[index].head() {
            self.logs.advance_head(&mut self.topics, token, &channel, seq + 1, GapReason::Inbox);
        }
        self.topics[index].end_lap();
        self.logs.keep_budget(&mut self.topics);
        let members: Vec<Member> = self.topics.all_members(index).collect();
        for Member { conn, subscription } in members {
            let (key, at) = (conn as usize, subscription as usize);
            let waiter = self.take_waiter(key, at);
            // A connection that is closing has left; one that is dead will be reaped, counted like any member.
            if self.conns[key].is_open() || self.conns[key].is_dead() {
                self.confirm(key, at, waiter);
            }
        }
    }
}

impl<N: Network> Shard<N> {
    pub(super) fn take_waiter(&mut self, key: usize, at: usize) -> Waiter {
        let subscription = &mut self.conns[key].subscriptions[at];
        let Some(waiter) = subscription.waiter() else { return Waiter::idle() };
        subscription.forget_waiter(NO_WAITER);
        self.waiters.remove(waiter)
    }

    /// The bus cannot serve this channel: whoever asked is told, and the topic goes; unless somebody of another address waits for it, too.
    fn on_refused(&mut self, token: TopicToken, refusal: JoinRefusal) {
        let Some(index) = self.topics.resolve(token) else { return };
        self.topics[index].join_sent = false;
        let name = self.topics[index].name().clone();
        // Whoever is left joins anew.
        self.queue_interest(index);
        let members: Vec<Member> = self.topics.all_members(index).collect();
        for Member { conn, subscription } in members {
            let (key, at) = (conn as usize, subscription as usize);
            if self.conns[key].subscriptions.get(at).is_none_or(|subscription| subscription.topic != index) {
                continue;
            }
            let concerns = match refusal {
                JoinRefusal::ChannelsMax | JoinRefusal::NotAllowed => true,
                JoinRefusal::AddressShare(source) => self.sources.source(key) == source,
            };
            if concerns {
                let Waiter { id, .. } = self.take_waiter(key, at);
                self.remove_subscription(key, at);
                self.refuse_channel(key, &name, id.as_ref(), refusal);
            }
        }
    }

    fn refuse_channel(&mut self, key: usize, name: &str, id: Option<&Id>, refusal: JoinRefusal) {
        let (code, message) = match refusal {
            JoinRefusal::ChannelsMax => {
                (ErrorCode::TooManyChannels, format!("this server serves {} channels and no more", self.settings.channels_max))
            }
            JoinRefusal::AddressShare(_) => {
                let share = self.settings.channels_of_address;
                (ErrorCode::TooManyChannels, format!("this server serves {share} channels to your address and no more"))
            }
            JoinRefusal::NotAllowed => (ErrorCode::ChannelRefused, channel_refused(name)),
        };
        if code == ErrorCode::TooManyChannels {
            self.metrics.channels_refused.inc();
        }
        self.reply_error(key, Asked::of(command::SUBSCRIBE, name, id), code, &message);
    }
}

/// The rate that a client is given which asks for this one.
fn step_of(rate: PaceRate) -> PaceRate {
    *limits::RATE_STEPS.iter().rfind(|&&step| step <= rate).expect("no rate is below the lowest")
}

fn channel_refused(channel: &str) -> String {
    format!("Redis does not let this server subscribe to the channel {channel}")
}

/// Where a subscription starts.
struct Start {
    cursor: Cursor,
    recovered: bool,
    /// Numbers that were asked for and are gone.
    lost: Option<Lost>,
}

impl Start {
    fn find(topic: &Topic, epoch: u64, from: From) -> Start {
        // What is held back has come: who starts here does not want it, and who has had it from another shard is told no lie.
        let live = Start { cursor: Cursor::at(topic.arrived()), recovered: false, lost: None };
        match from.position() {
            Some(position) if position.epoch == epoch && position.seq < topic.arrived() => {
                let next = position.seq + 1;
                let start = topic.boundary_at(next.max(topic.tail()));
                let lost = (next < start).then(|| Lost { from: next, to: start - 1, reason: GapReason::Expired });
                Start { cursor: Cursor::at(start), recovered: lost.is_none(), lost }.reached(from)
            }
            _ => live,
        }
    }

    /// Who wants the newest message alone has missed nothing, and is not told that it is not kept.
    fn reached(self, from: From) -> Start {
        match from {
            From::Now | From::After(_) => self,
            From::BeforeNewest(_) => Start { cursor: self.cursor, recovered: false, lost: None },
        }
    }
}
