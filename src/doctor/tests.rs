use super::host::CgroupMemory;
use super::*;
use crate::config::FdTable;

/// A host with 16 GB, 4 cores and what a kernel has by itself.
fn usual() -> Facts {
    Facts {
        descriptors_hard: Some(1 << 20),
        private_refused: None,
        cores: vec![0, 1, 2, 3],
        file_max: Some(1_600_000),
        files_open: Some(1_000),
        nr_open: Some(1 << 20),
        epoll_watches: Some(3_600_000),
        somaxconn: Some(4096),
        migrate_req: Some(1),
        syn_cookies: Some(1),
        syn_backlog: Some(1024),
        tcp_mem: Some([190_000, 253_000, 380_000]),
        tcp_buckets: Some(131_072),
        conntrack_max: None,
        conntrack_count: None,
        ports: Some((32_768, 60_999)),
        memory_available: Some(15 << 30),
        overcommit: Some(0),
        commit_room: Some(8 << 30),
        huge_pages: Some("madvise".into()),
        cgroup_memory: None,
        cgroup_cores: None,
        cgroup_tasks: None,
        network_mbit: Some(10_000),
    }
}

fn settings(connections: usize) -> Settings {
    Settings::default().with(|settings| {
        settings.bounds.connections_max = connections;
        settings.shards.count = 4;
    })
}

const QUIET: Load = Load { rate: 1.0, payload_bytes: 128 };

fn too_low(settings: &Settings, load: Load, facts: &Facts) -> Vec<&'static str> {
    let low = |check: &Check| check.verdict == Verdict::TooLow;
    examine(settings, load, facts).iter().filter(|check| low(check)).map(|check| check.name).collect()
}

fn check(name: &str, settings: &Settings, load: Load, facts: &Facts) -> Check {
    let checks = examine(settings, load, facts);
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name} is not in {checks:#?}")).clone()
}

#[test]
fn a_small_server_needs_nothing_special() {
    assert_eq!(too_low(&settings(2_000), QUIET, &usual()), [""; 0]);
}

#[test]
fn each_bound_is_named_when_it_alone_is_too_low() {
    let roomy = Facts { somaxconn: Some(65_535), ..usual() };
    let settings = settings(100_000);
    assert_eq!(too_low(&settings, QUIET, &roomy), [""; 0]);
    for (name, facts) in [
        ("descriptors", Facts { descriptors_hard: Some(20_000), ..roomy.clone() }),
        ("fs.file-max", Facts { files_open: Some(1_550_000), ..roomy.clone() }),
        ("epoll watches", Facts { epoll_watches: Some(90_000), ..roomy.clone() }),
        ("backlog", usual()),
        ("SYN backlog", Facts { syn_cookies: Some(0), ..roomy.clone() }),
        ("conntrack", Facts { conntrack_max: Some(131_072), conntrack_count: Some(40_000), ..roomy.clone() }),
        ("memory bound", Facts { memory_available: Some(3 << 29), ..roomy.clone() }),
        ("cgroup memory", Facts { cgroup_memory: Some(CgroupMemory { limit: 2 << 30, used: 0, is_high: false }), ..roomy.clone() }),
        ("overcommit", Facts { overcommit: Some(2), commit_room: Some(1 << 30), ..roomy.clone() }),
        ("tcp_mem", Facts { tcp_mem: Some([10_000, 20_000, 40_000]), ..roomy.clone() }),
        ("cgroup pids", Facts { cgroup_tasks: Some(8), ..roomy.clone() }),
        ("network", Facts { network_mbit: Some(100), ..roomy.clone() }),
    ] {
        assert_eq!(too_low(&settings, QUIET, &facts), [name]);
        assert!(check(name, &settings, QUIET, &facts).fix.is_some(), "{name}: what can be done?");
    }
    // Loaded, but nothing on the host is tracked.
    let idle = Facts { conntrack_max: Some(65_536), conntrack_count: Some(0), ..roomy.clone() };
    assert_eq!((too_low(&settings, QUIET, &idle), check("conntrack", &settings, QUIET, &idle).verdict), (vec![], Verdict::Note));
    assert_eq!(too_low(&settings, QUIET, &Facts { memory_available: Some(700 << 20), ..roomy.clone() }), ["memory", "memory bound"]);
    // A limit that cannot be raised as far as it would have to be.
    let low = Facts { descriptors_hard: Some(20_000), nr_open: Some(50_000), ..roomy.clone() };
    let shared = settings.clone().with(|settings| settings.shards.fd_table = FdTable::Shared);
    assert_eq!(too_low(&shared, QUIET, &low), ["descriptors", "fs.nr_open"]);
}

