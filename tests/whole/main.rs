//! End to end: the whole server, as a process, with sockets, clients, Redis and proxies that are real. One program for all of them, because each
//! would cost ten seconds of compiling and linking; `cargo nextest run --test whole history` runs those of one file.

mod articles;
mod bad_input;
mod balancers;
mod clients;
mod cluster;
mod durable;
mod durable_embedded;
mod early;
mod examples;
mod feeds;
mod history;
mod host;
mod hostile;
mod jwks;
mod listeners;
mod metrics;
mod operator;
mod presence;
mod quotas;
mod readme;
mod redis;
mod redis_tls;
mod reload;
mod restart;
mod sentinel;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod tls;
mod tokens;
mod unread;
