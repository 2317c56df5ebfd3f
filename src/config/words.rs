//! Values that are one of a few words. A word stands here once, for settings, start block, `/info` and the labels of metrics.

use crate::wire::Format;
use crate::wire::payload::Expect;

/// A value that is spelled as one of a few words.
pub trait Word: Copy + PartialEq + 'static {
    /// In the order in which messages list them.
    const ALL: &'static [Self];

    fn name(self) -> &'static str;
}

/// The words of an enum. One without a word does not compile.
macro_rules! words {
    ($type:ident: $($value:ident = $word:literal),+) => {
        impl Word for $type {
            const ALL: &'static [$type] = &[$($type::$value),+];

            fn name(self) -> &'static str {
                match self {
                    $($type::$value => $word),+
                }
            }
        }
    };
}

words!(RedisSubscribe: Exact = "exact", Pattern = "pattern");
words!(FdTable: Auto = "auto", Shared = "shared", Private = "private");
words!(LogFormat: Text = "text", Json = "json");
words!(Overrun: Disconnect = "disconnect", Skip = "skip", Latest = "latest");
words!(Mismatch: Opaque = "opaque", Drop = "drop");
words!(Expect: Auto = "auto", Msgpack = "msgpack", Json = "json", Raw = "raw");

/// The words that clients choose a format by.
impl Word for Format {
    const ALL: &'static [Format] = &Format::ALL;

    fn name(self) -> &'static str {
        Format::name(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisSubscribe {
    Exact,
    Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdTable {
    Auto,
    Shared,
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What happens to a subscriber whose cursor the log's tail has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Overrun {
    /// Close with 4008; the client resumes.
    Disconnect = 0,
    /// Go on at the tail; a `gap` names what was lost.
    Skip = 1,
    /// Go on at the newest message; a `gap` names what was lost.
    Latest = 2,
}

/// What to do with a payload that is not what `payload` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Opaque,
    Drop,
}
