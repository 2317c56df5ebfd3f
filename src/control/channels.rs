//! `GET /channels`: the channels served now, a page at a time. Asks the bus thread.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::State;
use super::answer::{self, Problem};
use crate::bus::BusCommand;
use crate::limits::control::PAGE_CHANNELS_MAX;

const PAGE_CHANNELS_DEFAULT: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    from: usize,
    #[serde(default = "page_channels_default")]
    limit: usize,
}

fn page_channels_default() -> usize {
    PAGE_CHANNELS_DEFAULT
}

pub(super) async fn channels(Shared(state): Shared<Arc<State>>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Problem> {
    let accepted = || {
        format!("from=N (as `next` of the page before says; default 0) and limit=1..{PAGE_CHANNELS_MAX} (default {PAGE_CHANNELS_DEFAULT})")
    };
    let Query(page) = page.map_err(|rejection| Problem::bad_request(rejection.body_text(), accepted()))?;
    if !(1..=PAGE_CHANNELS_MAX).contains(&page.limit) {
        return Err(Problem::bad_request(format!("limit={} is out of range", page.limit), accepted()));
    }
    let unavailable = |error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);

    let (reply, answered) = oneshot::channel();
    let command = BusCommand::ListChannels { from: page.from, limit: page.limit, reply };
    state.bus.send(command).map_err(|_| unavailable("the bus has too much to do; try again"))?;
    let page = tokio::time::timeout(state.timeouts.bus, answered)
        .await
        .map_err(|_| {
            let error = format!("no answer from the bus within {} s", state.timeouts.bus.as_secs_f64());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, error)
        })?
        .map_err(|_| unavailable("the bus has ended: the server is stopping"))?;

    let channels: Vec<_> = page
        .channels
        .iter()
        .map(|channel| {
            json!({
                "name": channel.name,
                "epoch": channel.epoch,
                "seq": channel.seq,
                "subscribers": channel.subscribers,
                "history_messages": channel.history_messages,
            })
        })
        .collect();
    Ok(answer::json(StatusCode::OK, json!({ "channels": channels, "next": page.next })))
}
