//! What an error in answer to a function of the library means, told apart by its code, or by its text where Redis gives none.
//! `docs/durable.md` has the same table for whoever calls the functions from elsewhere.

/// Nothing was written, whichever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The server has no such function: it was never loaded, or is gone with a restart.
    NoFunction,
    /// The server is older than Redis 7.0.
    NoFunctions,
    /// The user lacks the right to a command, a key or the channel.
    Forbidden,
    /// Nobody is logged in any more.
    LoggedOut,
    Loading,
    /// It is a replica, or has become one.
    ReadOnly,
    /// `maxmemory` is reached and nothing may be evicted.
    OutOfMemory,
    /// It runs a script for longer than it should.
    Busy,
    MasterDown,
    ClusterDown,
    /// The slot migrates, and the keys are not all on one side.
    TryAgain,
    /// The slot is another server's, or is becoming that.
    Moved,
    NoReplicas,
    /// It cannot write its files.
    CannotPersist,
    /// A key holds something of another type.
    WrongType,
    /// Arguments, keys or channel are not what the function takes.
    Misused,
    /// The stream's last id leaves no room for a larger one.
    Exhausted,
    /// The idempotency key holds something else.
    ForeignOnce,
    Other,
}

impl CallError {
    /// Of the text of an error reply, without the `-`.
    pub fn of(error: &str) -> CallError {
        let (code, text) = error.split_once(' ').unwrap_or((error, ""));
        match code {
            "NOPERM" => CallError::Forbidden,
            "NOAUTH" | "WRONGPASS" => CallError::LoggedOut,
            "LOADING" => CallError::Loading,
            "READONLY" => CallError::ReadOnly,
            "OOM" => CallError::OutOfMemory,
            "BUSY" | "UNKILLABLE" => CallError::Busy,
            "MASTERDOWN" => CallError::MasterDown,
            "CLUSTERDOWN" => CallError::ClusterDown,
            "TRYAGAIN" => CallError::TryAgain,
            "MOVED" | "ASK" => CallError::Moved,
            "NOREPLICAS" => CallError::NoReplicas,
            "MISCONF" => CallError::CannotPersist,
            "WRONGTYPE" => CallError::WrongType,
            "BADARGS" | "BADKEYS" | "BADCHANNEL" | "CROSSSLOT" => CallError::Misused,
            "BADSTREAM" => CallError::Exhausted,
            "BADONCE" => CallError::ForeignOnce,
            "ERR" => CallError::of_text(text),
            _ => CallError::Other,
        }
    }

    fn of_text(text: &str) -> CallError {
        // Of what stands in the channel's name or in a key, only what comes behind could be mistaken for one of these.
        const FORBIDDEN: &[&str] = &[
            "The user executing the script can't",
            "ACL failure in script",
            "This user has no permissions",
            "this user has no permissions",
        ];
        if text.starts_with("Function not found") {
            CallError::NoFunction
        } else if text.starts_with("unknown command") {
            CallError::NoFunctions
        } else if text.starts_with("Protocol error: unauthenticated") {
            // Instead of NOAUTH to a command of more than ten parts, or of a long one; then it hangs up.
            CallError::LoggedOut
        } else if FORBIDDEN.iter().any(|begin| text.starts_with(begin)) {
            CallError::Forbidden
        } else {
            CallError::Other
        }
    }

    /// The same call would be taken at another time, perhaps by another server, without anybody doing anything about it.
    pub fn is_for_now(self) -> bool {
        match self {
            CallError::Loading
            | CallError::ReadOnly
            | CallError::OutOfMemory
            | CallError::Busy
            | CallError::MasterDown
            | CallError::ClusterDown
            | CallError::TryAgain
            | CallError::Moved
            | CallError::NoReplicas
            | CallError::CannotPersist => true,
            CallError::NoFunction
            | CallError::NoFunctions
            | CallError::Forbidden
            | CallError::LoggedOut
            | CallError::WrongType
            | CallError::Misused
            | CallError::Exhausted
            | CallError::ForeignOnce
            | CallError::Other => false,
        }
    }

    /// What an operator is to do about it; empty: the error says all there is to say.
    pub fn advice(self) -> &'static str {
        match self {
            CallError::NoFunction => "load the functions: campanile redis install --redis URL",
            CallError::NoFunctions => "durable channels need Redis 7.0 or later",
            CallError::Forbidden => "the user lacks a right; docs/durable.md has the line for ACL SETUSER",
            CallError::LoggedOut => "put user and password into the URL",
            CallError::Loading => "it is still loading its data, which ends by itself",
            CallError::ReadOnly => "this is a replica: use its master",
            CallError::OutOfMemory => "maxmemory is reached: raise it, or keep less (history_count, history_age)",
            CallError::Busy => "a script runs for too long (FUNCTION KILL or SCRIPT KILL ends it)",
            CallError::MasterDown => "it has lost its master",
            CallError::ClusterDown => "the cluster has lost a part of its slots",
            CallError::TryAgain => "its slot migrates, which ends by itself",
            CallError::Moved => "its slot is another server's",
            CallError::NoReplicas => "too few replicas are in step (min-replicas-to-write)",
            CallError::CannotPersist => "it cannot write its files: look at its disk and its log",
            CallError::WrongType => "a key of this channel holds something else: delete it",
            CallError::Exhausted => "an entry with a foreign id stands in the stream: delete stream and meta hash",
            CallError::ForeignOnce => "delete the key, or choose another",
            CallError::Misused | CallError::Other => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Redis 7.0.15 words them.
    #[test]
    fn errors_are_told_apart() {
        for (error, expected) in [
            ("ERR Function not found", CallError::NoFunction),
            ("ERR unknown command 'FCALL', with args beginning with: 'x' ", CallError::NoFunctions),
            ("NOPERM this user has no permissions to access one of the keys used as arguments", CallError::Forbidden),
            (
                "ERR The user executing the script can't run this command or subcommand script: p, on @user_function:4.",
                CallError::Forbidden,
            ),
            ("ERR The user executing the script can't publish to the channel mentioned in the command", CallError::Forbidden),
            ("ERR The user executing the script can't access at least one of the keys mentioned in the command", CallError::Forbidden),
            ("NOAUTH Authentication required.", CallError::LoggedOut),
            ("ERR Protocol error: unauthenticated multibulk length", CallError::LoggedOut),
            ("LOADING Redis is loading the dataset in memory", CallError::Loading),
            ("READONLY You can't write against a read only replica.", CallError::ReadOnly),
            ("OOM command not allowed when used memory > 'maxmemory'.", CallError::OutOfMemory),
            ("BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.", CallError::Busy),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", CallError::MasterDown),
            ("CLUSTERDOWN The cluster is down", CallError::ClusterDown),
            ("TRYAGAIN Multiple keys request during rehashing of slot", CallError::TryAgain),
            ("MOVED 3300 127.0.0.1:7001", CallError::Moved),
            ("NOREPLICAS Not enough good replicas to write.", CallError::NoReplicas),
            ("MISCONF Redis is configured to save RDB snapshots, but …", CallError::CannotPersist),
            ("WRONGTYPE Operation against a key holding the wrong kind of value script: p, on @user_function:4.", CallError::WrongType),
            ("BADKEYS …", CallError::Misused),
            ("BADSTREAM …", CallError::Exhausted),
            ("BADONCE …", CallError::ForeignOnce),
            ("ERR something about NOPERM and Function not found", CallError::Other),
            ("", CallError::Other),
        ] {
            assert_eq!(CallError::of(error), expected, "{error}");
        }
    }
}
