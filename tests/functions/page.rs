//! `docs/durable.md`: its examples are run as they stand there, its lines of rights are enough, and its errors are those that are told apart.

use std::process::{Command, Stdio};

use campanile::bus::redis::call_error::CallError;

use crate::support::languages::{node, python};
use crate::support::redis::RedisServer;
use crate::{Channel, ask, connect, connect_to, keys, server};

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/durable.md")).unwrap()
}

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let blocks = page.split("\n```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    blocks.map(str::to_owned).collect()
}

/// With the address of this server.
fn here(block: &str, server: &RedisServer) -> String {
    block
        .replace("127.0.0.1:6379", &format!("127.0.0.1:{}", server.port))
        .replace("-p 6379", &format!("-p {}", server.port))
        .replace("port=6379", &format!("port={}", server.port))
        .replace("redis-cli ACL", &format!("redis-cli -p {} ACL", server.port))
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn shell(block: &str, server: &RedisServer) -> String {
    output(Command::new("sh").args(["-c", &here(block, server)]))
}

#[test]
fn the_example_of_redis_cli() {
    let server = server();
    let publish = blocks("sh").into_iter().find(|block| block.contains("campanile_publish_1")).expect("an example");
    for number in 1..=2 {
        let answer = shell(&publish, &server);
        let lines: Vec<&str> = answer.lines().collect();
        assert_eq!(lines[1..], [&number.to_string(), &number.to_string(), "0"], "{answer}");
    }
}

/// What both of the others print: one batch, and one message of which the second is a repeat.
fn check_program(printed: &str, server: &RedisServer) {
    let mut redis = connect(server);
    let channel = |name: &'static str| redis::cmd("XRANGE").arg(keys::stream("notifications:", name)).arg("-").arg("+").clone();
    let news: Vec<(String, Vec<String>)> = channel("news").query(&mut redis).unwrap();
    let orders: Vec<(String, Vec<String>)> = channel("orders:7").query(&mut redis).unwrap();
    assert_eq!(news.iter().map(|(_, fields)| fields[1].as_str()).collect::<Vec<_>>(), [r#"{"title":"Dong"}"#, r#"{"title":"Ding"}"#]);
    assert_eq!(orders.len(), 1);
    let lines: Vec<String> =
        printed.lines().map(|line| line.replace([' ', '\'', '"'], "").to_lowercase().replace("is_repeat", "isrepeat")).collect();
    let epoch = |entries: &[(String, Vec<String>)]| entries[0].0.split_once('-').unwrap().0.to_owned();
    let expected = [
        format!("{{epoch:{},seq:1,last:2,isrepeat:false}}", epoch(&news)),
        format!("{{epoch:{},seq:1,last:1,isrepeat:false}}", epoch(&orders)),
        format!("{{epoch:{},seq:1,last:1,isrepeat:true}}", epoch(&orders)),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn installing_prints_what_it_shows() {
    let server = RedisServer::start();
    let [console] = blocks("console").try_into().expect("one example");
    let shown = here(&console, &server);
    let (typed, expected) = shown.split_once('\n').unwrap();
    let typed: Vec<&str> = typed.strip_prefix("$ campanile ").expect("a command").split(' ').collect();
    let printed = output(Command::new(env!("CARGO_BIN_EXE_campanile")).args(typed));
    assert_eq!(printed.trim_end(), expected.trim_end());
}

#[test]
fn the_example_of_python() {
    let server = server();
    let [program] = blocks("python").try_into().expect("one example");
    let printed = output(Command::new(python().join("bin/python")).args(["-c", &here(&program, &server)]));
    check_program(&printed, &server);
}

#[test]
fn the_example_of_node() {
    let server = server();
    let [program] = blocks("js").try_into().expect("one example");
    // Packages are looked for from the script upwards.
    let script = node().join(format!("durable-{}.mjs", std::process::id()));
    std::fs::write(&script, here(&program, &server)).unwrap();
    let printed = output(Command::new("node").arg(&script));
    std::fs::remove_file(script).unwrap();
    check_program(&printed, &server);
}

#[test]
fn the_lines_of_rights_are_enough() {
    let server = server();
    let lines: Vec<String> = blocks("sh").into_iter().filter(|block| block.contains("ACL SETUSER")).collect();
    let [publisher, node] = lines.try_into().expect("two lines of rights");
    for (line, user) in [(publisher, "publisher"), (node, "campanile")] {
        assert_eq!(shell(&line, &server), "OK\n");
        ask(&mut connect(&server), &["FLUSHALL"]).unwrap();
        let mut redis = connect_to(&server.url().replace("redis://", &format!("redis://{user}:PASSWORD@")));
        let call = |redis: &mut redis::Connection, payloads: usize| {
            let key = |end: &str| format!("notifications:{{news}}:{end}");
            let mut command = redis::cmd("FCALL");
            command.arg("campanile_publish_1").arg(3).arg(key("stream")).arg(key("meta")).arg(key(&format!("once:{payloads}")));
            command.arg(&["PUBLISH", "notifications:news", "10", "1", "1000"]).arg(vec!["x"; payloads]).exec(redis).unwrap();
        };
        for payloads in [1, 64, 1, 200] {
            call(&mut redis, payloads);
        }
        ask(&mut redis, &["FCALL", "campanile_open_1", "2", "notifications:{news}:stream", "notifications:{news}:meta"]).unwrap();
        let other = Channel::new("other").publish(&mut redis, &[b"x"]).unwrap_err();
        assert_eq!(CallError::of(&other), CallError::Forbidden, "another prefix");
    }
}

/// Each error of the table is known, by its code or its text, and all that are known are in it.
#[test]
fn the_table_of_errors_is_that_of_the_program() {
    let page = page();
    let table = page.split("## Errors").nth(1).unwrap().split("\n## ").next().unwrap();
    let first_columns = table.lines().filter(|line| line.starts_with("| `")).map(|line| line[1..].split(" | ").next().unwrap());
    let errors: Vec<&str> = first_columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect();
    assert!(errors.len() > 20, "{errors:?}");
    let known: Vec<CallError> = errors.iter().map(|error| CallError::of(&format!("{error} more"))).collect();
    for (error, kind) in errors.iter().zip(&known) {
        assert_ne!(*kind, CallError::Other, "{error}");
    }
    for kind in [CallError::NoFunction, CallError::NoFunctions, CallError::Forbidden, CallError::ForeignOnce, CallError::CannotPersist] {
        assert!(known.contains(&kind), "{kind:?}");
    }
}
