//! The names of channels, as clients and publishers write them.

use crate::limits::CHANNEL_NAME_BYTES_MAX;

/// Checks a channel name as clients write it: 1 to 255 bytes, no control characters. The error says what is accepted.
pub fn check(name: &str) -> Result<(), &'static str> {
    const _: () = assert!(CHANNEL_NAME_BYTES_MAX == 255, "the messages below name it");
    if name.is_empty() || name.len() > CHANNEL_NAME_BYTES_MAX {
        return Err("A channel name must have 1 to 255 bytes.");
    }
    if name.chars().any(char::is_control) {
        return Err("A channel name must not contain control characters.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names() {
        for name in ["a", "user:123", "a b", "€", "*", &"x".repeat(255)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &"x".repeat(256), &"€".repeat(86)] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
