//! How long to wait before the next try. Called by [`super::Client`].

use std::time::Duration;

/// Exponential backoff with full jitter: a herd of clients that lost the same server must not come back as a herd.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    pub fn next(&mut self) -> Duration {
        Duration::from_millis(fastrand::u64(..=self.ceiling().as_millis() as u64))
    }

    /// What the next delay is drawn below; doubles with every call.
    fn ceiling(&mut self) -> Duration {
        let ceiling = Backoff::FIRST.saturating_mul(1 << self.attempts.min(10)).min(Backoff::LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        ceiling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_bound() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..9).map(|_| backoff.ceiling().as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.attempts = u32::MAX - 1;
        assert!(backoff.next() <= Backoff::LONGEST);
    }
}
