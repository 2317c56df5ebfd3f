//! Campanile takes each message once, from Redis, and puts it on every subscribed socket of one Linux host.
//!
//! The folders follow the way a message takes. Read them in this order:
//!
//! 1. [`bus`]: one thread reads Redis (or the embedded bus), numbers each message and groups what one read brought
//!    by channel into a [`fanout::batch::Batch`].
//! 2. [`inbox`]: the batch is handed, shared and immutable, to every shard that has a subscriber.
//! 3. [`fanout`]: a shard appends it to the channel's log; a subscription is a cursor into that log.
//! 4. [`shard`]: the loop that owns the sockets: accept, read, append, flush, reap.
//! 5. [`wire`]: what the bytes mean: HTTP head, WebSocket frames, commands and events.
//!
//! [`server`] starts the threads and ends them. Around them:
//!
//! * [`auth`]: who a client is, by its token
//! * [`tls`]: who listens encrypted, and what is kept of it
//! * [`config`]: settings as typed, then checked; [`limits`]: every bound that is not one, named
//! * [`listen`]: which sockets an address stands for; [`systemd`]: readiness, watchdog, given sockets
//! * [`journal`]: durable channels of the embedded bus, in memory and in files
//! * [`control`]: HTTP for operators; [`metrics`]: counters that one thread writes and others read
//! * [`few`]: lists that mostly have one thing, [`paged`]: tables that grow by pages, [`by_name`]: of what has a name, the channels
//! * [`addresses`]: whose quota a connection counts in
//! * [`life`]: serving, draining, stopping
//! * [`clock`]: how time is counted; [`rate`]: how often something may happen; [`release`]: when memory is given back; [`alarm`]: when a sleep ends; [`named`]: enums whose variants have names
//! * [`client`]: a client of such a server, blocking; [`trust`]: which servers are believed over TLS
//! * [`cli`]: the commands; [`doctor`]: whether a host has what is needed
//! * [`sys`]: the only unsafe code

pub mod addresses;
pub mod alarm;
pub mod auth;
pub mod bus;
pub mod by_name;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod doctor;
pub mod fanout;
pub mod few;
pub mod inbox;
pub mod journal;
pub mod life;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod named;
pub mod paged;
pub mod rate;
pub mod release;
pub mod server;
pub mod shard;
pub mod sys;
pub mod systemd;
pub mod tls;
pub mod trust;
pub mod wire;
