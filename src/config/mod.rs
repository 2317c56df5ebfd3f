//! Settings: as typed (file, environment, flags), then checked.
//!
//! [`crate::cli`] calls [`load`] once at start; everybody else only reads the [`Settings`] it gives. Invariant: what `load` gives
//! back has passed every check of [`table`] (each value alone) and of [`mod@check`] (values together), so readers need no checks.
//!
//! The way of a value: [`table`] knows its names, its default and how its text is read; [`layers`] lays file ([`mod@file`]), environment and
//! flags over the defaults, into [`settings`], the [`rules`] of channels and the [`routes`] between them; [`problem`] says what is wrong and where, [`mask`] what of it may be shown; [`mod@print`] writes the
//! table out, [`effective`] what is in force, [`changes`] what a reload changes; `auth` makes of the settings of tokens what shards ask, `tls` of those of TLS what they begin sessions with; [`host`] and [`fd_table`] hold the settings against the host.

mod auth;
pub mod changes;
pub mod check;
mod covering;
mod defaults;
pub mod effective;
pub mod fd_table;
pub mod file;
pub mod host;
pub mod layers;
pub mod listen_url;
pub mod log_filter;
pub mod mask;
pub mod parse;
pub mod print;
pub mod problem;
pub mod redis_url;
pub mod routes;
mod rows;
pub mod rules;
pub mod settings;
pub mod table;
pub mod tls;
pub mod words;

pub use fd_table::{Resolved, resolve_fd_table};
pub use host::Host;
pub use layers::{FileChoice, Loaded, Origins, Sources, load};
pub use log_filter::LogFilter;
pub use routes::Route;
pub use rules::{ChannelRule, ChannelRules, Selector, SharedRules};
pub use settings::{Auth, Bounds, Clients, Pin, RedisTls, Settings, Share, Tls};
pub use words::{AuthMode, FdTable, Fsync, LogFormat, Mismatch, Overrun, PubSub, PubSubFrom, RedisSubscribe, TlsSessions, UserPresence};
