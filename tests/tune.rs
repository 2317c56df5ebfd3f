//! scripts/tune and the profiles in tuning/, against a made-up tree of sysctl values. Where a value must resist, the tree has a link into
//! `/proc/self` of the script itself: `oom_score_adj` refuses large numbers, `comm` cuts after 15 bytes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROFILES: [&str; 4] = ["broadcast-100k", "broadcast-1m", "load-generator", "low-latency"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tree of values, a directory for what was there before, and a profile.
struct Bed {
    directory: PathBuf,
}

impl Bed {
    fn new(test: &str) -> Bed {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tune-{test}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let bed = Bed { directory };
        bed.set("kernel.random.boot_id", "first");
        bed
    }

    fn key(&self, key: &str) -> PathBuf {
        self.directory.join("sys").join(key.replace('.', "/"))
    }

    fn set(&self, key: &str, value: &str) {
        fs::create_dir_all(self.key(key).parent().unwrap()).unwrap();
        fs::write(self.key(key), format!("{value}\n")).unwrap();
    }

    fn link(&self, key: &str, target: &str) {
        let _ = fs::remove_file(self.key(key));
        fs::create_dir_all(self.key(key).parent().unwrap()).unwrap();
        symlink(target, self.key(key)).unwrap();
    }

    fn get(&self, key: &str) -> String {
        fs::read_to_string(self.key(key)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn profile(&self, text: &str) -> String {
        let path = self.directory.join("profile.conf");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn saved(&self) -> PathBuf {
        self.directory.join("state/saved.json")
    }

    /// Exit code, stdout, stderr.
    fn tune(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(root().join("scripts/tune"));
        command.args(arguments).arg("--proc-sys").arg(self.directory.join("sys")).arg("--state").arg(self.directory.join("state"));
        run(&mut command)
    }
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("python3 is installed");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

/// A tree with what the kernel has by itself, for every key of every profile.
fn usual(test: &str) -> Bed {
    let bed = Bed::new(test);
    for (key, value) in [
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.tcp_migrate_req", "0"),
        ("net.ipv4.tcp_mem", "287901\t383868\t575802"),
        ("net.ipv4.tcp_rmem", "4096\t131072\t6291456"),
        ("net.ipv4.tcp_wmem", "4096\t16384\t4194304"),
        ("fs.file-max", "1600000"),
        ("fs.nr_open", "1048576"),
        ("net.netfilter.nf_conntrack_max", "131072"),
        ("net.ipv4.tcp_slow_start_after_idle", "1"),
        ("net.core.busy_poll", "0"),
        ("kernel.numa_balancing", "1"),
        ("net.ipv4.ip_local_port_range", "32768\t60999"),
        ("net.ipv4.tcp_tw_reuse", "2"),
        ("net.core.netdev_max_backlog", "1000"),
    ] {
        bed.set(key, value);
    }
    bed
}

#[test]
fn every_profile_is_applied_and_reverted() {
    for profile in PROFILES {
        let bed = usual(&format!("whole-{profile}"));
        let tree = |bed: &Bed| {
            let text = fs::read_to_string(root().join(format!("tuning/sysctl/{profile}.conf"))).unwrap();
            let keys = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
            keys.map(|(key, value)| (bed.get(key.trim_start_matches('-')), value.to_owned())).collect::<Vec<_>>()
        };
        let before = tree(&bed);
        assert!(!before.is_empty());
        assert_eq!(bed.tune(&["check", profile]).0, 1, "{profile}");

        let (code, stdout, stderr) = bed.tune(&["apply", profile]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{profile}: {stdout}");
        assert!(tree(&bed).iter().all(|(now, wanted)| now == wanted), "{profile}: {:?}", tree(&bed));
        assert_eq!(bed.tune(&["check", profile]).0, 0);

        let (code, stdout, stderr) = bed.tune(&["revert", profile]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{profile}: {stdout}");
        assert_eq!(tree(&bed), before, "{profile}");
        assert!(!bed.saved().exists());
    }
}

/// The reason for each line, and what it costs, stand above it.
#[test]
fn every_line_of_a_profile_is_explained() {
    let mut found: Vec<String> = fs::read_dir(root().join("tuning/sysctl"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    assert_eq!(found, PROFILES);
    for profile in PROFILES {
        let text = fs::read_to_string(root().join(format!("tuning/sysctl/{profile}.conf"))).unwrap();
        for paragraph in text.split("\n\n").skip(1) {
            assert_eq!(explained(profile, paragraph), 1, "{profile}: one setting to a paragraph: {paragraph}");
        }
    }
}

/// In the other files lines that serve one end share the reason; a section's name stands by itself.
#[test]
fn every_group_of_the_unit_the_socket_and_the_limits_is_explained() {
    for (file, settings) in [("systemd/campanile.service", 49), ("systemd/campanile.socket", 7), ("limits.d/campanile.conf", 3)] {
        let text = fs::read_to_string(root().join("tuning").join(file)).unwrap();
        let groups = text.split("\n\n").skip(1).filter(|group| !(group.starts_with('[') && group.lines().count() == 1));
        let found = groups.map(|group| explained(file, group)).inspect(|&found| assert_ne!(found, 0, "{file}: a reason for nothing"));
        assert_eq!(found.sum::<usize>(), settings, "{file}");
    }
}

/// How many settings a paragraph has, below its reason and its price. One that is off as delivered has no blank behind its `#`.
#[track_caller]
fn explained(file: &str, paragraph: &str) -> usize {
    let is_comment = |line: &&str| line.starts_with("# ");
    let comments = paragraph.lines().take_while(is_comment).collect::<Vec<_>>().join(" ");
    assert!(comments.starts_with("# Why: ") && comments.contains(" # Costs: "), "{file}: {paragraph}");
    let settings: Vec<&str> = paragraph.lines().skip_while(is_comment).collect();
    assert!(!settings.iter().any(is_comment), "{file}: comments stand above what they explain: {paragraph}");
    settings.len()
}

#[test]
fn the_table_is_aligned_and_says_what_would_change() {
    let bed = usual("table");
    fs::remove_file(bed.key("net.netfilter.nf_conntrack_max")).unwrap();
    let (code, stdout, _) = bed.tune(&["check", "broadcast-100k", "low-latency"]);
    assert_eq!(code, 1);
    let shown = "\
key                                 now                  profile             verdict
net.core.somaxconn                  4096                 65535               raise
net.ipv4.tcp_migrate_req            0                    1                   raise
net.ipv4.tcp_rmem                   4096 131072 6291456  4096 32768 1048576  lower
net.ipv4.tcp_wmem                   4096 16384 4194304   4096 16384 1048576  lower
net.netfilter.nf_conntrack_max      -                    262144              not here
net.ipv4.tcp_slow_start_after_idle  1                    0                   lower
net.core.busy_poll                  0                    50                  raise
kernel.numa_balancing               1                    0                   lower

7 of 8 differ; `scripts/tune apply broadcast-100k low-latency` sets them
";
    assert_eq!(stdout, shown);
}

#[test]
fn a_value_that_the_kernel_refuses_undoes_the_whole_profile() {
    for (test, resisting, value, reason) in
        [("refused", "oom_score_adj", "65535", "Invalid argument"), ("cut", "comm", "a-name-that-is-too-long", "the kernel made")]
    {
        let bed = Bed::new(test);
        bed.set("net.a", "1");
        bed.set("net.b", "2 3");
        bed.link("net.c", &format!("/proc/self/{resisting}"));
        bed.set("net.d", "4");
        let profile = bed.profile(&format!("net.a = 10\nnet.b = 20 30\nnet.c = {value}\nnet.d = 40\n"));
        let (code, _, stderr) = bed.tune(&["apply", &profile]);
        assert_eq!(code, 1);
        assert_contains(&stderr, &["net.c = ", reason, "nothing is applied; 2 changed before it, all put back"]);
        assert_eq!((bed.get("net.a").as_str(), bed.get("net.b").as_str(), bed.get("net.d").as_str()), ("1", "2 3", "4"), "{test}");
        assert!(!bed.saved().exists());
        assert_contains(&bed.tune(&["revert"]).2, &["nothing is applied"]);
    }
}

#[test]
fn what_cannot_be_read_or_is_not_there_is_refused_before_anything_changes() {
    let bed = Bed::new("unreadable");
    bed.set("net.a", "1");
    fs::create_dir_all(bed.key("net.b")).unwrap();
    let (code, _, stderr) = bed.tune(&["apply", &bed.profile("net.a = 10\nnet.b = 20\n")]);
    assert_eq!(code, 1);
    assert_contains(&stderr, &["refused, nothing was changed", "net.b: ", "directory"]);
    let (code, stdout, stderr) = bed.tune(&["apply", &bed.profile("net.a = 10\nnet.missing = 20\n")]);
    assert_eq!(code, 1);
    assert_contains(&stderr, &["net.missing: this kernel does not have it"]);
    assert_contains(&stdout, &["net.missing  -    20       absent"]);
    assert_eq!(bed.get("net.a"), "1");
    assert!(!bed.saved().exists());
}

#[test]
fn an_apply_that_was_not_reverted_is_not_applied_over() {
    let bed = Bed::new("twice");
    bed.set("net.a", "1");
    let profile = bed.profile("net.a = 10\n");
    assert_eq!(bed.tune(&["apply", &profile]).0, 0);
    let saved = fs::read_to_string(bed.saved()).unwrap();
    let other = bed.directory.join("other.conf");
    fs::write(&other, "net.a = 100\n").unwrap();
    for again in [&profile, &other.display().to_string()] {
        let (code, _, stderr) = bed.tune(&["apply", again]);
        assert_eq!(code, 1);
        assert_contains(&stderr, &["is applied already", "`scripts/tune revert` first"]);
        assert_eq!((bed.get("net.a").as_str(), fs::read_to_string(bed.saved()).unwrap()), ("10", saved.clone()));
    }
    assert_contains(&bed.tune(&["revert", &other.display().to_string()]).2, &["applied is "]);
    // Somebody else has had a hand in it: what was there before is what counts.
    bed.set("net.a", "55");
    let (code, stdout, _) = bed.tune(&["revert"]);
    assert_eq!(code, 0);
    assert_contains(&stdout, &["net.a  55   1    put back"]);
    assert_eq!(bed.get("net.a"), "1");
    // Nothing that differs, nothing to remember.
    assert_contains(&bed.tune(&["apply", &bed.profile("net.a = 1\n")]).1, &["nothing to change"]);
    assert!(!bed.saved().exists());
}

/// The machine or the script died between two writes: what was saved first is enough.
#[test]
fn an_apply_that_died_half_way_is_put_back() {
    let bed = Bed::new("died");
    bed.set("net.a", "1");
    bed.set("net.b", "2");
    assert_eq!(bed.tune(&["apply", &bed.profile("net.a = 10\nnet.b = 20\n")]).0, 0);
    bed.set("net.b", "2");
    let (code, stdout, _) = bed.tune(&["revert"]);
    assert_eq!(code, 0);
    assert_contains(&stdout, &["net.a  10   1    put back", "net.b  2    2    ok"]);
    assert_eq!((bed.get("net.a").as_str(), bed.get("net.b").as_str()), ("1", "2"));
}

#[test]
fn a_revert_that_fails_can_be_tried_again() {
    let bed = Bed::new("retry");
    bed.set("net.a", "1");
    bed.set("net.b", "2000");
    bed.set("net.gone", "3");
    assert_eq!(bed.tune(&["apply", &bed.profile("net.a = 10\nnet.b = 20\nnet.gone = 30\n")]).0, 0);
    bed.link("net.b", "/proc/self/oom_score_adj");
    fs::remove_file(bed.key("net.gone")).unwrap();
    let (code, stdout, stderr) = bed.tune(&["revert"]);
    assert_eq!(code, 1);
    assert_contains(&stdout, &["not put back"]);
    assert_contains(&stderr, &["net.b could not be put back: ", "`scripts/tune revert` tries again"]);
    assert_eq!(bed.get("net.a"), "1", "the others are put back");
    fs::remove_file(bed.key("net.b")).unwrap();
    bed.set("net.b", "20");
    assert_eq!(bed.tune(&["revert"]).0, 0);
    assert_eq!(bed.get("net.b"), "2000");
}

/// A restart of the machine has put back everything already.
#[test]
fn what_was_saved_before_a_restart_is_forgotten() {
    let bed = Bed::new("restart");
    bed.set("net.a", "1");
    assert_eq!(bed.tune(&["apply", &bed.profile("net.a = 10\n")]).0, 0);
    bed.set("kernel.random.boot_id", "second");
    bed.set("net.a", "7");
    assert_contains(&bed.tune(&["apply", &bed.profile("net.a = 10\n")]).2, &["before this start of the machine"]);
    let (code, stdout, _) = bed.tune(&["revert"]);
    assert_eq!(code, 0);
    assert_contains(&stdout, &["started anew"]);
    assert_eq!(bed.get("net.a"), "7");
    assert!(!bed.saved().exists());
}

#[test]
fn what_was_saved_is_kept_where_nobody_knows_of_a_restart() {
    for (test, then, now) in [("boot-now", "first", None), ("boot-then", "", Some("second"))] {
        let bed = Bed::new(test);
        bed.set("net.a", "1");
        bed.set("kernel.random.boot_id", then);
        assert_eq!(bed.tune(&["apply", &bed.profile("net.a = 10\n")]).0, 0);
        match now {
            Some(id) => bed.set("kernel.random.boot_id", id),
            None => fs::remove_file(bed.key("kernel.random.boot_id")).unwrap(),
        }
        let (code, stdout, _) = bed.tune(&["revert"]);
        assert_eq!(code, 0);
        assert_contains(&stdout, &["put back"]);
        assert_eq!(bed.get("net.a"), "1");
    }
}

#[test]
fn a_full_disk_is_refused_before_anything_changes() {
    let bed = Bed::new("full");
    bed.set("net.a", "1");
    fs::create_dir_all(bed.saved().parent().unwrap()).unwrap();
    symlink("/dev/full", bed.directory.join("state/saved.json.new")).unwrap();
    let profile = bed.profile("net.a = 10\n");
    let (code, _, stderr) = bed.tune(&["apply", &profile]);
    assert_eq!(code, 1);
    assert_contains(&stderr, &["refused, nothing was changed: ", "saved.json cannot be written: ", "No space left"]);
    assert!(!stderr.contains("Traceback"), "{stderr}");
    assert_eq!(bed.get("net.a"), "1");
    // Nothing is left that would be in the way once there is room.
    assert_eq!(bed.tune(&["apply", &profile]).0, 0);
}

/// Ctrl-C, Ctrl-\, Ctrl-Z, a closed terminal, `kill`: the kernel's own list of what the script lets wait.
#[test]
fn no_key_stops_it_half_way() {
    let bed = Bed::new("signals");
    bed.link("kernel.status", "/proc/self/status");
    let (_, stdout, _) = bed.tune(&["check", &bed.profile("kernel.status = x\n")]);
    let mask = stdout.split("SigBlk: ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("the mask in the table");
    let mask = u64::from_str_radix(mask, 16).unwrap();
    for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15), ("TSTP", 20)] {
        assert_ne!(mask & 1 << (number - 1), 0, "SIG{name} is not blocked: {mask:x}");
    }
}

#[test]
fn a_saved_state_that_is_damaged_is_left_for_people() {
    let bed = Bed::new("damaged");
    bed.set("net.a", "1");
    fs::create_dir_all(bed.saved().parent().unwrap()).unwrap();
    for text in ["", "{", "[]", "{\"before\": {\"net.a\": 3}, \"profiles\": []}", "{\"before\": {\"../../x\": \"3\"}, \"profiles\": []}"] {
        fs::write(bed.saved(), text).unwrap();
        for command in [vec!["revert"], vec!["apply", "broadcast-100k"]] {
            let (code, _, stderr) = bed.tune(&command);
            assert_eq!(code, 1, "{text}");
            assert_contains(&stderr, &["refused, nothing was changed", "by hand"]);
        }
    }
    assert_eq!(bed.get("net.a"), "1");
}

#[test]
fn a_wrong_command_or_profile_exits_2() {
    let bed = Bed::new("usage");
    bed.set("net.a", "1");
    for (text, reason) in [
        ("net.a 10\n", "profile.conf:1: not a line"),
        ("# only a comment\n", "there is no setting in it"),
        ("net.a = 1\nnet.a = 2\n", "profile.conf:2: net.a stands here twice"),
        ("net.a =\n", "profile.conf:1: not a line"),
        ("../etc/passwd = 1\n", "not a line"),
    ] {
        let (code, _, stderr) = bed.tune(&["apply", &bed.profile(text)]);
        assert_eq!(code, 2, "{text}");
        assert_contains(&stderr, &[reason]);
    }
    assert_contains(&bed.tune(&["check", "broadcast"]).2, &["there is no profile broadcast", "broadcast-100k broadcast-1m"]);
    assert_eq!(bed.tune(&["apply"]).0, 2);
    assert_eq!(bed.tune(&["set", "broadcast-1m"]).0, 2);
    assert_eq!(bed.get("net.a"), "1");
}

/// On the real tree, as somebody who could not change it anyway. Python begins as whoever runs the tests: nobody may not be let in where
/// it is installed.
#[test]
fn apply_and_revert_need_root() {
    let wrapper = "\
import argparse, contextlib, fcntl, gettext, json, locale, os, pathlib, re, signal, sys, time
script = compile(open(sys.argv[1]).read(), sys.argv[1], 'exec')
sys.argv = sys.argv[1:]
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
exec(script, {'__name__': '__main__', '__file__': sys.argv[0]})";
    for command in ["apply", "revert"] {
        let mut python = Command::new("python3");
        python.args(["-c", wrapper]).arg(root().join("scripts/tune")).args([command, "broadcast-100k"]);
        let (code, _, stderr) = run(&mut python);
        assert_eq!(code, 1, "{stderr}");
        assert_contains(&stderr, &["refused, nothing was changed: ", "needs root"]);
    }
}
