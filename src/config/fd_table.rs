//! Whether shards share the process's descriptor table or each take a private one (see "Private descriptor tables" in the design).
//! Pure: the limit is an argument. Called by [`crate::server`] and [`crate::doctor`].

use super::{FdTable, Settings};
use crate::limits::SHARDS_MAX;
use crate::sys::Refusal;

/// What `fd_table` comes to on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Each shard unshares its descriptor table.
    pub private: bool,
    /// `auto` would have gone private, but may not.
    pub refusal: Option<String>,
    /// The limit does not hold `connections_max`: what to do about it.
    pub warning: Option<String>,
}

impl Resolved {
    /// What `auto` came to.
    pub fn table(&self) -> FdTable {
        if self.private { FdTable::Private } else { FdTable::Shared }
    }

    /// All that an operator is to be told.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.refusal.iter().chain(&self.warning).map(String::as_str)
    }
}

/// What to do where private tables are refused.
pub const ALLOW: &str = "allow unshare and close_range (Docker: --security-opt seccomp=PROFILE; systemd: SystemCallFilter=@system-service)";
/// Descriptors of a shard besides its connections: poll, waker, listeners, the reserve for accept.
const SHARD_DESCRIPTORS: u64 = 8;
/// Descriptors of the process besides its shards: standard streams, the bus, control, logs. A private table starts as a copy of these.
const PROCESS_DESCRIPTORS: u64 = 64;

/// Decides on the table, assuming that the soft limit is raised to `hard_limit` at start. `refused`: why private tables are not to be had;
/// that `private` asks for them all the same is for [`super::check`] to refuse.
pub fn resolve_fd_table(settings: &Settings, hard_limit: u64, refused: Option<&Refusal>) -> Resolved {
    let connections = settings.bounds.connections_max as u64;
    let shards = settings.shards.count as u64;
    let shared_need = shared_need(connections, shards);
    let private_need = private_need(connections, shards);
    let private = match settings.shards.fd_table {
        FdTable::Shared => false,
        FdTable::Private => true,
        // Even where a private share does not fit either, it holds more; but not if it is the whole.
        FdTable::Auto => shards > 1 && shared_need > hard_limit && refused.is_none(),
    };
    let is_missed = settings.shards.fd_table == FdTable::Auto && shards > 1 && shared_need > hard_limit;
    let refusal = refused.filter(|_| is_missed).map(|refusal| {
        format!("fd_table auto would give each shard a descriptor table of its own, but {refusal}; all share one\n  help: {ALLOW}")
    });
    let need = if private { private_need } else { shared_need };
    if need <= hard_limit {
        return Resolved { private, refusal, warning: None };
    }

    let fitting = largest_fitting(hard_limit, connections, |connections| match private {
        true => self::private_need(connections, shards),
        false => self::shared_need(connections, shards),
    });
    let table = if private { format!("each of {shards} private tables") } else { "one shared table".to_owned() };
    let mut fixes = vec![format!("`ulimit -n {need}` as root, or LimitNOFILE={need} in the systemd unit")];
    let can_be_private = |shards: &u64| refused.is_none() && self::private_need(connections, *shards) <= hard_limit;
    let enough_shards = (shards..=SHARDS_MAX as u64).find(can_be_private);
    match (private, enough_shards) {
        (false, Some(more)) if more > shards => fixes.push(format!("--fd-table private --shards {more}")),
        (false, Some(_)) => fixes.push("--fd-table private".to_owned()),
        (true, Some(more)) => fixes.push(format!("--shards {more}")),
        (_, None) => {}
    }
    if fitting > 0 {
        fixes.push(format!("--connections-max {fitting}"));
    }
    let warning = format!(
        "a limit of {hard_limit} descriptors is too low for connections_max {connections}: {table} needs {need}\n  help: {}",
        fixes.join("; or ")
    );
    Resolved { private, refusal, warning: Some(warning) }
}

/// Descriptors in the fullest table.
pub fn need(settings: &Settings, private: bool) -> u64 {
    let (connections, shards) = (settings.bounds.connections_max as u64, settings.shards.count as u64);
    if private { private_need(connections, shards) } else { shared_need(connections, shards) }
}

fn shared_need(connections: u64, shards: u64) -> u64 {
    connections + shards * SHARD_DESCRIPTORS + PROCESS_DESCRIPTORS
}

/// The kernel deals connections to SO_REUSEPORT listeners by hash, so that a shard gets its share give or take the square root of
/// it; six of those are not seen exceeded in a lifetime.
fn private_need(connections: u64, shards: u64) -> u64 {
    let share = connections.div_ceil(shards);
    let spread = if shards == 1 { 0 } else { 6 * share.isqrt() };
    (share + spread).min(connections) + shards * SHARD_DESCRIPTORS + PROCESS_DESCRIPTORS
}

