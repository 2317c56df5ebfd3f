//! Reload: the sources of the settings are read again, and what of them can change while the server runs is put into force everywhere, as one snapshot; or all
//! stays as it is, and the log says why. Asked for by SIGHUP, by `POST /reload`, and by `watch` when a file has changed.
//!
//! Invariants: one reload after the other; what is in force has passed every check together; every shard gets every snapshot, however full its inbox is.
//! Certificates are a part of the snapshot, as the gate is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::sync::Notify;

use super::hosts::Hosts;
use super::token::Token;
use super::watch::Look;
use super::{State, answer, body};
use crate::auth::Gate;
use crate::auth::keys::Keys;
use crate::auth::token::Wanted;
use crate::bus::BusCommand;
use crate::bus::order::Order;
use crate::bus::settings::HubSettings;
use crate::config::changes::{self, Change};
use crate::config::layers::FILE_NAME;
use crate::config::problem::{Problem, Severity};
use crate::config::{FileChoice, Host, Settings, Sources, load};
use crate::listen::Address;
use crate::shard::by_address::ByAddress;
use crate::systemd::Notifier;
use crate::tls::acceptor::Acceptor;
use crate::tls::tickets::Tickets;

/// What a server was started with, for reading it again.
#[derive(Debug)]
pub struct Origin {
    pub sources: Sources,
    pub host: Host,
    /// As they were read: with `listen` as it was typed, whatever sockets systemd gave.
    pub settings: Settings,
    /// Of the settings, and what they come to.
    pub keys: Keys,
    /// From `jwks_url`, where they were fetched before the start.
    pub fetched: Keys,
    pub gate: Gate,
    pub acceptor: Option<Arc<Acceptor>>,
    pub tickets: Arc<Tickets>,
    /// Where shards say that a key is missing.
    pub wanted: Arc<Wanted>,
    pub addresses: Arc<ByAddress>,
}

#[cfg(test)]
impl Origin {
    /// Settings that came from nowhere.
    pub(super) fn of(settings: Settings) -> Origin {
        let addresses = Arc::new(ByAddress::new(&settings.bounds));
        let host = Host { cores: vec![0], descriptors_soft: 1024, descriptors_hard: 1024, private_refused: None };
        let sources = Sources { file: FileChoice::None, environment: Vec::new(), flags: Vec::new() };
        Origin {
            sources,
            host,
            settings,
            keys: Keys::default(),
            fetched: Keys::default(),
            gate: Gate::Open,
            acceptor: None,
            tickets: crate::config::tls::tickets().unwrap(),
            wanted: Arc::default(),
            addresses,
        }
    }
}

/// A snapshot of all that a reload may change.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) settings: Arc<Settings>,
    pub(super) hosts: Hosts,
    /// What a request must bring; None: nothing.
    pub(super) token: Option<Token>,
    gate: Gate,
    /// None: no listener speaks TLS.
    pub(super) acceptor: Option<Arc<Acceptor>>,
    own: Keys,
    /// From `jwks_url`.
    fetched: Keys,
}

impl InForce {
    fn new(settings: Settings, control: &Address, parts: Access) -> InForce {
        let Access { gate, acceptor, own, fetched } = parts;
        InForce {
            hosts: Hosts::new(control, &settings.addresses.control_hosts),
            token: settings.addresses.control_token.as_deref().map(Token::new),
            settings: Arc::new(settings),
            gate,
            acceptor,
            own,
            fetched,
        }
    }

    /// Whether tokens are asked for, and there is no key to verify one by.
    fn lacks_keys(&self) -> bool {
        matches!(&self.gate, Gate::Tokens(verifier) if verifier.keys().is_empty())
    }

