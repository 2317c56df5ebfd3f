//! All clients of one target, over some worker threads: started, watched, told what to do, ended.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use campanile::inbox::{InboxSender, inbox};
use mio::Poll;

use super::client::{Client, Reading};
use super::payload::PayloadKind;
use super::tally::{Counts, Live, Tally};
use super::target::Target;
pub use super::worker::Rank;
use super::worker::{Command, Further, INBOX, Plan, Worker};

/// Commands that may wait for one worker.
const INBOX_COMMANDS: usize = 64;

/// What a crowd is to be.
#[derive(Debug, Clone)]
pub struct Size {
    pub clients: u32,
    pub threads: usize,
    /// Worker `i` runs on core `cores[i mod n]`; empty: wherever the scheduler likes.
    pub cores: Vec<usize>,
    pub rank: Rank,
    /// Connections under way at once, all workers together.
    pub window: usize,
    /// Connections begun per second, all workers together; 0: as fast as they come through.
    pub connects_per_second: f64,
    pub sources: Vec<Ipv4Addr>,
    /// Half of them do not connect before [`Crowd::connect_rest`].
    pub is_halved: bool,
}

/// What its clients do besides reading.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    pub keeps_positions: bool,
    /// Who is told to come back after a while (close code 1012) does, and resumes.
    pub comes_back: bool,
    /// Whose connection is lost comes back, and resumes.
    pub returns: bool,
    /// Shares of clients that will read slowly or never, 0 to 1.
    pub slow_share: f64,
    pub never_share: f64,
    pub slow_read_bytes: usize,
    pub slow_pause: Duration,
    pub slow_receive_bytes: usize,
    pub echo_bytes: usize,
    pub echo_kind: PayloadKind,
    /// What comes on a client's further channels is a direct message.
    pub has_direct: bool,
}

/// Some channels one after the other, by number; after the last one comes the first.
#[derive(Debug, Clone, Copy)]
pub struct ChannelRange {
    pub first: u32,
    pub count: u32,
    /// How many channels there are.
    pub of: u32,
}

impl ChannelRange {
    pub fn at(self, place: u32) -> u32 {
        ((u64::from(self.first) + u64::from(place)) % u64::from(self.of)) as u32
    }

    /// Which of them a channel is.
    pub fn place(self, channel: u32) -> Option<u32> {
        let place = (u64::from(channel) + u64::from(self.of) - u64::from(self.first)) % u64::from(self.of);
        (place < u64::from(self.count)).then_some(place as u32)
    }

    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..self.count).map(move |place| self.at(place))
    }
}

/// What one client subscribes to.
#[derive(Debug, Clone, Copy)]
pub struct Subscriptions {
    /// When it connects.
    pub first: u32,
    /// When all are connected and [`Crowd::subscribe`] tells it to.
    pub further: Option<ChannelRange>,
}

impl From<u32> for Subscriptions {
    fn from(first: u32) -> Subscriptions {
        Subscriptions { first, further: None }
    }
}

/// What is waited for after the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// Every message at every client, or its gap.
    All,
    /// Every message at every client that reads.
    Readers,
    /// Each client knows for itself, because they come and go: until none is missing anything.
    Each,
}

#[derive(Debug)]
pub struct Crowd {
    workers: Vec<Handle>,
    pub clients: u32,
    /// Clients that connect without being told to.
    pub at_once: u32,
    /// Clients that read slowly or never, once told to.
    pub slow_clients: u32,
    /// How many clients each channel has.
    pub subscribers: Vec<u32>,
    /// Subscriptions beyond each client's first.
    pub further_subscriptions: u64,
    /// Messages handed to the bus, per channel.
    pub published: Arc<[AtomicU64]>,
    pub expects: Expects,
    /// Its counters go into the charts.
    pub is_recorded: bool,
}

#[derive(Debug)]
struct Handle {
    inbox: InboxSender<Command>,
    live: Arc<Live>,
    thread: JoinHandle<()>,
}

