//! What a host has, read from its `/proc` and `/sys`. Called by `campanile doctor`. Reads below a root directory, so that tests can show
//! it any host they like.
//!
//! Invariant: what cannot be read is None, never guessed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Host, host};
use crate::sys::{self, Refusal};

/// What the checks hold the needs against.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// RLIMIT_NOFILE, hard: the server raises its soft limit to it.
    pub descriptors_hard: Option<u64>,
    /// What keeps shards from having descriptor tables of their own. Asked of the kernel itself, and so only where the root is this host's.
    pub private_refused: Option<Refusal>,
    /// Cores of the affinity mask.
    pub cores: Vec<usize>,
    pub file_max: Option<u64>,
    pub files_open: Option<u64>,
    pub nr_open: Option<u64>,
    pub epoll_watches: Option<u64>,
    pub somaxconn: Option<u64>,
    /// Whether connections that wait go to another listener when theirs is closed.
    pub migrate_req: Option<u64>,
    pub syn_cookies: Option<u64>,
    pub syn_backlog: Option<u64>,
    /// Pages: no pressure, pressure, no more.
    pub tcp_mem: Option<[u64; 3]>,
    /// Buckets of the table of connections.
    pub tcp_buckets: Option<u64>,
    /// None as well where connection tracking is not loaded.
    pub conntrack_max: Option<u64>,
    pub conntrack_count: Option<u64>,
    pub ports: Option<(u64, u64)>,
    pub memory_available: Option<u64>,
    pub overcommit: Option<u64>,
    /// What may still be promised where `overcommit` is 2.
    pub commit_room: Option<u64>,
    /// The word in brackets: always, madvise, never.
    pub huge_pages: Option<String>,
    /// The limit that leaves the least, on the way from this process's cgroup to the root.
    pub cgroup_memory: Option<CgroupMemory>,
    /// The lowest limit on the same way.
    pub cgroup_cores: Option<f64>,
    /// Tasks that may still be started.
    pub cgroup_tasks: Option<u64>,
    /// The fastest network card that tells its speed, in Mbit/s.
    pub network_mbit: Option<u64>,
}

/// A cgroup's limit and what its processes and sockets have taken of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupMemory {
    pub limit: u64,
    /// Without the pages of files that nobody has used lately: the kernel counts them in, and drops them for whoever needs memory.
    pub used: u64,
    /// `memory.high`, beyond which the kernel slows down instead of killing.
    pub is_high: bool,
}

impl CgroupMemory {
    pub fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

impl Facts {
    /// Reads the host whose file system begins at `root`.
    pub fn read(root: &Path) -> Facts {
        let sys = |key: &str| read(&root.join("proc/sys").join(key));
        let number = |key: &str| sys(key)?.parse().ok();
        let process = |name: &str| read(&root.join("proc/self").join(name)).unwrap_or_default();
        let memory = read(&root.join("proc/meminfo")).unwrap_or_default();
        let kib = |name: &str| field(&memory, name)?.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10);
        let cgroups = Cgroups::read(root, &process("cgroup"));
        Facts {
            private_refused: if root == Path::new("/") { sys::private_descriptors_refused() } else { None },
            descriptors_hard: host::parse_limits(&process("limits")).map(|(_, hard)| hard),
            cores: field(&process("status"), "Cpus_allowed_list:").map(cores).unwrap_or_default(),
            file_max: number("fs/file-max"),
            files_open: sys("fs/file-nr").and_then(|text| text.split_whitespace().next()?.parse().ok()),
            nr_open: number("fs/nr_open"),
            epoll_watches: number("fs/epoll/max_user_watches"),
            somaxconn: number("net/core/somaxconn"),
            migrate_req: number("net/ipv4/tcp_migrate_req"),
            syn_cookies: number("net/ipv4/tcp_syncookies"),
            syn_backlog: number("net/ipv4/tcp_max_syn_backlog"),
            tcp_mem: sys("net/ipv4/tcp_mem").and_then(|text| numbers(&text).try_into().ok()),
            // Negative where a network namespace shares the table of the host.
            tcp_buckets: sys("net/ipv4/tcp_ehash_entries").and_then(|text| Some(text.parse::<i64>().ok()?.unsigned_abs())),
            conntrack_max: number("net/netfilter/nf_conntrack_max"),
            conntrack_count: number("net/netfilter/nf_conntrack_count"),
            ports: sys("net/ipv4/ip_local_port_range").and_then(|text| match numbers(&text)[..] {
                [low, high] => Some((low, high)),
                _ => None,
            }),
            memory_available: kib("MemAvailable:"),
            overcommit: number("vm/overcommit_memory"),
            commit_room: kib("CommitLimit:").zip(kib("Committed_AS:")).map(|(limit, used)| limit.saturating_sub(used)),
            huge_pages: read(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            cgroup_memory: cgroups.memory(),
            cgroup_cores: cgroups.cores(),
            cgroup_tasks: cgroups.tasks(),
            network_mbit: network_mbit(&root.join("sys/class/net")),
        }
    }