    /// How many keys tokens are verified by.
    pub(super) fn keys(&self) -> usize {
        match &self.gate {
            Gate::Tokens(verifier) => verifier.keys().len(),
            Gate::Open | Gate::Query | Gate::Certificate => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Reload {
    sources: Sources,
    host: Host,
    /// The keys of session tickets, whatever certificates there are.
    pub(super) tickets: Arc<Tickets>,
    pub(super) wanted: Arc<Wanted>,
    addresses: Arc<ByAddress>,
    in_force: Mutex<Arc<InForce>>,
    /// Some shard may still have no key to verify a token by.
    lacks_keys: AtomicBool,
    /// Whoever reloads wants the keys as they are published now: one may have been taken back.
    pub(super) fetch_asked: AtomicBool,
    /// One after the other.
    turn: tokio::sync::Mutex<()>,
    /// The files as they were when they were read last.
    pub(super) looked: Mutex<Look>,
    notifier: OnceLock<Arc<Notifier>>,
    pub(super) tally: Tally,
}

/// Written by the control thread.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) good: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Of the last that was good, or of the start.
    pub(super) good_unix_ms: AtomicU64,
    pub(super) fetched: AtomicU64,
    pub(super) fetch_failed: AtomicU64,
    /// 0: never.
    pub(super) fetched_unix_ms: AtomicU64,
    /// Why the last one failed, if the last one did.
    error: Mutex<Option<String>>,
}

impl Tally {
    pub(super) fn error(&self) -> Option<String> {
        lock(&self.error).clone()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reload has changed, and what it could not.
#[derive(Debug, Default)]
pub(super) struct Report {
    changes: Vec<Change>,
    has_other_keys: bool,
    warnings: Vec<String>,
}

/// Why all stays as it is, a line for each reason.
type Failure = Vec<String>;

impl Reload {
    pub(super) fn new(origin: Origin, control: &Address) -> Reload {
        let Origin { sources, host, settings, keys, fetched, gate, acceptor, tickets, wanted, addresses } = origin;
        let looked = Look::at(&files(&sources, &settings));
        let in_force = InForce::new(settings, control, Access { gate, acceptor, own: keys, fetched });
        let lacks_keys = AtomicBool::new(in_force.lacks_keys());
        let tally = Tally { good_unix_ms: AtomicU64::new(crate::sys::unix_ms()), ..Tally::default() };
        Reload {
            sources,
            host,
            tickets,
            wanted,
            addresses,
            in_force: Mutex::new(Arc::new(in_force)),
            lacks_keys,
            fetch_asked: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(()),
            looked: Mutex::new(looked),
            notifier: OnceLock::new(),
            tally,
        }
    }

    pub(super) fn in_force(&self) -> Arc<InForce> {
        lock(&self.in_force).clone()
    }

    /// Why nobody can come in, if nobody can: there is no key yet.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        self.lacks_keys.load(Relaxed).then_some("no keys have been fetched from jwks_url yet; the log says why")
    }

    /// Those that a change of which is a reason to read all again.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        files(&self.sources, &self.in_force().settings)
    }

    pub(super) fn tell_systemd(&self, notifier: Arc<Notifier>) {
        let _ = self.notifier.set(notifier);
    }
}

fn files(sources: &Sources, settings: &Settings) -> Vec<PathBuf> {
    let file = match &sources.file {
        FileChoice::None => None,
        FileChoice::IfPresent => Some(PathBuf::from(FILE_NAME)),
        FileChoice::Named { path, .. } => Some(path.clone()),
    };
    file.into_iter().chain(settings.auth.key_files.iter().cloned()).chain(settings.tls.files().cloned()).collect()
}

/// Reads everything and finds out what would be in force; nothing is changed yet.
fn read(reload: &Reload) -> Result<(Settings, Access, Report), Failure> {
    let before = reload.in_force();
    let running = &*before.settings;
    let lines =
        |problems: &[Problem], severity| problems.iter().filter(move |problem| problem.severity == severity).map(Problem::line).collect();
    // A file that is gone or empty says nothing, and nothing is not what was meant: rules, keys and limits would go with it.
    if let Some(file) = files(&reload.sources, running).first().filter(|_| reload.sources.file != FileChoice::None) {
        let length = std::fs::metadata(file).map(|metadata| metadata.len());
        if lock(&reload.looked).had(file) && !matches!(length, Ok(1..)) {
            return Err(vec![format!("{} is {} now", file.display(), if length.is_ok() { "empty" } else { "gone" })]);
        }
    }
    let found = load(&reload.sources, Some(&reload.host)).map_err(|problems| lines(&problems, Severity::Error))?;
    let settings = changes::apply(running, &found.settings);
    if settings != found.settings {
        // What waits for a restart stays, and what comes into force must fit that.
        let problems = found.origins.check(&settings, &reload.host);
        let errors: Failure = lines(&problems, Severity::Error);
        if !errors.is_empty() {
            return Err(errors.into_iter().map(|error| format!("with what only a restart changes as it is: {error}")).collect());
        }
    }
    let fetched = if settings.auth.jwks_url == running.auth.jwks_url { before.fetched.clone() } else { Keys::default() };
    let own = settings.auth.own_keys().map_err(|error| vec![format!("{error:#}")])?;
    let gate = settings.auth.gate_of(&own, &fetched, reload.wanted.clone()).map_err(|error| vec![format!("{error:#}")])?;
    let (gate, has_other_keys) = unless_like(&before.gate, gate);
    let acceptor = settings.tls.acceptor(&reload.tickets).map_err(|error| vec![format!("{error:#}")])?;
    let warnings = lines(&found.warnings, Severity::Warning);
    let changes = changes::between(running, &found.settings);
    Ok((settings, Access { gate, acceptor, own, fetched }, Report { changes, has_other_keys, warnings }))
}

/// How clients say who they are, and by which keys; and how TLS sessions begin.
struct Access {
    gate: Gate,
    acceptor: Option<Arc<Acceptor>>,
    own: Keys,
    fetched: Keys,
}

/// The gate as it was where it would be the same: what shards remember of tokens is good then. Whether its keys are others.
fn unless_like(before: &Gate, gate: Gate) -> (Gate, bool) {
    match (before, &gate) {
        (Gate::Tokens(old), Gate::Tokens(new)) => {
            let has_same_keys = old.keys().is_like(new.keys());
            let is_like = has_same_keys && old.policy() == new.policy() && old.asks() == new.asks();
            (if is_like { before.clone() } else { gate }, !has_same_keys)
        }
        _ => (gate, false),
    }
}

/// A whole reload. `why` is for the log.
pub(super) async fn reload(state: &Arc<State>, why: &str) -> Result<Report, Failure> {
    let reload = &state.reload;
    let _turn = reload.turn.lock().await;
    if let Some(notifier) = reload.notifier.get() {
        let now = NotifyState::monotonic_usec_now().ok();
        notifier.tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
    }
    // Before they are read: what changes in the meantime is seen.
    let look = Look::aside(reload.files()).await;
    let reading = state.clone();
    let read = tokio::task::spawn_blocking(move || read(&reading.reload)).await;
    let outcome = match read.unwrap_or_else(|_| Err(vec!["reading the settings panicked; this is a bug, please report it".to_owned()])) {
        Ok((settings, access, report)) => {
            install(state, settings, access).await;
            let look = look.and(reload.files()).await;
            *lock(&reload.looked) = look;
            reload.fetch_asked.store(true, Relaxed);
            Ok(report)
        }
        Err(failure) => {
            lock(&reload.looked).update(&look);
            Err(failure)
        }
    };
    note(reload, why, &outcome);
    if let Some(notifier) = reload.notifier.get() {
        notifier.tell(&[NotifyState::Ready]);
    }
    outcome
}

/// Keys have been fetched from this URL. They come into force with all else as it is. True: they are others than before.
pub(super) async fn take_fetched(state: &Arc<State>, url: &str, fetched: Keys) -> Result<bool, String> {
    let reload = &state.reload;
    let _turn = reload.turn.lock().await;
    let before = reload.in_force();
    let auth = &before.settings.auth;
    if before.fetched.is_like(&fetched) || auth.jwks_url.as_deref() != Some(url) {
        return Ok(false);
    }
    let gate = auth.gate_of(&before.own, &fetched, reload.wanted.clone()).map_err(|error| format!("{error:#}"))?;
    install(state, (*before.settings).clone(), Access { gate, acceptor: before.acceptor.clone(), own: before.own.clone(), fetched }).await;
    Ok(true)
}

/// Puts a snapshot into force: here, on the bus, and on every shard.
async fn install(state: &Arc<State>, settings: Settings, access: Access) {
    let (gate, acceptor) = (access.gate.clone(), access.acceptor.clone());
    state.reload.addresses.set_limits(&settings.bounds);
    let in_force = Arc::new(InForce::new(settings, &state.facts.control, access));
    *lock(&state.reload.in_force) = in_force.clone();
    state.reload.lacks_keys.fetch_or(in_force.lacks_keys(), Relaxed);
    let mut command = BusCommand::Reload(Box::new(HubSettings::from(&*in_force.settings)));
    while let Err(back) = state.bus.send(command) {
        if state.stopping() {
            return;
        }
        command = back;
        tokio::time::sleep(RETRY).await;
    }
    // Shards verify tokens and need no secret to do so.
    let mut settings = (*in_force.settings).clone();
    (settings.auth.secret, settings.addresses.control_token) = (None, None);
    let settings = Arc::new(settings);
    let mut left: Vec<usize> = (0..state.orders.shards()).collect();
    while !left.is_empty() && !state.stopping() {
        for shard in std::mem::take(&mut left) {
            let order = |reply| Order::Reload { settings: settings.clone(), gate: gate.clone(), acceptor: acceptor.clone(), reply };
            match state.orders.one(shard, PATIENCE, order).await {
                Ok(forgotten) => drop(tokio::task::spawn_blocking(move || drop(forgotten))),
                // A shard that is told twice goes by the same.
                Err(_) => left.push(shard),
            }
        }
    }
    // Who is told that this server is ready comes to any of the shards.
    state.reload.lacks_keys.store(in_force.lacks_keys(), Relaxed);
}

/// Before a full inbox is tried again.
const RETRY: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(1);

fn note(reload: &Reload, why: &str, outcome: &Result<Report, Failure>) {
    match outcome {
        Ok(report) => {
            reload.tally.good.fetch_add(1, Relaxed);
            reload.tally.good_unix_ms.store(crate::sys::unix_ms(), Relaxed);
            *lock(&reload.tally.error) = None;
            let (live, waiting): (Vec<&Change>, Vec<&Change>) = report.changes.iter().partition(|change| change.is_live);
            let keys = report.has_other_keys.then(|| "other keys".to_owned());
            let texts: Vec<String> = live.iter().map(|change| change.to_string()).chain(keys).collect();
            let changed = if texts.is_empty() { "nothing has changed".to_owned() } else { texts.join("; ") };
            tracing::info!("reload ({why}): {changed}");
            for change in waiting {
                tracing::warn!("reload ({why}): only a restart changes {change}");
            }
            for warning in &report.warnings {
                tracing::warn!("reload ({why}): {warning}");
            }
        }
        Err(failure) => {
            reload.tally.failed.fetch_add(1, Relaxed);
            *lock(&reload.tally.error) = Some(failure.join("\n"));
            for line in failure {
                tracing::error!("reload ({why}) failed, all stays as it is: {line}");
            }
        }
    }
}

/// SIGHUP, each time; a flood of them is one.
pub(super) async fn obey_hangups(state: Arc<State>, hangups: Arc<Notify>) {
    loop {
        hangups.notified().await;
        let _ = reload(&state, "SIGHUP").await;
    }
}

/// `POST /reload`.
pub(super) async fn post(Shared(state): Shared<Arc<State>>, request: axum::extract::Request) -> Result<Response, answer::Problem> {
    /// Nothing is asked.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        /// Only say what a reload would do.
        #[serde(default)]
        check: bool,
    }
    let asked: Asked = body::json(&state, request, "nothing, or {\"check\": true} to be told only what a reload would change").await?;
    let outcome = if asked.check {
        let reading = state.clone();
        let read = tokio::task::spawn_blocking(move || read(&reading.reload)).await;
        read.unwrap_or_else(|error| Err(vec![error.to_string()])).map(|(_, _, report)| report)
    } else {
        // It goes on if nobody waits any more.
        let reloading = state.clone();
        let done = tokio::spawn(async move { reload(&reloading, "POST /reload").await });
        match tokio::time::timeout(state.timeouts.request, done).await {
            Ok(done) => done.unwrap_or_else(|error| Err(vec![error.to_string()])),
            Err(_) => {
                let error = "a shard has not taken the new settings yet; the reload goes on";
                return Err(answer::Problem::new(StatusCode::GATEWAY_TIMEOUT, error));
            }
        }
    };
    Ok(match outcome {
        Ok(report) => {
            let told = |is_live: bool| -> Vec<serde_json::Value> {
                let of_kind = report.changes.iter().filter(|change| change.is_live == is_live);
                of_kind.map(|change| json!({"setting": change.what, "from": change.from, "to": change.to})).collect()
            };
            let body = json!({
                "reloaded": !asked.check,
                "changes": told(true),
                "keys_changed": report.has_other_keys,
                "needs_restart": told(false),
                "warnings": report.warnings,
            });
            answer::json(StatusCode::OK, body)
        }
        Err(failure) => {
            let body = json!({"reloaded": false, "error": "the settings cannot be used; all stays as it is", "problems": failure});
            answer::json(StatusCode::UNPROCESSABLE_ENTITY, body).into_response()
        }
    })
}
