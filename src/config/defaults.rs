//! The defaults, as values. [`super::table`] shows them as text, so each stands here and nowhere else.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::settings::{Addresses, Auth, Bounds, Clients, Journal, Logging, Redis, Shards, Tls};
use super::{
    AuthMode, ChannelRule, FdTable, Fsync, LogFilter, LogFormat, Mismatch, Overrun, Pin, PubSub, PubSubFrom, RedisSubscribe, Share,
    TlsSessions, UserPresence,
};
use crate::addresses::Networks;
use crate::auth::rules::Access;
use crate::limits::SHARDS_MAX;
use crate::listen::Listener;
use crate::tls::Version;
use crate::tls::acceptor::ClientAuth;
use crate::wire::Format;
use crate::wire::payload::Expect;

/// One shard per core that this process may run on (cgroup quota and affinity mask counted).
pub fn shards_auto() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX)
}

impl Default for Addresses {
    fn default() -> Addresses {
        Addresses {
            // Loopback only: a server that nobody configured is not open to the network.
            listen: vec![Listener::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))],
            trusted_proxies: Networks::default(),
            control: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)).into(),
            control_token: None,
            control_hosts: Vec::new(),
            reload_on_change: true,
        }
    }
}

impl Default for Tls {
    fn default() -> Tls {
        Tls {
            certs: Vec::new(),
            keys: Vec::new(),
            min_version: Version::Tls12,
            suites: Vec::new(),
            client_auth: ClientAuth::No,
            client_ca: None,
            ticket_keys: None,
            sessions: TlsSessions::Compact,
        }
    }
}

impl Default for Redis {
    fn default() -> Redis {
        Redis {
            url: None,
            beside: Vec::new(),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            prefix: "notifications:".to_owned(),
            channels: vec!["notifications".to_owned()],
            subscribe: RedisSubscribe::Exact,
            pubsub: PubSub::Classic,
            pubsub_from: PubSubFrom::Master,
            durable_wait: 0,
            linger: Duration::from_secs(10),
            bus_rest: Duration::from_millis(2),
            presence_lease: Duration::from_secs(30),
        }
    }
}

impl Default for Journal {
    fn default() -> Journal {
        Journal { data_dir: None, fsync: Fsync::Interval }
    }
}

impl Default for Shards {
    fn default() -> Shards {
        Shards {
            count: shards_auto(),
            pin: Pin::Auto,
            fd_table: FdTable::Auto,
            inbox_messages: 16 << 10,
            // The kernel takes the smaller of this and net.core.somaxconn.
            backlog: 65_535,
            notsent_bytes: 16 << 10,
        }
    }
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            format: Format::Json,
            heartbeat: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            shutdown_timeout: Duration::from_secs(30),
            drain_rate: 5000,
            echo: false,
            deflate: false,
            // Resetting the compressor takes 2 us, whatever the message; below this that is most of what it costs.
            deflate_min_bytes: 512,
            // Higher ones take as long or longer, and gain a hundredth.
            deflate_level: 2,
            // Safari 15 goes on with its context though it was told not to, and up to 17 some servers lose it; iPhones say so otherwise.
            deflate_exclude: ["Version/15.", "Version/16.", "Version/17.", "OS 15_", "OS 16_", "OS 17_"].map(str::to_owned).into(),
            allow_client_publish: false,
            user_presence: UserPresence::None,
        }
    }
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            mode: AuthMode::None,
            secret: None,
            key_files: Vec::new(),
            jwks_url: None,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            warning: Duration::from_secs(60),
            // A token with some tens of channels has half of that, and the largest that is signed takes some microseconds to read.
            token_bytes_max: 4 << 10,
            cookie: None,
            origins: Vec::new(),
            user_channel: false,
        }
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            connections_max: 100_000,
            connections_per_address: None,
            accepts_per_address: None,
            accepts_per_second: None,
            admission_lag: Some(Duration::from_millis(500)),
            // Histories fill logs on purpose.
            admission_logs: None,
            admission_memory: Some(3),
            admission_unready: false,
            head_bytes_max: 8 << 10,
            commands_per_second: Some(1000),
            publishes_per_connection: None,
            publishes_per_user: None,
            subscriptions_max: 128,
            channels_max: 200_000,
            channels_per_address: Share::Auto,
            message_bytes_max: 64 << 10,
            payload_bytes_max: 1 << 20,
            log_bytes_total: 1 << 30,
            buffer_bytes_total: 256 << 20,
            inbox_bytes_total: 256 << 20,
            history_bytes_total: 256 << 20,
        }
    }
}

impl Default for Logging {
    fn default() -> Logging {
        Logging { format: LogFormat::Text, level: LogFilter::default() }
    }
}

impl Default for ChannelRule {
    fn default() -> ChannelRule {
        ChannelRule {
            subscribe: Access::Auto,
            publish: Access::Auto,
            raw_publish: false,
            publishes_per_second: None,
            overrun: Overrun::Disconnect,
            payload: Expect::Auto,
            mismatch: Mismatch::Opaque,
            max_rate: None,
            coalesce: Duration::ZERO,
            broadcast_budget: None,
            log_bytes: 1 << 20,
            history_count: 0,
            history_age: Duration::from_secs(300),
            durable: false,
            presence: false,
            presence_members: 0,
            presence_ask: Access::Auto,
        }
    }
}
