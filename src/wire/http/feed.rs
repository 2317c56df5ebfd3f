//! What a request for a feed asks for: an event stream (`/sse`) or what has come since (`/poll`). Channels, and where to begin in each, stand in the URL;
//! a browser's EventSource asks again with the URL that it had at first, so the position that it adds as a header counts for more.

use std::time::Duration;

use super::Rules;
use super::head::Head;
use super::refusal::{Refusal, RefusalReason};
use super::target::{channel_name, decoded, pairs};
use crate::limits::{MAX_RATE_MAX, POLL_WAIT_DEFAULT, POLL_WAIT_MAX, QUERY_CHANNELS_MAX};
use crate::named::Named;
use crate::wire::Format;
use crate::wire::command::Position;
use crate::wire::event_stream::{NEVER, POSITION_BYTES_MAX, read_positions};
use crate::wire::wish::{Begin, Wish};

/// A request for what is told of channels, otherwise than over a WebSocket.
#[derive(Debug)]
pub struct Feed<'h> {
    pub head: Head<'h>,
    pub kind: Kind,
    /// In order, without doubles, each a valid channel name.
    pub channels: Vec<Entry>,
    pub format: Format,
    pub resume: Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    EventStream,
    /// It waits so long for something to come.
    Poll {
        wait: Duration,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub channel: String,
    pub since: Option<Position>,
    pub latest: bool,
    pub max_rate: Option<u16>,
}

/// What stands in `Last-Event-ID`, or in `?last_event_id=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    Nothing,
    /// A position for each channel.
    At(Vec<Option<Position>>),
    /// Nothing that this server gives.
    Unreadable,
    /// It was told not to come back.
    Never,
}

impl Entry {
    pub fn wish(&self) -> Wish {
        Wish { begin: Begin::of(self.since, self.latest), max_rate: self.max_rate, unread: false }
    }
}

