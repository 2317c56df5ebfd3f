//! One channel's messages that came in together: immutable, shared by every shard, encoded once per encoding.
//!
//! Made by the bus thread through [`BatchBuilder`], read by the shards. The payloads are kept as published; the frames of an
//! encoding are made by the first shard that has a subscriber who wants them ([`super::encoded`]), back to back, so that any run of
//! messages is one contiguous slice.

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize};
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::encoded::{Encoded, Frames};
use super::naming::ChannelName;
use crate::clock::MonotonicNs;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, heap_bytes};
use crate::wire::command::Position;
use crate::wire::event::{self, Event, GapReason};
use crate::wire::framing::Encoding;
use crate::wire::payload::{Kind, encode_notification, notification_bytes_guess};

/// A channel as the node knows it, from its first local subscriber to the end of its linger.
#[derive(Debug)]
pub struct Channel {
    pub name: ChannelName,
    /// Names this run of sequence numbers; below 2^53. A new one is drawn when numbering starts again.
    pub epoch: u64,
    /// Subscriptions on this host, all shards together.
    pub subscribers: AtomicU32,
}

/// Consecutive messages, or one gap, of one channel.
#[derive(Debug)]
pub struct Batch {
    channel: Arc<Channel>,
    /// Sequence number of the first message, or first lost number.
    first: u64,
    content: Content,
    encoded: Encoded,
    growth: Growth,
}

/// The frames of all batches that somebody keeps who counts them, in bytes. Exact whoever encodes when: a batch adds what it grows by.
#[derive(Debug, Default)]
pub struct KeptFrames(AtomicI64);

impl KeptFrames {
    pub fn bytes(&self) -> usize {
        // Below zero for the moment in which a batch is let go before whoever encodes it has added.
        usize::try_from(self.0.load(Acquire)).unwrap_or(0)
    }
}

/// How far a batch has grown since it was made.
#[derive(Debug, Default)]
struct Growth {
    /// Bytes of the frames made so far; with [`KEPT`] while they count in `account`.
    bytes: AtomicUsize,
    account: OnceLock<Arc<KeptFrames>>,
}

/// A batch itself with the counts of its [`Arc`], and its places of 16 bytes: two in a log, which grows by doubling, and four in the shard's list of
/// what was appended, half of which may be out of date.
const BATCH_BYTES: usize = heap_bytes(16 + size_of::<Batch>()) + 6 * 16;

const KEPT: usize = 1 << (usize::BITS - 1);

impl Growth {
    fn add(&self, bytes: usize) {
        if self.bytes.fetch_add(bytes, AcqRel) & KEPT != 0 {
            self.account.get().expect("set before the flag").0.fetch_add(bytes as i64, AcqRel);
        }
    }
}

#[derive(Debug)]
enum Content {
    Messages { bytes: Box<[u8]>, messages: Box<[Message]>, runs: Box<[Run]> },
    Gap { to: u64, reason: GapReason },
}

#[derive(Debug, Clone, Copy)]
struct Message {
    /// Where the payload ends in `bytes`.
    end: u32,
    kind: Kind,
}

/// Messages that were received at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Sequence number after the run's last message.
    pub end_seq: u64,
    pub received: MonotonicNs,
    pub timestamp_ms: u64,
}

impl Batch {
    /// An announced loss of the numbers `from..=to`, an entry of the log like a message.
    pub fn gap(channel: &Arc<Channel>, from: u64, to: u64, reason: GapReason) -> Arc<Batch> {
        assert!(from <= to, "a gap of nothing: {from}..={to}");
        Arc::new(Batch {
            channel: channel.clone(),
            first: from,
            content: Content::Gap { to, reason },
            encoded: Encoded::default(),
            growth: Growth::default(),
        })
    }

    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// First sequence number.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Sequence number after the last.
    pub fn end(&self) -> u64 {
        match &self.content {
            Content::Messages { messages, .. } => self.first + messages.len() as u64,
            Content::Gap { to, .. } => to + 1,
        }
    }

    /// None: it has messages.
    pub fn gap_reason(&self) -> Option<GapReason> {
        match self.content {
            Content::Messages { .. } => None,
            Content::Gap { reason, .. } => Some(reason),
        }
    }

    pub fn is_gap(&self) -> bool {
        matches!(self.content, Content::Gap { .. })
    }

    /// How many messages; 0 for a gap.
    pub fn message_count(&self) -> usize {
        match &self.content {
            Content::Messages { messages, .. } => messages.len(),
            Content::Gap { .. } => 0,
        }
    }

