//! A request's head: its syntax, which httparse reads, and what RFC 9112 asks of every request.
//!
//! Everything is lent out of the bytes that came: whoever decides about the request reads from here what it wants to know (Origin, credentials),
//! and nobody owns a copy when the connection is open.

use std::mem::MaybeUninit;

use super::refusal::{Refusal, RefusalReason};
use crate::limits::HEAD_FIELDS_MAX;
use crate::wire::proxy;

/// Room for the fields of one head, on the stack of whoever reads it.
#[derive(Debug)]
pub struct FieldRoom<'h>([MaybeUninit<httparse::Header<'h>>; HEAD_FIELDS_MAX]);

impl FieldRoom<'_> {
    pub fn empty() -> Self {
        FieldRoom([const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX])
    }
}

/// A complete head.
#[derive(Debug, Clone, Copy)]
pub struct Head<'h> {
    pub method: &'h str,
    /// As it was written.
    pub target: &'h str,
    /// Else it is HTTP/1.0.
    pub is_http_1_1: bool,
    pub fields: Fields<'h>,
    /// Its length; what follows are already frames.
    pub bytes: usize,
}

impl<'h> Head<'h> {
    /// Reads a head from the start of what the peer has sent; None: more bytes are needed.
    pub(super) fn read(bytes: &'h [u8], room: &'h mut FieldRoom<'h>, bytes_max: usize) -> Result<Option<Head<'h>>, Refusal> {
        let mut request = httparse::Request::new(&mut []);
        let window = &bytes[..bytes.len().min(bytes_max)];
        match request.parse_with_uninit_headers(window, &mut room.0) {
            Ok(httparse::Status::Complete(bytes)) => Ok(Some(Head {
                method: request.method.unwrap_or_default(),
                target: request.path.unwrap_or_default(),
                is_http_1_1: request.version == Some(1),
                fields: Fields(request.headers),
                bytes,
            })),
            Ok(httparse::Status::Partial) if window.len() < bytes_max => Ok(None),
            Ok(httparse::Status::Partial) => Err(too_big(format!("The request head must not be longer than {bytes_max} bytes."))),
            Err(httparse::Error::TooManyHeaders) => {
                Err(too_big(format!("The request must not have more than {HEAD_FIELDS_MAX} header fields.")))
            }
            Err(_) if proxy::is_preamble(bytes) => Err(RefusalReason::ProxyUnexpected.into()),
            Err(error) => Err(Refusal::bad(format!("This is not an HTTP/1.1 request ({error})."))),
        }
    }

    /// Whether another request may follow on the same connection (RFC 9112, 9.3).
    pub fn keeps_alive(&self) -> bool {
        self.is_http_1_1 && !self.fields.contains_token("connection", "close")
    }

    /// What RFC 9112 asks of every request, and that it has no body: it would be read as frames, or as the next request.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check_no_body(&self.fields)?;
        match self.fields.values("host").count() {
            1 => Ok(()),
            // Allowed in HTTP/1.0, and old health checkers do it.
            0 if !self.is_http_1_1 => Ok(()),
            _ => Err(Refusal::bad("The request must have exactly one Host header.")),
        }
    }
}

fn too_big(message: String) -> Refusal {
    Refusal::new(RefusalReason::HeadTooBig, message)
}

/// Header fields by name.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'h>(&'h [httparse::Header<'h>]);

impl<'h> Fields<'h> {
    /// The values of every field of this name, without the space around them.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.trim_ascii())
    }

    /// The elements of a comma-separated list, which may be spread over several fields (RFC 9110, 5.3).
    pub fn elements(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        self.values(name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }

    pub fn contains_token(&self, name: &'static str, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The value of a field that must not occur twice; None when it does, or does not at all.
    pub fn only(&self, name: &'static str) -> Option<&'h [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

fn check_no_body(fields: &Fields<'_>) -> Result<(), Refusal> {
    let mut body = fields.values("transfer-encoding").next().is_some();
    for length in fields.elements("content-length") {
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::bad("Content-Length must be a number."));
        }
        body |= length.iter().any(|&digit| digit != b'0');
    }
    if body {
        return Err(RefusalReason::BodyNotAllowed.into());
    }
    Ok(())
}
