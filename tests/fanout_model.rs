//! Logs and cursors against the obvious implementation: a queue of bytes per client. Random batches, gaps, partial writes, merges and
//! trims; whatever the log hands to a client must be what the client's own queue holds, byte for byte.

use std::collections::VecDeque;
use std::sync::Arc;

use campanile::config::Overrun;
use campanile::fanout::batch::{Batch, BatchBuilder, Channel};
use campanile::fanout::cursor::Cursor;
use campanile::fanout::log::{Log, Slices};
use campanile::fanout::policy::{Lost, Verdict, judge};
use campanile::wire::Format;
use campanile::wire::command::Position;
use campanile::wire::event::{self, Event, GapReason};
use campanile::wire::framing::Encoding;
use campanile::wire::payload::{Kind, encode_notification};
use proptest::prelude::*;

const LOG_BYTES: usize = 8000;

/// One step of a run.
#[derive(Debug, Clone)]
enum Step {
    /// Messages with payloads of these sizes come in together.
    Publish(Vec<u16>),
    /// Numbers that are announced as lost.
    Gap(u8),
    /// A client's socket takes this many bytes.
    Take {
        client: usize,
        bytes: u16,
    },
    Merge,
    /// Everybody who can catches up, and what nobody needs is freed.
    Retire {
        keep: u8,
    },
    /// Encodings were asked for: the log counts again.
    Measure,
}

fn step(clients: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof![Just(0u16), 1..200u16, 1000..3000u16], 1..6).prop_map(Step::Publish),
        1 => (1..4u8).prop_map(Step::Gap),
        8 => (0..clients, prop_oneof![Just(0u16), 1..40u16, 40..4000u16]).prop_map(|(client, bytes)| Step::Take { client, bytes }),
        1 => Just(Step::Merge),
        1 => (0..4u8).prop_map(|keep| Step::Retire { keep }),
        1 => Just(Step::Measure),
    ]
}

/// The naive client: its own copy of every frame that it is due.
struct Client {
    encoding: Encoding,
    cursor: Cursor,
    /// Frames not wholly taken, each with the number after it.
    queue: VecDeque<(u64, Vec<u8>)>,
    /// Bytes of the first frame that were taken.
    taken: usize,
    messages: u64,
}

struct Model {
    channel: Arc<Channel>,
    log: Log,
    policy: Overrun,
    clients: Vec<Client>,
    /// The most that the log has held, limbo included.
    peak_bytes: usize,
}

impl Model {
    fn new(policy: Overrun, formats: &[Format]) -> Model {
        let channel = Arc::new(Channel { name: "prices".into(), epoch: 1, subscribers: Default::default() });
        let log = Log::new(LOG_BYTES);
        let client = |&format| {
            let encoding = Encoding::web_socket(format);
            Client { encoding, cursor: Cursor::at(log.head()), queue: VecDeque::new(), taken: 0, messages: 0 }
        };
        let clients = formats.iter().map(client).collect();
        Model { channel, log, policy, clients, peak_bytes: 0 }
    }

    fn append(&mut self, batch: Arc<Batch>, frames: impl Fn(Encoding) -> Vec<(u64, Vec<u8>)>) {
        assert_eq!(self.log.append(batch, GapReason::Inbox), 0);
        for client in &mut self.clients {
            client.queue.extend(frames(client.encoding));
        }
    }

