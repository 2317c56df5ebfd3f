//! `POST /publish`: one message on one or many channels, through the bus thread.
//!
//! Invariants: nothing is published unless the whole request is sound; what requests hold, as bodies and on their way, is bounded over all
//! of them; every channel named gets its result, and the status is 200 only if all were published.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use super::answer::{self, Problem};
use super::listener::Peer;
use super::{State, body, room};
use crate::bus;
use crate::bus::question::{Answer, Asker, IdempotencyKey, Publish, PublishError, Published};
use crate::journal::AppendError;
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::limits::control::PUBLISH_CHANNELS_MAX;
use crate::wire::channel_name;
use crate::wire::json;

/// With or without padding: both are in use and neither can be mistaken for something else.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A body as sent. `data` is kept as its text, so what is published is what was written, to the byte.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted<'a> {
    #[serde(default, deserialize_with = "present")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// Borrowed unless something in it is escaped.
    #[serde(borrow, default, deserialize_with = "present_text")]
    payload: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present_text")]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    idempotency_key: Option<String>,
}

/// A field that is there is Some, even when it is null: `"data": null` publishes `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn present_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Text::deserialize(deserializer).map(|Text(text)| Some(text))
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// `channel`: answered with one result.
    One(String),
    /// `channels`: answered with a list, in the same order.
    Many(Vec<String>),
}

/// What a sound request asks for.
#[derive(Debug)]
struct Asked {
    target: Target,
    payload: Vec<u8>,
    idempotency_key: Option<String>,
}

impl Asked {
    fn is_keyed(&self) -> bool {
        self.idempotency_key.is_some()
    }
}

impl Target {
    fn channels(&self) -> &[String] {
        match self {
            Target::One(channel) => std::slice::from_ref(channel),
            Target::Many(channels) => channels,
        }
    }
}

/// What is published and not answered, counted in kilobytes: the control port's share of what the bus takes ([`bus::CONTROL_SHARE`]), so that a
/// request waits for its turn here and is not refused there.
#[derive(Debug)]
pub(super) struct Flow(Semaphore);

const FLOW_UNIT_BYTES: usize = 1024;
/// The least that a publish counts: so many small ones are as many as the share allows.
const FLOW_FLOOR_BYTES: usize = bus::CONTROL_SHARE.bytes / bus::CONTROL_SHARE.count;
const _: () = assert!(FLOW_FLOOR_BYTES >= FLOW_UNIT_BYTES);

impl Default for Flow {
    fn default() -> Flow {
        Flow(Semaphore::new(bus::CONTROL_SHARE.bytes / FLOW_UNIT_BYTES))
    }
}

impl Flow {
    fn units(payload_bytes: usize) -> u32 {
        // One larger than all there is has all to itself.
        (payload_bytes.clamp(FLOW_FLOOR_BYTES, bus::CONTROL_SHARE.bytes) / FLOW_UNIT_BYTES) as u32
    }