#[test]
fn private_tables_are_counted_each_by_itself() {
    let facts = Facts { descriptors_hard: Some(20_000), ..usual() };
    let shards = |shards| settings(100_000).with(|settings| settings.shards.count = shards);
    assert_eq!(check("descriptors", &shards(6), QUIET, &facts).verdict, Verdict::Ok);
    let low = check("descriptors", &shards(4), QUIET, &facts);
    assert_eq!(low.verdict, Verdict::TooLow);
    assert!(low.fix.unwrap().contains("--shards 6"));
}

#[test]
fn a_host_that_forbids_private_tables_is_told_what_to_allow() {
    let refused = Some(crate::sys::Refusal { call: "close_range", error: Some(libc::ENOSYS) });
    let facts = Facts { descriptors_hard: Some(20_000), private_refused: refused, ..usual() };
    let check = check("descriptors", &settings(100_000).with(|settings| settings.shards.count = 6), QUIET, &facts);
    assert_eq!(check.verdict, Verdict::TooLow);
    assert!(check.text.contains("one shared table needs 100,112") && check.text.contains("older than 5.9"), "{}", check.text);
    let fix = check.fix.unwrap();
    assert!(fix.contains("SystemCallFilter=") && fix.contains("; or `ulimit -n 100112`") && !fix.contains("private"), "{fix}");
}

#[test]
fn what_a_fix_says_is_enough() {
    let facts = Facts { memory_available: Some(27 << 27), ..usual() };
    let fix = check("memory bound", &settings(100_000), QUIET, &facts).fix.unwrap();
    let mib: usize = fix.strip_prefix("--log-bytes-total ").unwrap().strip_suffix('M').unwrap().parse().unwrap();
    let smaller = settings(100_000).with(|settings| settings.bounds.log_bytes_total = mib << 20);
    assert_eq!(check("memory bound", &smaller, QUIET, &facts).verdict, Verdict::Ok);

    let facts = Facts { tcp_mem: Some([1, 2, 3]), ..usual() };
    let fix = check("tcp_mem", &settings(100_000), QUIET, &facts).fix.unwrap();
    let pages: Vec<u64> = fix.split('"').nth(1).unwrap().split(' ').map(|word| word.parse().unwrap()).collect();
    let facts = Facts { tcp_mem: pages.try_into().ok(), ..usual() };
    assert_eq!(check("tcp_mem", &settings(100_000), QUIET, &facts).verdict, Verdict::Ok);
}

/// It was said to be ok as long as the limit by itself was enough.
#[test]
fn a_container_three_quarters_full_is_not_ok() {
    let at = |memory| check("cgroup memory", &settings(20_000), QUIET, &Facts { cgroup_memory: Some(memory), ..usual() });
    let empty = CgroupMemory { limit: u64::MAX, used: 0, is_high: false };
    let need = at(empty).need.unwrap() as u64;
    let exact = CgroupMemory { limit: 4 * need, used: 3 * need, ..empty };
    assert_eq!((at(exact).verdict, at(exact).have), (Verdict::Ok, Some(need as f64)));
    for (is_high, setting) in [(false, "MemoryMax="), (true, "MemoryHigh=")] {
        let full = CgroupMemory { used: 3 * need + 1, is_high, ..exact };
        assert_eq!(at(full).verdict, Verdict::TooLow);
        let fix = at(full).fix.unwrap();
        let mib: u64 = fix.strip_prefix(setting).unwrap().split_once('M').unwrap().0.parse().unwrap();
        assert_eq!(at(CgroupMemory { limit: mib << 20, ..full }).verdict, Verdict::Ok, "{fix}");
    }
    let over = CgroupMemory { limit: need, used: 2 * need, ..empty };
    assert_eq!((at(over).verdict, at(over).have), (Verdict::TooLow, Some(0.0)));
}

