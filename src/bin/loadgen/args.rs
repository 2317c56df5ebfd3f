//! The command line: what is measured, with how many clients, and where the results go.

mod choices;
mod tls;
mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use campanile::limits::MAX_RATE_MAX;
use campanile::wire::Format;
use clap::{Args, Parser, Subcommand};

use crate::payload::PayloadKind;

pub use choices::{Auth, Breaks, Leave, Through, Transport};
pub use tls::TlsOptions;
pub use values::Cores;
use values::{parse_format, parse_head_bytes, parse_number, parse_payload, parse_positive, parse_threads};

const EXAMPLES: &str = "\
Examples:
  loadgen broadcast --serve '--shards 1' --clients 1000
  loadgen broadcast --serve '--shards 1 --pin 0' --cores 1 --clients 10000 --redis own --floor
  loadgen hold --url ws://10.0.0.7:8080 --clients 100000 --connect-rate 5000
  loadgen broadcast --url 'ws://127.0.0.1:9000/feed?user={client}' --subscribe 'join {channel}' --ready joined \\
      --through client --publish-text 'say {channel} {payload}'

It exits with 0 if everything arrived, 1 if something was lost, doubled, reordered or refused without being announced,
2 after a mistake on the command line, 130 if Ctrl-C ended it. docs/loadgen.md shows every scenario with its output.";

