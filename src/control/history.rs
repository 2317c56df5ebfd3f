//! `GET /history`: what is kept of a channel, a page at a time. Asks the bus thread, which asks Redis or the journal for a durable channel.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::answer::Problem;
use crate::bus::BusCommand;
use crate::bus::question::{Answer, Asker, HistoryAsked, Question};
use crate::bus::recall::{HistoryError, HistoryPage, Recall};
use crate::limits::bus::HISTORY_MESSAGES_MAX;
use crate::wire::channel_name;
use crate::wire::command::{HISTORY_MESSAGES_DEFAULT, Position};
use crate::wire::history::{HistoryRange, Message, write_json};
use crate::wire::json;
use crate::wire::payload::Looked;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    channel: String,
    limit: Option<usize>,
    since: Option<String>,
    before: Option<String>,
}

fn accepted() -> String {
    format!(
        "channel=NAME, limit=1..{HISTORY_MESSAGES_MAX} (default {HISTORY_MESSAGES_DEFAULT}), and since=EPOCH-SEQ (what follows, oldest first) or \
         before=EPOCH-SEQ (the last ones before it); with neither, the newest"
    )
}

fn position(text: &str) -> Result<Position, Problem> {
    let number = |digits: &str| digits.parse().ok().filter(|number| *number <= json::INTEGER_MAX);
    let found = text.split_once('-').and_then(|(epoch, seq)| Some(Position { epoch: number(epoch)?, seq: number(seq)? }));
    found.ok_or_else(|| Problem::bad_request(format!("`{text}` is no position"), accepted()))
}

fn range(asked: &Asked) -> Result<HistoryRange, Problem> {
    Ok(match (&asked.since, &asked.before) {
        (None, None) => HistoryRange::Newest,
        (Some(since), None) => HistoryRange::After(position(since)?),
        (None, Some(before)) => HistoryRange::Before(position(before)?),
        (Some(_), Some(_)) => return Err(Problem::bad_request("since and before stand beside each other", accepted())),
    })
}

pub(super) async fn history(Shared(state): Shared<Arc<State>>, asked: Result<Query<Asked>, QueryRejection>) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|rejection| Problem::bad_request(rejection.body_text(), accepted()))?;
    channel_name::check(&asked.channel).map_err(|bad| Problem::bad_request(bad.accepted(), accepted()))?;
    let limit = asked.limit.unwrap_or(HISTORY_MESSAGES_DEFAULT);
    if !(1..=HISTORY_MESSAGES_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit} is out of range"), accepted()));
    }
    let range = range(&asked)?;
    let recall = Recall { channel: asked.channel.as_str().into(), range, limit };
    let question = |reply| BusCommand::Ask(Question::History(HistoryAsked { recall, asker: Asker::Control(reply) }));
    let answer = state.ask_bus(question).await?;
    let Answer::History { result, .. } = answer else { unreachable!("each question has its own answer") };
    match result {
        Ok(page) => Ok(shown(&state, &asked.channel, &page)),
        Err(error @ (HistoryError::Busy | HistoryError::Unavailable)) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
        }
        Err(error @ HistoryError::Refused(_)) => Err(Problem::new(StatusCode::BAD_GATEWAY, error.to_string())),
    }
}

/// Payloads are JSON already, or become it here: so the answer is written as text.
fn shown(state: &State, channel: &str, page: &HistoryPage) -> Response {
    let expect = state.reload.in_force().settings.channels.of(channel).payload;
    let message = |entry: &'_ crate::bus::hub::PageEntry| Looked::default().at(&entry.payload, expect).0;
    let messages: Vec<Message<'_>> = page
        .messages
        .iter()
        .map(|entry| Message { seq: entry.seq, timestamp_ms: entry.timestamp_ms, kind: message(entry), payload: &entry.payload })
        .collect();
    let mut fields = json!({"channel": channel, "epoch": page.epoch, "more": page.has_more});
    if let Some(is_recovered) = page.is_recovered {
        fields["recovered"] = Value::Bool(is_recovered);
    }
    let mut body = fields.to_string().into_bytes();
    body.pop();
    body.extend_from_slice(b",\"messages\":");
    write_json(&messages, &mut body);
    body.push(b'}');
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
