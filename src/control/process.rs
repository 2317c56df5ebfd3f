//! What the kernel says about this process: the `process_*` metrics. Read at scrape time from `/proc/self`.
//!
//! Invariant: a figure that cannot be read is left out, never guessed.

use std::fs;
use std::sync::OnceLock;

/// Clock ticks per second in `/proc`: the kernel's USER_HZ, 100 on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) start_unix_seconds: Option<f64>,
    /// Of the main thread's table; a shard with a private table has its own, which is not seen here.
    pub(super) open_fds: Option<u64>,
    /// None also when there is no limit.
    pub(super) max_fds: Option<u64>,
}

pub(super) fn read() -> Process {
    let mut process = Process { open_fds: open_fds(), ..Process::default() };
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        process.read_stat(&stat, boot_unix_seconds());
    }
    process.resident_bytes = resident_bytes();
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        process.max_fds = field(&limits, "Max open files");
    }
    process
}

/// Alone it costs little, whatever the number of descriptors.
pub(super) fn resident_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|kib| kib * 1024)
}

impl Process {
    /// proc_pid_stat(5). The command's name may hold blanks and parentheses, so fields are counted from the last `)`.
    fn read_stat(&mut self, stat: &str, boot_unix_seconds: Option<f64>) {
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The page numbers fields from 1 and the third is the first after the name.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        self.cpu_seconds = number(14).zip(number(15)).map(|(user, system)| (user + system) as f64 / TICKS_PER_SECOND);
        self.threads = number(20);
        self.start_unix_seconds = number(22).zip(boot_unix_seconds).map(|(ticks, boot)| boot + ticks as f64 / TICKS_PER_SECOND);
        self.virtual_bytes = number(23);
    }
}

/// The number that follows `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Read once: on a host with many cores `/proc/stat` is long, and the answer does not change.
fn boot_unix_seconds() -> Option<f64> {
    static BOOT: OnceLock<Option<f64>> = OnceLock::new();
    *BOOT.get_or_init(|| Some(field(&fs::read_to_string("/proc/stat").ok()?, "btime")? as f64))
}

/// Since Linux 6.2 the directory's size is the number of descriptors; before, its entries must be counted.
fn open_fds() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // The directory being read is one of its own entries.
        0 => fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1234 5000000 300 18446744073709551615";
        let mut process = Process::default();
        process.read_stat(stat, Some(1_000_000.0));
        assert_eq!(process.cpu_seconds, Some(3.0));
        assert_eq!(process.threads, Some(9));
        assert_eq!(process.start_unix_seconds, Some(1_000_012.34));
        assert_eq!(process.virtual_bytes, Some(5_000_000));
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let mut process = Process::default();
        process.read_stat("7 (x) S 1", None);
        assert_eq!(process, Process::default());
        assert_eq!(field("Max open files            unlimited            unlimited            files", "Max open files"), None);
        assert_eq!(field("VmRSS:\t    5140 kB", "VmRSS:"), Some(5140));
    }

    #[test]
    fn this_process_has_every_figure() {
        let process = read();
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.virtual_bytes.unwrap() >= process.resident_bytes.unwrap());
        assert!(process.threads.unwrap() >= 1);
        assert!(process.cpu_seconds.unwrap() >= 0.0);
        assert!(process.open_fds.unwrap() >= 3);
        let age_seconds = crate::sys::unix_ms() as f64 / 1000.0 - process.start_unix_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age_seconds), "started {age_seconds} s ago");
    }
}