impl Crowd {
    /// Starts the workers; connecting begins at once. `channels_of` gives the channel or channels of each client.
    pub fn start<S: Into<Subscriptions>>(
        target: &Target,
        size: &Size,
        habits: &Habits,
        channels_of: impl Fn(u32) -> S,
    ) -> anyhow::Result<Crowd> {
        let channels = target.channels.count as usize;
        let published: Arc<[AtomicU64]> = (0..channels).map(|_| AtomicU64::new(0)).collect();
        let threads = size.threads.clamp(1, size.clients.max(1) as usize);
        let plan = Arc::new(Plan {
            target: target.clone(),
            window: (size.window / threads).max(1),
            connects_per_second: size.connects_per_second / threads as f64,
            sources: size.sources.clone(),
            published: published.clone(),
            keeps_positions: habits.keeps_positions,
            comes_back: habits.comes_back,
            returns: habits.returns,
            slow_receive_bytes: habits.slow_receive_bytes,
            slow_read_bytes: habits.slow_read_bytes.max(1),
            slow_pause: habits.slow_pause,
            echo_bytes: habits.echo_bytes,
            echo_kind: habits.echo_kind,
            has_direct: habits.has_direct,
        });
        let mut crowd = Crowd {
            workers: Vec::new(),
            clients: size.clients,
            at_once: 0,
            slow_clients: 0,
            subscribers: vec![0; channels],
            further_subscriptions: 0,
            published,
            expects: Expects::All,
            is_recorded: true,
        };
        let mut base = 0;
        for index in 0..threads {
            let end = (u64::from(size.clients) * (index as u64 + 1) / threads as u64) as u32;
            let poll = Poll::new().context("no epoll for a worker")?;
            let (sender, receiver) = inbox(INBOX_COMMANDS, poll.registry(), INBOX).context("no eventfd for a worker")?;
            let live = Arc::new(Live::default());
            let mut worker = Worker::new(poll, receiver, plan.clone(), live.clone(), base);
            for number in base..end {
                let Subscriptions { first, further } = channels_of(number).into();
                crowd.subscribers[first as usize] += 1;
                further.iter().flat_map(|further| further.iter()).for_each(|channel| crowd.subscribers[channel as usize] += 1);
                crowd.further_subscriptions += further.map_or(0, |further| u64::from(further.count));
                let reading = reading(number, habits);
                crowd.slow_clients += u32::from(reading != Reading::Normal);
                worker.add(Client::new(first, reading), further.map(Further::new));
            }
            crowd.at_once += if size.is_halved { worker.keep_half_back() } else { end - base };
            let rank = size.rank;
            let core = (!size.cores.is_empty()).then(|| size.cores[index % size.cores.len()]);
            let thread = std::thread::Builder::new().name(format!("clients-{index}")).spawn(move || worker.run(core, rank))?;
            crowd.workers.push(Handle { inbox: sender, live, thread });
            base = end;
        }
        Ok(crowd)
    }

    /// What all clients have counted so far.
    pub fn counts(&self) -> Counts {
        self.workers.iter().fold(Counts::default(), |mut sum, worker| {
            sum.add(&worker.live.load());
            sum
        })
    }

    fn tell(&self, command: impl Fn(usize) -> Command) {
        for (index, worker) in self.workers.iter().enumerate() {
            // Full or gone: a worker that is stuck or dead is noticed when it does not answer.
            let _ = worker.inbox.send(command(index));
        }
    }

    /// Those who were kept back connect too.
    pub fn connect_rest(&self) {
        self.tell(|_| Command::ConnectRest);
    }

    /// Clients subscribe to what they have beyond their first channel.
    pub fn subscribe(&self) {
        self.tell(|_| Command::Subscribe);
    }

    /// Clients give up all that they have subscribed to.
    pub fn unsubscribe(&self) {
        self.tell(|_| Command::Unsubscribe);
    }

    /// Those who are to be slow begin; nobody waits for their messages any more. All clients share one channel.
    pub fn slow_down(&mut self) {
        self.tell(|_| Command::SlowDown);
        self.subscribers[0] -= self.slow_clients;
        self.expects = Expects::Readers;
    }

