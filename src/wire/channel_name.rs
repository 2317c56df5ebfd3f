//! What may be the name of a channel, wherever one is written: in commands and paths, on the control port, in settings and from Redis.

use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    Empty,
    TooLong,
    ControlCharacter,
    Reserved,
}

/// What begins with this is the servers' own in Redis: on such channels they tell each other which tokens are revoked, and what users have read.
pub const RESERVED: &str = "__campanile__:";

/// 1 to 255 bytes, no control characters: what may stand in a Redis command, a path and a query.
pub fn check(name: &str) -> Result<(), Bad> {
    match name {
        "" => Err(Bad::Empty),
        _ if name.len() > CHANNEL_NAME_BYTES_MAX => Err(Bad::TooLong),
        _ if name.contains(char::is_control) => Err(Bad::ControlCharacter),
        _ if name.starts_with(RESERVED) => Err(Bad::Reserved),
        _ => Ok(()),
    }
}

/// The same in constants.
pub const fn is_reserved(name: &str) -> bool {
    let (name, reserved) = (name.as_bytes(), RESERVED.as_bytes());
    let mut at = 0;
    while at < reserved.len() {
        if at >= name.len() || name[at] != reserved[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl Bad {
    /// What would have been taken, for clients.
    pub const fn accepted(self) -> &'static str {
        const _: () = assert!(CHANNEL_NAME_BYTES_MAX == 255, "the message below names it");
        match self {
            Bad::Empty | Bad::TooLong => "A channel name must have 1 to 255 bytes.",
            Bad::ControlCharacter => "A channel name must not contain control characters.",
            Bad::Reserved => "A channel name must not begin with __campanile__:, which is the servers' own.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names() {
        for name in ["a", "user:123", "a b", "€", "*", &"x".repeat(255)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["a\nb", "\0", "\u{7f}", "\u{85}"] {
            assert_eq!(check(name), Err(Bad::ControlCharacter), "{name}");
        }
        for name in [&"x".repeat(256), &"€".repeat(86)] {
            assert_eq!(check(name), Err(Bad::TooLong), "{name}");
        }
        assert_eq!(check(""), Err(Bad::Empty));
        assert_eq!(check("__campanile__:revoked:"), Err(Bad::Reserved));
        assert_eq!(check("__campanile__"), Ok(()));
    }
}
