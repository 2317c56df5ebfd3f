//! What TLS needs with time: keys of session tickets grow old, and so do certificates.

use std::sync::Arc;
use std::time::Duration;

use super::State;
use crate::sys;

/// Keys last hours.
const EVERY: Duration = Duration::from_secs(60);

/// Runs as long as the control thread.
pub(super) async fn keep(state: Arc<State>) {
    loop {
        if let Err(reason) = state.reload.tickets.rotate(sys::unix_ms() / 1000) {
            tracing::warn!("the keys of TLS session tickets stay as they are: {reason:#}");
        }
        tokio::time::sleep(EVERY).await;
    }
}
