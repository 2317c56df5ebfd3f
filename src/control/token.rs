//! Who may use the control port, where it has a token (`control_token`): whoever brings it, as `Authorization: Bearer`. Probes need none.
//!
//! A browser cannot send that header with a WebSocket: for `/stats` the token may stand in an entry `bearer.TOKEN` of `Sec-WebSocket-Protocol` too, as on the
//! public port. And it sends none when somebody types an address: so the page at `/` is for anybody. It holds no figure, and asks for the token.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

use super::answer::Problem;
use super::{State, dashboard, demo, stats};

/// They tell nothing but that there is a server, whether it works and how it is reached. Probes are set up where no secret is, and a browser
/// that opens a page has none to bring.
const FOR_ANYBODY: [&str; 3] = ["/healthz", "/readyz", demo::PATH];
/// Of an entry among the subprotocols that is a token.
const OFFER_PREFIX: &str = "bearer.";
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"campanile\"");
const ACCEPTED: &str = "Authorization: Bearer TOKEN, with the control_token of this server (CAMPANILE_CONTROL_TOKEN)";

/// What a request must bring. Its hash, so that how long a comparison takes tells nothing, not even a length.
#[derive(Debug, Clone)]
pub(super) struct Token(Digest);

impl Token {
    pub(super) fn new(token: &str) -> Token {
        Token(digest(&SHA256, token.as_bytes()))
    }

    fn is(&self, given: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), digest(&SHA256, given).as_ref()).is_ok()
    }

    /// As `bearer.TOKEN` among the subprotocols. What of a token cannot stand there is percent-encoded.
    fn check_offered(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let mut offered = stats::elements(headers, header::SEC_WEBSOCKET_PROTOCOL).filter_map(|entry| entry.strip_prefix(OFFER_PREFIX));
        match (offered.next(), offered.next(), headers.contains_key(header::AUTHORIZATION)) {
            (None, _, _) => self.check(headers),
            (Some(token), None, false) if self.is(&percent_decode_str(token).collect::<Vec<u8>>()) => Ok(()),
            (Some(_), None, false) => Err("this is not the token of this control port"),
            _ => Err("there is more than one token"),
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let mut given = headers.get_all(header::AUTHORIZATION).into_iter();
        let Some(value) = given.next() else { return Err("this control port asks for a token") };
        if given.next().is_some() {
            return Err("there is more than one Authorization");
        }
        let bytes = value.as_bytes();
        // The scheme in any case (RFC 9110, 11.1).
        let token = bytes.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token);
        match token {
            None => Err("Authorization is not Bearer"),
            Some(token) if self.is(token.trim_ascii()) => Ok(()),
            Some(_) => Err("this is not the token of this control port"),
        }
    }
}

pub(super) async fn check(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let check = |token: &Token| match request.uri().path() {
        path if FOR_ANYBODY.contains(&path) => Ok(()),
        "/" if dashboard::is_wanted(request.headers()) => Ok(()),
        "/stats" => token.check_offered(request.headers()),
        _ => token.check(request.headers()),
    };
    if let Some(Err(error)) = state.reload.in_force().token.as_ref().map(check) {
        let mut response = Problem::with_accepted(StatusCode::UNAUTHORIZED, error, ACCEPTED).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
        return response;
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_and_nothing_else_is_taken() {
        let token = Token::new("0123456789abcdef");
        let check = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            token.check(&headers)
        };
        for good in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "BEARER  0123456789abcdef "] {
            assert_eq!(check(&[good]), Ok(()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789ABCDEF",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer0123456789abcdef",
            "Bearer 0123456789abcdef 0123456789abcdef",
        ] {
            assert!(check(&[bad]).is_err(), "{bad:?}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]).is_err());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap());
        assert!(token.check(&headers).is_err());
    }
}
