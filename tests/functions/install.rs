//! `campanile redis install`, as it is typed.

use std::process::Command;

use campanile::bus::redis::library;

use crate::support::redis::{RedisServer, free_port};
use crate::{Channel, ask, connect, eventually};

/// Exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    run_with(arguments, &[])
}

fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_campanile"));
    command.args(["redis", "install"]).args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAMPANILE_")) {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn expect(run: (i32, String, String), code: i32, parts: &[&str]) {
    assert_eq!(run.0, code, "{}{}", run.1, run.2);
    for part in parts {
        assert!(run.1.contains(part) || run.2.contains(part), "{part:?} is missing in\n{}{}", run.1, run.2);
    }
}

/// A library of the name that answers this version and has these functions.
fn hand_made(version: i64, functions: &[&str]) -> String {
    let mut source = "#!lua name=campanile\n".to_owned();
    for function in functions {
        source += &format!("redis.register_function('{function}', function() return 'hand-made' end)\n");
    }
    source
        + &format!(
            "redis.register_function{{function_name='campanile_version', callback=function() return {version} end, flags={{'no-writes'}}}}"
        )
}

#[test]
fn what_a_server_has_decides_what_is_done() {
    let server = RedisServer::start();
    let mut redis = connect(&server);
    let url = server.url();
    let install = || run(&["--redis", &url]);
    let check = || run(&["--redis", &url, "--check"]);
    expect(check(), 1, &[&format!("{url}  none    "), "1 of 1 server not ready for durable channels"]);
    expect(install(), 0, &[&format!("{url}  loaded    version 2; it had none"), "1 server ready for durable channels"]);
    let news = Channel::new("news");
    news.say(&mut redis, "a");
    expect(install(), 0, &["is there  version 2"]);
    expect(check(), 0, &["is there  version 2"]);

    let mut put = |source: &str| {
        ask(&mut redis, &["FUNCTION", "LOAD", "REPLACE", source]).unwrap();
    };
    let all = [library::PUBLISH, library::OPEN, library::RENEW];
    put(&hand_made(1, &[library::PUBLISH]));
    expect(check(), 1, &["older     version 1; `campanile redis install` without --check replaces it by 2"]);
    expect(install(), 0, &["replaced  version 2; it had 1"]);
    put(&hand_made(3, &["campanile_publish_3", library::OPEN, library::RENEW]));
    for newer in [install(), check()] {
        expect(newer, 1, &["failed    it has the library `campanile` 3, which has no campanile_publish_1", "upgrade this Campanile"]);
    }
    put(&hand_made(3, &[&all[..], &["campanile_publish_3"]].concat()));
    for newer in [install(), check()] {
        expect(newer, 0, &["is there  version 3, newer than ours (2), with all that we call"]);
    }
    put("#!lua name=campanile\nredis.register_function('other', function() return 1 end)");
    for foreign in [install(), check()] {
        expect(foreign, 1, &["failed    it has a library `campanile` that is not ours", "FUNCTION DELETE campanile"]);
    }
    ask(&mut redis, &["FUNCTION", "DELETE", "campanile"]).unwrap();
    ask(&mut redis, &["FUNCTION", "LOAD", &hand_made(1, &[library::OPEN]).replace("name=campanile\n", "name=other\n")]).unwrap();
    expect(install(), 1, &["failed    ERR Function campanile", "already exists"]);
    ask(&mut redis, &["FUNCTION", "FLUSH"]).unwrap();
    expect(install(), 0, &["loaded"]);
    assert_eq!(news.say(&mut redis, "b").first, 2, "nothing of all this has touched the channel");
}

#[test]
fn printed_it_can_be_loaded_by_other_means() {
    let (code, source, stderr) = run(&["--print"]);
    assert_eq!((code, source.as_str(), stderr.as_str()), (0, library::SOURCE, ""));
    expect(run(&["--print", "--check"]), 2, &["cannot be used with"]);
}

