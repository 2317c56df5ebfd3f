//! What the end-to-end tests share: a real server, a real Redis, clients of our own. Each test file uses a part of it.

#![allow(dead_code)]

pub mod certificates;
pub mod chromium;
pub mod client;
pub mod crowd;
pub mod frames;
pub mod languages;
pub mod redis;
pub mod seccomp;
pub mod server;
pub mod tls;
pub mod topology;
