//! What Redis keeps for a subscriber that has not read it yet, and what follows from it for what we publish. Sans-IO; asked by
//! [`super::server::Server`].
//!
//! Beyond `client-output-buffer-limit pubsub HARD SOFT SECONDS` Redis closes the subscriber's connection, at once or after so many seconds.
//! Whatever we publish and listen to ourselves comes back through such a buffer. So what is on its way there is bounded far below both, or a
//! client that publishes could take the feed of the whole node down.

use redis::Value;

use crate::limits::redis::WINDOW_BYTES_MAX;

/// The parameter, for CONFIG GET.
pub const PARAMETER: &str = "client-output-buffer-limit";
/// How much smaller than the limit our part is: other nodes publish into the same buffer, eight of them as hard as they can without harm.
const SHARE: usize = 8;

/// In bytes; 0 is none, as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimit {
    hard: usize,
    soft: usize,
}

impl Default for OutputLimit {
    /// Redis's own default, for servers that do not tell.
    fn default() -> OutputLimit {
        OutputLimit { hard: 32 << 20, soft: 8 << 20 }
    }
}

impl OutputLimit {
    /// From the answer to CONFIG GET: a map (RESP3) or an array (RESP2) of the name and
    /// `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
    pub fn read(answer: &Value) -> Option<OutputLimit> {
        let value = match answer {
            Value::Map(pairs) => &pairs.first()?.1,
            Value::Array(items) => items.get(1)?,
            _ => return None,
        };
        let Value::BulkString(text) = value else { return None };
        let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace().skip_while(|word| *word != "pubsub").skip(1);
        Some(OutputLimit { hard: words.next()?.parse().ok()?, soft: words.next()?.parse().ok()? })
    }

    fn least(self) -> usize {
        [self.hard, self.soft].into_iter().filter(|&bytes| bytes > 0).min().unwrap_or(usize::MAX)
    }

    /// Bytes that may be on their way back to us. A single larger message is let through when there is no other.
    pub fn window_bytes(self) -> usize {
        (self.least() / SHARE).min(WINDOW_BYTES_MAX)
    }

    /// The largest message that Redis can keep for anybody. Half: it counts what it allocated, up to a quarter more than the message, and others'
    /// messages lie there too.
    pub fn message_bytes_max(self) -> usize {
        if self.hard == 0 { usize::MAX } else { self.hard / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> [Option<OutputLimit>; 2] {
        let (name, value) = (Value::BulkString(PARAMETER.into()), Value::BulkString(text.into()));
        [OutputLimit::read(&Value::Map(vec![(name.clone(), value.clone())])), OutputLimit::read(&Value::Array(vec![name, value]))]
    }

    #[test]
    fn what_redis_tells_is_read_in_both_protocols() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(told(text), [Some(OutputLimit::default()); 2]);
        for text in ["", "normal 0 0 0", "pubsub", "pubsub 1", "pubsub x 1 60"] {
            assert_eq!(told(text), [None; 2], "{text}");
        }
        assert_eq!(OutputLimit::read(&Value::Nil), None);
        assert_eq!(OutputLimit::read(&Value::Map(Vec::new())), None);
    }

    #[test]
    fn our_part_is_far_below_both_limits() {
        for (hard, soft, window) in [
            (32 << 20, 8 << 20, 1 << 20),
            (512 << 10, 0, 64 << 10),
            (0, 64 << 10, 8 << 10),
            (0, 0, WINDOW_BYTES_MAX),
            (1 << 40, 1 << 39, WINDOW_BYTES_MAX),
        ] {
            assert_eq!(OutputLimit { hard, soft }.window_bytes(), window);
        }
        assert_eq!(OutputLimit::default().message_bytes_max(), 16 << 20);
        assert_eq!(OutputLimit { hard: 0, soft: 1 }.message_bytes_max(), usize::MAX);
    }
}
