//! Whether a shard can take more connections: how late its loop is, how full its logs are, and whether the host has memory. Asked by `admission` for each upgrade; whoever
//! is there already is served on.
//!
//! Each cause closes the door at its threshold and opens it well below: a door that flaps would let in a few at a time and refuse the others.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::MonotonicNs;
use crate::metrics::LoadCause;

/// What is known of the host. The control thread writes it, shards read it.
#[derive(Debug, Default)]
pub struct HostLoad {
    is_short_of_memory: AtomicBool,
}

impl HostLoad {
    /// `percent` of all memory are available. Opens again at a quarter more than `percent_min`.
    pub fn note_memory(&self, percent: f64, percent_min: usize) {
        let is_short = self.is_short_of_memory();
        let enough = percent_min as f64 * if is_short { 1.25 } else { 1.0 };
        // Where all of it is asked for, nothing is enough.
        self.is_short_of_memory.store(percent < enough, Relaxed);
    }

    pub fn is_short_of_memory(&self) -> bool {
        self.is_short_of_memory.load(Relaxed)
    }
}

/// Over how long lateness is averaged.
const WINDOW_NS: f64 = 1e9;
/// What one turn counts at most, of the window, however long it was: a host that stood still once is not one that is late.
const TURN_NS_MAX: f64 = 250e6;

/// From when on a shard takes nobody in; None: that does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Thresholds {
    pub lag: Option<Duration>,
    /// Of what its logs may hold, in percent.
    pub logs: Option<usize>,
    /// Of the host's memory, in percent: less than this is available.
    pub memory: Option<usize>,
}

#[derive(Debug)]
pub struct Load {
    thresholds: Thresholds,
    /// How long what happens has to wait for the loop, averaged.
    lag_ns: f64,
    noted_ns: MonotonicNs,
    is_closed: [bool; LoadCause::ALL.len()],
}

impl Load {
    pub fn new(thresholds: Thresholds, now_ns: MonotonicNs) -> Load {
        Load { thresholds, lag_ns: 0.0, noted_ns: now_ns, is_closed: [false; LoadCause::ALL.len()] }
    }

    /// A turn, with all that went before it in the loop, has taken so long. What happened meanwhile has waited for it.
    pub fn note_turn(&mut self, took_ns: u64, now_ns: MonotonicNs) {
        let Some(threshold) = self.thresholds.lag else { return };
        let threshold_ns = threshold.as_nanos() as f64;
        self.rest(now_ns.saturating_sub(took_ns));
        self.noted_ns = now_ns;
        let took_ns = took_ns as f64;
        let weight = took_ns.min(TURN_NS_MAX) / WINDOW_NS;
        self.lag_ns += (took_ns.min(2.0 * threshold_ns) - self.lag_ns) * weight;
        self.set(LoadCause::Lag, self.lag_ns, threshold_ns, threshold_ns / 2.0);
    }

    /// Until now nothing had to wait.
    fn rest(&mut self, now_ns: MonotonicNs) {
        let rested_ns = now_ns.saturating_sub(self.noted_ns) as f64;
        self.noted_ns = self.noted_ns.max(now_ns);
        self.lag_ns *= WINDOW_NS / (WINDOW_NS + rested_ns);
    }

    /// Somebody wants to come in: why not, as things stand now.
    pub fn ask(&mut self, now_ns: MonotonicNs, host: &HostLoad) -> Option<LoadCause> {
        self.note_host(host);
        if let Some(threshold) = self.thresholds.lag {
            self.rest(now_ns);
            let threshold_ns = threshold.as_nanos() as f64;
            self.set(LoadCause::Lag, self.lag_ns, threshold_ns, threshold_ns / 2.0);
        }
        self.cause()
    }

    /// What the logs hold now, and may hold.
    pub fn note_logs(&mut self, bytes: usize, bytes_max: usize) {
        let Some(percent_max) = self.thresholds.logs else { return };
        let percent = bytes as f64 * 100.0 / bytes_max.max(1) as f64;
        self.set(LoadCause::Logs, percent, percent_max as f64, percent_max as f64 * 0.9);
    }