#[test]
fn cores_are_reckoned_alone_shared_and_not_at_all() {
    let at = |rate| check("cores", &settings(100_000), Load { rate, payload_bytes: 128 }, &usual());
    let calm = at(1.0);
    assert_eq!((calm.verdict, calm.need, calm.have), (Verdict::Ok, Some(1.0), Some(4.0)));
    assert!(calm.text.contains("1 of 4 cores: 100,000 deliveries/s") && calm.text.contains("a round takes 250 ms"), "{}", calm.text);
    // 10,000,000 deliveries/s: 100 cores one by one, 1 core and some when messages share writes.
    let busy = at(100.0);
    assert_eq!((busy.verdict, busy.need), (Verdict::Ok, Some(100.0)));
    assert!(busy.text.contains("share each write"), "{}", busy.text);
    let much = at(1000.0);
    assert_eq!(much.verdict, Verdict::TooLow);
    assert!(much.fix.unwrap().starts_with("--shards 13 "), "10 cores of work and a fifth to spare");
    let quota = Facts { cgroup_cores: Some(0.5), ..usual() };
    assert_eq!(check("cores", &settings(100_000), QUIET, &quota).have, Some(0.5));
    let slow = check("cores", &settings(1_000_000), Load { rate: 2.0, payload_bytes: 128 }, &usual());
    assert_eq!(slow.verdict, Verdict::Note, "{}", slow.text);
}

/// A terabyte a second, and nothing was too low: a delivery cost the same whatever its size.
#[test]
fn bytes_cost_cpu_and_network() {
    let settings = settings(10_000);
    let large = Load { rate: 1000.0, payload_bytes: 100_000 };
    let telling = Facts { somaxconn: Some(65_535), ..usual() };
    let silent = Facts { network_mbit: None, ..telling.clone() };
    for facts in [&telling, &silent] {
        assert_eq!(too_low(&settings, large, facts), ["cores", "network"]);
    }
    let cores = check("cores", &settings, large, &telling);
    assert!((180.0..200.0).contains(&cores.need.unwrap()), "10,000,000 deliveries/s of 15 us: {cores:?}");
    let network = check("network", &settings, large, &silent);
    assert!(network.need.unwrap() > 8e6 && network.text.contains("no card does 800,000"), "{network:?}");
    // The same rate of small messages is as it was.
    assert_eq!(too_low(&settings, Load { payload_bytes: 128, ..large }, &silent), [""; 0]);
    // What a fix says is enough.
    let fits: f64 = cores.fix.unwrap().split("at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_ne!(check("cores", &settings, Load { rate: fits.floor(), ..large }, &telling).verdict, Verdict::TooLow);
}

#[test]
fn messages_that_no_log_holds_are_told() {
    let facts = Facts { network_mbit: Some(400_000), somaxconn: Some(65_535), tcp_mem: Some([1 << 22; 3]), ..usual() };
    let large = Load { rate: 0.5, payload_bytes: 2 << 20 };
    assert_eq!(too_low(&settings(1000), large, &facts), ["payload", "channel log"]);
    assert_eq!(check("payload", &settings(1000), large, &facts).fix.unwrap(), "--payload-bytes-max 2M");
    let mut roomy = settings(1000).with(|settings| settings.bounds.payload_bytes_max = 2 << 20);
    roomy.channels.default.log_bytes = 3 << 20;
    assert_eq!(too_low(&roomy, large, &facts), [""; 0]);
    // Small ones, but dozens of them to a round.
    let mut small_log = settings(10_000);
    small_log.channels.default.log_bytes = 64 << 10;
    let low = check("channel log", &small_log, Load { rate: 1_000.0, payload_bytes: 1000 }, &facts);
    assert!(low.fix.as_deref().unwrap().starts_with("--log-bytes-per-channel "), "{low:?}");
}

#[test]
fn what_the_host_does_not_tell_is_unknown_and_fails_nothing() {
    let checks = examine(&settings(100_000), QUIET, &Facts::default());
    assert!(checks.iter().all(|check| check.verdict != Verdict::TooLow), "{checks:#?}");
    assert!(checks.iter().filter(|check| check.verdict == Verdict::Unknown).count() >= 8);
}

#[test]
fn numbers_for_people() {
    assert_eq!(["1", "12", "123", "1,234", "1,000,000"].map(str::to_owned), [1, 12, 123, 1_234, 1_000_000].map(count));
    assert_eq!(["0", "0.05", "1", "1.5", "15", "1,500"].map(str::to_owned), [0.0, 0.05, 1.0, 1.5, 15.0, 1500.0].map(show_number));
    assert_eq!([round_up(7), round_up(100_096), round_up(999)], [7, 110_000, 1_000]);
}
