//! Ctrl-C and SIGTERM: the first one ends the run, and what was found until then is reported as at any other end; the second one ends the
//! program. Asked by everything that waits.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// As a shell tells of a program that Ctrl-C has ended.
pub const EXIT_CODE: u8 = 130;
/// A wait looks this often whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

static ASKED: AtomicBool = AtomicBool::new(false);

/// From here on a signal ends the run instead of the program.
pub fn on_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals cannot be watched")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut next = || {
            // Whichever comes first; tokio's select! would need its macros.
            runtime.block_on(std::future::poll_fn(|context| {
                if interrupt.poll_recv(context).is_ready() { Poll::Ready(()) } else { terminate.poll_recv(context).map(drop) }
            }));
        };
        next();
        ASKED.store(true, Relaxed);
        eprintln!("\nstopping; what was found so far follows. Once more: at once");
        next();
        std::process::exit(EXIT_CODE.into());
    })?;
    Ok(())
}

/// The run is to end now.
pub fn is_asked() -> bool {
    ASKED.load(Relaxed)
}

/// Waits until then, or until the run is to end.
pub fn sleep_until(then: Instant) {
    while !is_asked()
        && let Some(rest) = then.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    {
        std::thread::sleep(rest.min(LOOK));
    }
}

pub fn sleep(time: Duration) {
    sleep_until(Instant::now() + time);
}
