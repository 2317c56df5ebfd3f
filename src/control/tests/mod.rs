//! The control port as its clients see it: a real server on a free port, a bus thread that answers by script, and signals
//! and exit played by the test.

mod exposition;
mod marks;
mod publishing;
mod reading;
mod stopping;
mod watching;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::reload::Origin;
use super::{Facts, Shared, State, TIMEOUTS, Timeouts};
use crate::bus::busiest::{Busy, BusyChannel};
use crate::bus::marks::{MarksAnswer, MarksError, Unread};
use crate::bus::presence::{CensusPage, Members, MembersWanted, PresenceError, Present};
use crate::bus::question::{self, Asker, PublishError, Published as Number, Question};
use crate::bus::shares::Ticket;
use crate::bus::{BusCommand, BusSender, ChannelInfo, ChannelPage};
use crate::config::{ChannelRule, ChannelRules, FdTable, Overrun, Pin, Settings};
use crate::inbox::inbox;
use crate::listen::{self, ControlSocket};
use crate::metrics::{BusMetrics, ShardMetrics};
use crate::wire::payload::Expect;

pub(super) const PAYLOAD_BYTES_MAX: usize = 1024;
/// Nothing a test waits for takes this long; what it waits for not to happen, it does not wait for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the bus thread was asked to publish: channel and payload.
pub(super) type Published = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A running control server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) state: Arc<State>,
    pub(super) published: Published,
    pub(super) signals: mpsc::Sender<&'static str>,
    pub(super) exits: std::sync::mpsc::Receiver<i32>,
    pub(super) stops: Arc<AtomicUsize>,
    pub(super) ended: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    bus_thread: Option<JoinHandle<()>>,
    agent: ureq::Agent,
}

pub(super) struct Options {
    pub(super) settings: Settings,
    pub(super) timeouts: Timeouts,
    /// 0: the inbox is always full.
    pub(super) inbox_capacity: usize,
}

impl Default for Options {
    fn default() -> Self {
        // An answer is not lost because a busy machine keeps its reader waiting.
        Options { settings: settings(), timeouts: Timeouts { farewell: Duration::from_secs(30), ..TIMEOUTS }, inbox_capacity: 256 }
    }
}

/// Status, headers, body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: ureq::http::HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Server {
    pub(super) fn start(options: Options) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let published = Published::default();
        let (bus, bus_thread) = fake_bus(options.inbox_capacity, published.clone());
        let mut state = state(options.settings, address, bus);
        state.timeouts = options.timeouts;
        let state = Arc::new(state);

        let (signals, played) = mpsc::channel(4);
        let (exit, exits) = std::sync::mpsc::channel();
        let (ended, until) = oneshot::channel();
        let stops = Arc::new(AtomicUsize::new(0));
        let (served, stopped) = (state.clone(), stops.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            let on_stop = move || {
                stopped.fetch_add(1, SeqCst);
            };
            let exit = move |code| exit.send(code).unwrap();
            runtime.block_on(super::serve(ControlSocket::Tcp(listener), served, None, on_stop, played, exit, until))
        });
        let agent = agent();
        let (thread, ended) = (Some(thread), Some(ended));
        Server { address, state, published, signals, exits, stops, ended, thread, bus_thread, agent }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(self.url(path)).call())
    }

    pub(super) fn get_with(&self, path: &str, name: &str, value: &str) -> Answer {
        answer(self.agent.get(self.url(path)).header(name, value).call())
    }

    pub(super) fn delete(&self, path: &str) -> Answer {
        answer(self.agent.delete(self.url(path)).call())
    }

    pub(super) fn publish(&self, body: impl AsRef<[u8]>) -> Answer {
        self.post("/publish", body)
    }

    pub(super) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        answer(self.agent.post(self.url(path)).send(body.as_ref()))
    }

    /// A connection of its own, for what a well-behaved client does not do.
    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Tells the server that all shards have ended and waits for it.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        drop(self.ended.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.end();
        if let Some(bus_thread) = self.bus_thread.take() {
            let _ = self.state.bus.send(BusCommand::Stop);
            let _ = bus_thread.join();
        }
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

pub(super) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().new_agent()
}

