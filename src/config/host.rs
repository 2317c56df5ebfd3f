//! What the settings are held against: the cores and descriptors that this process may use, and what it may not do. Asked once at start by [`crate::cli`]; a
//! plain value, so that tests can be on any host they like.

use crate::sys::{self, Refusal};

/// The host as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Cores of the affinity mask, ascending.
    pub cores: Vec<usize>,
    /// RLIMIT_NOFILE; `u64::MAX` for unlimited.
    pub descriptors_soft: u64,
    pub descriptors_hard: u64,
    /// What keeps shards from having descriptor tables of their own; None: nothing.
    pub private_refused: Option<Refusal>,
}

impl Host {
    pub fn detect() -> Host {
        let mut cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        if cores.is_empty() {
            cores = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
        }
        cores.sort_unstable();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let (descriptors_soft, descriptors_hard) = parse_limits(&limits).unwrap_or((u64::MAX, u64::MAX));
        Host { cores, descriptors_soft, descriptors_hard, private_refused: sys::private_descriptors_refused() }
    }
}

/// Soft and hard limit of open files from the text of `/proc/self/limits`.
pub fn parse_limits(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|word| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() });
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_seen() {
        let host = Host::detect();
        assert!(!host.cores.is_empty());
        assert!(host.descriptors_soft <= host.descriptors_hard && host.descriptors_soft > 0);
        assert_eq!(host.private_refused, None, "this test's machine forbids unshare or close_range");
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 unlimited            files     \n";
        assert_eq!(parse_limits(text), Some((1024, u64::MAX)));
        assert_eq!(parse_limits("nothing"), None);
    }
}
