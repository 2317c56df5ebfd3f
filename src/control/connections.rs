//! `GET /connections`: who is connected to this process, a page at a time. Asks one shard after the other.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::answer::{self, Problem};
use super::orders::NoAnswer;
use crate::bus::order::{Order, Seen, Who};
use crate::limits::PAGE_TEXT_BYTES_MAX;
use crate::limits::control::PAGE_CONNECTIONS_MAX;

const PAGE_CONNECTIONS_DEFAULT: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    user: Option<String>,
    token: Option<String>,
    channel: Option<String>,
    from: Option<String>,
    limit: Option<usize>,
}

/// Where a page begins: which shard, which of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    shard: usize,
    slot: usize,
}

impl Place {
    fn read(text: &str) -> Option<Place> {
        let (shard, slot) = text.split_once('.')?;
        Some(Place { shard: shard.parse().ok()?, slot: slot.parse().ok()? })
    }

    fn show(self) -> String {
        format!("{}.{}", self.shard, self.slot)
    }
}

pub(super) async fn connections(Shared(state): Shared<Arc<State>>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Problem> {
    let refuse = |error: String| {
        let accepted = format!(
            "one of user=NAME, token=JTI, channel=NAME, or none; from=PLACE (as `next` of the page before says) and \
             limit=1..{PAGE_CONNECTIONS_MAX} (default {PAGE_CONNECTIONS_DEFAULT})"
        );
        Problem::bad_request(error, accepted)
    };
    let Query(Page { user, token, channel, from, limit }) = page.map_err(|rejection| refuse(rejection.body_text()))?;
    let limit = limit.unwrap_or(PAGE_CONNECTIONS_DEFAULT);
    if !(1..=PAGE_CONNECTIONS_MAX).contains(&limit) {
        return Err(refuse(format!("limit={limit} is out of range")));
    }
    let who = match (user, token, channel) {
        (None, None, None) => None,
        (Some(user), None, None) => Some(Who::User(user)),
        (None, Some(token), None) => Some(Who::Token(token)),
        (None, None, Some(channel)) => Some(Who::Channel(channel)),
        _ => return Err(refuse("more than one of user, token and channel is given".to_owned())),
    };
    let mut place = match from.as_deref().map(Place::read) {
        None => Place { shard: 0, slot: 0 },
        Some(Some(place)) => place,
        Some(None) => return Err(refuse("from is no place that a page has told".to_owned())),
    };
    let mut found = Vec::new();
    let mut text_bytes = 0;
    while place.shard < state.orders.shards() && found.len() < limit && text_bytes < PAGE_TEXT_BYTES_MAX {
        let (from, limit) = (place.slot, limit - found.len());
        let order = |reply| Order::List { who: who.clone(), from, limit, reply };
        let listed =
            state.orders.one(place.shard, state.timeouts.bus, order).await.map_err(|no_answer| unanswered(&state, place, no_answer))?;
        text_bytes += listed.text_bytes;
        found.extend(listed.connections.iter().map(shown));
        place = match listed.next {
            Some(slot) => Place { slot, ..place },
            None => Place { shard: place.shard + 1, slot: 0 },
        };
    }
    let next = Some(place.show()).filter(|_| place.shard < state.orders.shards());
    Ok(answer::json(StatusCode::OK, json!({ "connections": found, "next": next })))
}

fn unanswered(state: &State, place: Place, no_answer: NoAnswer) -> Problem {
    let shard = place.shard;
    match no_answer {
        NoAnswer::Late => {
            let error = format!("shard {shard} has not answered within {} s", state.timeouts.bus.as_secs_f64());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, error)
        }
        NoAnswer::Refused => Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} takes no order now; try again")),
    }
}

fn shown(seen: &Seen) -> Value {
    let mut shown = json!({
        "client": seen.client.to_string(),
        "address": seen.source.to_string(),
        "since_unix_ms": seen.since_unix_ms,
        "subscriptions": seen.subscriptions,
        "format": seen.format.name(),
    });
    if let Some(bearer) = &seen.bearer {
        shown["user"] = bearer.user.as_str().into();
        shown["token"] = Some(bearer.token_id.as_str()).filter(|id| !id.is_empty()).into();
        shown["expires_unix_ms"] = bearer.expires_s.map(|seconds| seconds.saturating_mul(1000)).into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_shown() {
        let place = Place { shard: 3, slot: 4096 };
        assert_eq!(Place::read(&place.show()), Some(place));
        for text in ["", "1", "1.", ".1", "a.b", "1.2.3", "-1.0", "1.99999999999999999999999"] {
            assert_eq!(Place::read(text), None, "{text}");
        }
    }
}