    /// Number, time and payload of each message; nothing of a gap.
    pub fn entries(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        let (bytes, messages, runs): (&[u8], &[Message], &[Run]) = match &self.content {
            Content::Messages { bytes, messages, runs } => (bytes, messages, runs),
            Content::Gap { .. } => (&[], &[], &[]),
        };
        let (mut begin, mut run) = (0, 0);
        messages.iter().zip(self.first..).map(move |(message, seq)| {
            run += usize::from(runs[run].end_seq <= seq);
            let payload = &bytes[std::mem::replace(&mut begin, message.end as usize)..message.end as usize];
            (seq, runs[run].timestamp_ms, payload)
        })
    }

    /// Bytes that the batch takes of the heap before anything is encoded, and its place in a list.
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Messages { bytes, messages, runs } => {
                heap_bytes(bytes.len()) + heap_bytes(size_of_val(&**messages)) + heap_bytes(size_of_val(&**runs))
            }
            Content::Gap { .. } => 0,
        };
        BATCH_BYTES + content
    }

    /// Bytes it takes now, with the frames of the encodings that somebody has asked for; what logs and history are bounded by.
    pub fn bytes_held(&self) -> usize {
        self.bytes() + (self.growth.bytes.load(Acquire) & !KEPT)
    }

    /// From now on its frames count in `account`, those made already and those to come. A batch has one account for life.
    pub fn keep(&self, account: &Arc<KeptFrames>) {
        let account = self.growth.account.get_or_init(|| account.clone());
        let before = self.growth.bytes.fetch_or(KEPT, AcqRel);
        assert!(before & KEPT == 0, "a batch is kept once at a time");
        account.0.fetch_add(before as i64, AcqRel);
    }

    /// Takes its frames out of the account.
    pub fn let_go(&self) {
        let before = self.growth.bytes.fetch_and(!KEPT, AcqRel);
        if let Some(account) = self.growth.account.get().filter(|_| before & KEPT != 0) {
            account.0.fetch_sub((before & !KEPT) as i64, AcqRel);
        }
    }

    /// When its newest message was received; None for a gap. By the clock that never steps: the other one is for people to read.
    pub fn received(&self) -> Option<MonotonicNs> {
        self.runs().last().map(|run| run.received)
    }

    pub fn runs(&self) -> &[Run] {
        match &self.content {
            Content::Messages { runs, .. } => runs,
            Content::Gap { .. } => &[],
        }
    }

    /// The batch as frames of one encoding, made by whoever asks first; nobody waits for somebody else who is making them.
    pub fn frames(&self, encoding: Encoding) -> &Frames {
        self.encoded.get(encoding).unwrap_or_else(|| self.keep_encoded(encoding, self.encode(encoding)))
    }

    /// Only what is kept counts: of two that were made at once, one.
    fn keep_encoded(&self, encoding: Encoding, frames: Frames) -> &Frames {
        let (frames, is_ours) = self.encoded.keep(encoding, frames);
        if is_ours {
            self.growth.add(frames.bytes_held());
        }
        frames
    }

    fn encode(&self, encoding: Encoding) -> Frames {
        let name = &*self.channel.name;
        match &self.content {
            Content::Messages { bytes, messages, runs } => {
                let envelope_bytes = notification_bytes_guess(encoding.format, name, 0);
                let mut out = Vec::with_capacity(bytes.len() + messages.len() * envelope_bytes);
                let mut ends = SmallVec::with_capacity(messages.len());
                let mut start = 0;
                let mut run = runs.iter().peekable();
                for (seq, message) in (self.first..).zip(messages) {
                    let payload = &bytes[start..message.end as usize];
                    start = message.end as usize;
                    run.next_if(|run| seq >= run.end_seq);
                    let timestamp_ms = run.peek().expect("runs cover every message").timestamp_ms;
                    let position = Position { epoch: self.channel.epoch, seq };
                    encode_notification(&mut out, encoding, name, position, timestamp_ms, message.kind, payload);
                    ends.push(u32::try_from(out.len()).expect("a batch is far smaller than 4 GiB"));
                }
                Frames { bytes: out.into_boxed_slice(), ends }
            }
            Content::Gap { to, reason } => {
                let mut out = Vec::new();
                let (gap, position) = (
                    Event::Gap { channel: name, from: self.first, to: *to, reason: *reason },
                    Position { epoch: self.channel.epoch, seq: *to },
                );
                event::encode_at(&gap, Some(position), encoding, 0, &mut out);
                Frames { ends: SmallVec::from_slice(&[out.len() as u32]), bytes: out.into_boxed_slice() }
            }
        }
    }

    /// Where the frame that carries `seq` begins in [`Frames::bytes`]. `seq` must lie in `first..=end`; `end` gives the length.
    pub fn frame_start(&self, frames: &Frames, seq: u64) -> usize {
        debug_assert!((self.first..=self.end()).contains(&seq));
        match self.content {
            _ if seq == self.first => 0,
            Content::Messages { .. } => frames.ends[(seq - self.first) as usize - 1] as usize,
            // A gap is one frame however many numbers it names.
            Content::Gap { to, .. } if seq <= to => 0,
            Content::Gap { .. } => frames.bytes.len(),
        }
    }

    /// The place of a byte offset: sequence number of the frame it lies in and the offset in that frame. An offset at the end of
    /// a frame belongs to the next one; at the end of all, to `end` with 0.
    pub fn place_of(&self, frames: &Frames, byte: usize) -> (u64, usize) {
        let complete = frames.ends.partition_point(|&end| end as usize <= byte);
        let start = if complete == 0 { 0 } else { frames.ends[complete - 1] as usize };
        if complete == frames.ends.len() {
            return (self.end(), 0);
        }
        (self.first + complete as u64, byte - start)
    }

    /// Several consecutive batches of messages as one: the same numbers and the same bytes in fewer slices. Encodings that somebody
    /// asked for are joined from what is there already, so nothing is encoded twice.
    pub fn merge(parts: &[Arc<Batch>]) -> Arc<Batch> {
        assert!(parts.len() > 1 && parts.windows(2).all(|pair| pair[0].end() == pair[1].first));
        let (mut bytes, mut messages, mut runs) = (Vec::new(), Vec::new(), Vec::<Run>::new());
        for part in parts {
            let Content::Messages { bytes: part_bytes, messages: part_messages, runs: part_runs } = &part.content else {
                panic!("a gap cannot be merged");
            };
            let base = bytes.len() as u32;
            bytes.extend_from_slice(part_bytes);
            messages.extend(part_messages.iter().map(|message| Message { end: base + message.end, ..*message }));
            for run in part_runs {
                match runs.last_mut() {
                    Some(last) if last.received == run.received && last.timestamp_ms == run.timestamp_ms => last.end_seq = run.end_seq,
                    _ => runs.push(*run),
                }
            }
        }
        let merged = Batch {
            channel: parts[0].channel.clone(),
            first: parts[0].first,
            content: Content::Messages { bytes: bytes.into(), messages: messages.into(), runs: runs.into() },
            encoded: Encoded::default(),
            growth: Growth::default(),
        };
        for encoding in parts.iter().flat_map(|part| part.encoded.encodings()) {
            if merged.encoded.get(encoding).is_some() {
                continue;
            }
            let mut joined = Frames { bytes: Box::default(), ends: SmallVec::with_capacity(merged.message_count()) };
            let mut bytes = Vec::new();
            for part in parts {
                let frames = part.frames(encoding);
                let base = bytes.len() as u32;
                bytes.extend_from_slice(&frames.bytes);
                joined.ends.extend(frames.ends.iter().map(|end| base + end));
            }
            joined.bytes = bytes.into();
            merged.keep_encoded(encoding, joined);
        }
        Arc::new(merged)
    }
}

