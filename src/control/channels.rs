//! `GET /channels`: the channels served now, a page at a time. Asks the bus thread.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

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
    let page = state.ask_bus(|reply| BusCommand::ListChannels { from: page.from, limit: page.limit, reply }).await?;

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
