//! Revoked tokens, as all nodes know them by Redis: a sorted set of what is revoked, by when it ends, and a channel of the same name on which each is told at once.
//! Owned by [`super::server::Server`]; what it learns goes into the table that shards ask, and the control thread is told.
//!
//! The set is read whenever something may have been missed: the channel was subscribed anew, or the publishing connection, which reads it, was made anew.
//! By ZSCAN, a part at a time, so that a long one holds up neither Redis nor the messages that are read in between. What Redis refuses to tell (while it
//! loads, or until an operator allows it) is asked again.
//!
//! Invariant: a revocation is answered as stored only when Redis has answered all of its commands.

use redis::{ServerError, Value};
use std::collections::HashMap;

use super::awaiting::Asked;
use super::fault::{Refusal, text_of};
use super::link::{Answer, Link};
use crate::auth::revoked::{Entered, Revocation};
use crate::bus::revoke::{self, Revoke, RevokeError};
use crate::clock::MonotonicNs;
use crate::config::Settings;
use crate::sys::{monotonic_ns, unix_ms};

/// Of the set and of the channel, followed by the prefix of the channels: servers that share a Redis and nothing else have different ones. No client
/// can name it, whatever the prefix.
pub const NAME: &str = "__campanile__:revoked:";
const _: () = assert!(crate::wire::channel_name::is_reserved(NAME), "no client can name it");
/// What it does not tell now is asked for again after this long; what it does not allow, after this long.
const RETRY_NS: u64 = 500_000_000;
const REFUSED_RETRY_NS: u64 = 5_000_000_000;
/// Entries that Redis is asked for at a time.
const PART: &[u8] = b"512";

#[derive(Debug)]
pub struct Revocations {
    name: String,
    shared: revoke::Revocations,
    /// The set must be read from its beginning.
    is_due: bool,
    /// A part of it is awaited.
    is_reading: bool,
    /// Where the next part begins, if it was begun.
    cursor: Option<Vec<u8>>,
    /// It was refused: not before.
    not_before: MonotonicNs,
    /// How it was refused last, which is said once.
    refusal: String,
    /// By their number: what Redis has not answered yet, and how many answers of each are to come.
    under_way: HashMap<u64, (Revoke, usize)>,
    next: u64,
}

/// What Redis was asked, on the publishing connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A command of the revocation of this number.
    Of(u64),
    Read,
}

impl Revocations {
    pub fn new(settings: &Settings, shared: revoke::Revocations) -> Revocations {
        let name = format!("{NAME}{}", settings.redis.prefix);
        Revocations {
            name,
            shared,
            is_due: true,
            is_reading: false,
            cursor: None,
            not_before: 0,
            refusal: String::new(),
            under_way: HashMap::new(),
            next: 0,
        }
    }

    /// The Redis channel on which they are told.
    pub fn channel(&self) -> &str {
        &self.name
    }

    /// Something may have been missed.
    pub fn doubt(&mut self) {
        (self.is_due, self.not_before) = (true, 0);
    }

    /// Stores one and tells the others. The connection is ready.
    pub fn send(&mut self, link: &mut Link, revoke: Revoke, now: MonotonicNs) {
        let number = self.next;
        self.next += 1;
        let asked = || Asked::Revocations(Question::Of(number));
        let (word, until) = (revoke.revocation.word(), revoke.until_s.to_string());
        let (name, past) = (self.name.as_bytes(), format!("({}", unix_ms() / 1000));
        link.ask(asked(), &[b"ZREMRANGEBYSCORE", name, b"-inf", past.as_bytes()], now);
        // Whoever does not know it yet must not shorten it for all.
        link.ask(asked(), &[b"ZADD", name, b"GT", until.as_bytes(), word.as_bytes()], now);
        link.ask(asked(), &[b"PUBLISH", name, format!("{until} {word}").as_bytes()], now);
        self.under_way.insert(number, (revoke, 3));
    }

