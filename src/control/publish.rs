//! `POST /publish`: one message on one or many channels, through the bus thread.
//!
//! Invariants: nothing is published unless the whole request is sound; what a request may hold in the bus thread's inbox is
//! bounded in number and bytes; every channel named gets its result.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::answer::{self, Problem};
use super::{PUBLISH_CHANNELS_MAX, PUBLISH_IN_FLIGHT_BYTES_MAX, PUBLISH_IN_FLIGHT_MAX, State};
use crate::bus::{Publish, PublishError, PublishReply, Published, push_publish};
use crate::wire::upgrade::check_channel_name;

/// With or without padding: both are in use and neither can be mistaken for something else.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The body as sent. `data` is kept as its text, so what is published is what was written, to the byte.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(default, deserialize_with = "present")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    payload: Option<String>,
    #[serde(default, deserialize_with = "present")]
    payload_base64: Option<String>,
}

/// A field that is there is Some, even when it is null: `"data": null` publishes `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// `channel`: answered with one result.
    One(String),
    /// `channels`: answered with a list, in the same order.
    Many(Vec<String>),
}

/// The right to have a body read and published, taken before the body is read. At most [`super::PUBLISHES_MAX`] exist.
pub(super) struct Permit(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Why one message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Bus(PublishError),
    #[error("the bus has ended: the server is stopping")]
    Ended,
    #[error("no answer from the bus within {} s; the message may still be published", .0.as_secs_f64())]
    NoAnswer(Duration),
    #[error("not published: the channels before it took all the time there was")]
    NotTried,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Failure::Bus(PublishError::Unavailable | PublishError::Busy) | Failure::Ended => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Bus(PublishError::TooBig { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Bus(PublishError::Mismatch(_)) => StatusCode::BAD_REQUEST,
            Failure::Bus(PublishError::Refused(_)) => StatusCode::BAD_GATEWAY,
            Failure::NoAnswer(_) | Failure::NotTried => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

type Outcome = Result<Published, Failure>;

pub(super) async fn publish(
    _permit: Permit,
    Shared(state): Shared<Arc<State>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let payload_bytes_max = state.settings.payload_bytes_max;
    let too_big = || Failure::Bus(PublishError::TooBig { bytes_max: payload_bytes_max }).into();
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_big(),
        status => Problem::new(status, rejection.body_text()),
    })?;
    let (target, payload) = read(&body)?;
    drop(body);
    if payload.len() > payload_bytes_max {
        return Err(too_big());
    }
    Ok(match target {
        Target::One(channel) => {
            let published = publish_on(&state, std::slice::from_ref(&channel), payload).await.remove(0)?;
            answer::json(StatusCode::OK, json!({ "channel": channel, "seq": published.seq, "epoch": published.epoch }))
        }
        Target::Many(channels) => {
            let outcomes = publish_on(&state, &channels, payload).await;
            results(&channels, &outcomes)
        }
    })
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::new(failure.status(), failure.to_string())
    }
}

impl FromRequestParts<Arc<State>> for Permit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Permit, Problem> {
        if state.stopping() {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
        }
        refuse_foreign_origin(&parts.headers)?;
        match tokio::time::timeout(state.timeouts.permit, state.publishes.clone().acquire_owned()).await {
            Ok(permit) => Ok(Permit(permit.expect("the semaphore is never closed"))),
            Err(_) => Err(Failure::Bus(PublishError::Busy).into()),
        }
    }
}

/// A page of another site, open in an operator's browser, could otherwise publish through their loopback address: such a
/// request needs nobody's consent. Programs send no `Origin`.
fn refuse_foreign_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(Problem::new(StatusCode::FORBIDDEN, "a web page of another origin may not publish here")),
    }
}

/// The request as written → where to publish and what.
fn read(body: &[u8]) -> Result<(Target, Vec<u8>), Problem> {
    let refuse = |error: String| {
        let accepted = format!(
            "a JSON object with \"channel\": NAME or \"channels\": [1 to {PUBLISH_CHANNELS_MAX} NAMES], and one of \"data\": any JSON, \
             \"payload\": a string published as it is, \"payload_base64\": bytes in base64"
        );
        Problem::bad_request(error, accepted)
    };
    // Serde would take an array as the fields in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(refuse("the body is an array".into()));
    }
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| refuse(format!("the body is not what is accepted: {error}")))?;

    let target = match (body.channel, body.channels) {
        (Some(channel), None) => Target::One(channel),
        (None, Some(channels)) if channels.is_empty() => return Err(refuse("\"channels\" is empty".into())),
        (None, Some(channels)) if channels.len() > PUBLISH_CHANNELS_MAX => {
            return Err(refuse(format!("\"channels\" has {} names; at most {PUBLISH_CHANNELS_MAX} are accepted", channels.len())));
        }
        (None, Some(channels)) => Target::Many(channels),
        (Some(_), Some(_)) => return Err(refuse("both \"channel\" and \"channels\" are given".into())),
        (None, None) => return Err(refuse("\"channel\" is missing".into())),
    };
    let names = match &target {
        Target::One(channel) => std::slice::from_ref(channel),
        Target::Many(channels) => channels,
    };
    for name in names {
        check_channel_name(name).map_err(|accepted| {
            let shown: String = name.chars().take(80).collect();
            Problem::bad_request(format!("{shown:?} cannot be a channel name"), accepted)
        })?;
    }

    let payload = match (body.data, body.payload, body.payload_base64) {
        (Some(data), None, None) => data.get().as_bytes().to_vec(),
        (None, Some(payload), None) => payload.into_bytes(),
        (None, None, Some(text)) => BASE64.decode(text).map_err(|error| refuse(format!("\"payload_base64\" is not base64: {error}")))?,
        (None, None, None) => return Err(refuse("\"data\" is missing".into())),
        _ => return Err(refuse("more than one of \"data\", \"payload\" and \"payload_base64\" is given".into())),
    };
    Ok((target, payload))
}

