//! What wakes a thread that sleeps in epoll when something is due. Most sleeps end because something happens, and the next deadline is still the
//! same: a timeout would be put into the kernel's timers and taken out again each time, which on a virtual machine is a way out to the host. An
//! alarm is set once and stays.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::clock::MonotonicNs;
use crate::sys::TimerFd;

/// What is due sooner than this is left to a timeout.
const TIMEOUT_NS_MAX: u64 = 5_000_000;

#[derive(Debug)]
pub struct Alarm {
    timer: TimerFd,
    /// When it goes off, or went off.
    at: MonotonicNs,
}

impl Alarm {
    /// It wakes whoever sleeps on the registry's `Poll`, with an event of this token.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
        let timer = TimerFd::new()?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Alarm { timer, at: 0 })
    }

    /// The timeout of a sleep that must end `wait_ns` from now (None: whenever something happens). None: the alarm ends it, perhaps early, for what was
    /// due once and is not any more; whoever slept looks again and asks again.
    pub fn timeout(&mut self, wait_ns: Option<u64>, now: MonotonicNs) -> Option<Duration> {
        let wait_ns = wait_ns?;
        if wait_ns < TIMEOUT_NS_MAX {
            return Some(Duration::from_nanos(wait_ns));
        }
        let due = now.saturating_add(wait_ns);
        if self.at <= now || self.at > due {
            if self.timer.set(due).is_err() {
                return Some(Duration::from_nanos(wait_ns));
            }
            self.at = due;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;
    use crate::sys::monotonic_ns;

    const TOKEN: Token = Token(7);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_due_earlier_sets_it_and_what_is_due_later_lets_it_be() {
        let poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), TOKEN).unwrap();
        let now = monotonic_ns();
        assert_eq!((alarm.timeout(None, now), alarm.at), (None, 0));
        assert_eq!((alarm.timeout(Some(0), now), alarm.at), (Some(Duration::ZERO), 0));
        assert_eq!((alarm.timeout(Some(1_000_000), now), alarm.at), (Some(Duration::from_millis(1)), 0), "too soon to be worth it");
        assert_eq!((alarm.timeout(Some(100 * SECOND), now), alarm.at), (None, now + 100 * SECOND));
        assert_eq!((alarm.timeout(Some(200 * SECOND), now), alarm.at), (None, now + 100 * SECOND), "it wakes too early, once");
        assert_eq!((alarm.timeout(Some(50 * SECOND), now), alarm.at), (None, now + 50 * SECOND));
        let later = now + 60 * SECOND;
        assert_eq!((alarm.timeout(Some(140 * SECOND), later), alarm.at), (None, now + 200 * SECOND), "it has gone off");
    }

    /// Never read, it is an edge each time.
    #[test]
    fn it_wakes_a_sleeper_each_time_that_it_goes_off() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        let mut alarm = Alarm::new(poll.registry(), TOKEN).unwrap();
        for _ in 0..3 {
            let begin = monotonic_ns();
            let due = begin + 2 * TIMEOUT_NS_MAX;
            loop {
                let now = monotonic_ns();
                let Some(wait_ns) = due.checked_sub(now).filter(|wait_ns| *wait_ns > 0) else { break };
                let timeout = alarm.timeout(Some(wait_ns), now);
                poll.poll(&mut events, timeout).unwrap();
            }
            assert!(monotonic_ns() >= due);
        }
    }
}
