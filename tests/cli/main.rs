//! The command line as a user meets it: settings, their mistakes, and the commands against servers that are and are not there.

mod clients;
mod packaging;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod transports;

use std::net::TcpListener;
use std::path::PathBuf;

use assert_cmd::Command;

/// The program in an empty directory of its own, without the settings of whoever runs the tests.
fn campanile(test: &str) -> Command {
    let directory = directory(test);
    std::fs::create_dir_all(&directory).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
    command.current_dir(directory);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAMPANILE_") {
            command.env_remove(name);
        }
    }
    command
}

fn directory(test: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{test}"))
}

fn write_file(test: &str, name: &str, text: &str) {
    std::fs::create_dir_all(directory(test)).unwrap();
    std::fs::write(directory(test).join(name), text).unwrap();
}

/// Exit code, stdout, stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn version_is_printed() {
    let (code, stdout, _) = run(campanile("version").arg("version"));
    assert_eq!(code, 0);
    assert!(stdout.starts_with(concat!("campanile ", env!("CARGO_PKG_VERSION"))), "{stdout}");
}

#[test]
fn bad_usage_exits_2() {
    let (code, _, stderr) = run(campanile("usage").args(["serve", "--hartbeat", "3"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["--hartbeat", "--heartbeat"]);
    assert_eq!(run(campanile("usage").arg("ring")).0, 2);
    assert_eq!(run(&mut campanile("usage")).0, 2);
    assert_eq!(run(campanile("usage").args(["config", "--default", "--markdown"])).0, 2);
    assert_eq!(run(campanile("usage").args(["publish"])).0, 2);
    assert_eq!(run(campanile("usage").args(["subscribe", "a", "--count", "0"])).0, 2);
}

#[test]
fn the_default_file_passes_its_own_check() {
    let (code, file, _) = run(campanile("default").args(["config", "--default"]));
    assert_eq!(code, 0);
    write_file("default", "campanile.toml", &file);
    for arguments in [&["config", "--check"][..], &["config", "--check", "campanile.toml"]] {
        let (code, stdout, stderr) = run(campanile("default").args(arguments));
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(stdout, "campanile.toml: ok, nothing but defaults\n");
    }
}

#[test]
fn the_markdown_table_has_the_fixed_names() {
    let (code, stdout, _) = run(campanile("markdown").args(["config", "--markdown"]));
    assert_eq!(code, 0);
    let names = "listen control redis prefix redis-channel shards pin fd-table format payload redis-subscribe coalesce heartbeat \
                 log-bytes-per-channel connections-max echo allow-client-publish";
    for name in names.split_whitespace() {
        assert!(stdout.contains(&format!("| `--{name}")), "{name}");
    }
}

#[test]
fn a_good_file_is_ok_and_its_changes_are_shown_without_secrets() {
    let file = "redis = \"redis://:secret@127.0.0.1:6379/1\"\nheartbeat = 15\n\n[[channels]]\nprefix = \"prices:\"\noverrun = \"latest\"\n";
    write_file("good", "good.toml", file);
    let (code, stdout, stderr) = run(campanile("good").args(["config", "--check", "good.toml"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_contains(
        &stdout,
        &["good.toml: ok", "heartbeat = 15", "redis://:***@127.0.0.1:6379/1", "prefix = \"prices:\"", "overrun = \"latest\""],
    );
    assert!(!stdout.contains("secret"));
}

#[test]
fn every_kind_of_mistake_is_told_with_its_line_all_at_once() {
    let file = r#"heartbeet = 3
shards = 2000
listen = ["127.0.0.1:8080", ":80"]
format = "xml"
log_bytes_per_channel = "1X"
coalesce = "2 hours"
pin = "3-1"
redis = "redis://user:secret@host:port"
echo = "maybe"
log_level = "campanile=loud"
prefix = ["a"]

[[channels]]
prefix = "a"
overrun = "newest"
shards = 3

[[channels]]
payload = "json"
"#;
    write_file("bad", "bad.toml", file);
    let (code, stdout, stderr) = run(campanile("bad").args(["config", "--check", "bad.toml"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_contains(
        &stderr,
        &[
            "bad.toml:1:1: error: heartbeet: there is no setting of this name",
            "did you mean `heartbeat`?",
            "bad.toml:2:10: error: shards: 2000 is more than 1024",
            "accepted: auto, or 1 to 1024",
            "bad.toml:3:29: error: listen: \":80\" has no address",
            "bad.toml:4:10: error: format: \"xml\" is none of them",
            "accepted: msgpack, json, raw",
            "bad.toml:5:25: error: log_bytes_per_channel: \"X\" is not a unit of size",
            "bad.toml:6:12: error: coalesce: \"hours\" is not a unit of time",
            "bad.toml:7:7: error: pin: the range 3-1 runs backwards",
            "bad.toml:8:9: error: redis: not a URL that can be read",
            "redis = \"redis://user:***@host:port\"",
            "accepted: redis://",
            "bad.toml:9:8: error: echo: \"maybe\" is neither true nor false",
            "bad.toml:10:13: error: log_level",
            "bad.toml:11:10: error: prefix: a list stands where one value is expected",
            "bad.toml:15:11: error: channels.overrun",
            "bad.toml:16:1: error: channels.shards",
            "move it above the first [[channels]]",
            "bad.toml:18:1: error: channels: prefix or pattern is missing",
            "14 errors in the settings",
        ],
    );
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn syntax_errors_and_values_that_do_not_fit_are_told() {
    write_file("syntax", "syntax.toml", "shards = 2\nheartbeat = = 3\n");
    let (code, _, stderr) = run(campanile("syntax").args(["config", "--check", "syntax.toml"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["syntax.toml:2:13: error: not TOML", "2 | heartbeat = = 3", "1 error in the settings"]);

    write_file("syntax", "fit.toml", "listen = \"127.0.0.1:9090\"\nlog_bytes_total = \"64k\"\n");
    let (code, _, stderr) = run(campanile("syntax").args(["config", "--check", "fit.toml"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["fit.toml:1:10: error: listen: the public address", "log_bytes_total, 64k", "2 errors"]);

    std::fs::write(directory("syntax").join("bytes.toml"), b"shards = 2\n\xff\n").unwrap();
    let (code, _, stderr) = run(campanile("syntax").args(["config", "--check", "bytes.toml"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["bytes.toml:2: the file is not UTF-8"]);

    let (code, _, stderr) = run(campanile("syntax").args(["config", "--check", "absent.toml"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["absent.toml cannot be read", "campanile config --default"]);
}

/// A wrong last source shows which one had the last word, without a server being started.
#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    write_file("order", "campanile.toml", "listen = \"127.0.0.1:7001\"\ncontrol = \"127.0.0.1:7001\"\n");
    let (code, _, stderr) = run(campanile("order").arg("serve"));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["campanile.toml:2:11: error: control: the public address 127.0.0.1:7001"]);

    let environment = [("CAMPANILE_LISTEN", "127.0.0.1:7002"), ("CAMPANILE_CONTROL", "127.0.0.1:7002")];
    let (code, _, stderr) = run(campanile("order").arg("serve").envs(environment));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["error: CAMPANILE_CONTROL: the public address 127.0.0.1:7002"]);

    let flags = ["serve", "--listen", "127.0.0.1:7003", "--control", "127.0.0.1:7003"];
    let (code, _, stderr) = run(campanile("order").args(flags).envs(environment));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["error: --control: the public address 127.0.0.1:7003"]);
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let (code, _, stderr) = run(campanile("names").arg("serve").env("CAMPANILE_SHARDS", "many"));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["error: CAMPANILE_SHARDS: \"many\" is not a whole number", "accepted: auto, or 1 to 1024"]);

    let (code, _, stderr) = run(campanile("names").args(["serve", "--redis", "http://:secret@host", "--heartbeat", "0"]));
    assert_eq!(code, 2);
    assert_contains(
        &stderr,
        &["error: --redis: `http://` is not a scheme", "accepted: redis://", "error: --heartbeat: 0s is less than 1s"],
    );
    assert!(!stderr.contains("secret"), "{stderr}");

    let (code, _, stderr) = run(campanile("names").args(["serve", "--config", "nowhere.toml"]));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["error: --config: nowhere.toml cannot be read"]);

    let (code, _, stderr) = run(campanile("names").arg("serve").env("CAMPANILE_CONFIG", "nowhere.toml"));
    assert_eq!(code, 2);
    assert_contains(&stderr, &["error: CAMPANILE_CONFIG: nowhere.toml cannot be read"]);
}

/// The unit does not start a server again that ends with 2: nothing but another setting helps.
#[test]
fn a_broken_setting_exits_2_wherever_it_stands() {
    write_file("exit", "campanile.toml", "shards = 0\n");
    let commands = [&["serve"][..], &["publish", "news", "hi"], &["doctor"], &["config", "--check"]];
    for arguments in commands {
        let (code, _, stderr) = run(campanile("exit").args(arguments));
        assert_eq!(code, 2, "{arguments:?} {stderr}");
    }
    for arguments in &commands[..3] {
        let (code, _, stderr) = run(campanile("exit-variable").args(*arguments).env("CAMPANILE_SHARDS", "0"));
        assert_eq!(code, 2, "{arguments:?} {stderr}");
    }
    assert_eq!(run(campanile("exit-flag").args(["serve", "--shards", "0"])).0, 2);
    assert_eq!(run(campanile("exit-flag").args(["serve", "--redis", "rediss://a..b"])).0, 2);
    // An argument that is no setting, as well.
    let long = "x".repeat(256);
    for arguments in [["publish", &long, "hi"], ["publish", "", "hi"], ["subscribe", "a", &long], ["subscribe", "a", "--url=nowhere"]] {
        assert_eq!(run(campanile("exit-flag").args(arguments)).0, 2, "{arguments:?}");
    }
    assert_eq!(run(campanile("exit-flag").args(["publish", "a", "b", "--lines"])).0, 2);
    // What another attempt may find otherwise exits 1.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(campanile("exit-flag").args(["serve", "--control", "127.0.0.1:0", "--listen", &taken]));
    assert_eq!(code, 1, "{stderr}");
    let unit = include_str!("../../tuning/systemd/campanile.service");
    assert!(unit.lines().any(|line| line == "RestartPreventExitStatus=2"));
}

#[test]
fn what_other_programs_call_it_gets_the_right_hint() {
    for (arguments, hint) in [
        (&["serve", "--port", "9000"][..], "write --listen 127.0.0.1:8080"),
        (&["serve", "--port"], "write --listen"),
        (&["serve", "-p", "9000"], "write --listen"),
        (&["serve", "--host=0.0.0.0"], "write --listen"),
        (&["serve", "--redis-url", "redis://h"], "write --redis redis://"),
        (&["serve", "--redis", "localhost:6379"], "write redis://localhost:6379"),
        (&["serve", "--listen", "ws://127.0.0.1:8080/ws"], "write 127.0.0.1:8080"),
        (&["serve", "--listen", "localhost:8080"], "write 127.0.0.1:8080"),
        (&["serve", "--log-level", "warning"], "did you mean warn?"),
        (&["publish", "a", "b", "--host", "127.0.0.1:9090"], "write --control"),
        (&["publish", "a", "b", "--url", "127.0.0.1:9090"], "an address is given by --control"),
        (&["subscribe", "a", "--control", "127.0.0.1:9090"], "write --url"),
        (&["subscribe", "a", "--redis", "redis://h"], "write --url"),
    ] {
        let (code, _, stderr) = run(campanile("hints").args(arguments));
        assert_eq!(code, 2, "{arguments:?} {stderr}");
        assert_contains(&stderr, &[hint]);
        assert!(!stderr.contains("a similar argument"), "{stderr}");
    }
    let (_, _, stderr) = run(campanile("hints").args(["serve", "--shards", "0"]).env("CAMPANILE_REDIS_URL", "redis://h"));
    assert_contains(&stderr, &["CAMPANILE_REDIS_URL: no setting has this name", "did you mean CAMPANILE_REDIS?"]);
    let (_, _, stderr) = run(campanile("hints").args(["subscribe", "a", "--url", "127.0.0.1:8080"]));
    assert_contains(&stderr, &["write ws://127.0.0.1:8080/ws"]);
}

/// A password in the place of a user's name was shown as one.
#[test]
fn a_secret_is_shown_nowhere_wherever_it_was_typed() {
    let login = "s3cr3t";
    for url in
        [format!("redis://{login}@h"), format!("redis://{login}:@h"), format!("unix:///s?user={login}"), format!("unix:///s?pass={login}")]
    {
        write_file("secret", "secret.toml", &format!("redis = \"{url}\"\n"));
        let (code, stdout, stderr) = run(campanile("secret").args(["config", "--check", "secret.toml"]));
        assert_eq!(code, 0, "{stderr}");
        assert_contains(&stdout, &["redis = ", "***"]);
        assert!(!(stdout + &stderr).contains(login));
    }
    let url = format!("redis://:{login}@h");
    for arguments in [
        &["serve", &url][..],
        &["serve", "--listen", &url],
        &["serve", "--prefix", "p", "--shards", &url],
        &["serve", "--redis", &format!("redis://{login}@h:port")],
        &["serve", "--redis", &format!("redis://user:{login}")],
        &["subscribe", "a", "--url", &url],
        &["subscribe", "a", "--url", &format!("user:{login}@h:80")],
        &["publish", "a", "b", "--control", &url],
        &["doctor", "--connections", &url],
        &["config", "--check", "--default", &url],
    ] {
        let (code, stdout, stderr) = run(campanile("secret").args(arguments));
        assert!(code != 0 && !(stdout + &stderr).contains(login), "{arguments:?} {stderr}");
    }
}

#[test]
fn a_channels_routes_and_limits_are_explained() {
    let file = "[[channels]]\nprefix = \"user:\"\nmax_rate = 5\ncoalesce = \"20ms\"\nbroadcast_budget = 1000000\npublishes_per_second = 10\n\
                [[route]]\nfrom = \"notifications\"\nfield = \"user.id\"\nto = \"user:{}\"\n\
                [[route]]\nfrom = \"notifications\"\nfield = \"room\"\nto = \"room:{}\"\nelse = \"notifications\"\n";
    write_file("routes", "campanile.toml", file);
    let explained = |channel: &str| {
        let (code, stdout, stderr) = run(campanile("routes").args(["config", "--explain", channel]));
        assert_eq!((code, stderr.as_str()), (0, ""));
        stdout
    };
    let source = explained("notifications");
    assert_contains(
        &source,
        &[
            "messages go      by user.id to user:{}, without it as the next line says (campanile.toml:7: [[route]])",
            "messages go      by room to room:{}, without it to notifications (campanile.toml:11: [[route]])",
            "messages come    from notifications without room (campanile.toml:11: [[route]])",
        ],
    );
    let target = explained("user:u1");
    let rule = ["max_rate         5\n", "coalesce         20\n", "broadcast_budget 1000000\n", "publishes_per_second 10\n"];
    assert_contains(&target, &["campanile.toml:2: [[channels]] prefix = \"user:\"", "messages come    from notifications by user.id"]);
    assert_contains(&target, &rule);
    let (code, stdout, _) = run(campanile("routes").args(["config", "--check", "campanile.toml"]));
    assert_eq!(code, 0);
    assert_contains(&stdout, &["  [[route]]\n  from = \"notifications\"", "  field = \"user.id\"", "  max_rate = 5", "  coalesce = 20"]);
}

#[test]
fn routes_that_lead_nowhere_are_told() {
    let route =
        |from: &str, field: &str, to: &str, rest: &str| format!("[[route]]\nfrom = \"{from}\"\nfield = \"{field}\"\nto = \"{to}\"\n{rest}");
    let circle = route("a", "x", "b:{}", "") + &route("b:1", "x", "a{}", "") + &route("c", "x", "d:{}", "else = \"a\"\n");
    for (file, code, words) in [
        (route("a", "x", "a{}", ""), 0, ""),
        (circle, 0, "what it brings to b:1 stays there: a message is routed once"),
        (route("a", "x", "b{}", "") + &route("a", "x", "c{}", ""), 2, "a is routed by x already"),
        (route("a", "x", "b{}", "else = \"c\"\n") + &route("a", "y", "c{}", ""), 2, "it never counts: what has not the field"),
        (route("a", "x", "b:{}", "[[channels]]\nprefix = \"b:\"\nsubscribe = \"nobody\"\n"), 0, "no client may subscribe to b:{}"),
    ] {
        write_file("nowhere", "campanile.toml", &file);
        let (found, _, stderr) = run(campanile("nowhere").args(["config", "--check", "campanile.toml"]));
        assert_eq!(found, code, "{file}{stderr}");
        assert!(stderr.contains(words) && stderr.is_empty() == words.is_empty(), "{file}{stderr}");
    }
}
