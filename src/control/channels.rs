//! `GET /channels`: the channels served now by this node, or those that have subscribers on any, a page at a time. Asks the bus thread.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::State;
use super::answer::{self, Problem};
use super::presence::problem;
use crate::bus::BusCommand;
use crate::bus::presence::CensusAsked;
use crate::bus::question::{Answer, Asker, Question};
use crate::limits::control::PAGE_CHANNELS_MAX;

const PAGE_CHANNELS_DEFAULT: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    scope: Scope,
    from: Option<String>,
    #[serde(default = "page_channels_default")]
    limit: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    #[default]
    Node,
    Cluster,
}

fn page_channels_default() -> usize {
    PAGE_CHANNELS_DEFAULT
}

fn accepted() -> String {
    format!(
        "scope=node (default) or cluster (channels whose rule says presence, over all nodes), from=PLACE (as `next` of the page before says) and \
         limit=1..{PAGE_CHANNELS_MAX} (default {PAGE_CHANNELS_DEFAULT})"
    )
}

pub(super) async fn channels(Shared(state): Shared<Arc<State>>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|rejection| Problem::bad_request(rejection.body_text(), accepted()))?;
    if !(1..=PAGE_CHANNELS_MAX).contains(&page.limit) {
        return Err(Problem::bad_request(format!("limit={} is out of range", page.limit), accepted()));
    }
    match page.scope {
        Scope::Node => of_node(&state, page).await,
        Scope::Cluster => of_cluster(&state, page).await,
    }
}

async fn of_node(state: &State, page: Page) -> Result<Response, Problem> {
    let from = match &page.from {
        None => 0,
        Some(from) => from.parse().map_err(|_| Problem::bad_request(format!("from={from} is no number"), accepted()))?,
    };
    let page = state.ask_bus(|reply| BusCommand::ListChannels { from, limit: page.limit, reply }).await?;

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

/// In the order of their names; the next page begins behind the last of this one.
async fn of_cluster(state: &State, page: Page) -> Result<Response, Problem> {
    let (after, limit) = (page.from.map(String::into_boxed_str), page.limit);
    let question = |reply| BusCommand::Ask(Question::Census(CensusAsked { after, limit, asker: Asker::Control(reply) }));
    let Answer::Census { result } = state.ask_bus(question).await? else { unreachable!("each question has its own answer") };
    let page = result.map_err(problem)?;
    let channels: Vec<_> = page.channels.iter().map(|(name, subscribers)| json!({"name": name, "subscribers": subscribers})).collect();
    Ok(answer::json(StatusCode::OK, json!({ "channels": channels, "next": page.next })))
}
