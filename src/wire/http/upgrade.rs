//! Whether a head asks for a WebSocket as RFC 6455 (section 4.2.1) has it, and for which subprotocol.
//!
//! The checks are ours, because tungstenite's handshake holds 8 KB per pending socket and answers nothing but an upgrade.

use base64::Engine as _;

use super::extensions::Agreed;
use super::head::{Fields, Head};
use super::refusal::{Refusal, RefusalReason};
use super::target::Query;
use crate::wire::Format;

/// A valid upgrade.
#[derive(Debug)]
pub struct Upgrade<'h> {
    pub head: Head<'h>,
    /// The diagnostic echo path.
    pub echo: bool,
    /// Channels of `/ws/NAME` and `?channel=NAME`, in order, without doubles, each a valid channel name.
    pub channels: Vec<String>,
    /// From the subprotocol, else `?format=`; None leaves the choice to the first command.
    pub format: Option<Format>,
    /// The subprotocol to confirm in the answer.
    pub subprotocol: Option<String>,
    /// `?deflate=`: whether the client wants messages compressed, if it says so.
    pub deflate_wanted: Option<bool>,
    /// permessage-deflate, to be confirmed in the answer. Whoever answers decides, by what the server allows ([`super::extensions::agree`]).
    pub deflate: Option<Agreed>,
    /// `Sec-WebSocket-Key`.
    key: &'h [u8],
}

impl<'h> Upgrade<'h> {
    pub(super) fn of(head: Head<'h>, echo: bool, query: Query) -> Result<Upgrade<'h>, Refusal> {
        let key = websocket_key(&head)?;
        let chosen = subprotocol_offered(&head.fields);
        let format = chosen.or(query.format);
        Ok(Upgrade {
            head,
            echo,
            channels: query.channels,
            format,
            subprotocol: chosen.map(subprotocol),
            deflate_wanted: query.deflate,
            deflate: None,
            key,
        })
    }

    /// The value of `Sec-WebSocket-Accept`.
    pub fn accept_key(&self) -> String {
        tungstenite::handshake::derive_accept_key(self.key)
    }
}

/// The checks of RFC 6455, 4.2.1; the client's key if they pass.
fn websocket_key<'h>(head: &Head<'h>) -> Result<&'h [u8], Refusal> {
    let upgrade_required = |message: &str| Err(Refusal::new(RefusalReason::UpgradeRequired, message));
    let fields = &head.fields;
    if !head.is_http_1_1 {
        return upgrade_required("WebSocket needs HTTP/1.1; a proxy on the way may speak HTTP/1.0.");
    }
    if !fields.contains_token("upgrade", "websocket") {
        return upgrade_required("This is a WebSocket endpoint; the request must have the header Upgrade: websocket.");
    }
    if fields.only("sec-websocket-version") != Some(b"13") {
        return upgrade_required("Sec-WebSocket-Version must be 13.");
    }
    if !fields.contains_token("connection", "upgrade") {
        return Err(Refusal::bad("The Connection header must contain Upgrade; a proxy on the way may have removed it."));
    }
    let key_problem = "The request must have exactly one Sec-WebSocket-Key: 16 bytes in base64, which are 24 characters.";
    let key = fields.only("sec-websocket-key").ok_or_else(|| Refusal::bad(key_problem))?;
    // Three bytes for each four characters, before the padding is known.
    let mut decoded = [0; 18];
    match base64::engine::general_purpose::STANDARD.decode_slice(key, &mut decoded) {
        Ok(16) if key.len() == 24 => Ok(key),
        Ok(_) | Err(_) => Err(Refusal::bad(key_problem)),
    }
}

/// The subprotocol that stands for a format.
pub fn subprotocol(format: Format) -> String {
    format!("{SUBPROTOCOL_PREFIX}{}", format.name())
}

const SUBPROTOCOL_PREFIX: &str = "campanile.v1.";

/// The client lists its subprotocols by preference, so the first one that we know wins. Knowing none is no reason to refuse: the answer
/// then names none, and the client decides (RFC 6455, 4.2.2).
fn subprotocol_offered(fields: &Fields<'_>) -> Option<Format> {
    fields
        .elements("sec-websocket-protocol")
        .filter_map(|offered| offered.strip_prefix(SUBPROTOCOL_PREFIX.as_bytes()))
        .find_map(|name| Format::ALL.into_iter().find(|format| format.name().as_bytes() == name))
}
