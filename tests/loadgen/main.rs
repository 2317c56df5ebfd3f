//! The load generator, as it is typed: every scenario against the real server, and bad input. What it must find is in `faults.rs`, what is limited in `limits.rs`, what is durable in `durable.rs`, event streams in `streams.rs`, TLS in `tls.rs`.

mod crowds;
mod durable;
mod faults;
mod limits;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A run that has ended.
struct Ran {
    output: Output,
    /// Null if it did not get so far as to write it.
    json: Value,
    html: String,
}

impl Ran {
    fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn passes(self) -> Value {
        assert_eq!(self.code(), 0, "{}{}", self.stdout(), self.stderr());
        assert_eq!(self.json["result"], "ok");
        for check in ["lost", "duplicates", "reordered", "misrouted", "closed", "bad_frames"] {
            assert_eq!(self.json["checks"][check], 0, "{check}: {}", self.stdout());
        }
        assert!(self.html.starts_with("<!doctype html>") && self.html.ends_with("</html>\n"));
        self.json
    }

    /// It failed, and says why.
    #[track_caller]
    fn fails(&self, why: &str) {
        assert_eq!(self.code(), 1, "{}{}", self.stdout(), self.stderr());
        let said = format!("{}{}", self.stdout(), self.stderr());
        assert!(said.contains(why), "{why:?} is missing in\n{said}");
    }
}

