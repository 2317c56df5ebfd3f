//! How long what may take with a Redis, and how soon it is tried again.

use std::time::Duration;

use crate::clock::nanos;

/// Deadlines of a connection. The defaults are what production uses; tests are in more of a hurry.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the first packet to the end of the log-in, for each address.
    pub connect: Duration,
    /// Silence, or the age of an unanswered command, after which a PING is sent.
    pub ping_after: Duration,
    /// How long any byte may take to come while a command is unanswered.
    pub answer: Duration,
    /// The longest pause before the second try; it doubles with each further one up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// How often it is tried whether durable messages come through, and after how long one that has not come is lost.
    pub probe_every: Duration,
    pub probe_patience: Duration,
    /// Also where no channel is durable.
    pub probes_plain: bool,
    /// How often channels are asked for that Redis does not allow us: an operator may have changed it.
    pub refused_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            ping_after: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            probe_every: Duration::from_secs(5),
            probe_patience: Duration::from_secs(5),
            probes_plain: true,
            refused_retry: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// A connection that was of use for so long did not fail, however it ended: what is cut once a second (by an operator, a proxy, an output buffer that
    /// overflows) comes back within the shortest pause each time.
    pub fn lasted_ns(&self) -> u64 {
        10 * nanos(self.backoff_min)
    }

    /// How long to wait after so many failures in a row.
    pub fn pause_ns(&self, attempts: u32) -> u64 {
        let doubled = nanos(self.backoff_min).saturating_mul(1 << attempts.saturating_sub(1).min(20));
        // Full jitter: a thousand nodes that lost the same Redis do not come back at the same moment.
        fastrand::u64(0..=doubled.min(nanos(self.backoff_max)))
    }
}