    /// Asks for the next part of the set, if there is one to be read. The connection is ready.
    pub fn read(&mut self, link: &mut Link, now: MonotonicNs) {
        if self.is_reading || now < self.not_before {
            return;
        }
        let cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None if std::mem::take(&mut self.is_due) => b"0".to_vec(),
            None => return,
        };
        self.is_reading = true;
        let command: [&[u8]; 5] = [b"ZSCAN", self.name.as_bytes(), &cursor, b"COUNT", PART];
        link.ask(Asked::Revocations(Question::Read), &command, now);
    }

    /// Whether this answers something that was asked here; then it is dealt with.
    pub fn takes(&mut self, answer: &Answer<'_>) -> bool {
        match answer {
            Answer::Revocations { question: Question::Of(number), .. } => self.answered(*number, None),
            Answer::Revocations { question: Question::Read, value } => self.took(value.unwrap_or(&Value::Nil)),
            // Only another log-in helps.
            Answer::Refused { error, .. } if error.code() == "NOAUTH" => return false,
            Answer::Refused { asked: Asked::Revocations(Question::Of(number)), error } => self.answered(*number, Some(self.advice(error))),
            Answer::Refused { asked: Asked::Revocations(Question::Read), error } => {
                let pause_ns = if Refusal::of(error) == Refusal::ForNow { RETRY_NS } else { REFUSED_RETRY_NS };
                (self.is_due, self.is_reading, self.cursor) = (true, false, None);
                self.not_before = monotonic_ns() + pause_ns;
                let refusal = self.advice(error);
                if self.refusal != refusal {
                    tracing::warn!("what is revoked cannot be read from Redis (ZSCAN), and is asked for again: {refusal}");
                    self.refusal = refusal;
                }
            }
            _ => return false,
        }
        true
    }

    /// One command is answered; None: well. A refused one refuses its revocation.
    fn answered(&mut self, number: u64, refusal: Option<String>) {
        let Some((_, left)) = self.under_way.get_mut(&number) else { return };
        *left -= 1;
        if *left > 0 && refusal.is_none() {
            return;
        }
        let (revoke, _) = self.under_way.remove(&number).expect("it was found");
        revoke.answer(refusal.map_or(Ok(()), |reason| Err(RevokeError::Refused(reason))));
    }

    fn advice(&self, error: &ServerError) -> String {
        let advice = match error.code() {
            "NOPERM" => format!("; the user needs +zadd +zscan +zremrangebyscore ~{0} &{0}", self.name),
            _ => String::new(),
        };
        format!("{}{advice}", text_of(error))
    }

    /// When [`Revocations::read`] is to be called though nothing happens.
    pub fn deadline(&self) -> Option<MonotonicNs> {
        (self.is_due && !self.is_reading && self.not_before > 0).then_some(self.not_before)
    }

    /// A part of the set came.
    fn took(&mut self, value: &Value) {
        self.is_reading = false;
        (self.not_before, self.refusal) = (0, String::new());
        let Value::Array(parts) = value else { return };
        let [Value::BulkString(cursor), Value::Array(entries)] = parts.as_slice() else { return };
        let mut is_news = false;
        for pair in entries.chunks_exact(2) {
            let [Value::BulkString(word), score] = pair else { continue };
            let until_s = match score {
                Value::BulkString(digits) => std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok()),
                Value::Double(until) => Some(*until),
                Value::Int(until) => Some(*until as f64),
                _ => None,
            };
            let word = std::str::from_utf8(word).ok();
            if let (Some(word), Some(until_s)) = (word, until_s) {
                is_news |= self.enter(word, until_s as u64);
            }
        }
        self.tell(is_news);
        self.cursor = Some(cursor.clone()).filter(|cursor| cursor != b"0");
    }

    /// Another node, or this one, has told it.
    pub fn told(&self, payload: &[u8]) {
        let parts = std::str::from_utf8(payload).ok().and_then(|text| text.split_once(' '));
        let read = parts.and_then(|(until, word)| Some((until.parse().ok()?, word)));
        self.tell(read.is_some_and(|(until_s, word)| self.enter(word, until_s)));
    }

    fn tell(&self, is_news: bool) {
        if is_news {
            self.shared.news.notify_one();
        }
    }

    fn enter(&self, word: &str, until_s: u64) -> bool {
        let is_past = until_s <= unix_ms() / 1000;
        let Some(revocation) = Revocation::of_word(word).filter(|_| !is_past) else { return false };
        self.shared.table.enter(&revocation, until_s, false) == Entered::New
    }

    /// The publishing connection is lost: what is not answered may be stored or not.
    pub fn lose(&mut self) {
        (self.is_due, self.is_reading, self.cursor, self.not_before) = (true, false, None, 0);
        for (_, (revoke, _)) in self.under_way.drain() {
            revoke.answer(Err(RevokeError::Unavailable));
        }
        // Perhaps it has forgotten everything.
        self.shared.table.doubt_stored();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocations() -> (revoke::Revocations, Revocations) {
        let shared = revoke::Revocations::default();
        (shared.clone(), Revocations::new(&Settings::default(), shared))
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn the_set_is_read_in_parts_whatever_the_protocol_calls_a_score() {
        let (shared, mut revocations) = revocations();
        assert_eq!(revocations.channel(), "__campanile__:revoked:notifications:");
        let until = (unix_ms() / 1000 + 100).to_string();
        let entries = vec![
            bulk("t:a"),
            bulk(&until),
            bulk("u:7:b"),
            Value::Double(until.parse().unwrap()),
            bulk("t:past"),
            bulk("1"),
            bulk("nonsense"),
            bulk(&until),
            bulk("t:c"),
            Value::Nil,
        ];
        let part = |cursor: &str, entries: &[Value]| Value::Array(vec![bulk(cursor), Value::Array(entries.to_vec())]);
        revocations.took(&part("17", &entries));
        assert_eq!((shared.table.len(), revocations.cursor.as_deref()), (2, Some(&b"17"[..])));
        revocations.took(&part("0", &entries));
        for odd in [Value::Nil, Value::Array(vec![]), part("0", &[bulk("t:x")])] {
            revocations.took(&odd);
        }
        assert_eq!((shared.table.len(), revocations.cursor), (2, None));
    }

    #[test]
    fn what_is_refused_is_asked_for_again_from_the_beginning() {
        let (_, mut revocations) = revocations();
        for (error, pause_ns) in [("LOADING", RETRY_NS), ("NOPERM", REFUSED_RETRY_NS)] {
            (revocations.is_due, revocations.is_reading, revocations.cursor) = (false, true, None);
            let Ok(Value::ServerError(error)) = redis::parse_redis_value(format!("-{error} no\r\n").as_bytes()) else { panic!("an error") };
            let before = monotonic_ns();
            assert!(revocations.takes(&Answer::Refused { asked: Asked::Revocations(Question::Read), error: &error }));
            let due = revocations.deadline().expect("it is to be asked");
            assert!(revocations.is_due && due >= before + pause_ns);
            // Without a connection nobody is to be woken for it.
            revocations.lose();
            assert_eq!(revocations.deadline(), None);
        }
    }

    #[test]
    fn what_is_told_is_entered_and_nonsense_is_not() {
        let (shared, revocations) = revocations();
        let until = unix_ms() / 1000 + 100;
        for nonsense in ["", " ", "1 t:old", "x t:a", &format!("{until}"), &format!("{until} "), &format!("{until} x:y"), "-1 t:a"] {
            revocations.told(nonsense.as_bytes());
        }
        revocations.told(b"\xff \xff");
        assert!(shared.table.is_empty());
        let mut news = std::pin::pin!(shared.news.notified());
        assert!(!news.as_mut().enable(), "nothing is new");
        revocations.told(format!("{until} t:a b").as_bytes());
        assert!(news.as_mut().enable());
        assert_eq!(shared.table.len(), 1);
    }
}