/// Publishes on each channel in turn, a bounded number at a time. One outcome per channel, in order.
async fn publish_on(state: &State, channels: &[String], payload: Vec<u8>) -> Vec<Outcome> {
    let deadline = Instant::now() + state.timeouts.bus;
    let in_flight = (PUBLISH_IN_FLIGHT_BYTES_MAX / payload.len().max(1)).clamp(1, PUBLISH_IN_FLIGHT_MAX);
    let mut outcomes = Vec::with_capacity(channels.len());
    for channels in channels.chunks(in_flight) {
        if Instant::now() >= deadline {
            outcomes.extend(channels.iter().map(|_| Err(Failure::NotTried)));
            continue;
        }
        let replies: Vec<_> = channels.iter().map(|channel| ask(state, channel, payload.clone())).collect();
        state.bus.wake();
        for reply in replies {
            outcomes.push(match reply {
                Ok(reply) => match tokio::time::timeout_at(deadline, reply).await {
                    Ok(Ok(result)) => result.map_err(Failure::Bus),
                    Ok(Err(_)) => Err(Failure::Ended),
                    Err(_) => Err(Failure::NoAnswer(state.timeouts.bus)),
                },
                Err(failure) => Err(failure),
            });
        }
    }
    outcomes
}

/// Puts one publish into the bus thread's inbox, without waking it.
fn ask(state: &State, channel: &str, payload: Vec<u8>) -> Result<oneshot::Receiver<Result<Published, PublishError>>, Failure> {
    let (reply, answered) = oneshot::channel();
    let publish = Publish { channel: channel.into(), payload, reply: PublishReply::Control(reply) };
    push_publish(&state.bus, publish).map(|()| answered).map_err(|_| Failure::Bus(PublishError::Busy))
}

/// 200 when at least one was published; else the status of the first failure, for callers that look no further.
fn results(channels: &[String], outcomes: &[Outcome]) -> Response {
    let first_failure = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
    let status = match first_failure {
        Some(failure) if outcomes.iter().all(Result::is_err) => failure.status(),
        _ => StatusCode::OK,
    };
    let results: Vec<_> = channels
        .iter()
        .zip(outcomes)
        .map(|(channel, outcome)| match outcome {
            Ok(published) => json!({ "channel": channel, "seq": published.seq, "epoch": published.epoch }),
            Err(failure) => json!({ "channel": channel, "error": failure.to_string() }),
        })
        .collect();
    answer::retryable(answer::json(status, json!({ "results": results })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(body: &str) -> Vec<u8> {
        let (target, payload) = read(body.as_bytes()).unwrap();
        assert_eq!(target, Target::One("c".into()));
        payload
    }

    #[test]
    fn data_is_published_as_its_text() {
        for data in ["null", "0", "1.50e3", "{\"b\" : 1,  \"a\":[ ]}", "\"\\u00e9\"", "18446744073709551617"] {
            assert_eq!(payload_of(&format!("{{\"channel\":\"c\",\"data\": {data} }}")), data.as_bytes());
        }
    }

    #[test]
    fn payload_is_published_as_it_is() {
        assert_eq!(payload_of(r#"{"channel":"c","payload":"a\n\u00e9"}"#), "a\né".as_bytes());
        assert_eq!(payload_of(r#"{"channel":"c","payload":""}"#), b"");
        assert_eq!(payload_of(r#"{"payload_base64":"AP8B","channel":"c"}"#), [0, 255, 1]);
        assert_eq!(payload_of(r#"{"payload_base64":"AA","channel":"c"}"#), [0]);
        assert_eq!(payload_of(r#"{"payload_base64":"AA==","channel":"c"}"#), [0]);
    }

    #[test]
    fn foreign_pages_are_told_from_programs_and_own_pages() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), header::HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        let allowed = |pairs: &[_]| refuse_foreign_origin(&headers(pairs)).is_ok();
        assert!(allowed(&[(header::HOST, "localhost:9090")]));
        assert!(allowed(&[(header::HOST, "localhost:9090"), (header::ORIGIN, "http://LOCALHOST:9090")]));
        assert!(!allowed(&[(header::HOST, "localhost:9090"), (header::ORIGIN, "https://elsewhere.example")]));
        assert!(!allowed(&[(header::HOST, "localhost:9090"), (header::ORIGIN, "http://localhost:3000")]));
        assert!(!allowed(&[(header::HOST, "localhost:9090"), (header::ORIGIN, "null")]));
    }
}
