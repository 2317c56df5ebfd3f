//! Drives a floor server: starts it as a process of its own, has it run laps on schedule, takes their cost.

pub mod server;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use campanile::sys;

use server::{Lap, LapCost};

#[derive(Debug)]
pub struct Floor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub address: SocketAddr,
    seq: u64,
    /// No lap begins after this.
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
        let mut child = command.spawn().context("the floor server cannot be started")?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening ").and_then(|address| address.parse().ok());
        let address = address.with_context(|| format!("the floor server did not start: {line:?}"))?;
        Ok(Floor { child, stdin, stdout, address, seq: 0, deadline: None })
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
            std::thread::sleep(wait);
            let lap = Lap { seq: self.seq, burst, frame_bytes, intended_ns, sends_per_second: 0 };
            self.seq += burst;
            count(self.seq);
            costs.push(self.lap(lap)?);
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
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let intended_ns = sys::monotonic_ns();
            let lap = Lap { seq: self.seq, burst: 1, frame_bytes, intended_ns, sends_per_second: sends_per_second.max(1.0) as u64 };
            self.seq += 1;
            count(self.seq);
            costs.push(self.lap(lap)?);
        }
        Ok(costs)
    }

    fn lap(&mut self, lap: Lap) -> anyhow::Result<LapCost> {
        let stdin = self.stdin.as_mut().expect("open until the end");
        writeln!(stdin, "{} {} {} {} {}", lap.seq, lap.burst, lap.frame_bytes, lap.intended_ns, lap.sends_per_second)
            .context("the floor server ended")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("the floor server ended")?;
        server::parse_cost(&line)
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
