//! A client's view of one connection: parses every byte the server sent and holds the server to its promises.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash};
use std::sync::Arc;

use campanile::fanout::aside::Aside;
use campanile::fanout::batch::Channel;
use campanile::wire::Format;
use campanile::wire::payload::Kind;
use serde_json::Value;

#[derive(Debug)]
pub struct Client {
    pub format: Format,
    received: Vec<u8>,
    upgraded: bool,
    pub subscriptions: HashMap<String, View>,
    /// Channels asked for and not confirmed.
    pub asked: Vec<String>,
    pub close: Option<u16>,
    /// As `connected` told it.
    pub client_id: String,
    pub pings: usize,
    /// It answers no pings, and so gets none.
    pub unasked: bool,
    /// What it was told instead: that the server lives.
    pub beats: usize,
    pub echoes: usize,
    /// permessage-deflate was agreed.
    pub deflate: bool,
    /// Messages of channels that came compressed, and that came plain though it was agreed.
    pub inflated: u64,
    pub plain: u64,
    /// The status of an answer other than 101.
    pub refused: Option<u16>,
    /// Events that answer a command with an id, in the order in which they came.
    pub answers: Vec<Value>,
    pub errors: Vec<Value>,
    /// Subscriptions that began with how much is unread.
    pub counted: usize,
    /// How far its user has read, as it was told.
    pub reads: Vec<Value>,
    /// How often it was told that its token expires.
    pub expiring: usize,
    pub refreshed: usize,
    /// Channels whose subscription the server ended.
    pub ended: Vec<String>,
    pub messages: usize,
    /// Of each channel: how many, and the number of the last one.
    pub got: HashMap<String, (u64, u64)>,
    pub gaps: usize,
    /// Messages without a number: their own number, and how far the channel had come then.
    pub asides: Vec<(u64, u64)>,
    /// The last of them of each channel, since it was subscribed to.
    last_asides: HashMap<String, u64>,
    /// Subscriptions with a `max_rate`.
    paced: HashMap<String, Pace>,
    /// What time it is when something comes.
    pub now_ns: u64,
    /// What it was told of being too slow, and not yet held against what the logs had room for.
    pub overruns: Vec<Overrun>,
    /// How often it was told that a channel which it has is counted anew.
    pub renumbered: u64,
    /// Raw connections: the last epoch and number seen per channel (they are told of nothing else).
    raw_last: HashMap<String, (u64, u64)>,
    /// Of every frame that came, but for the time that it says.
    pub digest: DefaultHasher,
    /// What it reads is an event stream; the fields of the event that has begun.
    stream: Option<Block>,
    /// The channels that it has asked for in an event stream, where it is to be told its position in all of them.
    pub streamed: Vec<String>,
    /// Where it said that it stands in them.
    pub resumed: HashMap<String, String>,
    pub last_event_id: String,
    pub retry_ms: Option<u64>,
    /// Bodies of answers to polls.
    pub polled: Vec<Vec<Value>>,
    /// How often one of them went on in a channel where the one before had ended.
    pub polled_on: u64,
    /// Other answers with a body, whole.
    pub answered: Vec<String>,
}

/// The fields of an event of a stream, as they come.
#[derive(Debug, Default)]
struct Block {
    event: String,
    data: Vec<String>,
    id: Option<String>,
}

/// What a subscription with a `max_rate` has got.
#[derive(Debug)]
struct Pace {
    rate: u16,
    since_ns: u64,
    messages: u64,
    /// It has got one before its time: whoever is asked to go is sent the newest at once, and nothing after it.
    is_over: bool,
}

/// The server says that this client was too slow for a channel: by a gap, or by closing with 4008.
#[derive(Debug)]
pub struct Overrun {
    pub channel: String,
    pub epoch: u64,
    /// The first number that it has not got.
    pub from: u64,
}

/// What a client knows of a channel it is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub epoch: u64,
    /// The last number that was delivered or announced as lost.
    pub seq: u64,
}

/// The payload of a message: channel and number, so that what arrives can be checked, and padding.
pub fn payload(channel: &str, epoch: u64, seq: u64, padding: usize) -> Vec<u8> {
    format!("{{\"c\":\"{channel}\",\"e\":{epoch},\"n\":{seq},\"pad\":\"{}\"}}", "x".repeat(padding)).into_bytes()
}

