//! The control port's sockets: a bounded number of them, a place for every newcomer, every answer delivered. Run by `mod.rs`.
//!
//! Invariants: whatever a client does or omits, its connection ends when its deadline has passed, or sooner when a newcomer needs the
//! place: so connections that say nothing cannot keep a probe out. A request that has come whole is answered, also when the
//! client's end of stream came with it, and a connection that is closed before all was read still delivers its answer.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Timeouts;
use super::socket::{Door, Socket};
use super::stats::watcher::Watcher;
use super::tally::{CutReason, Tally};
use crate::limits::control::{CONNECTIONS_MAX, READ_BUFFER_BYTES_MAX};

/// What a connection waits for, in the order in which places are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Answered and kept alive, or closing: nothing is lost with it.
    Idle,
    /// Accepted; not a byte has come.
    Fresh,
    /// A request's head comes in.
    Head,
    /// Its body does, as far as anybody reads it.
    Body,
    /// The client takes its answer.
    Answering,
    /// The request is being worked at: nobody's fault but ours, and bounded in time and number ([`crate::limits::control::WORKING_MAX`]).
    Working,
    /// HTTP has ended on it: it brings the statistics, as bounded ([`crate::limits::control::WATCHERS_MAX`]), and minds its own deadlines.
    Watching,
}

/// What a connection is doing, and since when. Shared by its task, its stream and whoever reads its body.
#[derive(Debug, Clone)]
pub(super) struct Peer(Arc<Mutex<At>>);

#[derive(Debug)]
struct At {
    phase: Phase,
    since: Instant,
    /// Who has the connection when HTTP ends on it.
    watcher: Option<Watcher>,
}

