//! A bounded channel into a thread that sleeps in epoll: at most one eventfd write per sleep.
//!
//! The receiver says "asleep" before it sleeps and then looks once more; a sender that finds "asleep" set takes it away
//! and wakes. So a busy receiver costs its senders no system call, and no message is left behind (the two sides each
//! store, fence and load: one of them sees the other).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::sys::WakeFd;

/// The sending side; clone it for each thread that sends.
#[derive(Debug)]
pub struct InboxSender<T> {
    sender: Sender<T>,
    asleep: Arc<AtomicBool>,
    /// Our own eventfd rather than mio's `Waker`: a thread with a private descriptor table must know the number to keep it.
    waker: Arc<WakeFd>,
}

/// The receiving side, owned by the thread that sleeps on the waker's `Poll`.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
    asleep: Arc<AtomicBool>,
    /// Held so that the last wake of the last sender is not lost: an eventfd that is closed takes its unseen event along.
    waker: Arc<WakeFd>,
}

/// Makes both ends; a wake is an event with this token on the registry's `Poll`.
pub fn inbox<T>(capacity: usize, registry: &Registry, token: Token) -> io::Result<(InboxSender<T>, Inbox<T>)> {
    let waker = Arc::new(WakeFd::new()?);
    registry.register(&mut SourceFd(&waker.as_raw_fd()), token, Interest::READABLE)?;
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let asleep = Arc::new(AtomicBool::new(false));
    Ok((InboxSender { sender, asleep: asleep.clone(), waker: waker.clone() }, Inbox { receiver, asleep, waker }))
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        InboxSender { sender: self.sender.clone(), asleep: self.asleep.clone(), waker: self.waker.clone() }
    }
}

impl<T> InboxSender<T> {
    /// Puts a message in without waking anybody: call [`InboxSender::wake`] after the last one. Gives the message back when full
    /// (or when the receiver is gone). Never blocks.
    pub fn push(&self, message: T) -> Result<(), T> {
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })
    }

    /// Wakes the receiver if it sleeps.
    pub fn wake(&self) {
        fence(SeqCst);
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            self.waker.wake();
        }
    }

    /// The descriptor that [`InboxSender::wake`] writes to: a thread that sends must have it in its table.
    pub fn wake_fd(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    /// [`InboxSender::push`] and [`InboxSender::wake`].
    pub fn send(&self, message: T) -> Result<(), T> {
        self.push(message)?;
        self.wake();
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.sender.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }
}

impl<T> Inbox<T> {
    /// The descriptor by which the owner is woken: it must stay in the owner's table, where it is closed in the end.
    pub fn wake_fd(&self) -> RawFd {
        self.waker.as_raw_fd()
    }

    pub fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Announces that the owner is about to sleep. False: something is waiting, do not sleep.
    pub fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, SeqCst);
        fence(SeqCst);
        if self.receiver.is_empty() {
            return true;
        }
        self.asleep.store(false, SeqCst);
        false
    }

    /// The owner is awake again; senders need not wake it.
    pub fn awake(&self) {
        self.asleep.store(false, SeqCst);
    }
}
