//! Drives a floor server: starts it as a process of its own, has it run laps on schedule, takes their cost.

pub mod server;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use campanile::sys;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::pick::Spread;
use super::stop;
use server::{Lap, LapCost, MixedLaps, Order};

/// How often a lap that is under way is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Floor {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it prints, read by a thread: a lap may take longer than anybody wants to wait.
    lines: Receiver<String>,
    pub address: SocketAddr,
    seq: u64,
    /// Messages sent to single clients.
    direct: u64,
    /// No lap begins after this, and none is waited for.
    pub deadline: Option<Instant>,
}

impl Floor {
    pub fn start(threads: usize, cores: &[usize]) -> anyhow::Result<Floor> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut command = Command::new(program);
        command.args(["floor-server", "--threads", &threads.to_string(), "--cores", &cores.join(",")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        sys::end_with_caller(&mut command);
        command.process_group(0);
        let mut child = command.spawn().context("the floor server cannot be started")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = crossbeam_channel::unbounded();
        std::thread::Builder::new().name("floor-lines".to_owned()).spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
        })?;
        let line = lines.recv().unwrap_or_default();
        let address = line.trim().strip_prefix("listening ").and_then(|address| address.parse().ok());
        let address = address.with_context(|| format!("the floor server did not start: {line:?}"))?;
        Ok(Floor { child, stdin, lines, address, seq: 0, direct: 0, deadline: None })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Runs laps at a rate; `count` is told before each how many messages it makes, all in all.
    pub fn laps(
        &mut self,
        laps: u64,
        per_second: f64,
        burst: u64,
        frame_bytes: usize,
        mut count: impl FnMut(u64),
    ) -> anyhow::Result<Vec<LapCost>> {
        let begin_ns = sys::monotonic_ns();
        let mut costs = Vec::new();
        for number in 0..laps {
            let intended_ns = begin_ns + (number as f64 * 1e9 / per_second) as u64;
            let wait = Duration::from_nanos(intended_ns.saturating_sub(sys::monotonic_ns()));
            if self.deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
                break;
            }
            stop::sleep(wait);
            if stop::is_asked() {
                break;
            }
            let lap = Lap { seq: self.seq, burst, frame_bytes, intended_ns, sends_per_second: 0 };
            self.seq += burst;
            count(self.seq);
            costs.extend(self.obey(Order::Lap(lap))?);
        }
        Ok(costs)
    }

    /// One message to one socket after the other at a rate, `rounds` times all of them.
    pub fn rounds(
        &mut self,
        rounds: u64,
        sends_per_second: f64,
        frame_bytes: usize,
        mut count: impl FnMut(u64),
    ) -> anyhow::Result<Vec<LapCost>> {
        let mut costs = Vec::new();
        for _ in 0..rounds {
            if self.is_over() {
                break;
            }
            let intended_ns = sys::monotonic_ns();
            let sends_per_second = sends_per_second.max(1.0) as u64;
            let lap = Lap { seq: self.seq, burst: 1, frame_bytes, intended_ns, sends_per_second };
            self.seq += 1;
            count(self.seq);
            costs.extend(self.obey(Order::Lap(lap))?);
        }
        Ok(costs)
    }

    /// Laps, and direct messages to some clients in turn for as long. `count` is told how many of either there are, all in all.
    pub fn mixed(
        &mut self,
        laps: (u64, f64),
        direct: (u64, f64),
        among: Spread,
        frame_bytes: usize,
        count: impl FnOnce(u64, u64),
    ) -> anyhow::Result<Option<LapCost>> {
        let ((laps, laps_per_second), (direct, direct_per_second)) = (laps, direct);
        let (seq, direct_before) = (self.seq, self.direct);
        self.seq += laps;
        self.direct += direct;
        count(self.seq, self.direct);
        self.obey(Order::Mixed(MixedLaps { seq, laps, laps_per_second, frame_bytes, direct_before, direct, direct_per_second, among }))
    }

    fn is_over(&self) -> bool {
        stop::is_asked() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// None: the run was over before it was.
    fn obey(&mut self, order: Order) -> anyhow::Result<Option<LapCost>> {
        let stdin = self.stdin.as_mut().expect("open until the end");
        writeln!(stdin, "{}", order.line()).context("the floor server ended")?;
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return server::parse_cost(&line).map(Some),
                Err(RecvTimeoutError::Timeout) if self.is_over() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the floor server ended"),
            }
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It ends with its stdin.
        self.stdin = None;
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(20));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