    #[cfg(test)]
    pub(super) fn take_all(&self) -> SemaphorePermit<'_> {
        self.0.try_acquire_many(Flow::units(usize::MAX)).expect("nothing is under way")
    }
}

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
            Failure::Bus(PublishError::NotKept(AppendError::KeyTooLong)) => StatusCode::BAD_REQUEST,
            Failure::Bus(
                PublishError::Unavailable
                | PublishError::Busy
                | PublishError::Late(_)
                | PublishError::NoLibrary
                | PublishError::NotReplicated { .. }
                | PublishError::NotKept(AppendError::Full | AppendError::Failing(_) | AppendError::TooManyChannels)
                | PublishError::Unsettled,
            )
            | Failure::Ended => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Bus(PublishError::TooBig { .. } | PublishError::TooBigForRedis { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::Bus(PublishError::Mismatch(_) | PublishError::Unrouted(_) | PublishError::NotDurable) => StatusCode::BAD_REQUEST,
            Failure::Bus(PublishError::RateLimited(_)) => StatusCode::TOO_MANY_REQUESTS,
            Failure::Bus(PublishError::Refused(_)) => StatusCode::BAD_GATEWAY,
            Failure::NoAnswer(_) | Failure::NotTried => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

type Outcome = Result<Published, Failure>;

pub(super) async fn publish(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    if state.stopping() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    let (head, content) = request.into_parts();
    body::check_coding(&head.headers)?;
    let payload_bytes_max = state.settings.bounds.payload_bytes_max;
    let too_big = || Failure::Bus(PublishError::TooBig { bytes_max: payload_bytes_max });
    let busy = || Failure::Bus(PublishError::Busy);
    let body_bytes_max = state.bodies.body_bytes_max;
    // A body in chunks does not say how large it will be.
    let announced = content.size_hint().exact().map_or(body_bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if announced > body_bytes_max {
        return Err(too_big().into());
    }
    let permit = state.publishes.enter(state.timeouts.permit).await.ok_or_else(busy)?;
    let room = state.bodies.take(announced, state.timeouts.permit).await.ok_or_else(busy)?;
    let collected = body::in_time(&state, body::collect(content, announced)).await?;
    if let Some(peer) = head.extensions.get::<Peer>() {
        peer.has_body();
    }
    let asked = read(collected.ok_or_else(too_big)?)?;
    if asked.payload.len() > payload_bytes_max {
        return Err(too_big().into());
    }
    let outcomes = publish_on(&state, &asked).await;
    let answer = match &asked.target {
        Target::One(channel) => match &outcomes[0] {
            Ok(published) => answer::json(StatusCode::OK, json!(Shown::of(channel, published, asked.is_keyed()))),
            Err(failure) => Problem::from(failure.clone()).into_response(),
        },
        Target::Many(channels) => results(channels, &outcomes, asked.is_keyed()),
    };
    Ok(room::hold(answer, (permit, room)))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::new(failure.status(), failure.to_string())
    }
}

/// Refuses a body that is not what is accepted.
fn refuse(error: impl Into<String>) -> Problem {
    let accepted = format!(
        "a JSON object with \"channel\": NAME or \"channels\": [1 to {PUBLISH_CHANNELS_MAX} NAMES], and one of \"data\": any JSON, \
         \"payload\": a string published as it is, \"payload_base64\": bytes in base64; for durable channels \"idempotency_key\": a text that is \
         published once"
    );
    Problem::bad_request(error, accepted)
}

/// The request as written → where to publish and what. The body goes before the payload is decoded: never more than two copies.
fn read(body: Vec<u8>) -> Result<Asked, Problem> {
    for (mark, what) in [
        (&b"\xef\xbb\xbf"[..], "a byte order mark (EF BB BF): send it without"),
        (b"\xff\xfe", "the byte order mark of UTF-16 (FF FE): send UTF-8, without a mark"),
        (b"\xfe\xff", "the byte order mark of UTF-16 (FE FF): send UTF-8, without a mark"),
    ] {
        if body.starts_with(mark) {
            return Err(refuse(format!("the body begins with {what}")));
        }
    }
    // Serde would take an array as the fields in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(refuse("the body is an array"));
    }
    let Wanted { channel, channels, data, payload, payload_base64, idempotency_key } =
        serde_json::from_slice(&body).map_err(|error| refuse(format!("the body is not what is accepted: {error}")))?;
    let target = target(channel, channels)?;
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX) {
        return Err(refuse(format!("\"idempotency_key\" has not 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes")));
    }
    let decode = |text: &str| BASE64.decode(text).map_err(|error| refuse(format!("\"payload_base64\" is not base64: {error}")));
    let payload = match (data, payload, payload_base64) {
        (Some(data), None, None) => {
            // What this server would not take for JSON later on would arrive as a string.
            json::check(data.get()).map_err(|malformed| refuse(format!("\"data\" is not accepted: {malformed}")))?;
            data.get().as_bytes().to_vec()
        }
        (None, Some(payload), None) => payload.into_owned().into_bytes(),
        (None, None, Some(Cow::Borrowed(text))) => decode(text)?,
        (None, None, Some(Cow::Owned(text))) => {
            drop(body);
            decode(&text)?
        }
        (None, None, None) => return Err(refuse("\"data\" is missing")),
        _ => return Err(refuse("more than one of \"data\", \"payload\" and \"payload_base64\" is given")),
    };
    Ok(Asked { target, payload, idempotency_key })
}

fn target(channel: Option<String>, channels: Option<Vec<String>>) -> Result<Target, Problem> {
    let target = match (channel, channels) {
        (Some(channel), None) => Target::One(channel),
        (None, Some(channels)) if channels.is_empty() => return Err(refuse("\"channels\" is empty")),
        (None, Some(channels)) if channels.len() > PUBLISH_CHANNELS_MAX => {
            return Err(refuse(format!("\"channels\" has {} names; at most {PUBLISH_CHANNELS_MAX} are accepted", channels.len())));
        }
        (None, Some(channels)) => Target::Many(channels),
        (Some(_), Some(_)) => return Err(refuse("both \"channel\" and \"channels\" are given")),
        (None, None) => return Err(refuse("\"channel\" is missing")),
    };
    for name in target.channels() {
        channel_name::check(name).map_err(|bad| {
            let shown: String = name.chars().take(80).collect();
            Problem::bad_request(format!("{shown:?} cannot be a channel name"), bad.accepted())
        })?;
    }
    Ok(target)
}

