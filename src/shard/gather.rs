//! What one write brings: gathered from a connection's outbox and the logs, in the order in which it may go. No socket, and nothing is changed.

use std::io::IoSlice;

use smallvec::SmallVec;

use super::conn::Subscription;
use super::replay::Replays;
use crate::fanout::log::Slices;
use crate::fanout::topics::Topics;
use crate::limits;
use crate::wire::framing::Encoding;

/// Where a slice of a write came from, in the order in which they were gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The rest of the frame that the socket has taken in part, by subscription.
    FrameRest(usize),
    Outbox,
    /// Whole frames from a subscription's cursor on, in this of the encodings that its client understands.
    Log(usize, Encoding),
    /// The same of what is older than the log.
    Page(usize),
}

/// Each source with its bytes.
pub(super) type Plan = SmallVec<[(Source, usize); 8]>;

/// Subscriptions that one write is for.
pub(super) type Picked = SmallVec<[u32; 8]>;

/// What of a connection decides what the next write brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<'a> {
    /// What is unsent of it.
    pub outbox: &'a [u8],
    pub subscriptions: &'a [Subscription],
    /// Those that the write is for, whoever has waited longest first; the one in the middle of a frame before all.
    pub picked: &'a [u32],
    /// The subscription whose frame the socket has taken in part.
    pub mid_frame: Option<usize>,
    pub encoding: Encoding,
    /// Another encoding begins at the next frame boundary: nothing of the logs may follow in this one.
    pub encoding_ends: bool,
}

impl<'a> Due<'a> {
    /// The subscription whose frame, taken by the socket in part, is in no log any more: the stream cannot be continued.
    pub fn lost_frame(&self, topics: &Topics) -> Option<usize> {
        self.mid_frame.filter(|&at| {
            let subscription = &self.subscriptions[at];
            !topics[subscription.topic].log().is_some_and(|log| log.has_frame(subscription.cursor()))
        })
    }