/// The most connections, rounded down to two digits, whose need fits the limit.
fn largest_fitting(limit: u64, connections: u64, need: impl Fn(u64) -> u64) -> u64 {
    let (mut fits, mut too_many) = (0, connections);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if need(middle) <= limit { fits = middle } else { too_many = middle }
    }
    let step = 10_u64.pow(fits.checked_ilog10().unwrap_or(0).saturating_sub(1));
    fits / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(fd_table: FdTable, connections_max: usize, shards: usize, limit: u64) -> Resolved {
        resolve_fd_table(
            &Settings::default().with(|settings| {
                settings.shards.fd_table = fd_table;
                settings.bounds.connections_max = connections_max;
                settings.shards.count = shards;
            }),
            limit,
            None,
        )
    }

    #[test]
    fn auto_shares_where_one_table_holds_all() {
        assert_eq!(resolve(FdTable::Auto, 100_000, 6, 1 << 20), Resolved { private: false, refusal: None, warning: None });
        assert_eq!(resolve(FdTable::Auto, 100_000, 6, 100_000 + 6 * 8 + 64), Resolved { private: false, refusal: None, warning: None });
        assert_eq!(resolve(FdTable::Auto, 100_000, 6, u64::MAX), Resolved { private: false, refusal: None, warning: None });
    }

    #[test]
    fn auto_goes_private_where_only_the_shares_fit() {
        assert_eq!(resolve(FdTable::Auto, 100_000, 6, 100_000 + 6 * 8 + 63), Resolved { private: true, refusal: None, warning: None });
        // The host that the design was measured on.
        assert_eq!(resolve(FdTable::Auto, 100_000, 6, 20_000), Resolved { private: true, refusal: None, warning: None });
        assert_eq!(resolve(FdTable::Auto, 1_000_000, 54, 20_000), Resolved { private: true, refusal: None, warning: None });
    }

    #[test]
    fn the_table_of_an_only_shard_would_hold_no_more() {
        let auto = resolve(FdTable::Auto, 100_000, 1, 20_000);
        assert!(!auto.private);
        assert!(auto.warning.unwrap().contains("--fd-table private --shards 6"));
    }

    #[test]
    fn a_limit_too_low_names_the_ways_out() {
        let shared = resolve(FdTable::Shared, 100_000, 6, 20_000);
        let warning = shared.warning.unwrap();
        assert!(!shared.private);
        for part in ["ulimit -n 100112", "LimitNOFILE=100112", "--fd-table private", "--connections-max 19000"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
        let few = resolve(FdTable::Shared, 100_000, 2, 20_000).warning.unwrap();
        assert!(few.contains("--fd-table private --shards 6"), "{few}");
        let auto = resolve(FdTable::Auto, 100_000, 2, 20_000);
        let warning = auto.warning.unwrap();
        assert!(auto.private);
        for part in ["each of 2 private tables", "--shards 6", "--connections-max 38000"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
        assert!(!warning.contains("--fd-table"), "{warning}");
    }

    /// The server ended where a container's seccomp profile forbade one of the calls.
    #[test]
    fn auto_shares_where_private_tables_are_forbidden() {
        let settings = Settings::default().with(|settings| {
            settings.bounds.connections_max = 100_000;
            settings.shards.count = 6;
        });
        let refused = Refusal { call: "unshare", error: Some(libc::EPERM) };
        let resolved = resolve_fd_table(&settings, 20_000, Some(&refused));
        assert!(!resolved.private);
        let [refusal, warning] = resolved.warnings().collect::<Vec<_>>()[..] else { panic!("{resolved:?}") };
        assert!(refusal.contains("forbids unshare (Operation not permitted") && refusal.contains("SystemCallFilter="), "{refusal}");
        assert!(warning.contains("one shared table needs 100112") && warning.contains("--connections-max 19000"), "{warning}");
        assert!(!warning.contains("private"), "advises what is not to be had: {warning}");
        // Where one table holds all, nobody asks.
        let resolved = resolve_fd_table(&settings, 1 << 20, Some(&refused));
        assert_eq!(resolved.warnings().count(), 0);
    }

    #[test]
    fn what_the_warning_advises_is_enough() {
        for (connections, shards, limit) in [(100_000, 2, 20_000), (1_000_000, 8, 65_536), (5_000, 1, 1_024), (100, 2, 10)] {
            let advised = largest_fitting(limit, connections, |connections| private_need(connections, shards));
            assert!(advised == 0 || private_need(advised, shards) <= limit);
            let hard = private_need(connections, shards);
            assert_eq!(resolve(FdTable::Private, connections as usize, shards as usize, hard).warning, None);
        }
    }
}
