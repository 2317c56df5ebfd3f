//! Bodies of requests: what coding they may be in, how long they may take, and how small ones are read as JSON.

use std::pin::Pin;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::State;
use super::answer::Problem;
use super::listener::Peer;
use crate::limits::control::COMMAND_BYTES_MAX;

/// The body of a request that asks for something to be done, as JSON; `accepted` says what would have been taken. Nothing at all is as good as `{}`.
pub(super) async fn json<T: DeserializeOwned>(state: &State, request: Request, accepted: &str) -> Result<T, Problem> {
    let (head, body) = request.into_parts();
    check_coding(&head.headers)?;
    let collected = in_time(state, collect(body, COMMAND_BYTES_MAX)).await?;
    if let Some(peer) = head.extensions.get::<Peer>() {
        peer.has_body();
    }
    let too_big = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {COMMAND_BYTES_MAX} bytes"));
    let bytes = collected.ok_or_else(too_big)?;
    let text = if bytes.trim_ascii().is_empty() { &b"{}"[..] } else { &bytes[..] };
    // Serde would take an array as the fields in their order.
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request("the body is an array", accepted));
    }
    serde_json::from_slice(text).map_err(|error| Problem::bad_request(format!("the body is not what is accepted: {error}"), accepted))
}

/// What a client has to send must be here in time.
pub(super) async fn in_time<T>(state: &State, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::time::timeout(state.timeouts.request, work).await.map_err(|_| {
        let error = format!("the request was not complete within {} s", state.timeouts.request.as_secs_f64());
        Problem::new(StatusCode::REQUEST_TIMEOUT, error)
    })?
}

/// A body that is not the text itself is not guessed at.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let has_other = |name: header::HeaderName, accepted: &str| {
        let values = headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or("?"));
        values.flat_map(|value| value.split(',')).map(str::trim).find(|coding| !coding.eq_ignore_ascii_case(accepted)).map(str::to_owned)
    };
    let refuse = |error: String, accepted: &str| Err(Problem::with_accepted(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, accepted));
    if let Some(coding) = has_other(header::CONTENT_ENCODING, "identity") {
        return refuse(format!("a body in Content-Encoding {coding:?} is not taken"), "a body as it is, without Content-Encoding");
    }
    if let Some(coding) = has_other(header::TRANSFER_ENCODING, "chunked") {
        return refuse(format!("a body in Transfer-Encoding {coding:?} is not taken"), "a body with Content-Length, or chunked");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let charset = kind.split(';').filter_map(|part| part.trim().strip_prefix("charset=")).map(|charset| charset.trim_matches('"')).next();
    match charset {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(charset) => refuse(format!("a body in charset {charset:?} is not taken"), "JSON in UTF-8"),
    }
}

/// The whole body; None if it is larger than `bytes_max`.
pub(super) async fn collect(mut body: Body, bytes_max: usize) -> Result<Option<Vec<u8>>, Problem> {
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(announced as usize);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > bytes_max - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}
