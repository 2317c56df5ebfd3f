//! permessage-deflate as a client offers it (`Sec-WebSocket-Extensions`; RFC 7692, 7.1), and what the answer says.
//!
//! Called by a shard that would agree to it. The first offer that can be served is taken; one with a parameter that is unknown, stands twice or
//! has a value that it must not have is passed over, as are other extensions, and without any left the upgrade goes without. Whatever is agreed, no context is taken
//! over in either direction: what is compressed is compressed once for everybody, and one inflater serves all. Every client that was tried takes that answer.

use std::num::NonZeroU8;

use super::head::Fields;
use crate::wire::deflate::{WINDOW_BITS, WINDOW_BITS_MIN};

const DEFLATE: &str = "permessage-deflate";

/// permessage-deflate, without context takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// How far back the client can read, in bits; with [`REPEATED`] where it has said so itself: then the answer must.
    window: NonZeroU8,
}

const REPEATED: u8 = 1 << 7;

impl Agreed {
    fn new(asked_bits: Option<u8>) -> Agreed {
        let window = asked_bits.map_or(WINDOW_BITS, |bits| bits | REPEATED);
        Agreed { window: NonZeroU8::new(window).expect("a window has bits") }
    }

    /// How far back what is sent to this client may refer: 9 to 15.
    pub fn window_bits(self) -> u8 {
        self.window.get() & !REPEATED
    }

    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn answer(self) -> String {
        let mut answer = format!("{DEFLATE}; {SERVER_NO_CONTEXT}; {CLIENT_NO_CONTEXT}");
        if self.window.get() & REPEATED != 0 {
            answer += &format!("; {SERVER_WINDOW}={}", self.window_bits());
        }
        answer
    }
}

const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";

/// What of a client's offers is taken, if any.
pub fn agree(fields: &Fields<'_>) -> Option<Agreed> {
    fields.elements("sec-websocket-extensions").find_map(|offer| serve(std::str::from_utf8(offer).ok()?))
}

/// None: this offer cannot be served.
fn serve(offer: &str) -> Option<Agreed> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(DEFLATE) {
        return None;
    }
    let mut seen = [false; 4];
    let mut server_bits = None;
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start()))),
            None => (part, None),
        };
        let names = [SERVER_NO_CONTEXT, CLIENT_NO_CONTEXT, SERVER_WINDOW, CLIENT_WINDOW];
        let at = names.iter().position(|known| name.eq_ignore_ascii_case(known))?;
        if std::mem::replace(&mut seen[at], true) {
            return None;
        }
        match (names[at], value) {
            (SERVER_NO_CONTEXT | CLIENT_NO_CONTEXT, None) | (CLIENT_WINDOW, None) => {}
            // Whatever the client compresses with, the inflater reads further back.
            (CLIENT_WINDOW, Some(bits)) => drop(window_bits(bits)?),
            (SERVER_WINDOW, Some(bits)) => server_bits = Some(window_bits(bits).filter(|bits| *bits >= WINDOW_BITS_MIN)?),
            _ => return None,
        }
    }
    Some(Agreed::new(server_bits))
}

/// 8 to 15, as RFC 7692 (7.1.2.1) writes it: without zeros before it.
fn window_bits(text: &str) -> Option<u8> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|bits| is_plain && (8..=WINDOW_BITS).contains(bits))
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::head::{FieldRoom, Head};

    fn answer(lines: &[&str]) -> Option<String> {
        let fields: String = lines.iter().map(|line| format!("Sec-WebSocket-Extensions: {line}\r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let mut room = FieldRoom::empty();
        let head = Head::read(bytes.as_bytes(), &mut room, 8192).unwrap().unwrap();
        agree(&head.fields).map(Agreed::answer)
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn what_clients_offer_is_served() {
        // Chromium, ws, undici and Python's; autobahn; others that spell it otherwise.
        for offer in [
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits",
            "permessage-deflate",
            "Permessage-Deflate ;Server_No_Context_Takeover; client_max_window_bits = 10",
            "permessage-deflate; client_max_window_bits=\"8\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(PLAIN), "{offer}");
        }
        assert_eq!(answer(&["foo; bar=1", "permessage-deflate"]).as_deref(), Some(PLAIN), "spread over lines");
    }

    #[test]
    fn a_window_that_was_asked_for_is_confirmed() {
        for bits in 9..=15 {
            let offer = format!("permessage-deflate; server_max_window_bits={bits}");
            assert_eq!(answer(&[&offer]), Some(format!("{PLAIN}; server_max_window_bits={bits}")));
        }
        let both = "permessage-deflate; server_max_window_bits=9, permessage-deflate";
        assert_eq!(answer(&[both]), Some(format!("{PLAIN}; server_max_window_bits=9")), "the first that can be served");
    }

    #[test]
    fn what_cannot_be_served_is_declined() {
        assert_eq!(answer(&[]), None);
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflatex",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
    }

    #[test]
    fn an_agreement_takes_a_byte_of_a_connection() {
        assert_eq!(size_of::<Option<Agreed>>(), 1);
    }
}