#[test]
fn every_server_that_is_named_is_seen_to_and_none_holds_up_another() {
    let (one, two) = (RedisServer::start(), RedisServer::start());
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let url = |server: &RedisServer| server.url();
    let (code, stdout, _) = run(&["--redis", &url(&one), "--redis", &nobody, "--redis", &url(&two), "--redis", &url(&one)]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((code, lines.len()), (1, 5), "{stdout}");
    assert!(lines[0].starts_with(&url(&one)) && lines[0].contains("  loaded    "), "{stdout}");
    assert!(lines[1].starts_with(&nobody) && lines[1].contains("  failed    it cannot be reached ("), "{stdout}");
    assert!(lines[2].starts_with(&url(&two)) && lines[2].contains("  loaded    "), "{stdout}");
    assert_eq!(lines[4], "1 of 3 servers not ready for durable channels");
}

#[test]
fn without_a_url_it_is_the_redis_of_the_settings() {
    let server = RedisServer::with_arguments(&["--requirepass", "s3cret"]);
    expect(run(&[]), 2, &["which Redis? Give --redis URL"]);
    let (code, stdout, stderr) = run_with(&[], &[("CAMPANILE_REDIS", &server.url())]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.starts_with(&format!("redis://:***@127.0.0.1:{}  loaded", server.port)), "{stdout}");
    assert!(!stdout.contains("s3cret") && !stderr.contains("s3cret"));
    expect(run(&["--redis", &server.url().replace("s3cret", "wrong1")]), 1, &["does not take the user and password"]);
    expect(run(&["--redis", &format!("redis://127.0.0.1:{}", server.port)]), 1, &["unauthenticated", "put user and password into the URL"]);
    // By its unix socket, where no error may show the password either.
    let (code, stdout, _) = run(&["--redis", &format!("{}?pass=s3cret", server.unix_url())]);
    assert!(code == 0 && stdout.contains("is there") && !stdout.contains("s3cret"), "{stdout}");
}

#[test]
fn a_url_that_cannot_be_one_is_told_before_anything_is_sent() {
    let server = RedisServer::start();
    for url in ["http://me:hunter2@h", "redis://me:hunter2@h:port", "localhost"] {
        let (code, stdout, stderr) = run(&["--redis", &server.url(), "--redis", url]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("--redis") && !stderr.contains("hunter2"), "{stderr}");
    }
    assert_eq!(ask(&mut connect(&server), &["FUNCTION", "LIST"]), Ok(redis::Value::Array(vec![])));
}

#[test]
fn a_replica_and_a_user_without_rights_are_told_what_to_do() {
    let master = RedisServer::start();
    let replica = RedisServer::with_arguments(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    expect(run(&["--redis", &replica.url()]), 1, &["READONLY", "this is a replica: use its master"]);
    let mut redis = connect(&master);
    for (rights, code, part) in [
        ("+fcall", 1, "docs/durable.md"),
        ("+fcall +function|load", 0, "loaded"),
        ("+fcall", 0, "is there"),
        ("+ping", 1, "docs/durable.md"),
    ] {
        let mut rule = vec!["ACL", "SETUSER", "installer", "reset", "on", ">pw"];
        rule.extend(rights.split(' '));
        ask(&mut redis, &rule).unwrap();
        let url = master.url().replace("redis://", "redis://installer:pw@");
        let arguments = ["--redis", &url, "--check"];
        expect(run(&arguments[..if rights == "+fcall" && code == 0 { 3 } else { 2 }]), code, &[part]);
    }
    let mut redis = connect(&replica);
    eventually("the functions are on the replica", || {
        ask(&mut redis, &["FCALL", "campanile_version", "0"]) == Ok(redis::Value::Int(library::VERSION))
    });
    expect(run(&["--redis", &replica.url(), "--check"]), 0, &["is there"]);
}

#[test]
fn the_help_shows_what_to_type() {
    let help = Command::new(env!("CARGO_BIN_EXE_campanile")).args(["redis", "install", "--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for part in ["campanile redis install --redis redis://127.0.0.1:6379", "--check", "--print", "Exit code 0"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let (code, _, stderr) = run(&["--url", "redis://h"]);
    assert!(code == 2 && stderr.contains("write --redis redis://127.0.0.1:6379"), "{stderr}");
}
