//! `POST /mark_read` and `GET /unread`: how far users have read durable channels, for back ends. Asks the bus thread, which asks Redis or the journal.

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

const MARK_ACCEPTED: &str = "a JSON object with \"user\": NAME, \"channel\": NAME of a durable channel, \"seq\": the number up to which the user has read it, and, \
                             if the number counts in no other, \"epoch\"";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    user: Option<String>,
    channel: Option<String>,
    epoch: Option<u64>,
    seq: Option<u64>,
}

pub(super) async fn mark_read(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let refuse = |error: &str| Problem::bad_request(error, MARK_ACCEPTED);
    let Mark { user, channel, epoch, seq } = body::json(&state, request, MARK_ACCEPTED).await?;
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
    Ok(answer::json(StatusCode::OK, json!({ "user": user, "channel": channel, "epoch": epoch, "seq": read })))
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
    let of = |(channel, &Unread { epoch, last, read, unread })| {
        let channel: &str = channel;
        json!({ "channel": channel, "epoch": epoch, "last": last, "read": read, "unread": unread })
    };
    let channels: Vec<_> = channels.iter().map(|channel| &**channel).zip(&found).map(of).collect();
    Ok(answer::json(StatusCode::OK, json!({ "user": user, "channels": channels })))
}

/// For each channel that is asked about, in the same order.
async fn ask(state: &State, user: &str, wanted: MarksWanted) -> Result<Vec<Unread>, Problem> {
    let (reply, answered) = oneshot::channel();
    state.bus.ask_marks(MarksQuestion::boxed(Asker::Control(reply), user, wanted)).map_err(|_| problem(&MarksError::Busy))?;
    state.bus.wake();
    let Answer::Marks(answer) = state.answer_of_bus(answered).await? else { unreachable!("each question has its own answer") };
    answer.result.map_err(|error| problem(&error))
}

fn problem(error: &MarksError) -> Problem {
    let status = match error {
        MarksError::NotDurable { .. } => StatusCode::BAD_REQUEST,
        MarksError::OtherEpoch { .. } => StatusCode::CONFLICT,
        MarksError::Refused(_) => StatusCode::BAD_GATEWAY,
        MarksError::Late(_) | MarksError::Unsettled => StatusCode::GATEWAY_TIMEOUT,
        MarksError::Unavailable | MarksError::Busy | MarksError::NotKept(_) | MarksError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}
