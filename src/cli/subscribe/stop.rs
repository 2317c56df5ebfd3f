//! Ctrl-C and SIGTERM: say goodbye to the server and end with 0, whatever the command is waiting for. Called by [`super::run`].

use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio::signal::unix::SignalKind;

use crate::cli::signals;
use crate::client::stream::Stream;

/// A masked close frame with code 1000. A mask of zeros is a mask.
const CLOSE_NORMAL: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

/// Holds the connection that is open now, if any.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    open: Arc<Mutex<Option<Stream>>>,
}

impl Stop {
    /// From here on a signal ends the process cleanly.
    pub fn on_signal() -> anyhow::Result<Stop> {
        let stop = Stop::default();
        let open = stop.open.clone();
        signals::end_on([SignalKind::interrupt(), SignalKind::terminate()], move || {
            if let Some(mut stream) = open.lock().ok().and_then(|mut open| open.take()) {
                // If it does not go through, the server sees the connection end.
                let _ = stream.write_all(&CLOSE_NORMAL);
                stream.say_goodbye();
            }
            // Printed lines have been flushed, each as a whole.
        })?;
        Ok(stop)
    }

    pub fn watch(&self, stream: &Stream) {
        if let Ok(mut slot) = self.open.lock() {
            *slot = stream.try_clone().ok();
        }
    }
}
