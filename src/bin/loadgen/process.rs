//! What /proc tells of the server and of the kernel: CPU time, memory.

use std::collections::BTreeMap;
use std::fs;

use campanile::sys;

/// A process at one moment.
#[derive(Debug, Clone, Default)]
pub struct ProcessFigures {
    pub cpu_ns: u64,
    /// How often its threads have fallen asleep, to wait for something.
    pub sleeps: u64,
    /// CPU by thread name; numbers at the end of a name stay.
    pub cpu_ns_by_thread: BTreeMap<String, u64>,
    /// Private memory that is resident: what the process itself asked for.
    pub anonymous_bytes: u64,
}

/// None: there is no such process.
pub fn process(id: u32) -> Option<ProcessFigures> {
    let mut figures = ProcessFigures::default();
    for task in fs::read_dir(format!("/proc/{id}/task")).ok()?.flatten() {
        // A thread may end while we look.
        let Ok(schedstat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let cpu_ns: u64 = schedstat.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        figures.cpu_ns += cpu_ns;
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        figures.sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        *figures.cpu_ns_by_thread.entry(name.trim().to_owned()).or_default() += cpu_ns;
    }
    figures.anonymous_bytes = field(&fs::read_to_string(format!("/proc/{id}/status")).ok()?, "RssAnon:")? * 1024;
    Some(figures)
}

pub fn is_alive(id: u32) -> bool {
    // A process that has ended and was not waited for has no memory.
    fs::read_to_string(format!("/proc/{id}/status")).is_ok_and(|status| field(&status, "VmRSS:").is_some())
}

/// The server and the kernel at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub process: Option<ProcessFigures>,
    pub kernel: KernelFigures,
}

/// Kernel memory of the whole host.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelFigures {
    /// Buffers of all TCP sockets (/proc/net/sockstat).
    pub tcp_buffer_bytes: u64,
    /// All kernel objects, sockets among them (Slab in /proc/meminfo).
    pub slab_bytes: u64,
    pub available_bytes: u64,
}

pub fn kernel() -> KernelFigures {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let mut words = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default().split(' ').skip_while(|word| *word != "mem");
    let pages: u64 = words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    KernelFigures {
        tcp_buffer_bytes: pages * sys::page_bytes(),
        slab_bytes: field(&memory, "Slab:").unwrap_or(0) * 1024,
        available_bytes: field(&memory, "MemAvailable:").unwrap_or(0) * 1024,
    }
}

impl KernelFigures {
    pub fn socket_bytes(&self) -> u64 {
        self.tcp_buffer_bytes + self.slab_bytes
    }
}

/// The number after a name.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let own = process(std::process::id()).unwrap();
        assert!(own.cpu_ns > 0 && own.anonymous_bytes > 0 && !own.cpu_ns_by_thread.is_empty());
        assert!(is_alive(std::process::id()));
        assert!(process(u32::MAX).is_none() && !is_alive(u32::MAX));
        assert!(kernel().slab_bytes > 0 && kernel().available_bytes > 0);
    }
}
