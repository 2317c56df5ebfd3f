//! `POST /disconnect`: ends connections of this process, and says how many.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, Problem};
use super::orders::NoAnswer;
use super::{State, body};
use crate::bus::order::{Order, Who};
use crate::wire::channel_name;

const ACCEPTED: &str =
    "a JSON object with one of \"user\": NAME, \"client\": the client_id of a connection, \"token\": the jti of a token, \"channel\": NAME";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: Option<String>,
    client: Option<String>,
    token: Option<String>,
    channel: Option<String>,
}

pub(super) async fn disconnect(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let who = who(body::json(&state, request, ACCEPTED).await?)?;
    let answers = state.orders.all(state.timeouts.bus, |reply| Order::Disconnect { who: who.clone(), reply }).await;
    counted(&state, "disconnected", &answers)
}

fn who(wanted: Wanted) -> Result<Who, Problem> {
    let refuse = |error: String| Problem::bad_request(error, ACCEPTED);
    let who = match wanted {
        Wanted { user: Some(user), client: None, token: None, channel: None } => Who::User(user),
        Wanted { user: None, client: Some(client), token: None, channel: None } => {
            Who::Client(client.parse().map_err(|error| refuse(format!("\"client\": {error}")))?)
        }
        Wanted { user: None, client: None, token: Some(token), channel: None } => Who::Token(token),
        Wanted { user: None, client: None, token: None, channel: Some(channel) } => {
            channel_name::check(&channel).map_err(|bad| Problem::bad_request("\"channel\" cannot be a channel name", bad.accepted()))?;
            Who::Channel(channel)
        }
        Wanted { user: None, client: None, token: None, channel: None } => return Err(refuse("nobody is named".to_owned())),
        _ => return Err(refuse("more than one of them is given".to_owned())),
    };
    match &who {
        // Nobody has them, and every connection without a token would seem to.
        Who::User(name) | Who::Token(name) if name.is_empty() => Err(refuse("the name is empty".to_owned())),
        _ => Ok(who),
    }
}

/// The sum of what the shards have answered, or which of them have not.
pub(super) fn counted(state: &State, what: &str, answers: &[Result<usize, NoAnswer>]) -> Result<Response, Problem> {
    let count: usize = answers.iter().flatten().sum();
    let missing = answers.iter().filter(|answer| answer.is_err()).count();
    if missing == 0 {
        return Ok(answer::json(StatusCode::OK, json!({ what: count })));
    }
    let seconds = state.timeouts.bus.as_secs_f64();
    if answers.contains(&Err(NoAnswer::Late)) {
        let error =
            format!("{missing} of {} shards have not answered within {seconds} s, and go on; {what} so far: {count}", answers.len());
        return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, error));
    }
    let error = format!("{missing} of {} shards take no order now; {what} by the others: {count}", answers.len());
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error))
}
