//! A bounded channel into a thread that sleeps in epoll: at most one eventfd write per sleep.
//!
//! The receiver says "asleep" before it sleeps and then looks once more; a sender that finds "asleep" set takes it away
//! and wakes. So a busy receiver costs its senders no system call, and no message is left behind (the two sides each
//! store, fence and load: one of them sees the other).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::Waker;

/// The sending side; clone it for each thread that sends.
pub struct InboxSender<T> {
    sender: Sender<T>,
    asleep: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

/// The receiving side, owned by the thread that sleeps on the waker's `Poll`.
pub struct Inbox<T> {
    receiver: Receiver<T>,
    asleep: Arc<AtomicBool>,
}

/// Makes both ends. `waker` must belong to the `Poll` that the owner of the [`Inbox`] sleeps on.
pub fn inbox<T>(capacity: usize, waker: Arc<Waker>) -> (InboxSender<T>, Inbox<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let asleep = Arc::new(AtomicBool::new(false));
    (InboxSender { sender, asleep: asleep.clone(), waker }, Inbox { receiver, asleep })
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
            // The only errors are those of a write to an eventfd that we own; a full one is already a wake.
            let _ = self.waker.wake();
        }
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