    /// The rest of a started frame, then the outbox, then from each cursor on what there is, until `bytes_max` is reached; how many bytes that is.
    /// `slices` and `plan` are the caller's, and empty: 700 bytes that were handed back by value would be moved at each write.
    ///
    /// # Panics
    /// If there is a [`Due::lost_frame`].
    pub fn gather(self, topics: &'a Topics, replays: &'a Replays, bytes_max: usize, slices: &mut Slices<'a>, plan: &mut Plan) -> usize {
        let mut total = 0;
        if let Some(at) = self.mid_frame {
            let subscription = &self.subscriptions[at];
            let log = topics[subscription.topic].log().expect("the frame is not lost");
            let rest = log.gather_frame_rest(subscription.cursor(), self.encoding, slices).expect("the frame is not lost");
            plan.push((Source::FrameRest(at), rest));
            total += rest;
        }
        if !self.outbox.is_empty() {
            slices.push(IoSlice::new(self.outbox));
            plan.push((Source::Outbox, self.outbox.len()));
            total += self.outbox.len();
        }
        if self.encoding_ends {
            return total;
        }
        // The channel whose frame is being finished has had its turn.
        let (first, others) = self.picked.split_at(usize::from(self.mid_frame.is_some()).min(self.picked.len()));
        for at in others.iter().chain(first).map(|&at| at as usize) {
            let subscription = &self.subscriptions[at];
            if subscription.is_on_pages() {
                if total < bytes_max && slices.len() < limits::SLICES_PER_WRITE {
                    let (topic, seq) = (topics.token(subscription.topic), subscription.cursor().seq);
                    let bytes = replays.gather(topic, seq, self.encoding.plain(), bytes_max - total, slices);
                    plan.push((Source::Page(at), bytes));
                    total += bytes;
                }
                continue;
            }
            let Some(log) = topics[subscription.topic].log() else { continue };
            let cursor = if self.mid_frame == Some(at) { log.boundary_after(subscription.cursor()) } else { subscription.cursor() };
            // One that is paced has had its turn with the frame that it finishes.
            let is_over = subscription.is_leaving() || (subscription.is_paced() && self.mid_frame == Some(at));
            let is_due = (log.tail()..log.head()).contains(&cursor.seq) && !is_over;
            if is_due && total < bytes_max && slices.len() < limits::SLICES_PER_WRITE {
                let encoding = log.encoding_at(cursor, self.encoding);
                let bytes = log.gather(cursor, encoding, bytes_max - total, slices);
                plan.push((Source::Log(at, encoding), bytes));
                total += bytes;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Settings;
    use crate::fanout::batch::{BatchBuilder, Channel};
    use crate::fanout::cursor::Cursor;
    use crate::wire::Format;
    use crate::wire::event::GapReason;
    use crate::wire::payload::Kind;

    /// Channels `a` and `b` with messages 1 to 3, and a subscription to each whose cursor stands at the given place.
    fn stage(cursors: [Cursor; 2]) -> (Topics, Vec<Subscription>) {
        let mut topics = Topics::default();
        let rule = Arc::new(Settings::default().channels.default);
        let subscriptions = ["a", "b"].into_iter().zip(cursors).map(|(name, cursor)| {
            let topic = topics.insert(name, rule.clone());
            let channel = Arc::new(Channel { name: name.into(), epoch: 7, subscribers: Default::default() });
            for seq in 1..=3 {
                let mut builder = BatchBuilder::new(channel.clone(), seq);
                builder.push(Kind::Text, format!("{name}{seq}").as_bytes(), 0, 0);
                topics[topic].log_mut(&mut 0).append(builder.seal(), GapReason::Inbox);
            }
            let mut subscription = Subscription::waiting(topic, 0, 0);
            subscription.set_cursor(cursor);
            subscription
        });
        let subscriptions = subscriptions.collect();
        (topics, subscriptions)
    }

    fn mid_frame(seq: u64, offset: u32) -> Cursor {
        Cursor { offset, ..Cursor::at(seq) }
    }

    const RAW: Encoding = Encoding::web_socket(Format::Raw);

    /// Raw frames of two bytes of payload: four bytes each.
    fn due<'a>(subscriptions: &'a [Subscription], picked: &'a [u32], mid_frame: Option<usize>) -> Due<'a> {
        Due { outbox: b"", subscriptions, picked, mid_frame, encoding: RAW, encoding_ends: false }
    }

    #[derive(Debug)]
    struct Gathered<'a> {
        slices: Slices<'a>,
        plan: Plan,
        bytes: usize,
    }

    fn gather<'a>(due: Due<'a>, topics: &'a Topics, bytes_max: usize) -> Gathered<'a> {
        let replays = Box::leak(Box::<Replays>::default());
        let (mut slices, mut plan) = (Slices::new(), Plan::new());
        let bytes = due.gather(topics, replays, bytes_max, &mut slices, &mut plan);
        Gathered { slices, plan, bytes }
    }

    fn text(gathered: &Gathered<'_>) -> String {
        let bytes: Vec<u8> = gathered.slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        String::from_utf8_lossy(&bytes).replace("\u{fffd}\u{2}", "|")
    }

    #[test]
    fn a_started_frame_goes_before_replies_and_replies_before_news() {
        let (topics, subscriptions) = stage([mid_frame(2, 3), Cursor::at(3)]);
        let due = Due { outbox: b"reply", ..due(&subscriptions, &[0, 1], Some(0)) };
        let gathered = gather(due, &topics, 1000);
        // And whose frame was finished comes last.
        assert_eq!(text(&gathered), "2reply|b3|a3");
        assert_eq!(
            gathered.plan.as_slice(),
            [(Source::FrameRest(0), 1), (Source::Outbox, 5), (Source::Log(1, RAW), 4), (Source::Log(0, RAW), 4)]
        );
        assert_eq!(gathered.bytes, 14);
    }

    #[test]
    fn another_encoding_begins_at_a_frame_boundary() {
        let (topics, subscriptions) = stage([mid_frame(2, 3), Cursor::at(3)]);
        let due = Due { outbox: b"reply", encoding_ends: true, ..due(&subscriptions, &[0, 1], Some(0)) };
        assert_eq!(text(&gather(due, &topics, 1000)), "2reply");
    }

    #[test]
    fn what_is_beyond_the_bound_is_for_the_next_write() {
        let (topics, subscriptions) = stage([Cursor::at(1), Cursor::at(1)]);
        assert_eq!(text(&gather(due(&subscriptions, &[1, 0], None), &topics, 12)), "|b1|b2|b3");
        assert_eq!(text(&gather(due(&subscriptions, &[1, 0], None), &topics, 13)), "|b1|b2|b3|a1");
    }

    #[test]
    fn whoever_is_leaving_gets_the_rest_of_its_frame_alone() {
        let (topics, mut subscriptions) = stage([mid_frame(1, 1), Cursor::at(4)]);
        subscriptions[0].set_leaving();
        assert_eq!(gather(due(&subscriptions, &[0, 1], Some(0)), &topics, 1000).plan.as_slice(), [(Source::FrameRest(0), 3)]);
    }

    #[test]
    fn a_frame_that_no_log_has_any_more_is_told() {
        let (mut topics, subscriptions) = stage([Cursor::at(4), mid_frame(1, 1)]);
        assert_eq!(due(&subscriptions, &[1], Some(1)).lost_frame(&topics), None);
        topics[subscriptions[1].topic].log_mut(&mut 0).drop_before(4);
        assert_eq!(due(&subscriptions, &[1], Some(1)).lost_frame(&topics), Some(1));
    }
}