#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about = "Puts load on a WebSocket server, and checks every message", after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Connect all clients and say how fast that went
    Connect(Options),
    /// Connect all clients and hold them: heartbeats, memory, idle CPU; with --messages, publish those in the end
    Hold {
        #[command(flatten)]
        options: Options,
        /// How long to hold them
        #[arg(long, value_parser = parse_number, value_name = "SECONDS", default_value_t = 30.0)]
        hold: f64,
        /// Then hold them that long again without and with somebody who looks at the dashboard, by turns, as often as --pairs says
        #[arg(long)]
        watched: bool,
    },
    /// One channel, every client subscribed, one message at a time
    Broadcast(Options),
    /// One channel, every client subscribed, many messages at once
    Burst(Options),
    /// Many channels: one or more per client, or as many as --channels says
    Channels {
        #[command(flatten)]
        options: Options,
        /// How many channels; 0: as many as clients have together, each for itself
        #[arg(long, value_name = "N", default_value_t = 0)]
        channels: u32,
        /// How many of them each client subscribes to: to one when it connects, to the others when all are connected
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        channels_per_client: u32,
        /// Zipf's exponent: 0 treats all channels alike, 1 gives a few channels most clients and messages
        #[arg(long, value_parser = parse_number, value_name = "EXPONENT", default_value_t = 0.0)]
        zipf: f64,
        /// In the end everybody gives up everything, and the server's memory is watched until it falls no more
        #[arg(long, value_name = "HOW")]
        leave: Option<Leave>,
    },
    /// A broadcast to all, and direct messages meanwhile, each to one client's own channel; by turns with the broadcast alone
    Mixed {
        #[command(flatten)]
        options: Options,
        /// How many clients have a channel of their own besides; 0: all
        #[arg(long, value_name = "N", default_value_t = 1000)]
        direct: u32,
        /// Direct messages per second, to those clients in turn
        #[arg(long, value_parser = parse_number, value_name = "N", default_value_t = 101.0)]
        direct_rate: f64,
    },
    /// Ten tenants, one of which takes ten times its share: the others must not feel it
    Fair(Options),
    /// Clients come and go while messages flow
    Churn {
        #[command(flatten)]
        options: Options,
        /// Clients replaced per second, in percent of all
        #[arg(long, value_parser = parse_number, value_name = "PERCENT", default_value_t = 10.0)]
        churn: f64,
    },
    /// Some clients read slowly or not at all; the others must not feel it
    Slow {
        #[command(flatten)]
        options: Options,
        /// Percent of clients that read slowly
        #[arg(long, value_parser = parse_number, value_name = "PERCENT", default_value_t = 0.0)]
        slow: f64,
        /// Percent of clients that do not read at all
        #[arg(long, value_parser = parse_number, value_name = "PERCENT", default_value_t = 10.0)]
        never: f64,
        /// What a slow client reads at a time
        #[arg(long, value_name = "BYTES", default_value_t = 1024)]
        slow_bytes: usize,
        /// How long it waits in between
        #[arg(long, value_name = "MS", default_value_t = 100)]
        slow_ms: u64,
    },
    /// Very many connections never end their handshake; the others must not feel it
    Handshakes {
        #[command(flatten)]
        options: Options,
        /// How many of them, each from an address of its own (127.0.0.0/8)
        #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        handshakes: u32,
        /// Begun per second, until all are open; whoever is closed comes again at this rate
        #[arg(long, value_parser = parse_positive, value_name = "N", default_value_t = 10_000.0)]
        handshake_rate: f64,
        /// What a third of them sends of its request head, without its end
        #[arg(long, value_name = "BYTES", default_value_t = 2000, value_parser = parse_head_bytes)]
        head_bytes: usize,
    },
    /// All clients but --stay connect at once, while those receive and must not feel it; by turns with those alone
    Arrivals {
        #[command(flatten)]
        options: Options,
        /// Clients that are there before the others, on a channel of their own
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        stay: u32,
    },
    /// All clients drop at once and come back, resuming where they were
    Storm(Options),
    /// Redis is killed and comes back while messages flow (needs --serve; starts its own Redis)
    Failover {
        #[command(flatten)]
        options: Options,
        /// How long Redis is away
        #[arg(long, value_parser = parse_number, value_name = "SECONDS", default_value_t = 1.0)]
        outage: f64,
    },
    /// The way to durable channels breaks again and again: everybody must have everything, once and in order (needs --serve; starts its own Redis)
    Outages {
        #[command(flatten)]
        options: Options,
        /// What breaks
        #[arg(long, value_name = "WHAT", default_value = "pubsub")]
        breaks: Breaks,
        /// How often
        #[arg(long, value_parser = parse_positive, value_name = "SECONDS", default_value_t = 1.0)]
        every: f64,
        /// How many channels clients and messages are spread over
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        channels: u32,
    },
    /// The server's subscriptions are lost at once, and messages are missed: how soon all is as it was (needs --serve; starts its own Redis)
    Repair {
        #[command(flatten)]
        options: Options,
        /// How many channels
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        channels: u32,
        /// How many of them each client has
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        channels_per_client: u32,
        /// Messages that are missed of each
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
        missed: u32,
        /// Redis is a Cluster: three masters with a replica each. With --missed 0
        #[arg(long)]
        cluster: bool,
    },
    /// Clients publish to a durable channel as fast as they are answered, by turns with redis-benchmark (needs --serve; starts its own Redis), or with and without --data-dir
    Publishers {
        #[command(flatten)]
        options: Options,
        /// Messages that each client has under way
        #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
        pipeline: u32,
        /// Without Redis: by turns to a server that keeps its messages in a folder, which is made in this one for the run, and to one that keeps them in memory
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
    /// All clients but --stay are away while messages are published to their durable channels, come back at once and ask for them (needs --serve; starts its own Redis)
    Return {
        #[command(flatten)]
        options: Options,
        /// How many channels those who come back are spread over
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        channels: u32,
        /// Messages that each of them misses
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        missed: u32,
        /// Clients beside them that stay, on a channel of their own
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        stay: u32,
    },
    /// A second server takes the place of the first, which drains, while messages flow (needs --serve; its own Redis unless --redis names one)
    Restart {
        #[command(flatten)]
        options: Options,
        /// drain_rate of both servers
        #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
        drain_rate: u32,
    },
    /// The rules change under clients with several channels: every second channel is forbidden to all (needs --serve)
    Reload {
        #[command(flatten)]
        options: Options,
        /// How many channels there are
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=10_000))]
        channels: u32,
        /// How many of them a client has
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        channels_per_client: u32,
    },
    /// Every client sends, and gets back what it sent (Campanile: --echo)
    Echo(Options),
    /// The kernel's price: one `send` per socket, no server, the same clients
    Floor(Options),
    /// The floor's other side; started by `floor` and --floor
    #[command(hide = true)]
    FloorServer {
        #[arg(long, default_value_t = 1)]
        threads: usize,
        #[arg(long, default_value = "")]
        cores: Cores,
    },
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The target. Without a path it is a Campanile; a path may hold {channel} and {client} (a number)
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080", help_heading = "Target")]
    pub url: String,
    /// Start `campanile serve ARGS` on free ports as the target, and stop it in the end
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with = "url", help_heading = "Target")]
    pub serve: Option<String>,
    /// The server's process, for its CPU and memory; known with --serve
    #[arg(long, value_name = "PID", help_heading = "Target")]
    pub server_pid: Option<u32>,
    /// Sec-WebSocket-Protocol to ask for
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub subprotocol: Option<String>,
    /// First message of each client: a text with {channel} and {client}, or hex:82a4… for a binary one
    #[arg(long, value_name = "TEXT", help_heading = "Target")]
    pub subscribe: Option<String>,
    /// A client is ready when a message holds this [default: Campanile's `subscribed`; else the upgrade]
    #[arg(long, value_name = "TEXT", help_heading = "Target")]
    pub ready: Option<String>,
    /// A Campanile's format: msgpack, json or raw
    #[arg(long, value_name = "FORMAT", default_value = "msgpack", value_parser = parse_format, help_heading = "Target")]
    pub format: Format,
    /// How clients of a Campanile are connected; in an event stream all is JSON (connect, hold, broadcast, burst)
    #[arg(long, value_name = "TRANSPORT", default_value = "ws", help_heading = "Target")]
    pub transport: Transport,
    /// Clients bring tokens, signed by a key that is made for the run and handed to the server (--serve)
    #[arg(long, value_name = "HOW", requires = "serve", help_heading = "Target")]
    pub auth: Option<Auth>,
    /// How many users the clients are; each has one token for all its clients [default: a user for each client]
    #[arg(long, value_name = "N", requires = "auth", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Target")]
    pub users: Option<u32>,
    /// Every turn of `connect` has tokens that the server has not seen before; without, all but the first bring the same again
    #[arg(long, requires = "auth", help_heading = "Target")]
    pub new_tokens: bool,
    /// The server has rules for who may subscribe, by the tokens' claim `channels` with --auth, and limits of addresses and clients
    #[arg(long, requires = "serve", help_heading = "Target")]
    pub rules: bool,
    /// Channels are durable: the server has a rule that says so, and messages go through the function that numbers and keeps them
    #[arg(long, requires = "serve", help_heading = "Target")]
    pub durable: bool,
    /// Clients offer permessage-deflate, and check what comes compressed. A server that is started does so too where --serve says --deflate
    #[arg(long, help_heading = "Target")]
    pub deflate: bool,
    /// Start the same server without --auth, --rules and --durable, and without --deflate of its clients, as well, take turns with it, and print the ratio (connect, broadcast, burst)
    #[arg(long, requires = "serve", conflicts_with = "floor", help_heading = "Target")]
    pub beside_open: bool,
    /// With --transport sse: start the same server once more for WebSocket clients with the same JSON, take turns with it, and print the ratio (connect, broadcast, burst)
    #[arg(long, requires = "serve", conflicts_with_all = ["floor", "beside_open", "auth", "rules", "durable"], help_heading = "Target")]
    pub beside_ws: bool,
    /// Of a Campanile: each subscription wants no more than so many messages a second, the newest. What is passed over counts as announced
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_RATE_MAX)), conflicts_with = "subscribe", help_heading = "Target")]
    pub max_rate: Option<u16>,
    #[command(flatten)]
    pub tls: TlsOptions,
    /// The channel's name; with many channels, what stands before their numbers
    #[arg(long, value_name = "NAME", default_value = "bench", help_heading = "Target")]
    pub channel: String,

    /// Connections
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Clients")]
    pub clients: u32,
    /// Threads for them [default: as many as the limit on descriptors asks for]
    #[arg(long, value_name = "N", value_parser = parse_threads, help_heading = "Clients")]
    pub threads: Option<usize>,
    /// Cores for these threads (the first also for publishing and watching), as in 1 or 2-3,5 [default: not pinned]
    #[arg(long, value_name = "CORES", default_value = "", hide_default_value = true, help_heading = "Clients")]
    pub cores: Cores,
    /// Never sleep while messages flow: then no send pays for waking a client, of the server or of the floor. Wants a core per thread (--cores)
    #[arg(long, help_heading = "Clients")]
    pub spin: bool,
    /// Clients, publishers and a Redis of the run's own take a core from whoever has it: what they would wait for one does not count as the server's. Wants root
    #[arg(long, conflicts_with = "spin", help_heading = "Clients")]
    pub realtime: bool,
    /// Connections under way at once
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Clients")]
    pub window: usize,
    /// Connections begun per second, in a storm too [default: as fast as they come through]
    #[arg(long, value_parser = parse_number, value_name = "N", default_value_t = 0.0, hide_default_value = true, help_heading = "Clients")]
    pub connect_rate: f64,
    /// Source addresses to spread connections over [default on loopback: 127.0.0.2 and on, one per 5,000]
    #[arg(long, value_name = "IP", value_delimiter = ',', help_heading = "Clients")]
    pub source: Vec<Ipv4Addr>,

    /// How messages go to the server [default: redis with --redis, else http]
    #[arg(long, value_name = "WAY", help_heading = "Messages")]
    pub through: Option<Through>,
    /// The Redis to publish through; `own` starts one
    #[arg(long, value_name = "URL", help_heading = "Messages")]
    pub redis: Option<String>,
    /// What stands before the channel's name in Redis
    #[arg(long, value_name = "PREFIX", default_value = "notifications:", help_heading = "Messages")]
    pub prefix: String,
    /// The control address, for POST /publish [default: 127.0.0.1:9090; known with --serve]
    #[arg(long, value_name = "ADDR", help_heading = "Messages")]
    pub control: Option<SocketAddr>,
    /// What a publishing client sends, with {channel} and {payload} [default: Campanile's publish command]
    #[arg(long, value_name = "TEXT", help_heading = "Messages")]
    pub publish_text: Option<String>,
    /// Messages per second, all channels together (echo: all clients together)
    #[arg(long, value_parser = parse_number, value_name = "N", help_heading = "Messages")]
    pub rate: Option<f64>,
    /// Messages in all (per half of a pair with --floor)
    #[arg(long, value_name = "N", help_heading = "Messages")]
    pub messages: Option<u64>,
    /// Messages that are due at once
    #[arg(long, value_name = "N", help_heading = "Messages")]
    pub burst: Option<u64>,
    /// Payload size; at least 38
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = parse_payload, help_heading = "Messages")]
    pub payload: usize,
    /// What a payload holds
    #[arg(long, value_name = "KIND", default_value = "filler", help_heading = "Messages")]
    pub payload_kind: PayloadKind,

    /// Run the floor by turns with the server, and print the ratio (broadcast, burst, connect, channels, mixed)
    #[arg(long, help_heading = "Floor")]
    pub floor: bool,
    /// How often both are run by turns
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Floor")]
    pub pairs: usize,
    /// The floor's cores: those of the server it stands beside
    #[arg(long, value_name = "CORES", default_value = "0", help_heading = "Floor")]
    pub floor_cores: Cores,

    /// The run ends after this time, whatever happens
    #[arg(long, value_parser = parse_number, value_name = "SECONDS", default_value_t = 300.0, help_heading = "Run")]
    pub time: f64,
    /// Give up waiting for messages after so much silence
    #[arg(long, value_parser = parse_number, value_name = "SECONDS", default_value_t = 5.0, help_heading = "Run")]
    pub patience: f64,
    /// Wait so long between connecting and publishing
    #[arg(long, value_name = "MS", default_value_t = 300, help_heading = "Run")]
    pub settle: u64,
    /// Write all figures to this file; - is stdout, and the table goes to stderr
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub json: Option<PathBuf>,
    /// Write a page with charts to this file; - is stdout
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub html: Option<PathBuf>,
    /// No progress, only the table
    #[arg(long, short, help_heading = "Run")]
    pub quiet: bool,
}

