//! `campanile doctor` against hosts made of files: what it reads, what it prints, how it ends.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;

/// The root of a host.
struct Host {
    root: PathBuf,
}

impl Host {
    /// 16 GB, four cores, 20,000 descriptors; no cgroup limits.
    fn new(test: &str) -> Host {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{test}"));
        let _ = fs::remove_dir_all(&root);
        let host = Host { root };
        for (path, text) in [
            ("proc/self/limits", "Limit   Soft Limit  Hard Limit  Units\nMax open files  1024  20000  files\n"),
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3\n"),
            ("proc/self/cgroup", "0::/system.slice/campanile.service\n"),
            ("proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 15000000 kB\nCommitLimit: 8000000 kB\nCommitted_AS: 1000000 kB\n"),
            ("proc/sys/fs/file-max", "1600000\n"),
            ("proc/sys/fs/file-nr", "1000\t0\t1600000\n"),
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/epoll/max_user_watches", "3600000\n"),
            ("proc/sys/net/core/somaxconn", "65535\n"),
            ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "1024\n"),
            ("proc/sys/net/ipv4/tcp_mem", "190000\t253000\t380000\n"),
            ("proc/sys/net/ipv4/tcp_ehash_entries", "-131072\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/vm/overcommit_memory", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
            ("sys/fs/cgroup/system.slice/campanile.service/memory.max", "max\n"),
            ("sys/class/net/lo/speed", "-1\n"),
            ("sys/class/net/eth0/speed", "10000\n"),
        ] {
            host.set(path, text);
        }
        host
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
        command.current_dir(&self.root).arg("doctor").arg("--root").arg(&self.root).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CAMPANILE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Exit code, stdout, stderr.
    fn doctor(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (_, stdout, stderr) = self.doctor(&[arguments, &["--json"]].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
    }

    fn check(&self, name: &str, arguments: &[&str]) -> Value {
        let answer = self.json(arguments);
        let checks = answer["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:#?}")).clone()
    }
}

#[test]
fn a_host_that_is_enough_exits_0() {
    let host = Host::new("enough");
    let (code, stdout, stderr) = host.doctor(&["--connections", "50000", "--shards", "4"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let shown = "\
50,000 connections, 1 message/s of 128 B to each, 4 shards

descriptors    ok       each of 4 private tables needs 13,262, the limit is 20,000
fs.nr_open     ok       a table may hold 1,048,576, 13,262 are needed
fs.file-max    ok       the whole host may open 1,600,000; 1,000 are open, with the connections 51,096
epoll watches  ok       each connection is one, 50,016 of this user's 3,600,000
backlog        ok       12,500 may wait on each listener, all of a shard's clients at once
SYN backlog    ok       net.ipv4.tcp_max_syn_backlog is not used: SYN cookies are on
memory         ok       422 MiB of 14.3 GiB available: 6.9 MiB user (145 B each), 220 MiB sockets in the kernel, 195 MiB while a message is on its way
memory bound   ok       with full logs and buffers at most 3.3 GiB of 14.3 GiB available
huge pages     note     transparent huge pages are \"always\": memory is taken in pieces of 2 MiB, so more may be resident
                        -> echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
tcp_mem        ok       a message on its way to all holds 50,000 pages; pressure from 253,000, no more than 380,000
TCP hash       ok       50,000 sockets in 131,072 buckets of the kernel's table, 1 to each
cores          ok       0.5 of 4 cores: 50,000 deliveries/s at 10 us each; a round takes 125 ms
network        ok       120 Mbit/s (128 B and 170 B around it), the card does 10,000
ports          ok       a load generator on this host needs 2 source addresses (28,232 ports each); the server needs none

nothing is too low
";
    assert_eq!(stdout, shown);
}

#[test]
fn what_is_too_low_is_said_with_what_to_type_and_exits_1() {
    let host = Host::new("low");
    host.set("proc/sys/net/core/somaxconn", "128\n");
    let (code, stdout, _) = host.doctor(&["--connections", "50000", "--shards", "2"]);
    assert_eq!(code, 1);
    for part in [
        "descriptors    too low  each of 2 private tables needs 26,028, the limit is 20,000\n",
        "-> `ulimit -n 26028` as root, or LimitNOFILE=26028 in the systemd unit; or --shards 3",
        "backlog        too low  if all come back at once, 25,000 wait on each listener; net.core.somaxconn cuts that to 128\n",
        "-> sysctl -w net.core.somaxconn=25000",
        "\n2 of 14 too low\n",
    ] {
        assert!(stdout.contains(part), "{part:?} is missing in\n{stdout}");
    }
    let answer = host.json(&["--connections", "50000", "--shards", "2", "--rate", "0.5", "--payload", "1000"]);
    assert_eq!(answer["too_low"], 2);
    assert_eq!((&answer["connections"], &answer["rate"], &answer["payload_bytes"]), (&50_000.into(), &0.5.into(), &1_000.into()));
    let backlog = host.check("backlog", &["--connections", "50000", "--shards", "2"]);
    assert_eq!((&backlog["verdict"], &backlog["need"], &backlog["have"]), (&"too_low".into(), &25_000.into(), &128.into()));
}

/// The lowest limit between the process's own cgroup and the root counts, in both versions.
#[test]
fn cgroups_of_both_versions_are_read() {
    let arguments = ["--connections", "20000", "--shards", "4"];
    let new = Host::new("cgroup2");
    new.set("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
    new.set("sys/fs/cgroup/system.slice/campanile.service/memory.max", "17179869184\n");
    new.set("sys/fs/cgroup/system.slice/campanile.service/cpu.max", "150000 100000\n");
    new.set("sys/fs/cgroup/system.slice/pids.max", "12\n");
    new.set("sys/fs/cgroup/system.slice/pids.current", "4\n");
    let old = Host::new("cgroup1");
    old.set("proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n2:pids:/box\n0::/\n");
    fs::remove_file(old.root.join("sys/fs/cgroup/cgroup.controllers")).unwrap();
    old.set("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n");
    old.set("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    old.set("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "150000\n");
    old.set("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    old.set("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    old.set("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    old.set("sys/fs/cgroup/pids/box/pids.max", "12\n");
    old.set("sys/fs/cgroup/pids/box/pids.current", "4\n");
    for host in [new, old] {
        let memory = host.check("cgroup memory", &arguments);
        assert_eq!((&memory["verdict"], &memory["have"]), (&"too_low".into(), &(1u64 << 30).into()), "{memory}");
        assert_eq!(host.check("cores", &arguments)["have"], 1.5);
        let pids = host.check("cgroup pids", &arguments);
        assert_eq!((&pids["verdict"], &pids["have"], &pids["need"]), (&"too_low".into(), &8.into(), &9.into()));
    }
}

/// What is taken already counts, in every cgroup up to the root, and not what the kernel would give back.
#[test]
fn what_is_left_of_a_cgroup_counts_not_its_limit() {
    const MIB: u64 = 1 << 20;
    let room = |host: &Host| {
        let memory = host.check("cgroup memory", &["--connections", "1000", "--shards", "1"]);
        (memory["have"].as_u64().unwrap() / MIB, memory["fix"].as_str().unwrap_or("").to_owned())
    };
    let new = Host::new("cgroup2-used");
    let set = |name: &str, mib: u64| new.set(&format!("sys/fs/cgroup/system.slice/{name}"), &format!("{}\n", mib * MIB));
    set("memory.max", 800);
    assert_eq!(room(&new).0, 800);
    set("memory.current", 600);
    assert_eq!(room(&new).0, 200);
    set("campanile.service/memory.max", 150);
    assert_eq!(room(&new).0, 150);
    set("campanile.service/memory.current", 100);
    assert_eq!(room(&new).0, 50);
    let stat = format!("anon 7\nfile 9\ninactive_anon 5\ninactive_file {}\nactive_file 3\n", 90 * MIB);
    new.set("sys/fs/cgroup/system.slice/campanile.service/memory.stat", &stat);
    assert_eq!(room(&new).0, 140);
    set("campanile.service/memory.high", 60);
    let (left, fix) = room(&new);
    assert_eq!(left, 50);
    assert!(fix.starts_with("MemoryHigh="), "{fix}");
    set("memory.current", 780);
    let (left, fix) = room(&new);
    assert_eq!(left, 20);
    assert!(fix.starts_with("MemoryMax="), "{fix}");

    let old = Host::new("cgroup1-used");
    old.set("proc/self/cgroup", "4:memory:/box\n0::/\n");
    old.set("sys/fs/cgroup/memory/box/memory.limit_in_bytes", &format!("{}\n", 800 * MIB));
    old.set("sys/fs/cgroup/memory/box/memory.usage_in_bytes", &format!("{}\n", 600 * MIB));
    old.set("sys/fs/cgroup/memory/box/memory.stat", &format!("inactive_file 1\ntotal_inactive_file {}\n", 100 * MIB));
    assert_eq!(room(&old).0, 300);
}

#[test]
fn settings_come_from_file_environment_and_flags() {
    let host = Host::new("settings");
    host.set("campanile.toml", "connections_max = 3000\nshards = 2\nbacklog = 100\n");
    let answer = host.json(&[]);
    assert_eq!((&answer["connections"], &answer["shards"]), (&3000.into(), &2.into()));
    assert_eq!(host.check("backlog", &[])["need"], 100);
    let output = host.command(&["--json", "--connections", "9"]).env("CAMPANILE_SHARDS", "3").output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["connections"], &answer["shards"]), (&9.into(), &3.into()));
    assert_eq!(host.json(&["--shards", "1"])["shards"], 1);
}

#[test]
fn sizes_and_numbers_are_written_as_in_the_settings() {
    let host = Host::new("sizes");
    let answer = host.json(&["--connections", "10_000", "--rate", "1000", "--payload", "100k"]);
    assert_eq!((&answer["connections"], &answer["payload_bytes"]), (&10_000.into(), &(100 << 10).into()));
    let low: Vec<&str> = answer["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["verdict"] == "too_low")
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(low, ["cores", "network"]);
    let (code, _, stderr) = host.doctor(&["--payload", "100q"]);
    assert!(code == 2 && stderr.contains("\"q\" is not a unit of size"), "{code} {stderr}");
}

#[test]
fn a_wrong_command_line_exits_2_and_wrong_settings_are_told() {
    let host = Host::new("usage");
    for arguments in
        [["--connections", "0"], ["--rate", "-1"], ["--rate", "fast"], ["--payload", "x"], ["--shards", "many"], ["--pin", "9"]]
    {
        assert_eq!(host.doctor(&[&arguments[..1], &arguments[1..]].concat()).0, 2, "{arguments:?}");
    }
    host.set("campanile.toml", "shards = \"many\"\n");
    let (code, _, stderr) = host.doctor(&[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("campanile.toml:1"), "{stderr}");
}

/// Nothing can be read: nothing is claimed.
#[test]
fn an_empty_host_is_unknown() {
    let host = Host::new("empty");
    fs::remove_dir_all(&host.root).unwrap();
    fs::create_dir_all(&host.root).unwrap();
    let (code, stdout, _) = host.doctor(&["--connections", "1000", "--shards", "1"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("descriptors    unknown  /proc/self/limits cannot be read\n"), "{stdout}");
}
