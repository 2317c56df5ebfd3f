//! Room for requests that cost something: how many are worked at, how many wait for that, and the bytes of their bodies.
//!
//! Invariant: whatever is asked of the control port at once, it holds no more than [`memory_bound`]; and fewer requests are worked at, those
//! that wait included, than there are connections ([`crate::limits::control::WORKING_MAX`]), so that a newcomer always finds a place.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::control::{
    ANSWER_BYTES_MAX, BODIES_BYTES_MAX, BODY_SLACK_BYTES, CONNECTIONS_MAX, PUBLISHES_MAX, READ_BUFFER_BYTES_MAX, READS_MAX,
    RESULTS_BYTES_MAX, SNAPSHOT_BYTES_MAX, WATCHERS_MAX,
};

/// Semaphores count to 2^29 on the smallest machine; kilobytes reach far enough.
const UNIT_BYTES: usize = 1024;

/// Lets so many in at once and a bounded number wait for it.
#[derive(Debug)]
pub(super) struct Gate {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Gate {
    pub(super) fn new(inside_max: usize, waiting_max: usize) -> Gate {
        Gate { room: Arc::new(Semaphore::new(inside_max)), waiting: AtomicUsize::new(0), waiting_max }
    }

    /// None: it is full and stayed so.
    pub(super) async fn enter(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.room.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _place = Waiting::take(&self.waiting, self.waiting_max)?;
        tokio::time::timeout(patience, self.room.clone().acquire_owned()).await.ok()?.ok()
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.room.available_permits()
    }
}

/// Counts one that waits, also if it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn take(count: &'a AtomicUsize, max: usize) -> Option<Waiting<'a>> {
        // Dropped again, it takes itself off the count.
        let place = Waiting(count);
        (count.fetch_add(1, Relaxed) < max).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The account of bodies. Each counts twice: as it came, and once more for what is made of it (payload and names, then the answer's names).
#[derive(Debug)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    pub(super) body_bytes_max: usize,
}

impl Bodies {
    pub(super) fn new(payload_bytes_max: usize) -> Bodies {
        let room = Arc::new(Semaphore::new(bodies_bytes_max(payload_bytes_max) / UNIT_BYTES));
        Bodies { room, body_bytes_max: body_bytes_max(payload_bytes_max) }
    }

    /// None: others stayed.
    pub(super) async fn take(&self, body_bytes: usize, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from((2 * body_bytes).div_ceil(UNIT_BYTES)).ok()?;
        tokio::time::timeout(patience, self.room.clone().acquire_many_owned(units)).await.ok()?.ok()
    }
}

fn body_bytes_max(payload_bytes_max: usize) -> usize {
    payload_bytes_max.saturating_mul(2).saturating_add(BODY_SLACK_BYTES)
}

fn bodies_bytes_max(payload_bytes_max: usize) -> usize {
    (2 * body_bytes_max(payload_bytes_max)).next_multiple_of(UNIT_BYTES).max(BODIES_BYTES_MAX)
}

/// The most that the control port's requests hold, for the start block. What is published counts with the publishes.
pub fn memory_bound(payload_bytes_max: usize) -> u64 {
    let heads = CONNECTIONS_MAX * READ_BUFFER_BYTES_MAX;
    // Its own copy each, and the one that they share while it is made.
    let watchers = (WATCHERS_MAX + 3) * SNAPSHOT_BYTES_MAX;
    (heads + bodies_bytes_max(payload_bytes_max) + PUBLISHES_MAX * RESULTS_BYTES_MAX + READS_MAX * ANSWER_BYTES_MAX + watchers) as u64
}

/// An answer that keeps what was taken for it until it is written, or given up.
pub(super) fn hold<T: Send + Unpin + 'static>(answer: Response, held: T) -> Response {
    answer.map(|body| Body::new(Held { body, _held: held }))
}

struct Held<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn bodies_of_all_requests_together_are_bounded_and_the_largest_still_fits() {
        for payload_bytes_max in [1024, 1 << 20, 64 << 20] {
            let bodies = Bodies::new(payload_bytes_max);
            let (count, held) = run(async {
                let mut held = Vec::new();
                while let Some(permit) = bodies.take(bodies.body_bytes_max, NOW).await {
                    held.push(permit);
                }
                assert!(bodies.take(bodies.body_bytes_max, NOW).await.is_none());
                (held.len(), held)
            });
            assert!(count >= 1);
            let room = memory_bound(payload_bytes_max) as usize - memory_bound(0) as usize + BODIES_BYTES_MAX;
            assert!(2 * count * bodies.body_bytes_max <= room, "{count} of {}", bodies.body_bytes_max);
            drop(held);
            assert!(run(bodies.take(bodies.body_bytes_max, NOW)).is_some());
        }
    }

    #[test]
    fn who_waits_for_room_is_bounded_too() {
        let gate = Gate::new(1, 2);
        run(async {
            let inside = gate.enter(NOW).await.unwrap();
            let for_ever = Duration::from_secs(3600);
            let (mut first, mut second) = (Box::pin(gate.enter(for_ever)), Box::pin(gate.enter(for_ever)));
            std::future::poll_fn(|cx| {
                assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            assert!(gate.enter(for_ever).await.is_none(), "it is told at once");
            drop(second);
            drop(inside);
            assert!(first.await.is_some());
            assert!(gate.enter(NOW).await.is_some());
            assert_eq!(gate.waiting.load(Relaxed), 0);
        });
    }
}