fn directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let directory = std::env::temp_dir().join(format!("loadgen-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    directory
}

/// Runs it to its end, after a shell command (a limit).
fn run_after(shell: &str, arguments: &[&str]) -> Ran {
    let unless_given = |flag, value| if arguments.contains(&flag) { Vec::new() } else { vec![flag, value] };
    let directory = directory();
    let (json, html) = (directory.join("run.json"), directory.join("run.html"));
    let output = Command::new("sh")
        .args(["-c", &format!("{shell}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_loadgen")])
        .args(arguments)
        // Long, for a machine that is busy with other work: only a run in which something never comes takes so long.
        .args(unless_given("--time", "300"))
        .args(unless_given("--patience", "60"))
        .arg("--quiet")
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(&html)
        .output()
        .expect("the program");
    let json = std::fs::read(&json).map_or(Value::Null, |text| serde_json::from_slice(&text).expect("JSON"));
    let html = std::fs::read_to_string(&html).unwrap_or_default();
    let _ = std::fs::remove_dir_all(directory);
    Ran { output, json, html }
}

fn run(arguments: &[&str]) -> Ran {
    run_after(":", arguments)
}

// --- the scenarios ---

#[test]
fn connect_tells_rate_and_memory() {
    // An address that stands for many is read out of the start block all the same.
    let json = run(&["connect", "--serve", "--shards 2 --listen [::]:0", "-n", "1000"]).passes();
    assert_eq!(json["connect"]["ready"], 1000);
    assert!(json["connect"]["per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(json["connect_latency_us"]["count"], 1000);
    assert!(json["memory"]["user_bytes_per_connection"].is_number() && json["memory"]["kernel_bytes_per_connection"].is_number());
}

#[test]
fn connect_goes_at_the_rate_asked_for() {
    let json = run(&["connect", "--serve", "--shards 1", "-n", "200", "--connect-rate", "200"]).passes();
    let seconds = json["connect"]["seconds"].as_f64().unwrap();
    assert!(seconds >= 0.9, "{seconds}");
}

#[test]
fn hold_answers_pings() {
    let json = run(&["hold", "--serve", "--shards 1 --heartbeat 1 --pong-timeout 60", "-n", "200", "--hold", "4"]).passes();
    assert!(json["hold"]["pings"].as_u64().unwrap() >= 200, "{}", json["hold"]);
}

#[test]
fn hold_tells_what_a_dashboard_costs() {
    let json = run(&["hold", "--serve", "--shards 1", "-n", "20", "--hold", "2", "--watched", "--pairs", "2"]).passes();
    assert!(json["watched"]["events"].as_u64().unwrap() >= 2, "{}", json["watched"]);
    assert_eq!(json["watched"]["cores_more"].as_array().unwrap().len(), 2);
}

#[test]
fn broadcast_counts_every_delivery() {
    for format in ["msgpack", "json", "raw"] {
        let arguments = ["broadcast", "--serve", "--shards 2", "-n", "500", "--rate", "50", "--messages", "20", "--format", format];
        let json = run(&[&arguments[..], &["--redis", "own", "--threads", "2"]].concat()).passes();
        assert_eq!(json["messages"]["delivered"], 10_000);
        assert_eq!(json["latency_us"]["count"], 10_000);
        assert!(json["server"]["cpu_ns_per_delivery"].as_f64().unwrap() > 0.0);
        let percentile = |name: &str| json["latency_us"][name].as_u64().unwrap();
        assert!(percentile("p50") <= percentile("p99") && percentile("p99") <= percentile("p99.99"));
        assert!(json["series"]["points"].as_array().unwrap().len() > 2);
    }
}

#[test]
fn messages_go_through_http_and_through_a_client() {
    let json = run(&["broadcast", "--serve", "--shards 1", "-n", "100", "--rate", "50", "--messages", "10", "--through", "http"]).passes();
    assert_eq!(json["messages"]["delivered"], 1000);
    let serve = "--shards 1 --allow-client-publish";
    let json = run(&["broadcast", "--serve", serve, "-n", "100", "--rate", "50", "--messages", "10", "--through", "client"]).passes();
    assert_eq!(json["messages"]["delivered"], 1000);
    let refused = ["broadcast", "--serve", "--shards 1", "-n", "10", "--rate", "50", "--messages", "50", "--through", "client"];
    let refused = run(&[&refused[..], &["--patience", "2"]].concat());
    refused.fails("--allow-client-publish");
}

#[test]
fn a_burst_stands_beside_the_floor() {
    let arguments = ["burst", "--serve", "--shards 1", "-n", "300", "--redis", "own", "--burst", "20", "--rate", "200", "--messages", "40"];
    let json = run(&[&arguments[..], &["--floor", "--pairs", "2", "--floor-cores", ""]].concat()).passes();
    assert_eq!(json["floor"]["ratios"].as_array().unwrap().len(), 2);
    assert!(json["floor"]["ratio_median"].as_f64().unwrap() > 0.0);
    assert_eq!(json["floor"]["unit"], "ns");
}

#[test]
fn connecting_stands_beside_the_floor() {
    let ran = run(&["connect", "--serve", "--shards 1", "-n", "300", "--floor", "--pairs", "2", "--floor-cores", ""]);
    let table = ran.stdout();
    let json = ran.passes();
    assert_eq!(json["floor"]["ratios"].as_array().unwrap().len(), 2);
    assert_agree(&table, "CPU per connect");
    assert_agree(&table, "connects per second");
}

/// The ratio is that of the two lines above it, for whoever reads them.
#[track_caller]
#[test]
fn clients_bring_tokens_and_a_server_without_stands_beside() {
    for (auth, more) in [("hs256", &["--users", "50"][..]), ("es256", &["--new-tokens"])] {
        let arguments = ["connect", "--serve", "--shards 2", "-n", "200", "--auth", auth, "--rules", "--beside-open", "--pairs", "2"];
        let json = run(&[&arguments[..], more].concat()).passes();
        let of = |what: &str| json["open"][what].as_array().unwrap().len();
        assert_eq!([of("server"), of("open"), of("ratios")], [2; 3], "{}", json["open"]);
        assert_eq!(json["open_cpu"]["server"].as_array().unwrap().len(), 2);
    }
    // Pinned, as when it is measured: the server beside has the core that it asks for, and not the load generator's.
    let has_two = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let (serve, cores) = if has_two { ("--shards 1 --pin 0", "1") } else { ("--shards 1", "") };
    for scenario in ["broadcast", "burst"] {
        let arguments = ["--serve", serve, "--cores", cores, "-n", "100", "--auth", "hs256", "--rules", "--beside-open", "--redis", "own"];
        let json = run(&[&[scenario][..], &arguments, &["--pairs", "2", "--rate", "100", "--messages", "20"]].concat()).passes();
        assert_eq!(json["open"]["ratios"].as_array().unwrap().len(), 2, "{}", json["open"]);
        assert_eq!(json["messages"]["delivered"], 2 * 20 * 100);
    }
    let json = run(&["storm", "--serve", "--shards 1 --history-count 100", "-n", "200", "--auth", "es256", "--messages", "30"]).passes();
    assert_eq!(json["storm"]["healthz_failures"], 0);
}

/// Without its token nobody would get in: what the run hands to the server is asked for.
#[test]
fn rules_of_the_run_are_kept() {
    let arguments = ["connect", "--serve", "--shards 1", "-n", "1", "--auth", "hs256", "--rules"];
    let refused = ["--subscribe", r#"{"type":"subscribe","channel":"room:1:staff"}"#, "--ready", "not_allowed"];
    let json = run(&[&arguments[..], &refused].concat()).passes();
    assert_eq!(json["connect"]["ready"], 1);
}

fn assert_agree(table: &str, what: &str) {
    let figures = |label: &str| -> Vec<f64> {
        let value = |line: &str| line.trim().strip_prefix(label)?.split_whitespace().next()?.parse().ok();
        table.lines().filter_map(value).collect()
    };
    let (server, floor) = (figures(&format!("server {what}")), figures(&format!("floor {what}")));
    let ratio = figures(&format!("{what}, against the floor"));
    assert_eq!((server.len(), floor.len(), ratio.len()), (1, 1, 1), "{what} in\n{table}");
    assert_eq!(format!("{:.2}", server[0] / floor[0]), format!("{:.2}", ratio[0]), "{what} in\n{table}");
}

#[test]
fn the_figures_beside_the_floor_agree_and_charts_show_its_turns() {
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "100", "--rate", "20", "--messages", "6", "--cores", "0"];
    let ran = run(&[&arguments[..], &["--floor", "--pairs", "3", "--floor-cores", ""]].concat());
    let (table, html) = (ran.stdout(), ran.html.clone());
    let json = ran.passes();
    assert_agree(&table, "CPU per delivery");
    // One that only warms up, one for each pair, and the connecting of its clients' two halves.
    let turns = json["series"]["floor_turns"].as_array().unwrap();
    assert_eq!(turns.len(), 6, "{turns:?}");
    assert!(turns.iter().all(|turn| turn[0].as_f64().unwrap() < turn[1].as_f64().unwrap()));
    // Four charts over time, each drawn for two widths.
    assert_eq!(html.matches("class=\"band\"").count(), 6 * 4 * 2);
    assert_eq!(html.matches("Shaded: the floor's turns").count(), 4);
    // Of the host, not of the core that this process was left with.
    let cores = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t:").count();
    assert!(json["machine"]["cores"] == cores && html.contains(&format!(" · {cores} core{} · ", if cores == 1 { "" } else { "s" })));
}

#[test]
fn the_page_can_be_read_on_a_telephone() {
    let html = run(&["broadcast", "--serve", "--shards 1", "-n", "50", "--rate", "20", "--messages", "20"]).html;
    // A chart gets 390 px less the margins of page and card; its letters are 11.5 of its own units.
    let widths: Vec<f64> = html
        .split("<div class=\"narrow\"><svg viewBox=\"0 0 ")
        .skip(1)
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(widths.len(), 6);
    assert!(widths.iter().all(|width| 11.5 * (390.0 - 58.0) / width > 10.0), "{widths:?}");
    assert_eq!(html.matches("<div class=\"wide\">").count(), 6);
    for rule in ["@media(max-width:560px)", ".wide{display:none}", ".narrow{display:block}", "table,tbody,tr,td{display:block}"] {
        assert!(html.contains(rule), "{rule}");
    }
}

#[test]
fn a_slow_rate_does_not_slow_the_warm_up() {
    // At this rate two messages, and two laps of the floor, would take 200 s each.
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "20", "--rate", "0.005", "--messages", "1", "--time", "150"];
    let json = run(&[&arguments[..], &["--floor", "--pairs", "1", "--floor-cores", ""]].concat()).passes();
    assert_eq!(json["floor"]["ratios"].as_array().unwrap().len(), 1);
}

// --- where figures go ---

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().expect("the program")
}

#[test]
fn figures_on_stdout_stand_there_alone() {
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "20", "--rate", "50", "--messages", "5"];
    let output = loadgen(&[&arguments[..], &["--json", "-"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!((&json["result"], &json["messages"]["delivered"]), (&"ok".into(), &100.into()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("broadcast against ws://") && told.contains("100 ("), "the table goes to stderr: {told}");
    let output = loadgen(&[&arguments[..], &["--html", "-", "--quiet"]].concat());
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(!std::path::Path::new("-").exists(), "no file of that name");
}

/// As a terminal sends it: to the load generator and to everything that it has started.
fn interrupt(group: u32) {
    // SAFETY: a signal to the group of a child that has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(-(group as i32), libc::SIGINT) }, 0);
}

#[test]
fn ctrl_c_ends_a_run_with_the_figures_so_far() {
    let floor = ["--floor", "--floor-cores", ""];
    for (stage, more) in [("publishing", &[][..]), ("server 1", &floor)] {
        // Days of messages.
        let endless = ["--rate", "50", "--messages", "10000000", "--time", "3600"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["broadcast", "--serve", "--shards 1", "-n", "20", "--json", "-"])
            .args(endless)
            .args(more)
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let stdout = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(stdout).unwrap());
        let mut told = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains(&format!(" s  {stage}: ")) && !told.contains("stopping") {
                interrupt(child.id());
                told += "stopping";
            }
            told += &format!("{line}\n");
        }
        let json: Value = serde_json::from_str(&reader.join().unwrap()).unwrap_or_else(|error| panic!("{stage}: {error}: {told}"));
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stage}: {told}");
        assert!(told.contains("interrupted: these are the figures until then") && !told.contains("FAILED"), "{stage}: {told}");
        assert_eq!((&json["result"], &json["connect"]["ready"], &json["checks"]["lost"]), (&"interrupted".into(), &20.into(), &0.into()));
    }
}

#[test]
fn the_floor_runs_alone() {
    let json = run(&["floor", "-n", "300", "--messages", "5", "--rate", "50", "--floor-cores", ""]).passes();
    assert!(json["floor"]["cpu_ns_per_delivery"].as_f64().unwrap() > 0.0);
}

#[test]
fn channels_of_their_own_and_by_zipf() {
    let json = run(&["channels", "--serve", "--shards 2", "-n", "300", "--rate", "1000", "--messages", "900"]).passes();
    assert_eq!((&json["messages"]["delivered"], &json["channels"]["largest"]), (&900.into(), &1.into()));
    let arguments =
        ["channels", "--serve", "--shards 2", "-n", "300", "--channels", "40", "--zipf", "1.1", "--rate", "500", "--messages", "300"];
    let json = run(&arguments).passes();
    assert!(json["channels"]["largest"].as_u64().unwrap() > 30);
}

#[test]
fn a_client_may_have_many_channels_and_leave_them() {
    // Each for itself, more of them than commands of one client may be under way.
    let channels = ["channels", "--serve", "--shards 2", "-n", "4", "--channels-per-client", "1200", "--leave", "unsubscribe"];
    let json = run(&[&channels[..], &["--messages", "500", "--rate", "1000", "--threads", "2"]].concat()).passes();
    assert_eq!([&json["subscriptions"]["count"], &json["left"]["count"], &json["messages"]["delivered"]], [4 * 1199, 4 * 1200, 500]);
    assert_eq!((&json["channels"]["count"], &json["channels"]["largest"]), (&4800.into(), &1.into()));
    assert!(json["subscriptions"]["user_bytes_per_subscription"].is_number() && json["left"]["memory_bytes_after"].is_number());
    assert!(json["subscriptions"]["per_second"].as_f64().unwrap() > 0.0 && json["left"]["per_second"].as_f64().unwrap() > 0.0);
    // Shared: every channel has been subscribed to before the first client asks for more.
    let channels = ["channels", "--serve", "--shards 1", "-n", "30", "--channels", "10", "--channels-per-client", "4", "--leave", "close"];
    let json = run(&[&channels[..], &["--messages", "100", "--rate", "1000", "--redis", "own"]].concat()).passes();
    assert_eq!((&json["channels"]["largest"], &json["messages"]["delivered"]), (&12.into(), &1200.into()));
}

#[test]
fn a_subscription_that_is_refused_is_told() {
    let serve = "--shards 1 --subscriptions-max 60";
    let ran = run(&["channels", "--serve", serve, "-n", "3", "--channels-per-client", "61"]);
    ran.fails("too_many_subscriptions");
    ran.fails("of 180 subscriptions were confirmed");
    assert_eq!(ran.json["checks"]["errors"], 3);
}

#[test]
fn a_channel_for_each_client_stands_beside_a_floor_that_sleeps_between_two_messages() {
    let arguments = ["channels", "--serve", "--shards 1", "-n", "50", "--rate", "100", "--messages", "30"];
    let json = run(&[&arguments[..], &["--floor", "--pairs", "2", "--floor-cores", ""]].concat()).passes();
    // Whole rounds, of the server too, so that both had the same to do.
    assert_eq!(json["messages"]["delivered"], 100);
    let figures =
        |name: &str| -> Vec<f64> { json["floor"][name].as_array().unwrap().iter().map(|figure| figure.as_f64().unwrap()).collect() };
    let (sends, whole) = (figures("floor"), figures("floor_whole"));
    assert_eq!((sends.len(), whole.len()), (2, 2));
    assert!(sends.iter().zip(&whole).all(|(sends, whole)| sends < whole), "{}", json["floor"]);
    // It sleeps for each message, or for some that were due when it woke; the server's threads do it too.
    assert!(figures("floor_sleeps").iter().all(|sleeps| (0.0..=1.1).contains(sleeps) && *sleeps > 0.0), "{}", json["floor"]);
    assert!(json["floor"]["lap_send"].as_f64().unwrap() > 0.0 && json["server"]["sleeps_per_delivery"].as_f64().unwrap() > 0.0);
}

#[test]
fn direct_messages_are_told_apart_from_the_broadcast() {
    let mixed = ["mixed", "-n", "60", "--direct", "7", "--direct-rate", "50", "--rate", "10", "--messages", "5", "--serve", "--shards 2"];
    let ran = run(&[&mixed[..], &["--floor", "--pairs", "2", "--floor-cores", "", "--threads", "2"]].concat());
    assert!(ran.html.contains("<h2>Latency of direct messages</h2>"));
    for row in
        ["direct messages  ", "broadcast, alone  ", "broadcast, beside direct messages  ", "floor: direct messages, from send to read  "]
    {
        assert!(ran.stdout().contains(row), "{row:?} is missing in\n{}", ran.stdout());
    }
    let json = ran.passes();
    let figures = &json["mixed"];
    // In each of two turns 50 a second for as long as five broadcasts at 10 a second take.
    assert_eq!([&figures["direct_published"], &figures["direct_delivered"], &figures["direct_lost"]], [50, 50, 0]);
    assert_eq!([&figures["broadcast_published"], &figures["broadcast_delivered"], &figures["broadcast_lost"]], [10, 600, 0]);
    let counts = ["latency_us", "direct_latency_us", "alone_latency_us", "wake_latency_us", "floor_latency_us", "direct_late_us"]
        .map(|latency| json[latency]["count"].as_u64().unwrap());
    assert_eq!(counts, [600, 50, 600, 50, 600, 50]);
    for turns in ["broadcast_p99_us_alone", "broadcast_p99_us", "direct_p99_us", "wake_p99_us"] {
        assert_eq!(figures[turns].as_array().unwrap().len(), 2, "{turns}");
    }
    assert!(figures["broadcast_p99_ratio"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn real_time_priority_is_had_or_told_to_be_missing() {
    let mixed = ["mixed", "-n", "20", "--direct", "3", "--messages", "3", "--rate", "30", "--pairs", "1", "--serve", "--shards 1"];
    let ran = run(&[&mixed[..], &["--realtime", "--redis", "own"]].concat());
    if ran.code() == 0 {
        assert_eq!(ran.passes()["mixed"]["direct_lost"], 0);
    } else {
        ran.fails("--realtime needs the right to real-time priorities");
    }
}

/// Every second of a hundred channels is forbidden, so half of what each client has.
#[test]
fn a_reload_ends_what_it_forbids_and_nothing_else() {
    let json = run(&["reload", "--serve", "--shards 2", "-n", "300"]).passes();
    assert_eq!(json["reload"]["subscriptions_ended"], 1500);
    assert!(json["reload"]["turns"].as_u64().unwrap() > 0);
}

#[test]
fn an_outage_of_redis_is_announced_to_everybody() {
    let arguments = ["failover", "--serve", "--shards 2", "-n", "200", "--rate", "50", "--messages", "150", "--outage", "0.5"];
    let json = run(&arguments).passes();
    assert!(json["failover"]["gaps"].as_u64().unwrap() >= 200);
    assert!(json["checks"]["announced"].as_u64().unwrap() > 0);
}

#[test]
fn a_server_that_is_replaced_refuses_nobody() {
    let arguments = ["restart", "--serve", "--shards 2", "-n", "600", "--drain-rate", "300"];
    let json = run(&arguments).passes();
    let restart = &json["restart"];
    assert_eq!((&restart["moved"], &restart["connects_repeated"], &restart["first_server_ended"]), (&600.into(), &0.into(), &true.into()));
}

#[test]
fn echoes_come_back() {
    let json = run(&["echo", "--serve", "--shards 1 --echo", "-n", "100", "--rate", "500", "--messages", "500"]).passes();
    assert_eq!(json["messages"]["published"], json["messages"]["delivered"]);
}

// --- bad input ---

#[test]
fn a_redis_that_is_not_there_is_named() {
    let url = "redis://:secret@127.0.0.1:1";
    let ran = run(&["broadcast", "--serve", "--shards 1", "-n", "10", "--redis", url]);
    ran.fails("Redis cannot be reached at redis://:***@127.0.0.1:1: is it running, is the URL right?");
    assert!(ran.json.is_null(), "told before anything is started");
    // The server's own, of which the load generator knows nothing.
    let serve = format!("--shards 1 --redis {url}");
    run(&["broadcast", "--serve", &serve, "-n", "10", "--patience", "2"])
        .fails("/readyz says {\"ready\":false,\"reason\":\"Redis cannot be reached");
}

#[test]
fn nobody_there_is_told() {
    run(&["connect", "--url", "ws://127.0.0.1:1", "-n", "10"]).fails("is the server running, is --url right?");
}

#[test]
fn an_http_refusal_is_shown_with_its_reason() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nno entry without a token\n");
        }
    });
    run(&["connect", "--url", &format!("ws://{address}"), "-n", "10"]).fails("HTTP/1.1 403 Forbidden: no entry without a token");
}

