//! Request heads on the public port. Skeleton: signatures are fixed, bodies to come.
use super::Format;
use crate::metrics::RefusalReason;

/// What the server allows, checked while the head is read.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `/echo` is served.
    pub echo: bool,
}

#[derive(Debug)]
pub enum Outcome {
    /// More bytes are needed.
    Partial,
    /// A valid upgrade. `consumed` bytes were the head; what follows are already frames.
    Upgrade { consumed: usize, upgrade: Upgrade },
    /// Answer with [`Refusal::encode`] and close.
    Refuse(Refusal),
    /// `GET` or `HEAD /healthz`: answer with [`encode_healthz`] and close.
    Health { head_only: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The diagnostic echo path.
    pub echo: bool,
    /// Channels of `/ws/NAME` and `?channel=NAME`, in order, without doubles, each a valid channel name.
    pub channels: Vec<String>,
    /// From the subprotocol, else `?format=`; None leaves the choice to the first command.
    pub format: Option<Format>,
    /// The subprotocol to confirm in the answer.
    pub subprotocol: Option<&'static str>,
    /// Value of `Sec-WebSocket-Accept`.
    pub accept_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// One sentence for the person who reads the answer: what was wrong and what is accepted.
    pub message: String,
}

pub fn parse(_head: &[u8], _rules: Rules) -> Outcome {
    todo!()
}
impl Upgrade {
    /// Appends the `101 Switching Protocols` answer.
    pub fn encode(&self, _out: &mut Vec<u8>) {
        todo!()
    }
}
impl Refusal {
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Refusal {
        Refusal { reason, message: message.into() }
    }
    /// Appends the whole HTTP answer (`Connection: close`, plain text body, `Allow`, `Sec-WebSocket-Version`, `Retry-After` where due).
    pub fn encode(&self, _out: &mut Vec<u8>) {
        todo!()
    }
}
pub fn encode_healthz(_out: &mut Vec<u8>, _head_only: bool) {
    todo!()
}
/// Checks a channel name as clients write it: 1 to 255 bytes, no control characters. The error says what is accepted.
pub fn check_channel_name(_name: &str) -> Result<(), &'static str> {
    todo!()
}
