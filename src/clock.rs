//! Time as everybody here counts it: nanoseconds of the monotonic clock, which never steps. It is read by [`crate::sys::monotonic_ns`] and
//! passed on from there.

use std::time::Duration;

/// Nanoseconds of the monotonic clock.
pub type MonotonicNs = u64;

/// A duration in nanoseconds; one that is longer than clocks run stays so, with room to be added to.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
