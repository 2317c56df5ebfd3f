//! How busy each shard's loop is: its share of wall time over the last seconds. Sampled by a task of the control thread, read
//! by `/metrics` and `/info`.
//!
//! Invariant: the value does not depend on who asks and how often, so two scrapers do not spoil each other's figures.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::State;
use crate::metrics::ShardMetrics;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// So the window is ten seconds: long enough to be steady, short enough to show a burst between two scrapes.
const SAMPLES: usize = 10;

#[derive(Debug)]
pub(super) struct Window {
    /// Oldest first, never empty.
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Debug)]
struct Sample {
    at_ns: u64,
    /// `busy_ns` of each shard.
    busy_ns: Vec<u64>,
}

impl Window {
    pub(super) fn new(now_ns: u64, shards: &[Arc<ShardMetrics>]) -> Window {
        Window { samples: Mutex::new(VecDeque::from([Sample::take(now_ns, shards)])) }
    }

    fn record(&self, now_ns: u64, shards: &[Arc<ShardMetrics>]) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample::take(now_ns, shards));
    }

    /// Share of the time since the window's beginning that each shard worked, 0 to 1.
    pub(super) fn ratios(&self, now_ns: u64, shards: &[Arc<ShardMetrics>]) -> Vec<f64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = &samples[0];
        let elapsed_ns = now_ns.saturating_sub(oldest.at_ns);
        let ratio = |busy_ns: u64| if elapsed_ns == 0 { 0.0 } else { (busy_ns as f64 / elapsed_ns as f64).min(1.0) };
        shards.iter().zip(&oldest.busy_ns).map(|(shard, then)| ratio(shard.busy_ns.get().saturating_sub(*then))).collect()
    }
}

impl Sample {
    fn take(at_ns: u64, shards: &[Arc<ShardMetrics>]) -> Sample {
        Sample { at_ns, busy_ns: shards.iter().map(|shard| shard.busy_ns.get()).collect() }
    }
}

/// Moves the window along for as long as the runtime lives.
pub(super) async fn sample(state: Arc<State>) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        state.busy.record(crate::sys::monotonic_ns(), &state.shards);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ratios_are_shares_of_the_window() {
        let shards = [Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
        let window = Window::new(5 * SECOND, &shards);
        assert_eq!(window.ratios(5 * SECOND, &shards), [0.0, 0.0], "no time has passed");
        shards[0].busy_ns.add(SECOND / 2);
        shards[1].busy_ns.add(3 * SECOND);
        assert_eq!(window.ratios(7 * SECOND, &shards), [0.25, 1.0], "never above 1, whatever the clocks say");
    }

    #[test]
    fn asking_does_not_move_the_window_and_old_samples_leave_it() {
        let shards = [Arc::new(ShardMetrics::default())];
        let window = Window::new(0, &shards);
        shards[0].busy_ns.add(SECOND);
        for second in 1..=SAMPLES as u64 {
            assert_eq!(window.ratios(second * SECOND, &shards), [1.0 / second as f64]);
            window.record(second * SECOND, &shards);
        }
        assert_eq!(window.ratios(11 * SECOND, &shards), [0.0], "the busy second has left the window");
    }
}