impl Peer {
    fn new() -> Peer {
        Peer(Arc::new(Mutex::new(At { phase: Phase::Fresh, since: Instant::now(), watcher: None })))
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> (Phase, Instant) {
        let at = self.at();
        (at.phase, at.since)
    }

    fn enter(&self, phase: Phase) {
        let mut at = self.at();
        (at.phase, at.since) = (phase, Instant::now());
    }

    /// When the answer is written, the connection is this one's.
    pub(super) fn hand_over(&self, watcher: Watcher) {
        self.at().watcher = Some(watcher);
    }

    /// Bytes came. Only the first of a request moves the deadline: a byte a second gains nothing.
    fn has_read(&self) {
        if matches!(self.get().0, Phase::Idle | Phase::Fresh) {
            self.enter(Phase::Head);
        }
    }

    /// The client took bytes: of an answer, unless it is only told to go on with its body.
    fn has_written(&self) {
        if !matches!(self.get().0, Phase::Body | Phase::Working) {
            self.enter(Phase::Answering);
        }
    }

    /// All that was written is with the kernel.
    fn has_flushed(&self) {
        if self.get().0 == Phase::Answering {
            self.enter(Phase::Idle);
        }
    }

    /// The whole request is here.
    pub(super) fn has_body(&self) {
        self.enter(Phase::Working);
    }

    /// None: the request has a deadline of its own.
    fn due(&self, timeouts: &Timeouts) -> Option<Instant> {
        let (phase, since) = self.get();
        let patience = match phase {
            Phase::Fresh => timeouts.first_byte,
            Phase::Head => timeouts.head,
            Phase::Answering => timeouts.writing,
            Phase::Idle => timeouts.idle,
            Phase::Body | Phase::Working | Phase::Watching => return None,
        };
        Some(since + patience)
    }
}

/// Serves until `closing` is fired or dropped, then until every answer under way is written.
pub(super) async fn serve(listener: Door, router: Router, timeouts: Timeouts, tally: Arc<Tally>, closing: oneshot::Receiver<()>) {
    let mut closing = pin!(closing);
    let mut places: Vec<(Peer, JoinHandle<()>)> = Vec::with_capacity(CONNECTIONS_MAX);
    let (close, closed) = watch::channel(());
    let service = TowerToHyperService::new(router);
    while let Some(accepted) = unless(closing.as_mut(), listener.accept()).await {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // The peer is gone already, or descriptors ran out: neither is mended by trying at once.
                tracing::debug!("control port: accept failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        places.retain(|(_, task)| !task.is_finished());
        if places.len() >= CONNECTIONS_MAX {
            let oldest = places.iter().enumerate().min_by_key(|(_, (peer, _))| peer.get()).map(|(index, _)| index);
            places.swap_remove(oldest.expect("it is full")).1.abort();
            tally.cut(CutReason::Displaced);
        }
        let peer = Peer::new();
        places.push((peer.clone(), tokio::spawn(attend(stream, peer, service.clone(), timeouts, tally.clone(), closed.clone()))));
    }
    drop(listener);
    drop(close);
    for (_, task) in places {
        // An error is a task that was aborted, or panicked: it has ended.
        let _ = task.await;
    }
}

/// What `work` comes to; None if `stop` ends first, which must not be asked again then.
pub(super) async fn unless<T>(mut stop: Pin<&mut impl Future>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}

/// One connection, from its first byte to its end.
async fn attend(
    stream: Socket,
    peer: Peer,
    router: TowerToHyperService<Router>,
    timeouts: Timeouts,
    tally: Arc<Tally>,
    mut closed: watch::Receiver<()>,
) {
    let closed_while_watching = closed.clone();
    let asked = peer.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        asked.enter(if has_body { Phase::Body } else { Phase::Working });
        request.extensions_mut().insert(asked.clone());
        let (answer, asked) = (router.call(request), asked.clone());
        Box::pin(async move {
            let answer = answer.await;
            asked.enter(Phase::Answering);
            answer
        })
    });
    let mut connection = http1::Builder::new()
        // A client that has nothing more to say may still listen.
        .half_close(true)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Connection { stream, peer: peer.clone() }), service);
    let mut closed = pin!(closed.changed());
    let mut is_closing = false;
    let mut deadline = pin!(sleep_until(Instant::now()));
    let is_over = std::future::poll_fn(|cx| {
        if !is_closing && closed.as_mut().poll(cx).is_ready() {
            is_closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // An error is the client's: it is told what was wrong, if it can be.
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            if ended.is_err_and(|error| error.is_parse()) {
                tally.cut(CutReason::BadHead);
            }
            return Poll::Ready(true);
        }
        let Some(due) = peer.due(&timeouts) else { return Poll::Pending };
        if deadline.deadline() != due {
            deadline.as_mut().reset(due);
        }
        deadline.as_mut().poll(cx).map(|()| false)
    })
    .await;
    let phase = peer.get().0;
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let Connection { mut stream, .. } = io.into_inner();
    let watcher = peer.at().watcher.take();
    if let Some(watcher) = watcher.filter(|_| is_over) {
        peer.enter(Phase::Watching);
        let (given_back, cut) = watcher.attend(stream, &read_buf, &timeouts, closed_while_watching).await;
        cut.into_iter().for_each(|reason| tally.cut(reason));
        stream = given_back;
    }
    peer.enter(Phase::Idle);
    if !is_over {
        match phase {
            Phase::Head => tally.cut(CutReason::Head),
            Phase::Fresh => return tally.cut(CutReason::Silent),
            Phase::Answering => return tally.cut(CutReason::Unread),
            Phase::Idle | Phase::Body | Phase::Working | Phase::Watching => return,
        }
        // Nothing else is being written: the kernel takes so little whole.
        let _ = stream.try_write(too_slow(timeouts.head).as_bytes());
    }
    // Whoever does not close is left to the reset.
    let _ = tokio::time::timeout(timeouts.farewell, part(stream)).await;
}

/// The answer to a head that does not end. The server underneath knows no request yet, so it is spelled here.
fn too_slow(limit: Duration) -> String {
    let error = format!("the head was not complete within {} s", limit.as_secs_f64());
    let body = serde_json::json!({ "error": error }).to_string();
    format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Ends our side and reads until the client has ended its own: a socket that is closed with bytes unread is reset, and the reset
/// may destroy the answer on its way.
async fn part(mut stream: Socket) {
    if std::future::poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.is_err() {
        return;
    }
    let mut unread = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut unread);
        let read = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buffer)).await;
        if read.is_err() || buffer.filled().is_empty() {
            return;
        }
    }
}

/// A stream that tells what happens on it.
struct Connection {
    stream: Socket,
    peer: Peer,
}

impl Connection {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.peer.has_written();
        }
        written
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.peer.has_read();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.peer.has_flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