pub(super) fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
}

/// Reads until the server closes; a reset is a close too.
pub(super) fn read_to_close(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8(text).unwrap()
}

/// Writes bytes for as long as the server takes them, one at a time, until it closes or has answered.
pub(super) fn trickle(mut stream: TcpStream, bytes: &[u8], pause: Duration) -> String {
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || read_to_close(&mut reader));
    for byte in bytes {
        if reading.is_finished() || stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(pause);
    }
    reading.join().unwrap()
}

/// For what another thread will have done in a moment and does not announce.
pub(super) fn wait_until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn state(settings: Settings, address: SocketAddr, bus: BusSender) -> State {
    let facts = Facts {
        version: "1.2.3-test",
        fd_table: FdTable::Private,
        listen: listen::listed(&["127.0.0.1:8080"]),
        control: address.into(),
        memory_bytes_max: |_| 1 << 30,
        first_commands: ["subscribe".to_owned(), "publish".to_owned()],
    };
    let shards = (0..settings.shards.count).map(|_| Arc::new(ShardMetrics::default())).collect();
    let origin = Origin::of(settings.clone());
    State::new(Arc::new(settings), facts, shards, Arc::new(BusMetrics::default()), bus, Shared::default(), origin)
}

/// A thread that answers as the channel's name says, until it is told to stop.
pub(super) fn fake_bus(capacity: usize, published: Published) -> (BusSender, Option<JoinHandle<()>>) {
    let mut poll = mio::Poll::new().unwrap();
    let (sender, receiver) = inbox(capacity, poll.registry(), mio::Token(0)).unwrap();
    let sender = BusSender::new(sender, 1024);
    if capacity == 0 {
        return (sender, None);
    }
    let thread = std::thread::spawn(move || {
        let mut events = mio::Events::with_capacity(1);
        let mut unanswered = Vec::new();
        let mut seq = 0;
        loop {
            while let Some(command) = receiver.try_recv() {
                match command {
                    BusCommand::Ask(Question::Publish(publish)) => {
                        let Asker::Control(reply) = publish.asker else { panic!("not a client") };
                        let result = match &*publish.channel {
                            "unavailable" => Err(PublishError::Unavailable),
                            "busy" => Err(PublishError::Busy),
                            "big" => Err(PublishError::TooBig { bytes_max: 7 }),
                            "mismatched" => Err(PublishError::Mismatch(Expect::Json)),
                            "refused" => Err(PublishError::Refused("NOPERM".into())),
                            "elsewhere" => Ok(Number::NOWHERE),
                            "dropped" => continue,
                            "silent" => {
                                unanswered.push(reply);
                                continue;
                            }
                            _ => {
                                seq += 1;
                                Ok(Number::at(77, seq))
                            }
                        };
                        published.lock().unwrap().push((publish.channel.to_string(), publish.payload.into_vec()));
                        let _ = reply.send(question::Answer::Published { channel: publish.channel, result });
                    }
                    BusCommand::Ask(Question::History(asked)) => {
                        let Asker::Control(reply) = asked.asker else { panic!("not a client") };
                        let _ = reply.send(question::Answer::History { channel: asked.recall.channel, result: Ok(Default::default()) });
                    }
                    BusCommand::Ask(Question::Marks(asked)) => {
                        let wanted = asked.wanted.clone();
                        let of = |channel: &str| match channel {
                            "none" => Unread::default(),
                            _ => Unread { epoch: Some(77), last: 9, read: 7, unread: 2 },
                        };
                        let result = match wanted.channels().find_map(refusal_of) {
                            Some(error) => Err(error),
                            None => Ok(wanted.channels().map(of).collect()),
                        };
                        let Asker::Control(reply) = asked.asker else { panic!("not a client") };
                        let _ = reply.send(question::Answer::Marks(Box::new(MarksAnswer { wanted, result, ticket: Ticket::default() })));
                    }
                    BusCommand::Ask(Question::Presence(asked)) => {
                        let Asker::Control(reply) = asked.asker else { panic!("not a client") };
                        let result = match asked.subject.name() {
                            "uncounted" => Err(PresenceError::ChannelNotCounted),
                            "unavailable" => Err(PresenceError::Unavailable),
                            "refused" => Err(PresenceError::Refused("NOPERM".into())),
                            _ => {
                                let page =
                                    |wanted: MembersWanted| Members { users: wanted.after.into_iter().collect(), ..Members::default() };
                                Ok(Present { count: 3, members: asked.members.map(page) })
                            }
                        };
                        let _ = reply.send(question::Answer::Presence { subject: asked.subject, result });
                    }
                    BusCommand::Ask(Question::Census(asked)) => {
                        let Asker::Control(reply) = asked.asker else { panic!("not a client") };
                        let channels = vec![(asked.after.unwrap_or_else(|| "a".into()), asked.limit as u64)];
                        let result = Ok(CensusPage { next: Some("z".into()), channels });
                        let _ = reply.send(question::Answer::Census { result });
                    }
                    BusCommand::Settle(reply) => {
                        let _ = reply.send(());
                    }
                    BusCommand::Revoke(revoke) => revoke.answer(Ok(())),
                    BusCommand::ListChannels { from, limit, reply } => {
                        const CHANNELS: usize = 250;
                        let to = CHANNELS.min(from.saturating_add(limit));
                        let channel = |number: usize| ChannelInfo {
                            name: format!("room:{number}"),
                            epoch: (number > 0).then_some(77),
                            seq: number as u64,
                            subscribers: 3,
                            history_messages: 5,
                        };
                        let channels = (from..to).map(channel).collect();
                        let _ = reply.send(ChannelPage { channels, next: (to < CHANNELS).then_some(to) });
                    }
                    BusCommand::Busiest { reply, .. } => {
                        let busy = BusyChannel { name: "<b>busy</b>".to_owned(), messages: 2, deliveries: 600, subscribers: 300 };
                        let _ = reply.send(Busy { ns: 1_000_000_000, channels: vec![busy] });
                    }
                    BusCommand::Stop => return,
                    BusCommand::Join { .. }
                    | BusCommand::Leave { .. }
                    | BusCommand::ReadPage { .. }
                    | BusCommand::CountUsers(_)
                    | BusCommand::ListMembers { .. }
                    | BusCommand::Reload(_) => {
                        panic!("the control thread serves no channel")
                    }
                }
            }
            if receiver.prepare_sleep() {
                poll.poll(&mut events, None)
                    .or_else(|error| if error.kind() == std::io::ErrorKind::Interrupted { Ok(()) } else { Err(error) })
                    .unwrap();
                receiver.awake();
            }
        }
    });
    (sender, Some(thread))
}