impl Scenario {
    fn options(&self) -> Option<&Options> {
        match self {
            Scenario::Connect(options) | Scenario::Broadcast(options) | Scenario::Burst(options) => Some(options),
            Scenario::Storm(options) | Scenario::Echo(options) | Scenario::Floor(options) | Scenario::Fair(options) => Some(options),
            Scenario::Hold { options, .. } | Scenario::Channels { options, .. } | Scenario::Mixed { options, .. } => Some(options),
            Scenario::Churn { options, .. }
            | Scenario::Slow { options, .. }
            | Scenario::Failover { options, .. }
            | Scenario::Outages { options, .. }
            | Scenario::Repair { options, .. }
            | Scenario::Publishers { options, .. }
            | Scenario::Return { options, .. }
            | Scenario::Restart { options, .. }
            | Scenario::Handshakes { options, .. }
            | Scenario::Arrivals { options, .. }
            | Scenario::Reload { options, .. } => Some(options),
            Scenario::FloorServer { .. } => None,
        }
    }

    /// It starts one whether it is told to or not.
    fn has_own_redis(&self) -> bool {
        matches!(self, Scenario::Failover { .. } | Scenario::Restart { .. }) || self.is_of_durable_channels()
    }

    fn is_of_durable_channels(&self) -> bool {
        matches!(self, Scenario::Outages { .. } | Scenario::Repair { .. } | Scenario::Return { .. } | Scenario::Publishers { .. })
    }

