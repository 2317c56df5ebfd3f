//! The functions for durable publishing (`src/bus/redis/functions.lua`) on a real Redis, `campanile redis install`, and what `docs/durable.md` says.

#[path = "../support/mod.rs"]
mod support;

mod ages;
mod cluster;
mod epochs;
mod install;
mod misuse;
mod page;
mod publishing;
mod refusals;
mod servers;

use std::time::Instant;

use campanile::bus::redis::{keys, library};
use redis::{Connection, RedisError, Value};
use support::redis::{PATIENCE, RedisServer};

/// Of every channel here.
const PREFIX: &str = "n:";
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A server with the functions.
fn server() -> RedisServer {
    server_with(&[])
}

fn server_with(arguments: &[&str]) -> RedisServer {
    let server = RedisServer::with_arguments(arguments);
    load(&mut connect(&server));
    server
}

fn load(connection: &mut Connection) {
    ask(connection, &["FUNCTION", "LOAD", library::SOURCE]).expect("a server without functions");
}

fn connect(server: &RedisServer) -> Connection {
    connect_to(&server.url())
}

fn connect_to(url: &str) -> Connection {
    let connection = redis::Client::open(url).and_then(|client| client.get_connection_with_timeout(PATIENCE)).expect("it answers");
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// An error is what Redis says.
fn ask(connection: &mut Connection, parts: &[&str]) -> Result<Value, String> {
    redis::Cmd::new().arg(parts).query(connection).map_err(text)
}

fn text(error: RedisError) -> String {
    let code = error.code().unwrap_or_else(|| panic!("it answers: {error}"));
    format!("{code} {}", error.detail().unwrap_or_default())
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Int(number) => *number as u64,
        _ => panic!("no number: {value:?}"),
    }
}

/// Its id, then names and values.
type Entry = (String, Vec<(String, Vec<u8>)>);

/// A channel as somebody publishes to it.
#[derive(Debug, Clone, Copy)]
struct Channel {
    name: &'static str,
    count: u64,
    age_ms: u64,
    /// A key, and for how long it is remembered.
    once: Option<(&'static str, u64)>,
}

impl Channel {
    fn new(name: &'static str) -> Channel {
        Channel { name, count: 1000, age_ms: 300_000, once: None }
    }

    fn stream(&self) -> String {
        keys::stream(PREFIX, self.name)
    }

    fn meta(&self) -> String {
        keys::meta(PREFIX, self.name)
    }

    fn publish(&self, connection: &mut Connection, payloads: &[&[u8]]) -> Result<Published, String> {
        let (count, age, window) = (self.count.to_string(), self.age_ms.to_string(), self.once.map_or(0, |(_, window)| window).to_string());
        let once = self.once.map(|(key, _)| keys::once(PREFIX, self.name, key));
        let mut command = redis::cmd("FCALL");
        command.arg(library::PUBLISH).arg(2 + once.iter().len()).arg(self.stream()).arg(self.meta()).arg(once);
        command.arg("PUBLISH").arg(format!("{PREFIX}{}", self.name)).arg(count).arg(age).arg(window).arg(payloads);
        let [epoch, first, last, repeat]: [u64; 4] = command.query(connection).map_err(text)?;
        Ok(Published { epoch, first, last, is_repeat: repeat == 1 })
    }

    /// One message, which is taken.
    fn say(&self, connection: &mut Connection, payload: &str) -> Published {
        self.publish(connection, &[payload.as_bytes()]).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    fn open(&self, connection: &mut Connection) -> Result<(u64, u64, u64), String> {
        redis::cmd("FCALL").arg(library::OPEN).arg(2).arg(self.stream()).arg(self.meta()).query(connection).map_err(text)
    }

    fn renew(&self, connection: &mut Connection, expected: u64) -> Result<(u64, u64), String> {
        redis::cmd("FCALL").arg(library::RENEW).arg(2).arg(self.stream()).arg(self.meta()).arg(expected).query(connection).map_err(text)
    }

    /// Ids and payloads, oldest first.
    fn entries(&self, connection: &mut Connection) -> Vec<(String, Vec<u8>)> {
        let range: Vec<Entry> = redis::cmd("XRANGE").arg(self.stream()).arg("-").arg("+").query(connection).unwrap();
        let payload = |fields: Vec<(String, Vec<u8>)>| fields.into_iter().find(|(name, _)| name == "d").map(|(_, data)| data);
        range.into_iter().map(|(id, fields)| (id, payload(fields).unwrap_or_default())).collect()
    }

    fn field(&self, connection: &mut Connection, name: &str) -> u64 {
        redis::cmd("HGET").arg(self.meta()).arg(name).query(connection).unwrap()
    }

    /// All that a refused call might have changed.
    fn state(&self, connection: &mut Connection) -> String {
        let once = keys::once(PREFIX, self.name, "k");
        let mut state = String::new();
        for key in [self.stream(), self.meta(), once] {
            state += &format!("{:?} {:?}\n", ask(connection, &["DUMP", &key]), ask(connection, &["PEXPIRETIME", &key]));
        }
        state
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    epoch: u64,
    first: u64,
    last: u64,
    is_repeat: bool,
}

/// Looks until it is so; there is no event to wait for.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What an envelope holds.
#[derive(Debug, PartialEq, Eq)]
struct Envelope {
    epoch: u64,
    first: u64,
    time_ms: u64,
    payloads: Vec<Vec<u8>>,
}

fn opened(bytes: &[u8]) -> Envelope {
    assert_eq!(bytes[0], 0xC1);
    let end = bytes.iter().position(|&byte| byte == b'\n').expect("a line");
    let mut numbers = std::str::from_utf8(&bytes[1..end]).expect("ASCII").split(' ').map(|text| text.parse::<u64>().expect("a number"));
    let mut next = || numbers.next().expect("a field");
    let (version, epoch, first, time_ms) = (next(), next(), next(), next());
    assert_eq!(version, 1);
    let mut rest = &bytes[end + 1..];
    let mut payloads = Vec::new();
    for length in numbers {
        let (payload, others) = rest.split_at(length as usize);
        payloads.push(payload.to_vec());
        rest = others;
    }
    assert!(rest.is_empty(), "something behind the payloads");
    Envelope { epoch, first, time_ms, payloads }
}
