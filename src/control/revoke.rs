//! `POST /revoke`: tokens that are honoured no more, by this process at once and by the other nodes as soon as Redis has it; and the tasks that keep it so.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::{self, Problem};
use super::orders::NoAnswer;
use super::{State, body};
use crate::auth::revoked::{Entered, Revocation, is_name};
use crate::bus::BusCommand;
use crate::bus::order::Order;
use crate::bus::revoke::{Revoke, RevokeError};
use crate::config::AuthMode;
use crate::limits::auth::REVOKED_MAX;
use crate::sys::unix_ms;

const ACCEPTED: &str = "a JSON object with \"token\": the jti of a token, or \"user\": NAME with \"issued_before\": Unix time in seconds (all until now, if left \
                        out); each of 1 to 256 bytes; beside it \"ttl\": for how many seconds, up to 34560000 (2592000 if left out, 30 days)";
/// For how long where nobody says: longer than most tokens live.
const TTL_DEFAULT_S: u64 = 30 * 86_400;
const TTL_MAX_S: u64 = 400 * 86_400;
/// Clocks may be apart; beyond that, tokens would be refused that are still to be made.
const FUTURE_MAX_S: u64 = 60;
/// Redis is tried again after this long, while a request waits and while nobody does.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_ALONE: Duration = Duration::from_secs(1);
/// Stored at a time where nobody waits.
const STORED_AT_A_TIME: usize = 64;
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How often it is said that Redis does not take them.
const WARNING: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    token: Option<String>,
    user: Option<String>,
    issued_before: Option<u64>,
    ttl: Option<u64>,
}

pub(super) async fn revoke(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    if state.settings.auth.mode != AuthMode::Jwt {
        return Err(Problem::bad_request(
            "no client is asked for a token here, so there is none to be revoked",
            "a server with auth = \"jwt\"",
        ));
    }
    let now_s = unix_ms() / 1000;
    let (revocation, ttl_s) = read(body::json(&state, request, ACCEPTED).await?, now_s)?;
    if state.revocations.table.enter(&revocation, now_s + ttl_s, true) == Entered::Full {
        let error = format!("{REVOKED_MAX} revocations are kept already; give shorter ttls, revoke by user, or change the keys");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error));
    }
    // The other nodes do not wait for a shard of this one that is slow.
    let (closed, stored) = tokio::join!(close(&state), store_patiently(&state, &revocation));
    let count: usize = closed.iter().flatten().sum();
    let late = closed.iter().any(Result::is_err);
    if late {
        // Also what a shard has not taken is done.
        state.revocations.news.notify_one();
    }
    let here = format!("this node honours it already ({count} disconnected)");
    match stored {
        Ok(()) if late => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("it is revoked, but not every shard has ended its connections yet ({count} ended)"),
        )),
        Ok(()) => {
            let until = state.revocations.table.end_s(&revocation);
            Ok(answer::json(StatusCode::OK, json!({ "disconnected": count, "until": until })))
        }
        Err(RevokeError::Unavailable) => {
            let error = format!("Redis cannot be reached: {here}, the others as soon as Redis takes it; it is tried again until then");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error))
        }
        Err(refused @ RevokeError::Refused(_)) => {
            Err(Problem::new(StatusCode::BAD_GATEWAY, format!("{here}, the others do not: {refused}")))
        }
    }
}

fn read(wanted: Wanted, now_s: u64) -> Result<(Revocation, u64), Problem> {
    let refuse = |error: &str| Problem::bad_request(error, ACCEPTED);
    let ttl_s = wanted.ttl.unwrap_or(TTL_DEFAULT_S);
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(refuse("\"ttl\" is out of range"));
    }
    let revocation = match (wanted.token, wanted.user, wanted.issued_before) {
        (Some(token), None, None) => Revocation::Token(token),
        (None, Some(_), Some(issued_before)) if issued_before > now_s + FUTURE_MAX_S => {
            return Err(refuse("\"issued_before\" is in the future"));
        }
        (None, Some(user), issued_before) => Revocation::User { user, issued_before_s: issued_before.unwrap_or(now_s + 1) },
        (Some(_), Some(_), _) => return Err(refuse("both \"token\" and \"user\" are given")),
        (Some(_), None, Some(_)) => return Err(refuse("\"issued_before\" is for a user")),
        (None, None, _) => return Err(refuse("nobody is named")),
    };
    match &revocation {
        Revocation::Token(name) | Revocation::User { user: name, .. } if !is_name(name) => Err(refuse("that cannot be a name")),
        _ => Ok((revocation, ttl_s)),
    }
}

/// Ends whoever is connected with what is revoked; how many, by shard.
async fn close(state: &State) -> Vec<Result<usize, NoAnswer>> {
    state.orders.all(state.timeouts.bus, |reply| Order::CloseRevoked { reply }).await
}

async fn store_patiently(state: &State, revocation: &Revocation) -> Result<(), RevokeError> {
    let deadline = Instant::now() + state.timeouts.bus;
    loop {
        match store(state, revocation).await {
            Err(RevokeError::Unavailable) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            result => return result,
        }
    }
}

/// Stores one where all nodes find it.
async fn store(state: &State, revocation: &Revocation) -> Result<(), RevokeError> {
    let Some(until_s) = state.revocations.table.end_s(revocation) else { return Ok(()) };
    let (reply, answered) = oneshot::channel();
    let revoke = Revoke { revocation: revocation.clone(), until_s, reply };
    state.bus.send(BusCommand::Revoke(revoke)).map_err(|_| RevokeError::Unavailable)?;
    let answer = tokio::time::timeout(state.timeouts.bus, answered).await;
    answer.ok().and_then(Result::ok).unwrap_or(Err(RevokeError::Unavailable))?;
    state.revocations.table.note_stored(revocation);
    Ok(())
}

/// Starts what goes on as long as the server runs, where there are tokens.
pub(super) fn keep(state: &Arc<State>) {
    if state.settings.auth.mode == AuthMode::Jwt {
        tokio::spawn(heed(state.clone()));
        tokio::spawn(store_all(state.clone()));
        tokio::spawn(sweep(state.clone()));
    }
}

/// What other nodes have revoked ends connections here. However many that are, one walk is for all of them.
async fn heed(state: Arc<State>) {
    loop {
        state.revocations.news.notified().await;
        while close(&state).await.contains(&Err(NoAnswer::Refused)) && !state.stopping() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What Redis has not taken yet, or may have lost, is tried until it has.
async fn store_all(state: Arc<State>) {
    let mut warned: Option<Instant> = None;
    let mut has_more = false;
    loop {
        if !has_more {
            tokio::time::sleep(RETRY_ALONE).await;
        }
        let unstored = state.revocations.table.unstored(STORED_AT_A_TIME);
        has_more = unstored.len() == STORED_AT_A_TIME;
        for (revocation, _) in unstored {
            match store(&state, &revocation).await {
                Ok(()) => {}
                Err(error) => {
                    if warned.is_none_or(|at| at.elapsed() >= WARNING) {
                        warned = Some(Instant::now());
                        tracing::warn!("a revocation is honoured by this node alone: {error}; it is tried again until the others know it");
                    }
                    has_more = false;
                    break;
                }
            }
        }
    }
}

async fn sweep(state: Arc<State>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if !state.revocations.table.is_empty() {
            state.revocations.table.sweep(unix_ms() / 1000);
        }
    }
}