    /// What event streams cannot be asked for: their clients say nothing.
    fn problem_of_streams(&self, options: &Options) -> Option<&'static str> {
        let only_reads = matches!(self, Scenario::Connect(_) | Scenario::Hold { .. } | Scenario::Broadcast(_) | Scenario::Burst(_));
        if options.transport == Transport::Ws {
            return options.beside_ws.then_some("--beside-ws stands beside --transport sse");
        }
        let speaks = options.subscribe.is_some() || options.subprotocol.is_some() || options.through == Some(Through::Client);
        if !only_reads {
            Some("--transport sse goes with connect, hold, broadcast and burst")
        } else if speaks {
            Some("with --transport sse clients say nothing: leave --subscribe, --subprotocol and --through client out")
        } else if options.floor {
            Some("the floor's clients are WebSockets: take --beside-ws to hold --transport sse against something")
        } else {
            None
        }
    }

    /// What is wrong with the command line as a whole.
    pub fn problem(&self) -> Option<String> {
        let options = self.options()?;
        let has_floor = matches!(
            self,
            Scenario::Connect(_) | Scenario::Broadcast(_) | Scenario::Burst(_) | Scenario::Channels { .. } | Scenario::Mixed { .. }
        );
        if !(1.0..=3600.0).contains(&options.time) {
            return Some("--time takes 1 to 3600 seconds".to_owned());
        }
        let is_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_stdout);
        if is_stdout(&options.json) && is_stdout(&options.html) {
            return Some("--json - and --html - cannot both go to stdout: give one of them a file".to_owned());
        }
        if options.floor && !has_floor {
            return Some("--floor goes with broadcast, burst, connect, channels and mixed".to_owned());
        }
        let has_two_servers = options.has_two_servers();
        if has_two_servers && !matches!(self, Scenario::Connect(_) | Scenario::Broadcast(_) | Scenario::Burst(_)) {
            return Some("--beside-open, --beside-ws and --beside-plain go with connect, broadcast and burst".to_owned());
        }
        if has_two_servers && options.redis.as_deref().is_some_and(|url| url != "own") {
            return Some("--beside-… gives either server a Redis of its own: take --redis own, or none".to_owned());
        }
        if let Some(problem) = options.tls.problem(options) {
            return Some(problem);
        }
        if let Some(problem) = self.problem_of_streams(options) {
            return Some(problem.to_owned());
        }
        if options.new_tokens && !matches!(self, Scenario::Connect(_)) {
            return Some("--new-tokens goes with connect".to_owned());
        }
        let floor_cores = if options.floor || matches!(self, Scenario::Floor(_)) { &options.floor_cores.0[..] } else { &[] };
        if let Some(core) = options.cores.0.iter().chain(floor_cores).find(|core| !core_exists(**core)) {
            return Some(format!("this process may not run on core {core} (--cores, --floor-cores)"));
        }
        match self {
            Scenario::Hold { hold, .. } if *hold >= options.time => {
                Some(format!("--hold {hold} does not fit into --time {}: give --time {} or more", options.time, hold + 100.0))
            }
            Scenario::Mixed { direct, .. } if *direct > options.clients => {
                Some(format!("--direct {direct} is more than there are clients ({})", options.clients))
            }
            Scenario::Mixed { direct_rate, .. } if *direct_rate == 0.0 => {
                Some("--direct-rate 0 would be a broadcast alone: take broadcast".to_owned())
            }
            Scenario::Mixed { .. } if options.burst.is_some_and(|burst| burst > 1) => {
                Some("mixed sends one broadcast at a time: leave --burst out".to_owned())
            }
            Scenario::Channels { channels, zipf, channels_per_client, .. }
                if options.floor && (*channels != 0 || *zipf != 0.0 || *channels_per_client != 1) =>
            {
                Some("--floor stands beside channels of one client each: leave --channels, --channels-per-client and --zipf out".to_owned())
            }
            Scenario::Channels { channels, channels_per_client, .. } if *channels != 0 && channels_per_client > channels => {
                Some(format!("there are {channels} channels, so no client can have {channels_per_client} (--channels-per-client)"))
            }
            Scenario::Channels { channels_per_client, .. } if u64::from(options.clients) * u64::from(*channels_per_client) > 1 << 30 => {
                Some("that is more subscriptions than a thousand million (--clients times --channels-per-client)".to_owned())
            }
            Scenario::Floor(_) if options.serve.is_some() || options.server_pid.is_some() => {
                Some("floor has no server: leave --serve and --server-pid out, or take broadcast --floor".to_owned())
            }
            Scenario::Reload { .. } if options.serve.is_none() => {
                Some("reload changes the server's file of settings, so it starts one: give --serve ARGS (even --serve '')".to_owned())
            }
            Scenario::Reload { channels, channels_per_client, .. } if channels_per_client > channels => {
                Some(format!("there are {channels} channels, so no client can have {channels_per_client} (--channels-per-client)"))
            }
            Scenario::Failover { .. } if options.serve.is_none() => {
                Some("failover kills the server's Redis, so it starts both: give --serve ARGS (even --serve '')".to_owned())
            }
            Scenario::Failover { .. } if options.redis.as_deref().is_some_and(|url| url != "own") => {
                Some("failover starts its own Redis and kills that one: leave --redis away".to_owned())
            }
            Scenario::Failover { .. } if options.through.is_some_and(|through| through != Through::Redis) => {
                Some("failover publishes through Redis: leave --through away".to_owned())
            }
            _ if self.is_of_durable_channels() && options.serve.is_none() => {
                Some("this scenario needs a server and a Redis that it has started: give --serve ARGS (even --serve '')".to_owned())
            }
            _ if self.is_of_durable_channels()
                && (options.redis.as_deref().is_some_and(|url| url != "own")
                    || options.through.is_some_and(|way| way != Through::Redis)) =>
            {
                Some("this scenario starts its own Redis and publishes through it: leave --redis and --through away".to_owned())
            }
            Scenario::Outages { channels, .. } if *channels > options.clients => {
                Some(format!("there are {} clients, so no more than as many channels (--channels {channels})", options.clients))
            }
            Scenario::Repair { channels, channels_per_client, .. }
                if u64::from(options.clients) * u64::from(*channels_per_client) < u64::from(*channels)
                    || channels_per_client > channels =>
            {
                Some(format!(
                    "{} clients with {channels_per_client} channels each do not have {channels} (--clients, --channels-per-client, --channels)",
                    options.clients
                ))
            }
            Scenario::Repair { cluster: true, missed: 1.., .. } => Some(
                "--cluster is about subscribing again, as a Cluster cannot cut off and publish in one step: give --missed 0".to_owned(),
            ),
            Scenario::Return { stay, channels, .. } if u64::from(*stay) + u64::from(*channels) > u64::from(options.clients) => {
                Some(format!("of {} clients {stay} stay, which leaves fewer than --channels {channels} to come back", options.clients))
            }
            Scenario::Arrivals { stay, .. } if *stay >= options.clients => {
                Some(format!("of {} clients {stay} stay, which leaves none to arrive (--clients, --stay)", options.clients))
            }
            Scenario::Restart { .. } if options.serve.is_none() => {
                Some("restart replaces the server, so it starts both: give --serve ARGS (even --serve '')".to_owned())
            }
            Scenario::Restart { .. } if options.auth.is_some() => {
                Some("restart has no keys for its second server: leave --auth away".to_owned())
            }
            Scenario::Restart { .. } if options.through.is_some_and(|through| through != Through::Redis) => {
                Some("restart publishes through Redis, which both servers have: leave --through away".to_owned())
            }
            _ if options.durable && options.redis.is_none() && !self.has_own_redis() => {
                Some("--durable publishes by a function of Redis: give --redis URL or --redis own".to_owned())
            }
            _ if options.through == Some(Through::Redis) && options.redis.is_none() && !self.has_own_redis() => {
                Some("--through redis needs --redis URL or --redis own".to_owned())
            }
            _ => None,
        }
    }
}

impl Options {
    /// The same server stands beside the one that is measured.
    pub fn has_two_servers(&self) -> bool {
        self.beside_open || self.beside_ws || self.tls.beside_plain
    }
}

fn core_exists(core: usize) -> bool {
    core_affinity::get_core_ids().is_none_or(|ids| ids.iter().any(|id| id.id == core))
}

/// `--json -`, `--html -`.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

#[cfg(test)]
mod tests;
