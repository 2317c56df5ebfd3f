//! Campanile's own events, as far as a load generator must understand them: JSON from text frames, MessagePack from binary ones.

use campanile::wire::{json, msgpack};

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Subscribed {
        /// Of the command that is answered, if it had a number.
        id: Option<u64>,
        epoch: u64,
        seq: u64,
        recovered: bool,
    },
    Unsubscribed,
    Gap {
        channel: String,
        count: u64,
        is_outage: bool,
    },
    Error(Refusal),
    /// One that needs no answer, of any server.
    Other,
}

/// What an `error` event says.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of the command that is refused, if it had a number.
    pub id: Option<u64>,
    /// The same command may come through later.
    pub is_for_now: bool,
    pub text: String,
}

#[derive(Debug, Default)]
struct Fields {
    kind: String,
    channel: String,
    id: Option<u64>,
    reason: String,
    code: String,
    message: String,
    epoch: u64,
    seq: u64,
    from: u64,
    to: u64,
    recovered: bool,
}

impl Fields {
    fn set(&mut self, key: &str, text: Option<String>, number: Option<u64>, is_true: bool) {
        if key == "id" {
            self.id = number;
        }
        let text = text.unwrap_or_default();
        let number = number.unwrap_or_default();
        match key {
            "type" => self.kind = text,
            "channel" => self.channel = text,
            "reason" => self.reason = text,
            "code" => self.code = text,
            "message" => self.message = text,
            "epoch" => self.epoch = number,
            "seq" => self.seq = number,
            "from" => self.from = number,
            "to" => self.to = number,
            "recovered" => self.recovered = is_true,
            _ => {}
        }
    }
}

pub fn read(is_text: bool, payload: &[u8]) -> Event {
    let mut fields = Fields::default();
    let is_map = if is_text {
        std::str::from_utf8(payload).is_ok_and(|text| {
            json::fields(text, &mut |key, value| {
                fields.set(&key, json::text(value).map(Into::into), json::unsigned(value), value == "true");
            })
            .is_ok()
        })
    } else {
        msgpack::fields(payload, &mut |key, value| {
            fields.set(&key, msgpack::text(value).map(str::to_owned), msgpack::unsigned(value), value == [0xC3]);
        })
        .is_ok()
    };
    match fields.kind.as_str() {
        _ if !is_map => Event::Other,
        "subscribed" => Event::Subscribed { id: fields.id, epoch: fields.epoch, seq: fields.seq, recovered: fields.recovered },
        "unsubscribed" => Event::Unsubscribed,
        "gap" => {
            let count = (fields.to + 1).saturating_sub(fields.from);
            Event::Gap { channel: fields.channel, count, is_outage: fields.reason == "outage" }
        }
        "error" => {
            let is_for_now = ["busy", "rate_limited", "bus_unavailable"].contains(&fields.code.as_str());
            Event::Error(Refusal { id: fields.id, is_for_now, text: format!("{}: {}", fields.code, fields.message) })
        }
        _ => Event::Other,
    }
}

/// The server's number of a notification: `seq` in what stands before the payload. None where a server has no such thing.
pub fn seq_before(is_text: bool, head: &[u8]) -> Option<u64> {
    if is_text {
        let key = br#""seq":"#;
        let at = head.windows(key.len()).rposition(|window| window == key)? + key.len();
        let digits = head[at..].iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    } else {
        let key = b"\xA3seq";
        let at = head.windows(key.len()).rposition(|window| window == key)? + key.len();
        let (marker, rest) = head[at..].split_first()?;
        let length = match marker {
            0..=0x7F => return Some(u64::from(*marker)),
            0xCC => 1,
            0xCD => 2,
            0xCE => 4,
            0xCF => 8,
            _ => return None,
        };
        Some(rest.get(..length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use campanile::wire::Format;
    use campanile::wire::command::{Asked, ErrorCode, Id, SUBSCRIBE};
    use campanile::wire::event::{self, GapReason};
    use campanile::wire::framing::Encoding;

    use super::*;

    #[test]
    fn events_are_read_in_both_formats() {
        for format in [Format::Json, Format::Msgpack] {
            let read_back = |sent: event::Event<'_>| {
                let mut frame = Vec::new();
                event::encode(&sent, Encoding::web_socket(format), 1, &mut frame);
                read(format == Format::Json, &frame[2..])
            };
            let subscribed = event::Event::Subscribed {
                id: Some(&Id::Number(7)),
                channel: "a",
                epoch: 1 << 50,
                seq: 300,
                recovered: true,
                max_rate: None,
                unread: None,
            };
            assert_eq!(read_back(subscribed), Event::Subscribed { id: Some(7), epoch: 1 << 50, seq: 300, recovered: true });
            let told = |count, is_outage| Event::Gap { channel: "a".to_owned(), count, is_outage };
            let gap = |from, to, reason| event::Event::Gap { channel: "a", from, to, reason };
            assert_eq!(read_back(gap(3, 7, GapReason::Overrun)), told(5, false));
            assert_eq!(read_back(gap(3, 3, GapReason::Outage)), told(1, true));
            let error =
                |code| read_back(event::Event::Error { asked: Asked::of(SUBSCRIBE, "a", Some(&Id::Number(3))), code, message: "m" });
            let refusal = |is_for_now, text: &str| Event::Error(Refusal { id: Some(3), is_for_now, text: text.to_owned() });
            assert_eq!(error(ErrorCode::Busy), refusal(true, "busy: m"));
            assert_eq!(error(ErrorCode::TooManyChannels), refusal(false, "too_many_channels: m"));
            assert_eq!(read_back(event::Event::Unsubscribed { id: None, channel: "a", reason: None }), Event::Unsubscribed);
            assert_eq!(read_back(event::Event::Pong { id: None }), Event::Other);
        }
        assert_eq!(read(true, b"seq 1"), Event::Other);
        assert_eq!(read(false, &[0xFF, 0xFE]), Event::Other);
    }

    #[test]
    fn the_number_of_a_notification_is_found_before_its_payload() {
        assert_eq!(seq_before(true, br#"{"type":"notification","channel":"\"seq\":1","seq":70000,"data":""#), Some(70_000));
        for (bytes, expected) in [(&[5][..], 5), (&[0xCC, 200], 200), (&[0xCD, 1, 0], 256), (&[0xCE, 0, 1, 0, 0], 65_536)] {
            let head = [b"\x85\xA3seq", bytes, b"\xA4data\xD9\x80"].concat();
            assert_eq!(seq_before(false, &head), Some(expected));
        }
        assert_eq!(seq_before(true, b""), None);
        assert_eq!(seq_before(false, b"\xA3seq"), None);
    }
}
