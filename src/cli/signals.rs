//! Commands that end cleanly by a signal, whatever they are waiting for.

use std::task::Poll;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// From here on whichever of the two comes first ends the process with exit code 0, after `leave`.
pub(super) fn end_on(kinds: [SignalKind; 2], leave: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals cannot be watched")?;
    let (mut one, mut other) = {
        let _inside = runtime.enter();
        (signal(kinds[0])?, signal(kinds[1])?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // tokio's select! would need its macros.
        runtime.block_on(std::future::poll_fn(|context| {
            if one.poll_recv(context).is_ready() { Poll::Ready(()) } else { other.poll_recv(context).map(drop) }
        }));
        leave();
        std::process::exit(0);
    })?;
    Ok(())
}
