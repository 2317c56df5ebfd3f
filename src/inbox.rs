//! A bounded channel into a thread that sleeps in epoll: at most one eventfd write per sleep.
//!
//! The receiver says "asleep" before it sleeps and then looks once more; a sender that finds "asleep" set takes it away
//! and wakes. So a busy receiver costs its senders no system call, and no message is left behind (the two sides each
//! store, fence and load: one of them sees the other).
//!
//! It is bounded in messages by itself. Where messages differ in size, the sender also reserves their bytes before it pushes and the
//! receiver releases them: [`InboxSender::reserve`], [`Inbox::release`].

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize, fence};

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
    account: Arc<Account>,
}

/// The receiving side, owned by the thread that sleeps on the waker's `Poll`.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
    asleep: Arc<AtomicBool>,
    /// Held so that the last wake of the last sender is not lost: an eventfd that is closed takes its unseen event along.
    waker: Arc<WakeFd>,
    account: Arc<Account>,
}

/// What was ever reserved and released, each going around at the end of its range: the difference is what waits.
#[derive(Debug, Default)]
struct Account {
    reserved: AtomicUsize,
    released: AtomicUsize,
}

impl Account {
    fn held(&self) -> usize {
        // In this order, or what is reserved and released in between would make it negative.
        let released = self.released.load(SeqCst);
        self.reserved.load(SeqCst).wrapping_sub(released)
    }
}

/// Makes both ends; a wake is an event with this token on the registry's `Poll`.
pub fn inbox<T>(capacity: usize, registry: &Registry, token: Token) -> io::Result<(InboxSender<T>, Inbox<T>)> {
    let waker = Arc::new(WakeFd::new()?);
    registry.register(&mut SourceFd(&waker.as_raw_fd()), token, Interest::READABLE)?;
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let asleep = Arc::new(AtomicBool::new(false));
    let account = Arc::new(Account::default());
    Ok((
        InboxSender { sender, asleep: asleep.clone(), waker: waker.clone(), account: account.clone() },
        Inbox { receiver, asleep, waker, account },
    ))
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        InboxSender { sender: self.sender.clone(), asleep: self.asleep.clone(), waker: self.waker.clone(), account: self.account.clone() }
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

    /// Takes `bytes` of the `bytes_max` that may wait, for a message that is pushed next. False: it is full. An inbox that holds no
    /// bytes takes one message of any size, or a message larger than the bound would never get through.
    pub fn reserve(&self, bytes: usize, bytes_max: usize) -> bool {
        let released = self.account.released.load(SeqCst);
        let reserve = |reserved: usize| {
            let held = reserved.wrapping_sub(released);
            (held == 0 || held.saturating_add(bytes) <= bytes_max).then(|| reserved.wrapping_add(bytes))
        };
        self.account.reserved.fetch_update(SeqCst, SeqCst, reserve).is_ok()
    }

    /// Gives back what was reserved for a message that was not pushed after all.
    pub fn unreserve(&self, bytes: usize) {
        self.account.reserved.fetch_sub(bytes, SeqCst);
    }

    /// Bytes reserved and not yet released.
    pub fn bytes(&self) -> usize {
        self.account.held()
    }

    /// Bytes ever released, going around at the end of the range: another number than before means that the receiver got on.
    pub fn bytes_released(&self) -> usize {
        self.account.released.load(SeqCst)
    }

    /// Wakes the receiver if it sleeps; whether it did.
    pub fn wake(&self) -> bool {
        fence(SeqCst);
        let is_asleep = self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst);
        if is_asleep {
            self.waker.wake();
        }
        is_asleep
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

    /// A message for which so many bytes were reserved is out of the inbox.
    pub fn release(&self, bytes: usize) {
        // One receiver: nobody else writes this number.
        self.account.released.store(self.account.released.load(Relaxed).wrapping_add(bytes), SeqCst);
    }

    /// Bytes reserved and not yet released.
    pub fn bytes(&self) -> usize {
        self.account.held()
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
