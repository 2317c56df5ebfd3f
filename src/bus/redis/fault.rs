//! Why a connection to Redis is given up, and what an error in answer to a command means, in words for the operator.

use redis::ServerError;

/// Why a connection is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    pub reason: String,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The other side hung up.
    Closed,
    /// What came was not RESP.
    Violation,
    Other,
}

/// What an error says about the command that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would be taken at another time: the server is loading, runs a script, has lost its master.
    ForNow,
    /// Only an operator can change it.
    ForGood,
}

impl Fault {
    pub fn new(reason: impl Into<String>) -> Fault {
        Fault { reason: reason.into(), kind: FaultKind::Other }
    }

    pub fn closed(reason: impl Into<String>) -> Fault {
        Fault { reason: reason.into(), kind: FaultKind::Closed }
    }

    /// The server refuses to log us in.
    pub fn refused(error: &ServerError) -> Fault {
        Fault::new(format!("Redis answers: {}", with_advice(error)))
    }

    pub fn is_violation(&self) -> bool {
        self.kind == FaultKind::Violation
    }
}

impl From<super::resp::Violation> for Fault {
    fn from(violation: super::resp::Violation) -> Fault {
        Fault { reason: violation.to_string(), kind: FaultKind::Violation }
    }
}

impl Refusal {
    pub fn of(error: &ServerError) -> Refusal {
        match error.code() {
            "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "CLUSTERDOWN" | "OOM" | "MISCONF" | "NOREPLICAS" => {
                Refusal::ForNow
            }
            _ => Refusal::ForGood,
        }
    }
}

/// What a server error says, and what to do about it.
pub fn with_advice(error: &ServerError) -> String {
    let advice = match error.code() {
        "LOADING" => "; it is still loading its data, which ends by itself",
        "BUSY" => "; a script runs for too long (SCRIPT KILL ends it)",
        "NOAUTH" => "; put the password into the URL: redis://:PASSWORD@HOST",
        "MOVED" | "ASK" => "; it is a node of a Cluster, whose URL is redis+cluster://HOST:PORT",
        "WRONGPASS" => "; check user and password in the URL",
        "NOPERM" => {
            "; the user needs +subscribe +unsubscribe +psubscribe +publish +ping and the channels (ACL SETUSER), and what docs/durable.md names for durable ones"
        }
        "ERR" if is_too_many(error) => "; raise `maxclients` in its configuration or disconnect others",
        _ => "",
    };
    format!("{}{advice}", text_of(error))
}

pub fn is_too_many(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.contains("max number of clients"))
}

pub fn text_of(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end().to_owned()
}
