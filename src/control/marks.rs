//! `POST /read` and `GET /unread`: how far users have read durable channels, for back ends. Asks the bus thread.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::answer::{self, Problem};
use super::{State, body};
use crate::auth::identity::check_user;
use crate::bus::marks::{MarksError, MarksQuestion, MarksWanted, Unread};
use crate::bus::question::{Answer, Asker};
use crate::limits::UNREAD_CHANNELS_MAX;
use crate::wire::channel_name;
use crate::wire::json::INTEGER_MAX;

const READ_ACCEPTED: &str = "a JSON object with \"user\": NAME, \"channel\": NAME of a durable channel, \"seq\": the number up to which it has read that, and, if the \
                             number is of no other, \"epoch\"";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: Option<String>,
    channel: Option<String>,
    epoch: Option<u64>,
    seq: Option<u64>,
}

pub(super) async fn read(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let refuse = |error: &str| Problem::bad_request(error, READ_ACCEPTED);
    let Wanted { user, channel, epoch, seq } = body::json(&state, request, READ_ACCEPTED).await?;
    let (Some(user), Some(channel), Some(seq)) = (user, channel, seq) else {
        return Err(refuse("\"user\", \"channel\" or \"seq\" is missing"));
    };
    if seq > INTEGER_MAX || epoch.is_some_and(|epoch| epoch > INTEGER_MAX) {
        return Err(refuse("\"seq\" and \"epoch\" must be below 2^53"));
    }
    check_user(&user).map_err(refuse)?;
    channel_name::check(&channel).map_err(|bad| refuse(bad.accepted()))?;
    let wanted = MarksWanted::Read { channel: channel.as_str().into(), epoch, seq };
    let unread = ask(&state, &user, wanted).await?;
    let Unread { epoch, read, .. } = unread.first().copied().unwrap_or_default();
    Ok(answer::json(StatusCode::OK, json!({ "channel": channel, "epoch": epoch, "seq": read })))
}

pub(super) async fn unread(
    Shared(state): Shared<Arc<State>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Problem> {
    let refuse = |error: &str| {
        Problem::bad_request(error, format!("user=NAME and 1 to {UNREAD_CHANNELS_MAX} times channel=NAME, of durable channels"))
    };
    let Query(fields) = query.map_err(|rejection| refuse(&rejection.body_text()))?;
    let (mut user, mut channels) = (None, Vec::new());
    for (name, value) in fields {
        match name.as_str() {
            "user" if user.is_none() => user = Some(value),
            "user" => return Err(refuse("user is given twice")),
            "channel" => {
                channel_name::check(&value).map_err(|bad| refuse(bad.accepted()))?;
                channels.push(value.into_boxed_str());
            }
            other => return Err(refuse(&format!("there is no parameter {other:?}"))),
        }
    }
    let user = user.ok_or_else(|| refuse("user is missing"))?;
    check_user(&user).map_err(refuse)?;
    if !(1..=UNREAD_CHANNELS_MAX).contains(&channels.len()) {
        return Err(refuse(&format!("{} channels are named", channels.len())));
    }
    let found = ask(&state, &user, MarksWanted::Unread { channels: channels.clone() }).await?;
    let of = |(channel, of): (&Box<str>, &Unread)| {
        let Unread { epoch, last, read, unread } = *of;
        json!({ "channel": channel, "epoch": epoch, "last": last, "read": read, "unread": unread })
    };
    let channels: Vec<_> = channels.iter().zip(&found).map(of).collect();
    Ok(answer::json(StatusCode::OK, json!({ "user": user, "channels": channels })))
}

async fn ask(state: &State, user: &str, wanted: MarksWanted) -> Result<Vec<Unread>, Problem> {
    let unavailable = |error: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let (reply, answered) = oneshot::channel();
    state.bus.ask_marks(MarksQuestion::new(Asker::Control(reply), user, wanted)).map_err(|_| problem(&MarksError::Busy))?;
    state.bus.wake();
    let answer = tokio::time::timeout(state.timeouts.bus, answered).await.map_err(|_| {
        let error = format!("no answer from the bus within {} s; a mark may still be set", state.timeouts.bus.as_secs_f64());
        Problem::new(StatusCode::GATEWAY_TIMEOUT, error)
    })?;
    match answer.map_err(|_| unavailable("the bus has ended: the server is stopping"))? {
        Answer::Marks { result, .. } => result.map_err(|error| problem(&error)),
        Answer::Published { .. } => unreachable!("each question has its own answer"),
    }
}

fn problem(error: &MarksError) -> Problem {
    let status = match error {
        MarksError::NotDurable { .. } => StatusCode::BAD_REQUEST,
        MarksError::OtherEpoch { .. } => StatusCode::CONFLICT,
        MarksError::Refused(_) => StatusCode::BAD_GATEWAY,
        MarksError::Unavailable | MarksError::Busy | MarksError::NotKept(_) | MarksError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}
