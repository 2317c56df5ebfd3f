//! How connections begin and end: dialled within the window and at the rate, tried again, counted when they are over.

use std::io;
use std::net::{IpAddr, SocketAddr};

use campanile::sys;
use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::{End, RETRY_US, TRIES_MAX, Worker};
use crate::client::{Phase, Reading};

/// Those whose connection was lost do not come back all at once.
const RETURN_SPREAD_MS: u64 = 100;

impl Worker {
    pub(super) fn is_connecting_due(&self) -> bool {
        (self.begun < self.begin_max || !self.again.is_empty()) && (self.tally.counts.connecting as usize) < self.plan.window
    }

    pub(super) fn next_connect_ns(&self) -> u64 {
        let first = if self.begun < self.begin_max { self.paced_ns() } else { u64::MAX };
        let again = self.again.front().map_or(u64::MAX, |(due_us, _)| self.start_ns + u64::from(*due_us) * 1000);
        first.min(again)
    }

    /// When the next new client is due by the rate.
    pub(super) fn paced_ns(&self) -> u64 {
        match self.plan.connects_per_second {
            0.0 => 0,
            rate => self.start_ns + (self.begun as f64 * 1e9 / rate) as u64,
        }
    }

    pub(super) fn connect(&mut self) {
        while (self.tally.counts.connecting as usize) < self.plan.window {
            let now_ns = sys::monotonic_ns();
            let now_us = self.now_us();
            if self.again.front().is_some_and(|(due_us, _)| *due_us <= now_us) {
                let (due_us, index) = self.again.pop_front().expect("looked at");
                self.launch(index as usize, due_us);
            } else if self.begun < self.begin_max && self.paced_ns() <= now_ns {
                let due_us = if self.plan.connects_per_second > 0.0 { ((self.paced_ns() - self.start_ns) / 1000) as u32 } else { now_us };
                self.begun += 1;
                self.launch(self.begun - 1, due_us);
            } else {
                break;
            }
        }
    }

    pub(super) fn launch(&mut self, index: usize, due_us: u32) {
        if self.clients[index].phase == Phase::Ended {
            return;
        }
        // A try after a failed one does not set it anew: waiting is part of connecting.
        if self.clients[index].tries == 0 {
            self.clients[index].due_us = due_us;
        }
        match self.dial(index) {
            Ok(stream) => {
                self.clients[index].stream = Some(stream);
                self.clients[index].phase = Phase::Connecting;
                self.tally.counts.connecting += 1;
            }
            Err(error) => self.try_again(index, &error.to_string()),
        }
    }

    pub(super) fn dial(&self, index: usize) -> io::Result<TcpStream> {
        let address = self.plan.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if !self.plan.sources.is_empty() {
            let source = self.plan.sources[(self.base as usize + index) % self.plan.sources.len()];
            sys::set_bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    pub(super) fn try_again(&mut self, index: usize, why: &str) {
        let due_us = self.now_us() + RETRY_US;
        let client = &mut self.clients[index];
        client.phase = Phase::Idle;
        client.tries += 1;
        self.tally.counts.retries += 1;
        if client.tries >= TRIES_MAX {
            client.phase = Phase::Ended;
            self.tally.counts.ended += 1;
        } else {
            self.enqueue(due_us, index);
        }
        self.tally.sample(|| format!("a connect failed: {why}"));
    }

    pub(super) fn end(&mut self, index: usize, end: End) {
        let phase = self.clients[index].phase;
        let is_slow = self.is_slow_now && self.clients[index].reading != Reading::Normal;
        self.drop_stream(index);
        let counts = &mut self.tally.counts;
        match (phase, end) {
            (Phase::Ready, End::BadFrame(why)) => {
                counts.bad_frames += 1;
                self.tally.sample(|| format!("not a WebSocket frame: {why}"));
                self.gone(index);
            }
            (_, End::AskedBack(delay_ms)) => {
                self.clients[index].resumes = true;
                self.come_back(index, delay_ms);
            }
            (Phase::Ready, End::Closed(1006) | End::Lost(_)) if self.plan.returns => {
                self.clients[index].resumes = true;
                self.come_back(index, index as u64 % RETURN_SPREAD_MS);
            }
            (Phase::Ready, end) => {
                let code = match end {
                    End::Closed(code) => code,
                    _ => 1006,
                };
                *self.tally.close_codes.entry(code).or_default() += 1;
                if is_slow {
                    counts.slow_closed += 1;
                } else {
                    counts.closed += 1;
                    self.tally.sample(|| format!("the server closed a connection ({code})"));
                }
                self.gone(index);
            }
            (_, End::Refused(why)) => {
                counts.refused += 1;
                self.tally.sample(|| format!("refused: {why}"));
                // In a storm a refusal may be meant to pass.
                if self.clients[index].resumes { self.try_again(index, &why) } else { self.gone(index) }
            }
            (_, End::BadFrame(why)) => {
                counts.bad_frames += 1;
                self.tally.sample(|| format!("not a WebSocket frame: {why}"));
                self.gone(index);
            }
            (_, End::Closed(code)) => self.try_again(index, &format!("closed before it was ready ({code})")),
            (_, End::Lost(error)) => self.try_again(index, &error.to_string()),
        }
    }

    /// The server has said when.
    fn come_back(&mut self, index: usize, delay_ms: u64) {
        let delay_us = u32::try_from(delay_ms.saturating_mul(1000)).unwrap_or(u32::MAX);
        self.enqueue(self.now_us().saturating_add(delay_us), index);
    }

    /// Those who are to connect again stand in the order of their time.
    fn enqueue(&mut self, due_us: u32, index: usize) {
        let place = self.again.partition_point(|(other_us, _)| *other_us <= due_us);
        self.again.insert(place, (due_us, index as u32));
    }

    pub(super) fn gone(&mut self, index: usize) {
        self.clients[index].phase = Phase::Ended;
        self.tally.counts.ended += 1;
    }

    /// Closes the socket, if there is one, and counts it out.
    pub(super) fn drop_stream(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.stream = None;
        client.spill = None;
        self.sessions.end(index);
        match client.phase {
            Phase::Connecting | Phase::Shaking | Phase::Head | Phase::Subscribing => self.tally.counts.connecting -= 1,
            Phase::Ready => self.tally.counts.ready -= 1,
            Phase::Idle | Phase::Ended => {}
        }
        client.phase = Phase::Idle;
    }
}

/// The status line and the begin of the body of an HTTP answer.
pub fn summary(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default().trim();
    if status.starts_with("HTTP/1.1 101") {
        return format!("{status}, but with a wrong Sec-WebSocket-Accept");
    }
    let body: String = body.trim().chars().filter(|character| !character.is_control()).take(200).collect();
    if body.is_empty() { status.to_owned() } else { format!("{status}: {body}") }
}
