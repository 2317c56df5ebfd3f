//! Many clients on one thread: non-blocking sockets in one epoll, driven while a test waits. They answer pings and closes as a
//! browser would.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use super::frames::{self, Frame};
use super::redis::PATIENCE;

/// Connections that may be under way at once, below what the server's backlog holds.
const CONNECTING_MAX: usize = 256;

/// What one member says: `first` on connecting, `then` once it has been answered 101.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub first: Vec<u8>,
    pub then: Vec<u8>,
}

impl Script {
    pub fn upgrade(path: &str) -> Script {
        Script { first: frames::request(path, "").into_bytes(), then: Vec::new() }
    }
}

pub struct Crowd {
    poll: Poll,
    pub members: Vec<Member>,
    waiting: VecDeque<usize>,
    under_way: usize,
    address: SocketAddr,
}

pub struct Member {
    stream: Option<TcpStream>,
    script: Script,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The status of the HTTP answer, once its head is there.
    pub status: Option<u16>,
    pub events: Vec<Value>,
    /// Some(None): an empty close frame.
    pub close: Option<Option<u16>>,
    /// The TCP connection is over.
    pub ended: bool,
    is_counted: bool,
}

impl Crowd {
    /// Sockets that will connect while [`Crowd::wait`] runs.
    pub fn new(address: SocketAddr, scripts: impl IntoIterator<Item = Script>) -> Crowd {
        let mut crowd = Crowd { poll: Poll::new().unwrap(), members: Vec::new(), waiting: VecDeque::new(), under_way: 0, address };
        crowd.add(scripts);
        crowd
    }

    /// `count` open connections, each subscribed to `channel(i)` by its path, before any message.
    pub fn subscribed(address: SocketAddr, count: usize, channel: impl Fn(usize) -> String) -> Crowd {
        let mut crowd = Crowd::new(address, (0..count).map(|index| Script::upgrade(&format!("/ws/{}?format=json", channel(index)))));
        crowd.wait("everybody subscribed", |member| member.events.len() == 2);
        for member in &crowd.members {
            assert_eq!((member.kind(0), member.kind(1)), ("connected", "subscribed"));
        }
        crowd
    }

    pub fn add(&mut self, scripts: impl IntoIterator<Item = Script>) {
        for script in scripts {
            self.waiting.push_back(self.members.len());
            self.members.push(Member {
                stream: None,
                script,
                outgoing: Vec::new(),
                incoming: Vec::new(),
                status: None,
                events: Vec::new(),
                close: None,
                ended: false,
                is_counted: false,
            });
        }
    }

    /// Drives everybody until `done` holds for each.
    #[track_caller]
    pub fn wait(&mut self, what: &str, done: impl Fn(&Member) -> bool) {
        if let Err(missing) = self.drive(PATIENCE, &done) {
            let example = self.members.iter().find(|member| !done(member)).unwrap();
            let last = example.events.last();
            panic!(
                "{what}: {missing} of {} are not there yet; one has status {:?}, {} events, the last {last:?}, close {:?}, ended {}",
                self.members.len(),
                example.status,
                example.events.len(),
                example.close,
                example.ended
            );
        }
    }

    /// Err: how many were not done in time.
    pub fn drive(&mut self, time: Duration, done: impl Fn(&Member) -> bool) -> Result<(), usize> {
        let mut events = Events::with_capacity(1024);
        let begin = Instant::now();
        let mut pending: Vec<usize> = (0..self.members.len()).collect();
        loop {
            self.connect_some();
            pending.retain(|&index| !done(&self.members[index]));
            if pending.is_empty() {
                return Ok(());
            }
            let Some(rest) = time.checked_sub(begin.elapsed()) else { return Err(pending.len()) };
            self.poll.poll(&mut events, Some(rest)).unwrap();
            for event in &events {
                self.turn(event.token().0);
            }
        }
    }

    fn connect_some(&mut self) {
        while self.under_way < CONNECTING_MAX
            && let Some(index) = self.waiting.pop_front()
        {
            let mut stream = TcpStream::connect(self.address).expect("a socket");
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE).unwrap();
            let member = &mut self.members[index];
            member.outgoing = member.script.first.clone();
            member.stream = Some(stream);
            member.is_counted = true;
            self.under_way += 1;
        }
    }

    fn turn(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.turn();
        if member.is_counted && (member.ended || member.status.is_some()) {
            member.is_counted = false;
            self.under_way -= 1;
        }
    }

    /// Closes the TCP connection of one member.
    pub fn drop_member(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.stream = None;
        member.ended = true;
    }

    pub fn open(&self) -> usize {
        self.members.iter().filter(|member| member.status == Some(101) && !member.ended).count()
    }
}

impl Member {
    pub fn kind(&self, event: usize) -> &str {
        self.events[event]["type"].as_str().expect("every event has a type")
    }

    /// The data of all notifications, in the order they came.
    pub fn data(&self) -> Vec<&Value> {
        self.notifications().map(|event| &event["data"]).collect()
    }

    pub fn notifications(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| event["type"] == "notification")
    }

    fn turn(&mut self) {
        if self.stream.is_none() {
            return;
        }
        if !self.read() {
            self.write();
            self.stream = None;
            self.ended = true;
            return;
        }
        if !self.write() {
            // The rest of what came is read with the next edge: an error of the socket is one.
            self.read();
            self.stream = None;
            self.ended = true;
        }
    }

    /// False: the stream has ended.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 32 * 1024];
        loop {
            match self.stream.as_mut().expect("still there").read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.incoming.extend_from_slice(&buffer[..count]);
                    self.digest();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// False: the stream has failed.
    fn write(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            match self.stream.as_mut().expect("still there").write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn digest(&mut self) {
        let mut taken = 0;
        if self.status.is_none() {
            let Some(length) = frames::head_length(&self.incoming) else { return };
            self.status = Some(frames::status(&self.incoming[..length]));
            self.outgoing.extend_from_slice(&self.script.then);
            taken = length;
        }
        if self.status == Some(101) {
            while let Some((frame, length)) = frames::parse(&self.incoming[taken..]) {
                taken += length;
                self.on_frame(frame);
            }
        } else {
            taken = self.incoming.len();
        }
        self.incoming.drain(..taken);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        assert!(self.close.is_none(), "nothing comes after a close frame");
        match frame.opcode {
            frames::TEXT => self.events.push(serde_json::from_slice(&frame.payload).expect("JSON")),
            frames::PING => self.outgoing.extend(frames::frame(frames::PONG, &frame.payload)),
            frames::PONG | frames::BINARY => {}
            frames::CLOSE => {
                self.close = Some(frame.close_code());
                self.outgoing.extend(frames::frame(frames::CLOSE, &frame.payload));
            }
            other => panic!("unexpected opcode {other}"),
        }
    }
}