impl<'h> Feed<'h> {
    pub(super) fn of(head: Head<'h>, is_stream: bool, path_name: Option<&str>, query: &str, rules: Rules) -> Result<Feed<'h>, Refusal> {
        let mut read = Read::default();
        if let Some(name) = path_name {
            read.add_channel(channel_name(decoded(name))?.into_owned());
        }
        for pair in pairs(query) {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            read.pair(decoded(name).as_deref(), decoded(value))?;
        }
        let Read { channels, format, wait, last_event_id, .. } = read;
        let format = match (is_stream, format) {
            (true, Some(Format::Msgpack)) => return Err(Refusal::bad("An event stream is text: its format must be json or raw.")),
            (false, Some(Format::Raw)) => return Err(Refusal::bad("The answer to a poll is json or msgpack.")),
            (true, format) => format.unwrap_or(Format::Json),
            (false, format) => format.unwrap_or_else(|| if accepts_msgpack(&head) { Format::Msgpack } else { Format::Json }),
        };
        let kind = if is_stream { Kind::EventStream } else { Kind::Poll { wait: wait.unwrap_or(POLL_WAIT_DEFAULT) } };
        let mut in_headers = head.fields.values("last-event-id");
        let (in_header, is_doubled) = (in_headers.next(), in_headers.next().is_some());
        let id = in_header.map(|id| std::str::from_utf8(id).unwrap_or("?")).or(last_event_id.as_deref());
        let resume = match id {
            None | Some("") => Resume::Nothing,
            Some(NEVER) => Resume::Never,
            // Which of them is meant, nobody knows.
            Some(_) if is_doubled => Resume::Unreadable,
            Some(id) => read_positions(id).map_or(Resume::Unreadable, Resume::At),
        };
        // The positions of all of them come back in the head of the next request.
        let resumed_bytes = head.bytes - in_header.map_or(0, <[u8]>::len) + LAST_EVENT_ID_BYTES + channels.len() * POSITION_BYTES_MAX;
        if is_stream && channels.len() > 1 && resumed_bytes > rules.head_bytes_max {
            let text = format!(
                "The positions of {} channels would not fit into a request that resumes, which may have {} bytes; ask for fewer channels in one stream.",
                channels.len(),
                rules.head_bytes_max
            );
            return Err(Refusal::new(RefusalReason::HeadTooBig, text));
        }
        Ok(Feed { head, kind, channels, format, resume })
    }
}

const LAST_EVENT_ID_BYTES: usize = "Last-Event-ID: \r\n".len();

fn accepts_msgpack(head: &Head<'_>) -> bool {
    let types = head.fields.elements("accept").filter_map(|element| element.split(|&byte| byte == b';').next());
    types.map(<[u8]>::trim_ascii).any(|kind| kind.eq_ignore_ascii_case(b"application/msgpack"))
}

#[derive(Default)]
struct Read {
    channels: Vec<Entry>,
    /// The channel that was named last: what follows is about it.
    current: Option<usize>,
    query_channels: usize,
    format: Option<Format>,
    wait: Option<Duration>,
    last_event_id: Option<String>,
}

impl Read {
    fn pair(&mut self, name: Option<&str>, value: Option<std::borrow::Cow<'_, str>>) -> Result<(), Refusal> {
        let text = value.as_deref();
        match name {
            Some("channel") => {
                self.query_channels += 1;
                if self.query_channels > QUERY_CHANNELS_MAX {
                    return Err(Refusal::bad(format!("At most {QUERY_CHANNELS_MAX} channel parameters are accepted.")));
                }
                let name = channel_name(value)?.into_owned();
                self.add_channel(name);
            }
            Some("since") => {
                let since = text.and_then(Position::read);
                let problem = "The parameter since must be EPOCH:SEQ, two numbers as they stood in subscribed, position or an id.";
                self.of_channel("since")?.since = Some(since.ok_or_else(|| Refusal::bad(problem))?);
            }
            Some("latest") => {
                let latest = match text {
                    Some("true" | "1" | "") => true,
                    Some("false" | "0") => false,
                    _ => return Err(Refusal::bad("The parameter latest must be true or false.")),
                };
                self.of_channel("latest")?.latest = latest;
            }
            Some("max_rate") => {
                let rate = text.and_then(|text| text.parse().ok()).filter(|rate| (1..=MAX_RATE_MAX).contains(rate));
                let problem = || Refusal::bad(format!("The parameter max_rate must be a number from 1 to {MAX_RATE_MAX}."));
                self.of_channel("max_rate")?.max_rate = Some(rate.ok_or_else(problem)?);
            }
            Some("wait") => {
                let wait = text.and_then(|text| text.parse().ok()).map(Duration::from_secs).filter(|wait| *wait <= POLL_WAIT_MAX);
                let problem =
                    || Refusal::bad(format!("The parameter wait must be a number of seconds from 0 to {}.", POLL_WAIT_MAX.as_secs()));
                self.wait = Some(wait.ok_or_else(problem)?);
            }
            Some("format") => {
                let format = text.and_then(Format::from_name);
                let problem = || Refusal::bad("The format parameter must be json, or raw for an event stream, or msgpack for a poll.");
                self.format.get_or_insert(format.ok_or_else(problem)?);
            }
            Some("last_event_id") => self.last_event_id = Some(value.map_or_else(|| "?".to_owned(), |id| id.into_owned())),
            // Also a name that is not UTF-8: whoever it is for, it is not for us.
            Some(_) | None => {}
        }
        Ok(())
    }

    fn add_channel(&mut self, channel: String) {
        let known = self.channels.iter().position(|entry| entry.channel == channel);
        self.current = Some(known.unwrap_or_else(|| {
            self.channels.push(Entry { channel, ..Entry::default() });
            self.channels.len() - 1
        }));
    }