    fn note_host(&mut self, host: &HostLoad) {
        self.is_closed[LoadCause::Memory as usize] = self.thresholds.memory.is_some() && host.is_short_of_memory();
    }

    fn set(&mut self, cause: LoadCause, value: f64, closes_at: f64, opens_below: f64) {
        let is_closed = &mut self.is_closed[cause as usize];
        *is_closed = value >= if *is_closed { opens_below } else { closes_at };
    }

    pub fn lag_ns(&self) -> u64 {
        self.lag_ns as u64
    }

    pub fn is_closed(&self, cause: LoadCause) -> bool {
        self.is_closed[cause as usize]
    }

    /// Why nobody was taken in when it was last looked at.
    pub fn cause(&self) -> Option<LoadCause> {
        LoadCause::ALL.into_iter().find(|cause| self.is_closed(*cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn load() -> Load {
        Load::new(Thresholds { lag: Some(Duration::from_millis(500)), logs: Some(90), memory: Some(5) }, 0)
    }

    /// Turns of a length, with a sleep before each; how many it took to close or open the door, if it did.
    fn turns(load: &mut Load, took_ms: u64, slept_ms: u64, is_closed: bool) -> Option<usize> {
        (1..=1000).find(|_| {
            let now_ns = load.noted_ns + (took_ms + slept_ms) * MS;
            load.note_turn(took_ms * MS, now_ns);
            load.is_closed(LoadCause::Lag) == is_closed
        })
    }

    #[test]
    fn a_loop_that_is_late_again_and_again_closes_the_door_and_opens_it_below_half() {
        let mut load = load();
        assert_eq!(turns(&mut load, 400, 0, true), None, "late, and not so late");
        assert!(turns(&mut load, 600, 0, true).is_some_and(|count| count > 1));
        assert_eq!(load.cause(), Some(LoadCause::Lag));
        assert_eq!(turns(&mut load, 300, 0, false), None, "below the threshold, and not below half of it");
        assert!(turns(&mut load, 1, 0, false).is_some());
        assert_eq!(load.cause(), None);
        assert_eq!(turns(&mut load, 1, 100, true), None);
    }

    #[test]
    fn standing_still_once_is_forgiven_and_sleep_is_no_lag() {
        let mut load = load();
        load.note_turn(3600 * 1000 * MS, 3600 * 1000 * MS);
        assert_eq!(load.cause(), None);
        while load.cause().is_none() {
            let now_ns = load.noted_ns + 900 * MS;
            load.note_turn(900 * MS, now_ns);
        }
        // Nothing happens for long, then somebody comes.
        assert_eq!(load.ask(load.noted_ns + 60_000 * MS, &HostLoad::default()), None);
    }

    #[test]
    fn logs_and_memory_have_a_gap_between_closing_and_opening() {
        let mut load = load();
        for (bytes, cause) in [(89, None), (90, Some(LoadCause::Logs)), (85, Some(LoadCause::Logs)), (80, None), (89, None)] {
            load.note_logs(bytes, 100);
            assert_eq!(load.cause(), cause, "{bytes}");
        }
        let host = HostLoad::default();
        for (percent, cause) in [(5.1, None), (4.9, Some(LoadCause::Memory)), (6.0, Some(LoadCause::Memory)), (6.3, None)] {
            host.note_memory(percent, 5);
            assert_eq!(load.ask(0, &host), cause, "{percent}");
        }
    }

    #[test]
    fn what_has_no_threshold_does_not_matter() {
        let mut load = Load::new(Thresholds::default(), 0);
        for turn in 1..100 {
            load.note_turn(10_000 * MS, turn * 10_000 * MS);
        }
        load.note_logs(100, 100);
        let host = HostLoad::default();
        host.note_memory(0.0, 100);
        assert_eq!(load.ask(u64::MAX, &host), None);
    }
}
