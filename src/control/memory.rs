//! What memory is available, looked at once a second where `admission_memory` asks for it: the host's, or the control group's if that is less. And what
//! connections have taken is given back when most of them have gone, and what TLS handshakes have when the last of many is over.
//!
//! Invariant: what cannot be read is taken to be enough.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::State;
use crate::metrics::{Counter, ShardMetrics};
use crate::release::Release;
use crate::sys::{monotonic_ns, release_free_memory};

const EVERY: Duration = Duration::from_secs(1);
/// Fewer have not left holes worth the time that it takes to find them.
const HANDSHAKES_BEFORE_RELEASE: u64 = 1000;

/// Runs as long as the control thread.
pub(super) async fn watch(state: Arc<State>) {
    let Some(percent_min) = state.settings.bounds.admission_memory else { return };
    loop {
        if let Some(percent) = available_percent(Path::new("/")) {
            state.host.note_memory(percent, percent_min);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// As long as the control thread runs.
pub(super) async fn give_back(state: Arc<State>) {
    let mut release = Release::default();
    let mut shaken = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let sum = |of: fn(&ShardMetrics) -> u64| -> u64 { state.shards.iter().map(|shard| of(shard)).sum() };
        let (sockets, now) = (sum(|shard| shard.sockets.get()) as usize, monotonic_ns());
        release.note(sockets, now);
        // Each leaves a few kilobytes of holes between what stays.
        let handshakes = sum(|shard| shard.tls_full.iter().chain(&shard.tls_resumed).map(Counter::get).sum());
        let are_over = handshakes - shaken >= HANDSHAKES_BEFORE_RELEASE && sum(|shard| shard.tls_under_way.get()) == 0;
        if are_over {
            shaken = handshakes;
        }
        if release.take(sockets, now) || are_over {
            let _ = tokio::task::spawn_blocking(release_free_memory).await;
        }
    }
}

/// The smaller share of host and control group.
fn available_percent(root: &Path) -> Option<f64> {
    let shares = [of_host(root), of_group(root)].into_iter().flatten();
    shares.filter(|(_, total)| *total > 0).map(|(available, total)| available as f64 * 100.0 / total as f64).reduce(f64::min)
}

/// Bytes that are available, and all there are.
type Memory = (u64, u64);

fn of_host(root: &Path) -> Option<Memory> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse::<u64>().ok();
    Some((of("MemAvailable:")? * 1024, of("MemTotal:")? * 1024))
}

/// Of the control group (version 2) that this process is in, if it has a limit. What files take is given back when it is needed.
fn of_group(root: &Path) -> Option<Memory> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = root.join("sys/fs/cgroup").join(group);
    let number = |file: &str| fs::read_to_string(directory.join(file)).ok()?.trim().parse::<u64>().ok();
    // "max", where there is none.
    let most = number("memory.max")?;
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>().ok()?;
    Some((most.saturating_sub(number("memory.current")?.saturating_sub(files)).min(most), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, files: &[(&str, &str)]) -> Option<f64> {
        let root = std::env::temp_dir().join(format!("campanile-memory-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let percent = available_percent(&root);
        let _ = fs::remove_dir_all(root);
        percent
    }

    #[test]
    fn the_scarcer_one_counts() {
        let meminfo = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n");
        assert_eq!(host("alone", &[meminfo]), Some(25.0));
        let group = [
            meminfo,
            ("proc/self/cgroup", "1:name=systemd:/x\n0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "950\n"),
            ("sys/fs/cgroup/a/b/memory.stat", "anon 800\ninactive_file 150\n"),
        ];
        assert_eq!(host("group", &group), Some(20.0));
        let unlimited = [meminfo, group[1], ("sys/fs/cgroup/a/b/memory.max", "max\n"), group[3], group[4]];
        assert_eq!(host("unlimited", &unlimited), Some(25.0));
        assert_eq!(host("nothing", &[]), None);
        assert!(available_percent(Path::new("/")).is_some_and(|percent| (0.0..=100.0).contains(&percent)));
    }
}
