//! How every bench runs: half a second of warm-up, one of measuring. Flags of the command line go before.

use std::time::Duration;

use criterion::Criterion;

pub fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1)).sample_size(50)
}