#[test]
fn too_few_descriptors_are_told_before_the_start() {
    let arguments = ["connect", "--serve", "--shards 1", "-n", "2000", "--threads", "1"];
    let ran = run_after("ulimit -n 500", &arguments);
    ran.fails("leave --threads away or give at least 5");
    run_after("ulimit -n 50", &["connect", "--url", "ws://127.0.0.1:1", "-n", "10"]).fails("ulimit -n 20000");
    // Left to itself it takes as many threads as the limit asks for.
    let json = run_after("ulimit -n 500", &["connect", "--serve", "--shards 6 --fd-table private", "-n", "1000"]).passes();
    assert_eq!(json["connect"]["ready"], 1000);
}

#[test]
fn every_run_ends_in_time() {
    let begin = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["broadcast", "--serve", "--shards 1", "-n", "50", "--rate", "1", "--messages", "100", "--time", "2", "-q"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--time 2 is over"));
    for scenario in ["floor", "storm"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args([scenario, "-n", "50", "--rate", "1", "--messages", "100", "--time", "3", "-q", "--floor-cores", ""]);
        if scenario == "storm" {
            command.args(["--serve", "--shards 1 --history-count 10"]);
        }
        assert_eq!(command.output().unwrap().status.code(), Some(1), "{scenario}");
    }
    // Each would take 100 s otherwise.
    assert!(begin.elapsed() < Duration::from_secs(150));
}

#[test]
fn a_turn_of_the_floor_that_takes_longer_than_the_run_does_not_hold_it_up() {
    let begin = Instant::now();
    // One message for the server, then one for each of the floor's clients: 1,000 s.
    let arguments = ["channels", "--serve", "--shards 1", "-n", "1000", "--rate", "1", "--messages", "1", "--time", "20"];
    run(&[&arguments[..], &["--floor", "--pairs", "1", "--floor-cores", ""]].concat()).fails("--time 20 is over");
    assert!(begin.elapsed() < Duration::from_secs(300));
}

#[test]
fn what_was_found_before_an_error_is_kept() {
    let arguments = ["broadcast", "--serve", "--shards 1", "-n", "50", "--through", "http", "--control", "127.0.0.1:1", "--patience", "2"];
    let floor = ["--floor", "--pairs", "1", "--floor-cores", ""];
    for arguments in [&arguments[..], &[&arguments[..], &floor].concat()] {
        let ran = run(arguments);
        ran.fails("publishing failed");
        assert_eq!(ran.json["connect"]["ready"], 50, "{arguments:?}");
    }
    let unwritable = ["connect", "--serve", "--shards 1", "-n", "10", "-q", "--json", "/nonexistent/result.json"];
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(unwritable).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/result.json cannot be written"));
    assert!(output.stdout.is_empty(), "told before the run");
}

#[test]
fn a_mistake_on_the_command_line_is_2() {
    let mistakes: [&[&str]; 25] = [
        &["storms"],
        &["hold", "-n", "0"],
        &["hold", "--format", "xml"],
        &["hold", "--cores", "x"],
        &["hold", "--cores", "4000"],
        &["hold", "--hold", "60", "--time", "2"],
        &["hold", "--hold=-1"],
        &["hold", "--floor"],
        &["churn", "--churn", "inf"],
        &["broadcast", "--payload", "10"],
        &["broadcast", "--threads", "0"],
        &["broadcast", "--through", "redis"],
        &["channels", "--floor", "--zipf", "1"],
        &["channels", "--channels", "5", "--channels-per-client", "6"],
        &["channels", "--channels-per-client", "2", "--floor"],
        &["channels", "--leave", "quietly"],
        &["mixed", "-n", "10", "--direct", "11"],
        &["mixed", "--direct-rate", "0"],
        &["mixed", "--burst", "2"],
        &["mixed", "--realtime", "--spin"],
        &["failover"],
        &["restart"],
        &["reload"],
        &["reload", "--serve", "", "--channels", "5", "--channels-per-client", "6"],
        &["hold", "--json", "-", "--html", "-"],
    ];
    for arguments in mistakes {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
