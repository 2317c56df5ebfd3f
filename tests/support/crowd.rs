//! Many clients on one thread of their own: non-blocking sockets in one epoll. They answer pings and closes as a browser would, whatever
//! the test is busy with meanwhile; it only looks at what has come so far, or waits until it has.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
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
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Rung when a member has got something, and when the thread ends.
    changed: Condvar,
    waker: Waker,
}

struct State {
    registry: Registry,
    address: SocketAddr,
    members: Vec<Member>,
    waiting: VecDeque<usize>,
    under_way: usize,
    stop: bool,
}

pub struct Member {
    stream: Option<TcpStream>,
    script: Script,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The status of the HTTP answer, once its head is there.
    pub status: Option<u16>,
    pub events: Vec<Value>,
    /// Pings that came; each was answered.
    pub pings: usize,
    /// Some(None): an empty close frame.
    pub close: Option<Option<u16>>,
    /// The TCP connection is over.
    pub ended: bool,
    is_counted: bool,
}

const WAKE: Token = Token(usize::MAX);

impl Crowd {
    /// Sockets that connect by and by.
    pub fn new(address: SocketAddr, scripts: impl IntoIterator<Item = Script>) -> Crowd {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let waker = Waker::new(&registry, WAKE).unwrap();
        let state = State { registry, address, members: Vec::new(), waiting: VecDeque::new(), under_way: 0, stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), waker });
        let driver = Driver(shared.clone());
        let thread = std::thread::Builder::new().name("crowd".into()).spawn(move || driver.run(poll)).unwrap();
        let mut crowd = Crowd { shared, thread: Some(thread) };
        crowd.add(scripts);
        crowd
    }

    /// `count` open connections, each subscribed to `channel(i)` by its path, before any message.
    pub fn subscribed(address: SocketAddr, count: usize, channel: impl Fn(usize) -> String) -> Crowd {
        let mut crowd = Crowd::new(address, (0..count).map(|index| Script::upgrade(&format!("/ws/{}?format=json", channel(index)))));
        crowd.wait("everybody subscribed", |member| member.events.len() == 2);
        for member in crowd.members().iter() {
            assert_eq!((member.kind(0), member.kind(1)), ("connected", "subscribed"));
        }
        crowd
    }

    pub fn add(&mut self, scripts: impl IntoIterator<Item = Script>) {
        let mut state = self.state();
        for script in scripts {
            let index = state.members.len();
            state.waiting.push_back(index);
            state.members.push(Member {
                stream: None,
                script,
                outgoing: Vec::new(),
                incoming: Vec::new(),
                status: None,
                events: Vec::new(),
                pings: 0,
                close: None,
                ended: false,
                is_counted: false,
            });
        }
        drop(state);
        self.shared.waker.wake().unwrap();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("the crowd's thread has panicked, see above")
    }

    /// Everybody as of now; while this is held nothing comes and nothing is answered.
    pub fn members(&self) -> Members<'_> {
        Members(self.state())
    }

    /// Waits until `done` has held for each.
    #[track_caller]
    pub fn wait(&mut self, what: &str, done: impl Fn(&Member) -> bool) {
        let begin = Instant::now();
        let mut state = self.state();
        let mut pending: Vec<usize> = (0..state.members.len()).collect();
        loop {
            pending.retain(|&index| !done(&state.members[index]));
            let Some(&first) = pending.first() else { return };
            let Some(rest) = PATIENCE.checked_sub(begin.elapsed()) else {
                let Member { status, events, close, ended, .. } = &state.members[first];
                let (missing, all, count, last) = (pending.len(), state.members.len(), events.len(), events.last());
                panic!(
                    "{what}: {missing} of {all} are not there yet; one has status {status:?}, {count} events, the last {last:?}, close \
                     {close:?}, ended {ended}"
                );
            };
            state = self.shared.changed.wait_timeout(state, rest).expect("the crowd's thread has panicked, see above").0;
        }
    }

    /// Closes the TCP connection of one member.
    pub fn drop_member(&mut self, index: usize) {
        let mut state = self.state();
        state.members[index].stream = None;
        state.members[index].ended = true;
        state.count_out(index);
    }

    pub fn open(&self) -> usize {
        self.members().iter().filter(|member| member.status == Some(101) && !member.ended).count()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Poisoned: the thread has ended already.
        if let Ok(mut state) = self.shared.state.lock() {
            state.stop = true;
        }
        let woken = self.shared.waker.wake();
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            woken.unwrap();
            ended.expect("the crowd's thread has panicked, see above");
        }
    }
}

pub struct Members<'a>(MutexGuard<'a, State>);

impl Deref for Members<'_> {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        &self.0.members
    }
}

/// The thread's end; dropped last, also in a panic, so that whoever waits is woken and learns of it.
struct Driver(Arc<Shared>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.changed.notify_all();
    }
}

impl Driver {
    fn run(self, mut poll: Poll) {
        let mut events = Events::with_capacity(1024);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.unwrap(),
            }
            // Poisoned: the test has failed while it looked.
            let Ok(mut state) = self.0.state.lock() else { return };
            if state.stop {
                // Everybody leaves at once, as a crowd that is dropped should.
                state.members.clear();
                return;
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                state.turn(event.token().0);
            }
            state.connect_some();
            drop(state);
            self.0.changed.notify_all();
        }
    }
}

impl State {
    fn connect_some(&mut self) {
        while self.under_way < CONNECTING_MAX
            && let Some(index) = self.waiting.pop_front()
        {
            let mut stream = TcpStream::connect(self.address).expect("a socket");
            self.registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE).unwrap();
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
        if member.ended || member.status.is_some() {
            self.count_out(index);
        }
    }

    /// It is no longer under way.
    fn count_out(&mut self, index: usize) {
        self.under_way -= usize::from(std::mem::take(&mut self.members[index].is_counted));
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
            frames::PING => {
                self.pings += 1;
                self.outgoing.extend(frames::frame(frames::PONG, &frame.payload));
            }
            frames::PONG | frames::BINARY => {}
            frames::CLOSE => {
                self.close = Some(frame.close_code());
                self.outgoing.extend(frames::frame(frames::CLOSE, &frame.payload));
            }
            other => panic!("unexpected opcode {other}"),
        }
    }
}