impl Client {
    pub fn new(format: Format) -> Client {
        Client {
            format,
            received: Vec::new(),
            upgraded: false,
            subscriptions: HashMap::new(),
            asked: Vec::new(),
            close: None,
            client_id: String::new(),
            pings: 0,
            unasked: false,
            beats: 0,
            echoes: 0,
            deflate: false,
            inflated: 0,
            plain: 0,
            refused: None,
            answers: Vec::new(),
            errors: Vec::new(),
            counted: 0,
            reads: Vec::new(),
            expiring: 0,
            refreshed: 0,
            ended: Vec::new(),
            messages: 0,
            got: HashMap::new(),
            gaps: 0,
            asides: Vec::new(),
            last_asides: HashMap::new(),
            paced: HashMap::new(),
            now_ns: 0,
            overruns: Vec::new(),
            renumbered: 0,
            raw_last: HashMap::new(),
            digest: DefaultHasher::new(),
            stream: None,
            streamed: Vec::new(),
            resumed: HashMap::new(),
            last_event_id: String::new(),
            retry_ms: None,
            polled: Vec::new(),
            polled_on: 0,
            answered: Vec::new(),
        }
    }

    /// From now on a channel's messages come no faster, if it is subscribed to.
    pub fn pace(&mut self, channel: &str, rate: u16, now_ns: u64) {
        self.paced.insert(channel.to_owned(), Pace { rate, since_ns: now_ns, messages: 0, is_over: false });
    }

    pub fn unpace(&mut self, channel: &str) {
        self.paced.remove(channel);
    }

    /// A message of the channel has come. However late it was read, it was not sent before its time.
    fn check_pace(&mut self, channel: &str) {
        let Some(pace) = self.paced.get_mut(channel) else { return };
        assert!(!pace.is_over, "more of {channel} than the last message before the end");
        pace.messages += 1;
        let may = (self.now_ns - pace.since_ns) * u64::from(pace.rate) / 1_000_000_000 + 1;
        assert!(pace.messages <= may + 1, "{channel}, now {}: {pace:?}", self.now_ns);
        pace.is_over = pace.messages > may;
    }