/// A full inbox of the bus thread is tried again after this long, or when one of our own publishes is answered.
const INBOX_RETRY: Duration = Duration::from_millis(2);

/// A publish in the bus thread's inbox, and its part of the [`Flow`].
struct UnderWay<'a> {
    answered: oneshot::Receiver<Answer>,
    _part: SemaphorePermit<'a>,
}

/// Publishes on each channel in turn, as many at once as the control port's share takes. One outcome per channel, in order.
async fn publish_on(state: &State, wanted: &Asked) -> Vec<Outcome> {
    let deadline = Instant::now() + state.timeouts.bus;
    let units = Flow::units(wanted.payload.len());
    let channels = wanted.target.channels();
    let mut asked = VecDeque::new();
    let mut outcomes = Vec::with_capacity(channels.len());
    for channel in channels {
        let part = loop {
            if let Ok(part) = state.flow.0.try_acquire_many(units) {
                break Some(part);
            }
            // Our own go before we wait for those of others: they may be what takes the room.
            state.bus.wake();
            match asked.pop_front() {
                Some(first) => outcomes.push(outcome(state, first, deadline).await),
                None => break tokio::time::timeout_at(deadline, state.flow.0.acquire_many(units)).await.ok().and_then(Result::ok),
            }
        };
        let Some(part) = part.filter(|_| Instant::now() < deadline) else {
            asked.push_back(Err(Failure::NotTried));
            continue;
        };
        let (reply, answered) = oneshot::channel();
        let mut publish = Publish::new(channel.as_str(), wanted.payload.clone(), Asker::Control(reply));
        publish.idempotency_key = wanted.idempotency_key.as_deref().map(IdempotencyKey::boxed);
        let answered = loop {
            // Not woken for each: the bus thread takes them together.
            let Err(back) = state.bus.publish(publish) else { break Ok(UnderWay { answered, _part: part }) };
            publish = back;
            state.bus.wake();
            match asked.pop_front() {
                Some(first) => outcomes.push(outcome(state, first, deadline).await),
                None if Instant::now() >= deadline => break Err(Failure::Bus(PublishError::Busy)),
                None => tokio::time::sleep(INBOX_RETRY).await,
            }
        };
        asked.push_back(answered);
    }
    state.bus.wake();
    for asked in asked {
        outcomes.push(outcome(state, asked, deadline).await);
    }
    outcomes
}

async fn outcome(state: &State, asked: Result<UnderWay<'_>, Failure>, deadline: Instant) -> Outcome {
    match tokio::time::timeout_at(deadline, asked?.answered).await {
        Ok(Ok(Answer::Published { result, .. })) => result.map_err(Failure::Bus),
        Ok(Ok(Answer::History { .. } | Answer::Marks(_) | Answer::Presence { .. } | Answer::Census { .. })) => {
            unreachable!("each question has its own answer")
        }
        Ok(Err(_)) => Err(Failure::Ended),
        Err(_) => Err(Failure::NoAnswer(state.timeouts.bus)),
    }
}

/// What became of one channel's message, as the answer shows it.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Published {
        channel: &'a str,
        seq: Option<u64>,
        epoch: Option<u64>,
        /// Where it could be.
        #[serde(skip_serializing_if = "Option::is_none")]
        repeated: Option<bool>,
    },
    Failed {
        channel: &'a str,
        error: String,
    },
}

impl<'a> Shown<'a> {
    fn of(channel: &'a str, published: &Published, is_keyed: bool) -> Shown<'a> {
        let Published { epoch, seq, is_repeat } = *published;
        Shown::Published { channel, seq, epoch, repeated: is_keyed.then_some(is_repeat) }
    }
}

/// 200 when all were published; else the status of the first failure, so that nobody who looks at the status alone takes a part for the
/// whole. The results tell which to send again.
fn results(channels: &[String], outcomes: &[Outcome], is_keyed: bool) -> Response {
    let first_failure = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
    let status = first_failure.map_or(StatusCode::OK, Failure::status);
    let results: Vec<_> = channels
        .iter()
        .zip(outcomes)
        .map(|(channel, outcome)| match outcome {
            Ok(published) => Shown::of(channel, published, is_keyed),
            Err(failure) => Shown::Failed { channel, error: failure.to_string() },
        })
        .collect();
    #[derive(Serialize)]
    struct Results<'a> {
        results: Vec<Shown<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let error = first_failure.map(|first| format!("{failed} of {} failed, the first because: {first}", channels.len()));
    answer::retryable((status, axum::Json(Results { results, error })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(body: &str) -> Vec<u8> {
        let asked = read(body.as_bytes().to_vec()).unwrap();
        assert_eq!(asked.target, Target::One("c".into()));
        asked.payload
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
}
