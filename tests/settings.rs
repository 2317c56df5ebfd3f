//! `campanile config` as an operator meets it: what is in force and from where, what a reload would change, and what is wrong with rules.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::{Value, json};

const SECRET: &str = "a secret of the tests: 0123456789abcdef";

/// A folder of its own for each test.
struct Desk(PathBuf);

impl Desk {
    fn new(test: &str, files: &[(&str, &[u8])]) -> Desk {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("settings-{test}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Desk(folder)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
        command.current_dir(&self.0).arg("config");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CAMPANILE_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn config(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.command().args(arguments))
    }
}

/// Exit code, stdout, stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_is_in_force_says_where_it_comes_from() {
    let file =
        format!("heartbeat = 10\nauth = \"jwt\"\ntoken_secret = \"{SECRET}\"\n[[channels]]\nprefix = \"room:\"\nsubscribe = \"token\"\n");
    let desk = Desk::new("effective", &[("campanile.toml", file.as_bytes())]);
    let (code, told, error) = run(desk
        .command()
        .args(["--effective", "--shards", "1"])
        .env("CAMPANILE_SUBSCRIPTIONS_MAX", "7")
        .env("CAMPANILE_REDIS", "redis://:hush@h"));
    assert_eq!((code, error.as_str()), (0, ""));
    let lines: Vec<(&str, &str)> =
        told.lines().filter_map(|line| line.split_once(" # ")).map(|(value, from)| (value.trim(), from)).collect();
    for expected in [
        ("heartbeat = 10", "campanile.toml:1"),
        ("token_secret = \"***\"", "campanile.toml:3"),
        ("subscriptions_max = 7", "CAMPANILE_SUBSCRIPTIONS_MAX"),
        ("redis = \"redis://:***@h\"", "CAMPANILE_REDIS"),
        ("shards = 1", "--shards"),
        ("linger = 10", "default"),
        ("[[channels]]", "campanile.toml:5"),
        ("subscribe = \"token\"", "campanile.toml:6"),
    ] {
        assert!(lines.contains(&expected), "{expected:?} is missing in\n{told}");
    }
    assert!(!told.contains("hush") && !told.contains(SECRET), "{told}");
    let (_, told, _) = desk.config(&["--effective", "--json", "--heartbeat", "20"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["settings"]["heartbeat_ms"], json!({"value": 20_000, "from": {"source": "flag", "name": "--heartbeat"}, "live": true}));
    assert_eq!(told["channel_tables"][0]["settings"]["subscribe"]["from"]["line"], 6);
    // What is printed is a file that means the same.
    let (_, text, _) = desk.config(&["--effective"]);
    std::fs::write(desk.0.join("again.toml"), text.replace("\"***\"", &format!("\"{SECRET}\""))).unwrap();
    let (code, told, error) = desk.config(&["--check", "again.toml", "--against", "campanile.toml"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(told.ends_with("against campanile.toml: nothing changes\n"), "{told}");
}

#[test]
fn a_reload_is_told_from_a_restart() {
    let files: [(&str, &[u8]); 3] = [
        ("campanile.toml", b"shards = 1\nheartbeat = 10\n[[channels]]\nprefix = \"a\"\n"),
        ("new.toml", b"shards = 2\nheartbeat = 20\n[[channels]]\nprefix = \"a\"\nsubscribe = \"nobody\"\n"),
        ("bad.toml", b"heartbeat = 0\n"),
    ];
    let desk = Desk::new("against", &files);
    let (code, told, error) = desk.config(&["--check", "new.toml", "--against", "campanile.toml"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let end = "against campanile.toml: a reload changes\n  heartbeat: 10 -> 20\n  [[channels]] prefix = \"a\": subscribe auto -> nobody\n\
               against campanile.toml: only a restart changes\n  shards: 1 -> 2\n";
    assert!(told.ends_with(end), "{told}");
    for arguments in [&["--check", "bad.toml", "--against", "campanile.toml"], &["--check", "new.toml", "--against", "bad.toml"]] {
        let (code, _, error) = desk.config(arguments);
        assert!(code == 2 && error.contains("bad.toml:1:13: error: heartbeat: 0s is less than 1s"), "{error}");
    }
    assert_eq!(desk.config(&["--against", "new.toml"]).0, 2);
    assert_eq!(desk.config(&["--default", "--heartbeat", "3"]).0, 2, "flags change nothing there");
}

#[test]
fn rules_that_never_count_are_told() {
    let file = "[[channels]]\npattern = \"room:**\"\n[[channels]]\npattern = \"room:*:chat\"\n[[channels]]\nprefix = \"notifications:a\"\n";
    let (code, told, error) = Desk::new("dead", &[("campanile.toml", file.as_bytes())]).config(&["--check"]);
    assert!(code == 0 && told.starts_with("campanile.toml: ok"), "{told}");
    for words in [
        "campanile.toml:4:11: warning: channels.pattern: this table never counts: each of its channels is one of the table before it with pattern = \"room:**\"",
        "campanile.toml:6:10: warning: channels.prefix: clients name channels without the Redis prefix \"notifications:\"",
        "help: prefix = \"a\"",
    ] {
        assert!(error.contains(words), "{words} is missing in\n{error}");
    }
}

#[test]
fn rules_that_overlap_are_explained() {
    let file = "[[channels]]\npattern = \"room:*:chat\"\nsubscribe = \"nobody\"\n[[channels]]\nprefix = \"room:\"\n[[channels]]\npattern = \"**:chat\"\n[[channels]]\nprefix = \"x\"\n";
    let (code, told, _) = Desk::new("overlap", &[("campanile.toml", file.as_bytes())]).config(&["--explain", "room:1:chat"]);
    assert_eq!(code, 0);
    for words in [
        "rule             campanile.toml:2: [[channels]] pattern = \"room:*:chat\"\n",
        "not asked        campanile.toml:5: [[channels]] prefix = \"room:\": it fits as well",
        "not asked        campanile.toml:7: [[channels]] pattern = \"**:chat\": it fits as well",
        "nobody (no client may)",
    ] {
        assert!(told.contains(words), "{words} is missing in\n{told}");
    }
    assert!(!told.contains("prefix = \"x\""), "{told}");
}

/// Whatever stands where a channel's name or a selector is expected: it is told where, and what would be right.
#[test]
fn what_is_no_name_of_a_channel_is_told() {
    let long = "x".repeat(10_240);
    for (name, file, words) in [
        ("control", "[[channels]]\nprefix = \"a\\u0001b\"\n".to_owned(), "campanile.toml:2:10: error: channels.prefix"),
        (
            "newline",
            "[[channels]]\npattern = \"a\\nb\"\n".to_owned(),
            "campanile.toml:2:11: error: channels.pattern: it holds a control character",
        ),
        ("long-prefix", format!("[[channels]]\nprefix = \"{long}\"\n"), "campanile.toml:2:10: error: channels.prefix"),
        ("long-pattern", format!("[[channels]]\npattern = \"{long}\"\n"), "it is longer than 255 bytes"),
        ("empty", "[[channels]]\npattern = \"\"\n".to_owned(), "channels.pattern: it is empty"),
        ("both", "[[channels]]\npattern = \"a\"\nprefix = \"a\"\n".to_owned(), "one of them says which channels it is for"),
        ("twice", "[[channels]]\nprefix = \"a\"\n[[channels]]\nprefix = \"a\"\n".to_owned(), "has a table already"),
        ("brace", "[[channels]]\npattern = \"user:{id}\"\n".to_owned(), "a brace that is not part of {sub}"),
        ("nobody's", "[[channels]]\npattern = \"user:*\"\nsubscribe = \"owner\"\n".to_owned(), "nobody knows whose channel it is"),
        ("number", "[[channels]]\nprefix = 5\nsubscribe = 5\n".to_owned(), "campanile.toml:3:13: error: channels.subscribe"),
        ("typo", "[[channels]]\nprefix = \"a\"\nsubscribe = \"authentificated\"\n".to_owned(), "did you mean authenticated?"),
    ] {
        let (code, told, error) = Desk::new(name, &[("campanile.toml", file.as_bytes())]).config(&["--check"]);
        assert!((code, told.as_str()) == (2, "") && error.contains(words), "{name}: {code} {error}");
    }
    let desk = Desk::new("bytes", &[("campanile.toml", b"[[channels]]\nprefix = \"a\xff\"\n")]);
    let (code, _, error) = desk.config(&["--check"]);
    assert!(code == 2 && error.contains("campanile.toml:2: the file is not UTF-8 text"), "{error}");
    for (channel, words) in [("a\u{7}", "control character"), (&*long, "more than 255"), ("", "cannot be")] {
        let (code, _, error) = Desk::new("explain-none", &[]).config(&["--explain", channel]);
        assert!(code == 2 && error.contains(words), "{channel:?}: {code} {error}");
    }
    let (code, _, error) = run(desk.command().arg("--explain").arg(std::ffi::OsStr::from_bytes(b"a\xff")));
    assert!(code == 2 && error.contains("UTF-8"), "{error}");
}
