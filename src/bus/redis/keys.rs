//! What a durable channel is called in Redis: its keys, its sharded Pub/Sub channel, and the hash slot of each. Depends on names alone.
//!
//! Invariant: all of a channel's names share one hash tag and so one slot. `functions.lua` checks the names that it is called with by the same rules.

use std::borrow::Cow;
use std::fmt::Write;

pub const SLOTS: u16 = 16_384;

/// The name as it stands within `{…}`, where a brace would end the tag or begin another.
pub fn encoded(channel: &str) -> Cow<'_, str> {
    if !channel.contains(['%', '{', '}']) {
        return Cow::Borrowed(channel);
    }
    let mut out = String::with_capacity(channel.len() + 8);
    for letter in channel.chars() {
        match letter {
            '%' | '{' | '}' => write!(out, "%{:02X}", letter as u32).expect("a String takes everything"),
            _ => out.push(letter),
        }
    }
    Cow::Owned(out)
}

/// None: [`encoded`] gives no such text.
fn decoded(encoded: &str) -> Option<Cow<'_, str>> {
    if encoded.contains(['{', '}']) {
        return None;
    }
    let mut parts = encoded.split('%');
    let first = parts.next().expect("a split has a first part");
    if first.len() == encoded.len() {
        return Some(Cow::Borrowed(encoded));
    }
    let mut out = first.to_owned();
    for part in parts {
        let (letter, rest) = [("25", '%'), ("7B", '{'), ("7D", '}')]
            .iter()
            .find_map(|(code, letter)| part.strip_prefix(code).map(|rest| (*letter, rest)))?;
        out.push(letter);
        out.push_str(rest);
    }
    Some(Cow::Owned(out))
}

/// The sharded Pub/Sub channel; what the keys begin with.
pub fn sharded_channel(prefix: &str, channel: &str) -> String {
    format!("{prefix}{{{}}}", encoded(channel))
}

/// The channel of a sharded Pub/Sub channel. None: of no channel here.
pub fn channel_of_sharded<'a>(prefix: &str, sharded: &'a str) -> Option<Cow<'a, str>> {
    decoded(sharded.strip_prefix(prefix)?.strip_prefix('{')?.strip_suffix('}')?).filter(|channel| !channel.is_empty())
}

/// The key of the entries.
pub fn stream(prefix: &str, channel: &str) -> String {
    sharded_channel(prefix, channel) + ":stream"
}

/// The key of epoch and last number.
pub fn meta(prefix: &str, channel: &str) -> String {
    sharded_channel(prefix, channel) + ":meta"
}

/// The key by which a repeat of one publish is known.
pub fn once(prefix: &str, channel: &str, key: &str) -> String {
    format!("{}:once:{key}", sharded_channel(prefix, channel))
}

/// The key of a user's marks.
pub fn marks(prefix: &str, user: &str) -> String {
    sharded_channel(prefix, user) + ":marks"
}

/// The hash slot of a key or of a sharded channel in Redis Cluster: of what stands in its first `{…}`, if anything does, else of the whole.
pub fn slot(key: &[u8]) -> u16 {
    let position = |bytes: &[u8], brace: u8| bytes.iter().position(|&byte| byte == brace);
    let tagged = position(key, b'{').map(|open| &key[open + 1..]).and_then(|rest| Some(&rest[..position(rest, b'}')?]));
    crc16(tagged.filter(|tag| !tag.is_empty()).unwrap_or(key)) % SLOTS
}

/// The slot of all names of a channel that [`sharded_channel`] begins.
pub fn slot_of(channel: &str) -> u16 {
    crc16(encoded(channel).as_bytes()) % SLOTS
}

/// CRC16 as of XMODEM: polynomial 0x1021, begun with 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_channel() {
        assert_eq!(stream("notifications:", "user:1"), "notifications:{user:1}:stream");
        assert_eq!(meta("notifications:", "user:1"), "notifications:{user:1}:meta");
        assert_eq!(once("", "a{b}%", "order 7"), "{a%7Bb%7D%25}:once:order 7");
        assert_eq!(sharded_channel("n:", "}"), "n:{%7D}");
        assert_eq!(marks("n:", "a{b"), "n:{a%7Bb}:marks");
    }

    #[test]
    fn names_come_back_and_no_two_texts_name_one_channel() {
        for channel in ["a", "{}", "%", "%25", "a%7Bb", "%%{{}}", "ü{ß}", "}{", "news"] {
            for prefix in ["", "notifications:", "p%:"] {
                assert_eq!(channel_of_sharded(prefix, &sharded_channel(prefix, channel)).as_deref(), Some(channel));
            }
        }
        for other in
            ["", "n:", "n:a", "n:{a", "n:a}", "n:{}", "n:{a}b", "n:{a%7b}", "n:{%41}", "n:{%}", "n:{%2}", "n:{a{}", "n:{a}}", "m:{a}"]
        {
            assert_eq!(channel_of_sharded("n:", other), None, "{other}");
        }
    }

    #[test]
    fn slots_are_the_specifications() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, expected) in [
            ("b", 3300),
            ("{b}x", 3300),
            ("{a{b}c}s", 13340),
            ("{a{b}c}m", 13340),
            ("a{b}c", 3300),
            ("{}{}s", 4738),
            ("a%7Bb%7Dc", 2789),
            // Of the specification's text on hash tags.
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("{user1000}.following", slot(b"user1000")),
            ("foo{{bar}}zap", slot(b"{bar")),
            ("foo{bar}{zap}", slot(b"bar")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        for name in [stream("n:", "a{b}c"), meta("n:", "a{b}c"), once("n:", "a{b}c", "{x}"), sharded_channel("n:", "a{b}c")] {
            assert_eq!((slot(name.as_bytes()), slot_of("a{b}c")), (2789, 2789), "{name}");
        }
    }
}