    fn publish(&mut self, sizes: &[u16]) {
        let (epoch, first) = (self.channel.epoch, self.log.head());
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![b'a' + (size % 26) as u8; size.into()]).collect();
        let mut builder = BatchBuilder::new(self.channel.clone(), first);
        for payload in &payloads {
            builder.push(Kind::Text, payload, 5, 1_000);
        }
        self.append(builder.seal(), |encoding| {
            (first..)
                .zip(&payloads)
                .map(|(seq, payload)| {
                    let mut frame = Vec::new();
                    encode_notification(&mut frame, encoding, "prices", Position { epoch, seq }, 1_000, Kind::Text, payload);
                    (seq + 1, frame)
                })
                .collect()
        });
    }

    fn gap(&mut self, count: u8) {
        let epoch = self.channel.epoch;
        let (from, to) = (self.log.head(), self.log.head() + u64::from(count) - 1);
        let gap = Batch::gap(&self.channel, from, to, GapReason::Outage);
        self.append(gap, |encoding| {
            let mut frame = Vec::new();
            let gap = Event::Gap { channel: "prices", from, to, reason: GapReason::Outage };
            event::encode_at(&gap, Some(Position { epoch, seq: to }), encoding, 0, &mut frame);
            vec![(to + 1, frame)]
        });
    }

    /// What a shard does when a socket has room for `room` bytes.
    fn take(&mut self, at: usize, room: usize) {
        let client = &mut self.clients[at];
        if client.cursor.is_mid_frame() {
            let mut slices = Slices::new();
            let Some(bytes) = self.log.gather_frame_rest(client.cursor, client.encoding, &mut slices) else {
                // Only a full limbo may lose the rest of a frame that was begun.
                assert!(self.peak_bytes > LOG_BYTES);
                drop(slices);
                return self.start_again(at);
            };
            let written = bytes.min(room);
            let expected = &client.queue[0].1[client.taken..];
            assert_eq!(bytes, expected.len(), "the rest of the frame, no more");
            assert_eq!(&slices[0][..written], &expected[..written]);
            drop(slices);
            let to = self.log.advance_frame_rest(client.cursor, client.encoding, written, |count, _| client.messages += count);
            client.moved(&mut self.log, written, to);
            if client.cursor.is_mid_frame() {
                return;
            }
        }
        match judge(&self.log, client.cursor, self.policy) {
            Verdict::Within => {}
            Verdict::Disconnect => return self.start_again(at),
            Verdict::Jump(Lost { from, to, .. }) => {
                assert_eq!(from, client.cursor.seq);
                while client.queue.front().is_some_and(|&(end, _)| end <= to + 1) {
                    client.queue.pop_front();
                }
                client.cursor = Cursor::at(to + 1);
            }
        }
        let mut slices = Slices::new();
        let bytes = self.log.gather(client.cursor, client.encoding, usize::MAX, &mut slices);
        let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(bytes, offered.len());
        let expected: Vec<u8> = client.queue.iter().flat_map(|(_, frame)| frame.iter().copied()).collect();
        assert_eq!(offered, expected[..offered.len()], "the log offers what the client's own queue holds");
        assert!(offered.len() == expected.len() || slices.len() == slices.inline_size(), "and all of it, unless there are too many slices");
        drop(slices);
        let written = bytes.min(room);
        let to = self.log.advance(client.cursor, client.encoding, written, |count, received| {
            assert_eq!(received, 5);
            client.messages += count;
        });
        client.moved(&mut self.log, written, to);
    }

    /// The connection was cut; another takes its place at the head.
    fn start_again(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let head = Cursor::at(self.log.head());
        self.log.cursor_moved(client.cursor, head);
        (client.cursor, client.taken) = (head, 0);
        client.queue.clear();
    }

    fn retire(&mut self, keep: usize) {
        for at in 0..self.clients.len() {
            // As often as slices run out.
            while self.clients[at].cursor.seq < self.log.head() {
                self.take(at, usize::MAX);
            }
        }
        self.log.retire(keep, 60_000, 1_000, false);
        if keep == 0 {
            assert_eq!((self.log.bytes(), self.log.is_empty()), (0, true), "nothing is kept that nobody waits for");
        }
    }
}

impl Client {
    fn moved(&mut self, log: &mut Log, written: usize, to: Cursor) {
        let mut written = written;
        while written > 0 {
            let rest = self.queue[0].1.len() - self.taken;
            if written < rest {
                self.taken += written;
                break;
            }
            written -= rest;
            self.taken = 0;
            self.queue.pop_front();
        }
        // Frames without bytes (gaps in raw) go with the cursor.
        while self.queue.front().is_some_and(|(end, frame)| frame.is_empty() && *end <= to.seq) {
            self.queue.pop_front();
        }
        log.cursor_moved(self.cursor, to);
        self.cursor = to;
        assert_eq!(to.offset as usize, self.taken, "the cursor stands where the queue does");
        if let Some((end, _)) = self.queue.front() {
            assert!(to.seq < *end);
        } else {
            assert_eq!(to, Cursor::at(log.head()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_serves_what_a_queue_per_client_would(
        policy in prop::sample::select(vec![Overrun::Disconnect, Overrun::Skip, Overrun::Latest]),
        formats in prop::collection::vec(prop::sample::select(Format::ALL.to_vec()), 1..5),
        steps in prop::collection::vec(step(4), 1..120),
    ) {
        let mut model = Model::new(policy, &formats);
        for step in steps {
            match step {
                Step::Publish(sizes) => model.publish(&sizes),
                Step::Gap(count) => model.gap(count),
                Step::Take { client, bytes } => model.take(client % formats.len(), bytes.into()),
                Step::Merge => model.log.merge(),
                Step::Retire { keep } => model.retire(keep.into()),
                Step::Measure => model.log.measure(),
            }
            model.peak_bytes = model.peak_bytes.max(model.log.bytes());
            // One batch may stay whatever its size, and one in limbo: five payloads of 3,000 bytes in four spellings.
            prop_assert!(model.log.bytes() <= 2 * (LOG_BYTES + 5 * 3_100 * 4), "{} bytes", model.log.bytes());
        }
        model.retire(0);
        for client in &model.clients {
            prop_assert!(client.queue.iter().all(|(_, frame)| frame.is_empty()));
        }
    }
}
