//! What may be wrong with a value, in either spelling.

use crate::limits::VALUE_DEPTH_MAX;

/// Why bytes are not one complete value, MessagePack or JSON. Positions count from the first byte of that value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it ends too early")]
    Truncated,
    #[error("byte {at} cannot stand there")]
    Unexpected { at: usize },
    #[error("the string at byte {at} is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("it is nested deeper than {VALUE_DEPTH_MAX} levels")]
    TooDeep,
    #[error("more follows after its end at byte {at}")]
    Trailing { at: usize },
    #[error("it is not a map")]
    NotAMap,
    #[error("it is not a list")]
    NotAList,
}