/// Collects one channel's messages of one read.
#[derive(Debug)]
pub struct BatchBuilder {
    channel: Arc<Channel>,
    first: u64,
    bytes: Vec<u8>,
    messages: Vec<Message>,
    runs: Vec<Run>,
}

impl BatchBuilder {
    /// The first message pushed gets the number `first`.
    pub fn new(channel: Arc<Channel>, first: u64) -> BatchBuilder {
        BatchBuilder { channel, first, bytes: Vec::new(), messages: Vec::new(), runs: Vec::new() }
    }

    pub fn push(&mut self, kind: Kind, payload: &[u8], received: MonotonicNs, timestamp_ms: u64) {
        self.bytes.extend_from_slice(payload);
        self.messages.push(Message { end: u32::try_from(self.bytes.len()).expect("payloads are bounded"), kind });
        let end_seq = self.first + self.messages.len() as u64;
        match self.runs.last_mut() {
            Some(run) if run.received == received && run.timestamp_ms == timestamp_ms => run.end_seq = end_seq,
            _ => self.runs.push(Run { end_seq, received, timestamp_ms }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether a payload of this size should rather begin the next batch ([`BATCH_BYTES_MAX`], [`BATCH_MESSAGES_MAX`]).
    pub fn is_full_for(&self, payload_bytes: usize) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || (!self.is_empty() && self.bytes.len() + payload_bytes > BATCH_BYTES_MAX)
    }

    /// Sequence number after the last message pushed.
    pub fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub fn seal(self) -> Arc<Batch> {
        assert!(!self.is_empty(), "an empty batch has no place in a log");
        Arc::new(Batch {
            channel: self.channel,
            first: self.first,
            content: Content::Messages { bytes: self.bytes.into(), messages: self.messages.into(), runs: self.runs.into() },
            encoded: Encoded::default(),
            growth: Growth::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::wire::Format;

    fn batch(messages: u64) -> Arc<Batch> {
        let channel = Arc::new(Channel { name: "a".into(), epoch: 1, subscribers: Default::default() });
        let mut builder = BatchBuilder::new(channel, 1);
        for number in 0..messages {
            builder.push(Kind::Json, format!("[{number}]").as_bytes(), 1, 1);
        }
        builder.seal()
    }

    /// All are encoded by several shards at once, while the bus keeps some and lets them go: each encoding is there once, for everybody, and counted
    /// once.
    #[test]
    fn whoever_encodes_at_the_same_time_counts_once() {
        const SHARDS: usize = 4;
        let account = Arc::new(KeptFrames::default());
        let batches: Vec<_> = (1..400).map(|number| batch(number % 7 + 1)).collect();
        let begin = Barrier::new(SHARDS + 1);
        let seen: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let shard = |shard: usize| {
                let (batches, begin) = (&batches, &begin);
                move || {
                    begin.wait();
                    let mut seen = Vec::new();
                    for batch in batches {
                        // Not all in the same order.
                        for turn in 0..Format::ALL.len() {
                            let encoding = Encoding::web_socket(Format::ALL[(turn + shard) % Format::ALL.len()]);
                            batch.frames(encoding);
                        }
                        let place = |format| batch.frames(Encoding::web_socket(format)).bytes.as_ptr() as usize;
                        seen.extend(Format::ALL.iter().map(|&format| place(format)));
                    }
                    seen
                }
            };
            let shards: Vec<_> = (0..SHARDS).map(|number| scope.spawn(shard(number))).collect();
            begin.wait();
            for (number, batch) in batches.iter().enumerate() {
                batch.keep(&account);
                if number % 2 == 0 {
                    batch.let_go();
                }
            }
            shards.into_iter().map(|shard| shard.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|places| *places == seen[0]), "everybody has the same frames");
        let held = |batch: &Batch| -> usize {
            assert_eq!(batch.encoded.encodings().count(), Format::ALL.len());
            batch.encoded.encodings().map(|encoding| batch.frames(encoding).bytes_held()).sum()
        };
        for batch in &batches {
            assert_eq!(batch.bytes_held(), batch.bytes() + held(batch));
        }
        assert_eq!(account.bytes(), batches.iter().skip(1).step_by(2).map(|batch| held(batch)).sum::<usize>());
        batches.iter().for_each(|batch| batch.let_go());
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_merged_batch_has_what_its_parts_were_encoded_to() {
        let (json, raw) = (Encoding::web_socket(Format::Json), Encoding::web_socket(Format::Raw));
        let whole = batch(9);
        let parts: Vec<_> = (0..3)
            .map(|part| {
                let mut builder = BatchBuilder::new(whole.channel().clone(), 3 * part + 1);
                for number in 3 * part..3 * part + 3 {
                    builder.push(Kind::Json, format!("[{number}]").as_bytes(), 1, 1);
                }
                builder.seal()
            })
            .collect();
        parts[0].frames(json);
        parts[2].frames(raw);
        let merged = Batch::merge(&parts);
        assert_eq!(merged.encoded.encodings().collect::<Vec<_>>(), [json, raw]);
        for encoding in [json, raw, Encoding::web_socket(Format::Msgpack)] {
            assert_eq!(
                (&merged.frames(encoding).bytes, &merged.frames(encoding).ends),
                (&whole.frames(encoding).bytes, &whole.frames(encoding).ends)
            );
        }
        assert_eq!(merged.bytes_held() - merged.bytes(), whole.bytes_held() - whole.bytes());
    }

    /// Logs and histories are full of batches of one message.
    #[test]
    fn a_batch_does_not_grow_with_the_number_of_encodings() {
        assert_eq!(size_of::<Batch>(), 96);
    }
}
