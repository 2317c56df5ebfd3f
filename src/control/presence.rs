//! `GET /presence`: how many subscribers a channel has, or how many connections a user, over all nodes. Asks the bus thread, which asks Redis.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::State;
use super::answer::{self, Problem};
use crate::auth::identity::check_user;
use crate::bus::BusCommand;
use crate::bus::presence::{Members, MembersWanted, PresenceAsked, PresenceError, Present, Subject};
use crate::bus::question::{Answer, Asker, Question};
use crate::limits::bus::HISTORY_MESSAGES_MAX;
use crate::wire::channel_name;
use crate::wire::command::HISTORY_MESSAGES_DEFAULT;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    channel: Option<String>,
    user: Option<String>,
    members: Option<bool>,
    after: Option<String>,
    limit: Option<usize>,
}

const ACCEPTED: &str = "channel=NAME or user=NAME, one of them; of a channel whose rule says presence, of users with user_presence. With a channel members=true, \
     where its rule says presence_members, and then limit=1..256 (default 100) and after=USER (the last one of the page before)";
const _: () = assert!(HISTORY_MESSAGES_MAX == 256 && HISTORY_MESSAGES_DEFAULT == 100, "as it says");

pub(super) async fn presence(Shared(state): Shared<Arc<State>>, asked: Result<Query<Asked>, QueryRejection>) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|rejection| Problem::bad_request(rejection.body_text(), ACCEPTED))?;
    let limit = asked.limit.unwrap_or(HISTORY_MESSAGES_DEFAULT);
    if !(1..=HISTORY_MESSAGES_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit} is out of range"), ACCEPTED));
    }
    let members = asked.members.unwrap_or(false).then(|| MembersWanted { after: asked.after.map(Box::from), limit });
    let subject = match (asked.channel, asked.user) {
        (Some(channel), None) => {
            channel_name::check(&channel).map_err(|bad| Problem::bad_request(bad.accepted(), ACCEPTED))?;
            Subject::Channel(channel.into())
        }
        (None, Some(user)) => {
            check_user(&user).map_err(|problem| Problem::bad_request(problem, ACCEPTED))?;
            Subject::User(user.into())
        }
        (Some(_), Some(_)) | (None, None) => return Err(Problem::bad_request("it is about one channel or one user", ACCEPTED)),
    };
    let question = |reply| BusCommand::Ask(Question::Presence(PresenceAsked { subject, members, asker: Asker::Control(reply) }));
    let Answer::Presence { subject, result } = state.ask_bus(question).await? else { unreachable!("each question has its own answer") };
    let Present { count, members } = result.map_err(problem)?;
    let mut body = match subject {
        Subject::Channel(channel) => json!({"channel": channel, "subscribers": count}),
        Subject::User(user) => json!({"user": user, "connections": count}),
    };
    if let Some(Members { users, has_more, is_partial }) = members {
        (body["members"], body["more"], body["partial"]) = (json!(users), json!(has_more), json!(is_partial));
    }
    Ok(answer::json(StatusCode::OK, body))
}

pub(super) fn problem(error: PresenceError) -> Problem {
    match error {
        PresenceError::ChannelNotCounted
        | PresenceError::ChannelsNotCounted
        | PresenceError::MembersNotListed
        | PresenceError::UsersNotCounted => Problem::bad_request(error.to_string(), ACCEPTED),
        PresenceError::Busy | PresenceError::Unavailable => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        PresenceError::Refused(_) => Problem::new(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}