    /// What settings are checked against.
    pub fn host(&self) -> Host {
        let hard = self.descriptors_hard.unwrap_or(u64::MAX);
        let private_refused = self.private_refused.clone();
        Host { cores: self.cores.clone(), descriptors_soft: hard, descriptors_hard: hard, private_refused }
    }
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The rest of the line that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// A list as the kernel writes it: `0-3,8`.
fn cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Virtual cards tell no speed, or -1.
fn network_mbit(folder: &Path) -> Option<u64> {
    let cards = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    cards.filter_map(|card| read(&card.path().join("speed"))?.parse::<u64>().ok()).max()
}

/// The directories of this process's cgroup in each hierarchy, its own first, then its parents'.
struct Cgroups {
    /// Version 2, one for all controllers.
    unified: Vec<PathBuf>,
    /// Version 1, by controller.
    memory: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    pids: Vec<PathBuf>,
}

impl Cgroups {
    /// `text` is `/proc/self/cgroup`, see cgroups(7).
    fn read(root: &Path, text: &str) -> Cgroups {
        let mount = root.join("sys/fs/cgroup");
        let mut cgroups = Cgroups { unified: Vec::new(), memory: Vec::new(), cpu: Vec::new(), pids: Vec::new() };
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            if number == "0" && controllers.is_empty() {
                // Beside version 1 it is mounted one level down.
                let hybrid = mount.join("unified");
                cgroups.unified = with_parents(if hybrid.is_dir() { &hybrid } else { &mount }, path);
                continue;
            }
            for controller in controllers.split(',') {
                let together = mount.join(controllers);
                let folders = with_parents(&if together.is_dir() { together } else { mount.join(controller) }, path);
                match controller {
                    "memory" => cgroups.memory = folders,
                    "cpu" => cgroups.cpu = folders,
                    "pids" => cgroups.pids = folders,
                    _ => {}
                }
            }
        }
        cgroups
    }

    fn memory(&self) -> Option<CgroupMemory> {
        let new = self.unified.iter().flat_map(|folder| {
            let used = memory_used(folder, "memory.current", "inactive_file ");
            [("memory.max", false), ("memory.high", true)]
                .map(|(name, is_high)| Some(CgroupMemory { limit: number(&folder.join(name))?, used, is_high }))
        });
        let old = self.memory.iter().map(|folder| {
            // Version 1 spells "no limit" as the largest number of whole pages.
            let limit = number(&folder.join("memory.limit_in_bytes")).filter(|&limit| limit < 1 << 60)?;
            let used = memory_used(folder, "memory.usage_in_bytes", "total_inactive_file ");
            Some(CgroupMemory { limit, used, is_high: false })
        });
        new.chain(old).flatten().min_by_key(CgroupMemory::room)
    }

    fn cores(&self) -> Option<f64> {
        let new = self.unified.iter().filter_map(|folder| match numbers(&read(&folder.join("cpu.max"))?)[..] {
            [quota, period] if period > 0 => Some(quota as f64 / period as f64),
            _ => None,
        });
        let old = self.cpu.iter().filter_map(|folder| {
            let number = |name: &str| read(&folder.join(name))?.parse::<u64>().ok().filter(|&number| number > 0);
            Some(number("cpu.cfs_quota_us")? as f64 / number("cpu.cfs_period_us")? as f64)
        });
        new.chain(old).min_by(f64::total_cmp)
    }

    fn tasks(&self) -> Option<u64> {
        let room = |folder: &PathBuf| {
            let now = number(&folder.join("pids.current")).unwrap_or(0);
            Some(number(&folder.join("pids.max"))?.saturating_sub(now))
        };
        self.unified.iter().chain(&self.pids).filter_map(room).min()
    }
}

/// In a container the path may be the host's and lead nowhere; the mount itself is looked at in any case.
fn with_parents(mount: &Path, path: &str) -> Vec<PathBuf> {
    let inside = Path::new(path.trim_start_matches('/'));
    let is_plain = inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let inside = if is_plain { inside } else { Path::new("") };
    inside.ancestors().map(|part| mount.join(part)).collect()
}

/// What a cgroup has taken, as container tools reckon it; `reclaimable` begins the line of its memory.stat.
fn memory_used(folder: &Path, name: &str, reclaimable: &str) -> u64 {
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = field(&stat, reclaimable).and_then(|text| text.parse().ok()).unwrap_or(0);
    number(&folder.join(name)).unwrap_or(0).saturating_sub(reclaimable)
}

/// A file of one number; "max" is none.
fn number(path: &Path) -> Option<u64> {
    read(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cores("5"), [5]);
        assert!(cores("").is_empty());
    }

    #[test]
    fn this_host_is_read() {
        let facts = Facts::read(Path::new("/"));
        assert!(!facts.cores.is_empty());
        assert!(facts.descriptors_hard.unwrap() > 0 && facts.somaxconn.unwrap() > 0 && facts.memory_available.unwrap() > 1 << 20);
        assert_eq!(Facts::read(Path::new("/nowhere")), Facts::default());
    }

    #[test]
    fn a_path_out_of_the_cgroup_namespace_is_not_followed() {
        assert_eq!(with_parents(Path::new("/m"), "/a/b"), ["/m/a/b", "/m/a", "/m/"].map(PathBuf::from));
        assert_eq!(with_parents(Path::new("/m"), "/../../x"), [PathBuf::from("/m/")]);
        assert_eq!(with_parents(Path::new("/m"), "/"), [PathBuf::from("/m/")]);
    }
}