pub(super) fn settings() -> Settings {
    let ticker = ChannelRule { overrun: Overrun::Latest, ..ChannelRule::default() };
    Settings::default().with(|settings| {
        settings.addresses.listen = listen::listed(&["127.0.0.1:0"]);
        settings.addresses.control = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        settings.shards.count = 2;
        settings.shards.pin = Pin::List(vec![0, 1]);
        settings.bounds.connections_max = 1000;
        settings.bounds.subscriptions_max = 16;
        settings.bounds.payload_bytes_max = PAYLOAD_BYTES_MAX;
        settings.shards.inbox_messages = 1024;
        settings.channels = ChannelRules { default: ChannelRule::default(), tables: vec![("ticker:".into(), ticker)] };
    })
}

/// What the bus says of marks in a channel that is called like this.
fn refusal_of(channel: &str) -> Option<MarksError> {
    match channel {
        "plain" => Some(MarksError::NotDurable { channel: channel.into() }),
        "renewed" => Some(MarksError::OtherEpoch { asked: 5, epoch: 77 }),
        "away" => Some(MarksError::Unavailable),
        "stalled" => Some(MarksError::Late("it did not answer".to_owned())),
        "forbidden" => Some(MarksError::Refused("NOPERM".to_owned())),
        _ => None,
    }
}