    pub fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    /// Takes bytes as the socket delivered them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while !self.upgraded {
            let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") else { return };
            let head = String::from_utf8(self.received[..end].to_vec()).expect("heads are ASCII");
            if head.contains("text/event-stream") {
                self.stream = Some(Block::default());
            } else if !head.starts_with("HTTP/1.1 101") {
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |text| text.parse().unwrap());
                let whole = end + 4 + length;
                if self.received.len() < whole {
                    return;
                }
                let answer: Vec<u8> = self.received.drain(..whole).collect();
                let body = &answer[end + 4..];
                if head.contains("application/json") {
                    self.on_polled(serde_json::from_slice(body).expect("an answer is one JSON array"));
                } else {
                    self.refused =
                        Some(head[9..12].parse().unwrap_or_else(|_| panic!("no status line: {head:?}, after {:?}", self.answered)));
                }
                self.answered.push(String::from_utf8_lossy(&answer).into_owned());
                continue;
            }
            self.upgraded = true;
            self.deflate =
                head.contains("\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover");
            self.received.drain(..end + 4);
        }
        if self.stream.is_some() {
            while let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                self.on_line(std::str::from_utf8(&line[..end]).expect("an event stream is text"));
            }
            return;
        }
        let mut at = 0;
        while let Some((opcode, compressed, payload, length)) = frame(&self.received[at..]) {
            assert!(!compressed || self.deflate && matches!(opcode, 1 | 2), "compressed, which was not agreed: {opcode}");
            let payload = if compressed { inflate(payload) } else { payload.to_vec() };
            at += length;
            let before = self.messages;
            self.on_frame(opcode, &payload);
            let messages = (self.messages - before) as u64;
            assert!(!compressed || messages == 1, "only what a channel's subscribers are sent is compressed");
            if compressed {
                self.inflated += 1;
            } else if self.deflate {
                self.plain += messages;
            }
        }
        self.received.drain(..at);
    }

    /// Bytes of a frame that has not arrived whole.
    pub fn is_mid_frame(&self) -> bool {
        !self.received.is_empty()
    }

    fn on_frame(&mut self, opcode: u8, payload: &[u8]) {
        assert_eq!(self.close, None, "nothing may follow the close frame");
        opcode.hash(&mut self.digest);
        match (opcode, self.format) {
            (0x8, _) => self.on_close(payload),
            (0x9, _) => {
                assert!(!self.unasked, "asked, and it cannot answer");
                self.pings += 1;
            }
            (0xA, _) if self.unasked && payload.is_empty() => self.beats += 1,
            (0xA, _) => {
                assert_eq!(payload, b"are you there");
                self.echoes += 1;
            }
            (0x1, Format::Raw) => self.on_raw(payload),
            (0x1, Format::Json) => self.on_event(&serde_json::from_slice(payload).expect("events are JSON")),
            (0x2, Format::Msgpack) => self.on_event(&rmp_serde::from_slice(payload).expect("events are MessagePack")),
            _ => panic!("opcode {opcode:#x} on a {:?} connection", self.format),
        }
    }

    /// A line of an event stream, as HTML has it (section 9.2.6).
    fn on_line(&mut self, line: &str) {
        assert_eq!(self.close, None, "nothing may follow the farewell: {line}");
        let block = self.stream.as_mut().expect("it reads an event stream");
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let block = std::mem::take(block);
                self.on_block(&block);
            }
            "" => self.beats += 1,
            "event" => block.event = value.to_owned(),
            "data" => block.data.push(value.to_owned()),
            "id" => block.id = Some(value.to_owned()),
            "retry" => self.retry_ms = Some(value.parse().expect("milliseconds")),
            other => panic!("an event stream has no field {other}"),
        }
    }

    fn on_block(&mut self, block: &Block) {
        if block.data.is_empty() {
            assert!(block.id.is_none() && block.event.is_empty(), "what has no data is lost on some clients: {block:?}");
            return;
        }
        if let Some(id) = &block.id {
            assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id:?}");
            self.last_event_id.clone_from(id);
        }
        let data = block.data.join("\n");
        if block.event == "position" {
            assert!(data.is_empty() && !self.streamed.is_empty(), "{block:?}");
            return assert_eq!(block.id.as_deref(), Some(&*self.positions()), "where it stands in {:?}", self.streamed);
        }
        let event: Value = serde_json::from_str(&data).expect("events are JSON");
        if block.event == "close" {
            self.close = Some(event["code"].as_u64().expect("a code") as u16);
            return;
        }
        let kind = event["type"].as_str().expect("every event has a type");
        assert_eq!(block.event, if kind == "notification" { "" } else { kind }, "{event}");
        self.on_event(&event);
        if let Some(id) = &block.id {
            let view = self.subscriptions[event["channel"].as_str().expect("a channel")];
            assert_eq!(*id, format!("{}:{}", view.epoch, view.seq), "the position of who has got it");
            assert!(self.streamed.is_empty(), "of several channels one position is none");
        }
    }

    /// Where it stands in all that it asked for, as its last event says.
    fn positions(&self) -> String {
        let mut out = String::new();
        for channel in &self.streamed {
            out += if out.is_empty() { "" } else { "," };
            match self.subscriptions.get(channel) {
                Some(view) => write!(out, "{}:{}", view.epoch, view.seq).unwrap(),
                // A channel that has not answered yet.
                None => out += self.resumed.get(channel).filter(|_| self.asked.contains(channel)).map_or("-", String::as_str),
            }
        }
        out
    }

    /// Each answer begins anew, with what is subscribed to.
    fn on_polled(&mut self, events: Vec<Value>) {
        let before = std::mem::take(&mut self.subscriptions);
        for event in &events {
            let kind = event["type"].as_str().expect("every event has a type");
            let is_asked = kind == "subscribed" && event["recovered"] == true;
            if let Some(view) = before.get(event["channel"].as_str().unwrap_or_default()).filter(|_| is_asked) {
                assert_eq!(
                    (Some(view.epoch), Some(view.seq)),
                    (event["epoch"].as_u64(), event["seq"].as_u64()),
                    "it goes on where it was: {event}"
                );
                self.polled_on += 1;
            }
            match kind {
                "position" => {
                    for at in event["channels"].as_array().expect("a list") {
                        let channel = at["channel"].as_str().expect("a channel");
                        // Where it is not confirmed yet, it stands where it said.
                        let view =
                            self.subscriptions.get(channel).copied().unwrap_or_else(|| {
                                *before.get(channel).unwrap_or_else(|| panic!("it was nowhere in {channel}: {events:?}"))
                            });
                        self.subscriptions.entry(channel.to_owned()).or_insert(view);
                        assert_eq!((Some(view.epoch), Some(view.seq)), (at["epoch"].as_u64(), at["seq"].as_u64()), "{at}");
                    }
                }
                "close" => self.close = Some(event["code"].as_u64().expect("a code") as u16),
                _ => self.on_event(event),
            }
        }
        self.polled.push(events);
    }

    fn on_close(&mut self, payload: &[u8]) {
        let code = if payload.is_empty() { 1005 } else { u16::from_be_bytes([payload[0], payload[1]]) };
        self.close = Some(code);
        if code != 4008 || self.format == Format::Raw {
            return;
        }
        let reason = std::str::from_utf8(&payload[2..]).expect("close reasons are UTF-8");
        let channel = reason.strip_prefix("too slow for channel ").and_then(|rest| rest.split(';').next()).expect("4008 names the channel");
        let view = self.subscriptions.get(channel).unwrap_or_else(|| panic!("closed for {channel}, which it has left"));
        self.overruns.push(Overrun { channel: channel.to_owned(), epoch: view.epoch, from: view.seq + 1 });
    }

    fn on_raw(&mut self, payload: &[u8]) {
        payload.hash(&mut self.digest);
        let data: Value = serde_json::from_slice(payload).expect("payloads come whole");
        if let Some(number) = data["aside"].as_u64() {
            return self.on_aside(data["c"].as_str().unwrap(), number, 0);
        }
        let (channel, epoch, number) = (data["c"].as_str().unwrap().to_owned(), data["e"].as_u64().unwrap(), data["n"].as_u64().unwrap());
        let last = self.raw_last.entry(channel).or_insert((0, 0));
        assert!((epoch, number) > *last, "raw messages come in order, each once: {epoch} {number} after {last:?}");
        *last = (epoch, number);
        self.messages += 1;
        let channel = data["c"].as_str().unwrap().to_owned();
        self.check_pace(&channel);
    }

    /// Each comes once, in the order in which they were published.
    fn on_aside(&mut self, channel: &str, number: u64, seq: u64) {
        let last = self.last_asides.insert(channel.to_owned(), number);
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        self.asides.push((number, seq));
    }

    fn on_event(&mut self, event: &Value) {
        let mut timeless = event.clone();
        timeless.as_object_mut().expect("every event is a map").remove("timestamp");
        timeless.to_string().hash(&mut self.digest);
        let number = |field: &str| event[field].as_u64().unwrap_or_else(|| panic!("{field} in {event}"));
        let channel = event["channel"].as_str().unwrap_or_default().to_owned();
        if !event["id"].is_null() {
            self.answers.push(event.clone());
        }
        match event["type"].as_str().expect("every event has a type") {
            "connected" => self.client_id = event["client_id"].as_str().expect("a client id").to_owned(),
            "pong" | "published" | "unread" => {}
            "read" => self.reads.push(event.clone()),
            "expiring" => self.expiring += 1,
            "refreshed" => self.refreshed += 1,
            "subscribed" => {
                let view = View { epoch: number("epoch"), seq: number("seq") };
                if let Some(unread) = event["unread"].as_u64() {
                    assert!(unread <= view.seq, "{event}");
                    self.counted += 1;
                }
                if let Some(before) = self.subscriptions.get_mut(&channel) {
                    assert!(event["id"].is_null() && event["recovered"] == false, "confirmed twice");
                    assert_ne!(before.epoch, view.epoch, "counted anew, so in another epoch");
                    *before = view;
                    self.renumbered += 1;
                    return;
                }
                self.asked.retain(|asked| *asked != channel);
                self.last_asides.remove(&channel);
                self.subscriptions.insert(channel, view);
            }
            "unsubscribed" => {
                if event["reason"].is_string() {
                    self.ended.push(channel.clone());
                }
                self.asked.retain(|asked| *asked != channel);
                self.subscriptions.remove(&channel);
            }
            "notification" if event["seq"].is_null() => {
                let view = self.subscriptions.get(&channel).unwrap_or_else(|| panic!("{event} without a subscription"));
                assert!(!self.paced.contains_key(&channel), "{event}: it wants the newest of a second");
                assert_eq!(event["data"]["c"].as_str(), Some(&*channel), "the payload belongs to the channel");
                let (number, seq) = (event["data"]["aside"].as_u64().expect("a number of its own"), view.seq);
                self.on_aside(&channel, number, seq);
            }
            "notification" => {
                let view = self.subscriptions.get_mut(&channel).unwrap_or_else(|| panic!("{event} without a subscription"));
                assert_eq!(number("seq"), view.seq + 1, "invariant 1 and 2: the next message or a gap, {channel}");
                view.seq += 1;
                assert_eq!(event["data"]["n"].as_u64(), Some(view.seq), "the payload belongs to the number");
                assert_eq!(event["data"]["c"].as_str(), Some(&*channel), "and to the channel");
                assert_eq!(event["data"]["e"].as_u64(), Some(view.epoch), "and to the epoch");
                self.messages += 1;
                let got = self.got.entry(channel.clone()).or_default();
                *got = (got.0 + 1, number("seq"));
                self.check_pace(&channel);
            }
            "gap" => {
                let view = self.subscriptions.get_mut(&channel).unwrap_or_else(|| panic!("{event} without a subscription"));
                assert_eq!(number("from"), view.seq + 1, "a gap begins where the last message ended");
                assert!(number("to") >= number("from"));
                assert!(event["reason"] != "max_rate" || self.paced.contains_key(&channel), "nobody asked for less: {event}");
                if event["reason"] == "overrun" {
                    self.overruns.push(Overrun { channel: channel.clone(), epoch: view.epoch, from: number("from") });
                }
                view.seq = number("to");
                self.gaps += 1;
            }
            "error" => {
                let (command, code) = (event["command"].as_str(), event["code"].as_str().expect("every error has a code"));
                assert!(command.is_some() || code == "bad_command", "an error names the command it answers: {event}");
                let about_channel = matches!(command, Some("subscribe" | "unsubscribe" | "publish")) && code != "bad_command";
                assert!(!about_channel || event["channel"].is_string(), "and the channel: {event}");
                if matches!(code, "not_allowed" | "rate_limited") && command == Some("subscribe") {
                    self.asked.retain(|asked| *asked != channel);
                }
                if code == "channel_refused" {
                    let before = self.asked.len();
                    self.asked.retain(|asked| *asked != channel);
                    assert_eq!(self.asked.len() + 1, before, "an answer to what was asked, once: {event}");
                }
                self.errors.push(event.clone());
            }
            other => panic!("unknown event {other}"),
        }
    }
}