    fn of_channel(&mut self, parameter: &str) -> Result<&mut Entry, Refusal> {
        let problem = || Refusal::bad(format!("The parameter {parameter} must follow the channel that it is about."));
        self.current.map(|at| &mut self.channels[at]).ok_or_else(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::FieldRoom;
    use super::super::{Outcome, parse};
    use super::*;

    const RULES: Rules = Rules { echo: false, head_bytes_max: 8192 };

    fn asked<R>(target: &str, fields: &str, read: impl FnOnce(Result<Feed<'_>, (u16, String)>) -> R) -> R {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let mut room = FieldRoom::empty();
        match parse(text.as_bytes(), &mut room, RULES) {
            Outcome::Feed(feed) => read(Ok(feed)),
            Outcome::Refuse(refusal) => read(Err((refusal.reason.status().0, refusal.message))),
            other => panic!("{other:?}"),
        }
    }

    fn entry(channel: &str, since: Option<(u64, u64)>, latest: bool, max_rate: Option<u16>) -> Entry {
        Entry { channel: channel.to_owned(), since: since.map(|(epoch, seq)| Position { epoch, seq }), latest, max_rate }
    }

    #[test]
    fn what_follows_a_channel_is_about_it() {
        for (target, channels) in [
            ("/sse/news", vec![entry("news", None, false, None)]),
            ("/sse/a%2Fb?since=7:42&channel=c+d", vec![entry("a/b", Some((7, 42)), false, None), entry("c d", None, false, None)]),
            ("/sse?channel=a&channel=b&latest=true&max_rate=5&channel=a&since=1:2", {
                vec![entry("a", Some((1, 2)), false, None), entry("b", None, true, Some(5))]
            }),
            ("/poll?channel=a&since=1:2&since=3:4&channel=b&since=5:6", {
                vec![entry("a", Some((3, 4)), false, None), entry("b", Some((5, 6)), false, None)]
            }),
            ("/poll", vec![]),
        ] {
            asked(target, "", |feed| assert_eq!(feed.unwrap().channels, channels, "{target}"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_can_be() {
        for (target, status, words) in [
            ("/sse?channel=a&since=7", 400, "EPOCH:SEQ"),
            ("/sse?channel=a&since=9007199254740992:1", 400, "EPOCH:SEQ"),
            ("/poll?since=7:1&channel=a", 400, "must follow the channel"),
            ("/poll?channel=a&latest=maybe", 400, "true or false"),
            ("/poll?channel=a&max_rate=0", 400, "from 1 to"),
            ("/poll?channel=a&wait=61", 400, "from 0 to 60"),
            ("/poll?channel=a&wait=-1", 400, "from 0 to 60"),
            ("/poll?channel=%FF", 400, "UTF-8"),
            ("/sse?channel=", 400, "1 to 255"),
            ("/sse?channel=a&format=msgpack", 400, "json or raw"),
            ("/poll?channel=a&format=raw", 400, "json or msgpack"),
            ("/poll/a", 404, "Nothing is served"),
        ] {
            asked(target, "", |feed| {
                let (code, text) = feed.expect_err(target);
                assert!(code == status && text.contains(words), "{target}: {code} {text}");
            });
        }
        let many: String = (0..129).map(|at| format!("channel=c{at}&")).collect();
        asked(&format!("/sse?{many}"), "", |feed| assert_eq!(feed.unwrap_err().0, 400));
        let long: String = (0..120).map(|at| format!("channel={at}{}&", "x".repeat(30))).collect();
        asked(&format!("/sse?{long}"), "", |feed| {
            let (code, text) = feed.unwrap_err();
            assert!(code == 431 && text.contains("120 channels"), "{text}");
        });
        asked(&format!("/poll?{long}"), "", |feed| assert_eq!(feed.unwrap().channels.len(), 120));
    }

    #[test]
    fn the_header_counts_for_more_than_the_query() {
        let resume = |target: &str, fields: &str| asked(target, fields, |feed| feed.unwrap().resume);
        let at = |positions: &[Option<(u64, u64)>]| {
            Resume::At(positions.iter().map(|position| position.map(|(epoch, seq)| Position { epoch, seq })).collect())
        };
        assert_eq!(resume("/sse/a", ""), Resume::Nothing);
        assert_eq!(resume("/sse/a?last_event_id=7:1", ""), at(&[Some((7, 1))]));
        assert_eq!(resume("/sse/a?last_event_id=7:1", "Last-Event-ID: 7:2,-\r\n"), at(&[Some((7, 2)), None]));
        assert_eq!(resume("/sse/a", "Last-Event-ID: \r\n"), Resume::Nothing);
        assert_eq!(resume("/sse/a", "Last-Event-ID: never\r\n"), Resume::Never);
        for id in ["x", "\u{e9}", "7:1 8:1"] {
            assert_eq!(resume("/sse/a", &format!("Last-Event-ID: {id}\r\n")), Resume::Unreadable, "{id}");
        }
    }

    #[test]
    fn a_poll_is_answered_as_it_asks_for() {
        let of = |target: &str, fields: &str| asked(target, fields, |feed| feed.map(|feed| (feed.kind, feed.format)).unwrap());
        let poll = |seconds| Kind::Poll { wait: Duration::from_secs(seconds) };
        assert_eq!(of("/poll?channel=a", ""), (poll(25), Format::Json));
        assert_eq!(of("/poll?channel=a&wait=0", "Accept: text/html, application/msgpack;q=0.9\r\n"), (poll(0), Format::Msgpack));
        assert_eq!(of("/poll?channel=a&format=json", "Accept: application/msgpack\r\n"), (poll(25), Format::Json));
        assert_eq!(of("/sse?channel=a", "Accept: text/event-stream\r\n"), (Kind::EventStream, Format::Json));
        assert_eq!(of("/sse?channel=a&format=raw", ""), (Kind::EventStream, Format::Raw));
    }
}