    /// Those who were slow read what waits for them.
    pub fn catch_up(&self) {
        self.tell(|_| Command::CatchUp);
    }

    /// With `spinning`, no client sleeps until told otherwise.
    pub fn spin(&self, spinning: bool) {
        self.tell(|_| Command::Spin(spinning));
    }

    /// All drop at once, and come back at once.
    pub fn storm(&self) {
        self.go_away(Duration::ZERO);
    }

    /// All drop at once, and come back after so long, resuming.
    pub fn go_away(&self, time: Duration) {
        self.tell(|_| Command::Storm { away: time });
    }

    pub fn churn(&self, per_second: f64) {
        let per_second = per_second / self.workers.len() as f64;
        self.tell(|_| Command::Churn { per_second });
    }

    pub fn echo(&self, per_second: f64) {
        let per_second = per_second / self.workers.len() as f64;
        self.tell(|_| Command::Echo { per_second });
    }

    /// What was counted, with the distributions since the last call. With `check_tail`, what was published and has not come is lost.
    pub fn collect(&self, check_tail: bool) -> anyhow::Result<Tally> {
        let (reply, replies) = crossbeam_channel::unbounded();
        self.tell(|_| Command::Collect { check_tail, reply: reply.clone() });
        drop(reply);
        let mut sum = Tally::default();
        for _ in &self.workers {
            let tally =
                replies.recv_timeout(Duration::from_secs(30)).context("a client thread does not answer: a fault of the load generator")?;
            sum.add(&tally);
        }
        Ok(sum)
    }

    /// How many messages clients are still to get. Asks every client: for now and then.
    pub fn missing(&self) -> u64 {
        let (reply, replies) = crossbeam_channel::unbounded();
        self.tell(|_| Command::CountMissing { reply: reply.clone() });
        drop(reply);
        replies.iter().sum()
    }

    /// Deliveries that what has been published so far must lead to.
    pub fn expected(&self) -> u64 {
        self.published.iter().zip(&self.subscribers).map(|(published, subscribers)| published.load(Relaxed) * u64::from(*subscribers)).sum()
    }

    /// Closes all connections.
    pub fn end(self) {
        self.tell(|_| Command::Stop);
        for worker in self.workers {
            let _ = worker.thread.join();
        }
    }
}

/// Spreads those who read slowly evenly over the numbers (and so over workers and shards).
fn reading(number: u32, habits: &Habits) -> Reading {
    let place = (f64::from(number) * 0.618_033_988_749_894_9).fract();
    if place < habits.never_share {
        Reading::Never
    } else if place < habits.never_share + habits.slow_share {
        Reading::Slow
    } else {
        Reading::Normal
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use campanile::wire::Format;

    use super::*;
    use crate::target::Channels;

    #[test]
    fn half_of_the_clients_stay_away_until_they_are_told_to_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/any", listener.local_addr().unwrap());
        let target = Target::new(&url, Format::Json, Channels { name: "any".to_owned(), count: 1 }).unwrap();
        let size = Size {
            clients: 11,
            threads: 2,
            cores: Vec::new(),
            rank: Rank::Usual,
            window: 100,
            connects_per_second: 0.0,
            sources: Vec::new(),
            is_halved: true,
        };
        let crowd = Crowd::start(&target, &size, &Habits::default(), |_| 0).unwrap();
        assert_eq!(crowd.at_once, 2 + 3, "of 5 clients and of 6");
        let accept = |count: u32| -> Vec<TcpStream> { (0..count).map(|_| listener.accept().unwrap().0).collect() };
        let first = accept(crowd.at_once);
        // A worker counts its clients after it has dialled them: whoever would come too early is counted here.
        while crowd.counts().connecting + crowd.counts().connected < 5 {
            std::thread::yield_now();
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody did not wait");
        listener.set_nonblocking(false).unwrap();
        crowd.connect_rest();
        let rest = accept(6);
        crowd.end();
        for mut stream in first.into_iter().chain(rest) {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}