/// A message without a number: it has one of its own, by which it is known here.
pub fn aside(channel: &Arc<Channel>, number: u64, padding: usize) -> Arc<Aside> {
    let payload = format!("{{\"c\":\"{}\",\"aside\":{number},\"pad\":\"{}\"}}", channel.name, "x".repeat(padding));
    Aside::new(channel.clone(), Kind::Json, payload.as_bytes(), number)
}

/// RFC 7692, 7.2.1, shorter or not.
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let (mut compress, mut payload) =
        (flate2::Compress::new(flate2::Compression::fast(), false), Vec::with_capacity(2 * message.len() + 64));
    compress.compress_vec(message, &mut payload, flate2::FlushCompress::Sync).expect("there is room");
    payload.truncate(payload.len() - 4);
    payload
}

/// RFC 7692, 7.2.2, with nothing of the message before.
fn inflate(payload: &[u8]) -> Vec<u8> {
    thread_local! {
        // A new one takes longer than what it is for.
        static INFLATER: std::cell::RefCell<flate2::Decompress> = std::cell::RefCell::new(flate2::Decompress::new(false));
    }
    let whole = [payload, &[0, 0, 0xFF, 0xFF]].concat();
    let mut message = Vec::with_capacity(16 * whole.len());
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        while (inflater.total_in() as usize) < whole.len() {
            message.reserve(1024);
            let rest = &whole[inflater.total_in() as usize..];
            let status = inflater.decompress_vec(rest, &mut message, flate2::FlushDecompress::Sync).expect("DEFLATE");
            assert_ne!(status, flate2::Status::StreamEnd, "no final block");
        }
    });
    message
}

/// The first whole frame: opcode, whether it is compressed, payload, length with header. Server frames are unmasked and unfragmented.
fn frame(bytes: &[u8]) -> Option<(u8, bool, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xB0, 0x80, "every server frame is final and has no other reserved bits: {first:#x}");
    assert_eq!(second & 0x80, 0, "server frames are not masked");
    let (header, length) = match second {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        length => (2, length as usize),
    };
    Some((first & 0x0F, first & 0x40 != 0, bytes.get(header..header + length)?, header + length))
}
