//! The names on `/metrics` of the real server: Prometheus's conventions, promtool's opinion, and the documents, dashboards and alerts that name them. What of
//! it people are shown is in `watching`.

mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::server::Server;
use campanile::bus::redis::library;
use serde_json::{Value, json};

/// Older than the conventions and kept: each beside the one that follows them.
const ALIASES: [(&str, &str); 4] = [
    ("ws_connections_total", "campanile_connections"),
    ("ws_messages_sent_total", "campanile_messages_sent_total"),
    ("ws_message_latency_ms", "campanile_message_latency_seconds"),
    ("redis_pubsub_messages", "campanile_bus_messages_total"),
];

/// What every Prometheus client library exposes of its process, under these very names.
const STANDARD: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

/// A page in the text format 0.0.4, of a server through which a message has gone.
fn page() -> String {
    let certificates = Certificates::new("metrics");
    certificates.root("server");
    let (cert, key) = (certificates.path("server.crt"), certificates.path("server.key"));
    let tls = ["--listen", "127.0.0.1:0", "--listen", "tls://127.0.0.2:0", "--tls-cert", &cert, "--tls-key", &key];
    let server = Server::start(&[&["--shards", "2"], &tls[..]].concat());
    let mut client = Client::subscribed(server.listen, "news");
    server.publish("news", &json!("hello"));
    assert_eq!(client.event()["data"], "hello");
    server.eventually_metric("campanile_messages_sent_total", "", 1.0);
    server.get("/metrics").1
}

/// Kind of each family, by name.
fn families(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// What Prometheus's guide on naming asks for, and what promtool looks at; the reason why a name does not follow it.
fn problem(name: &str, kind: &str) -> Option<&'static str> {
    const UNITS: [&str; 3] = ["seconds", "bytes", "ratio"];
    const OTHER_UNITS: [&str; 26] = [
        "s",
        "ms",
        "us",
        "ns",
        "sec",
        "min",
        "m",
        "h",
        "d",
        "b",
        "kb",
        "mb",
        "gb",
        "tb",
        "pb",
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "minutes",
        "hours",
        "days",
        "kilobytes",
        "megabytes",
        "gigabytes",
        "bits",
        "percent",
    ];
    const KINDS: [&str; 5] = ["gauge", "counter", "histogram", "summary", "untyped"];
    let stem = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(name);
    let words: Vec<&str> = stem.split('_').collect();
    let is_misplaced = |word: &&str| UNITS.contains(word);
    if !name.starts_with("campanile_") && !STANDARD.contains(&name) {
        return Some("begins with something else than campanile_");
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return Some("has other characters than small letters, digits and _");
    }
    if name.ends_with("_total") != (kind == "counter") {
        return Some("ends in _total without being a counter, or is a counter without");
    }
    if !["counter", "gauge", "histogram"].contains(&kind) {
        return Some("is of a kind that says nothing");
    }
    if ["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
        return Some("ends as the samples of a histogram do");
    }
    if words.iter().any(|word| OTHER_UNITS.contains(word)) {
        return Some("has a unit that is no base unit, or abbreviated");
    }
    if words[..words.len() - 1].iter().any(is_misplaced) {
        return Some("has its unit before its end");
    }
    words.iter().any(|word| KINDS.contains(word)).then_some("has its kind in its name")
}

#[test]
fn every_name_but_the_four_old_ones_follows_the_conventions() {
    let page = page();
    let families = families(&page);
    assert!(families.len() > 50);
    for (&name, &kind) in &families {
        if ALIASES.iter().all(|(alias, _)| *alias != name) {
            assert_eq!(problem(name, kind), None, "{name} ({kind})");
        }
    }
    for (alias, name) in ALIASES {
        assert!(page.contains(&format!("# HELP {alias} Alias of {name}")), "{alias} says what it is an alias of");
    }
}

#[test]
fn names_against_the_conventions_are_found() {
    for (name, kind) in [
        ("ws_sockets", "gauge"),
        ("campanile_connections_total", "gauge"),
        ("campanile_writes", "counter"),
        ("campanile_latency_ms", "histogram"),
        ("campanile_bytes_sent_total", "counter"),
        ("campanile_Sockets", "gauge"),
        ("campanile_count", "gauge"),
        ("campanile_uptime_hours", "gauge"),
        ("campanile_messages", "untyped"),
        ("campanile_gauge_depth", "gauge"),
    ] {
        assert!(problem(name, kind).is_some(), "{name} {kind}");
    }
}

#[test]
fn the_old_names_count_what_the_new_ones_count() {
    let page = page();
    let samples = |name: &str| -> BTreeMap<String, f64> {
        let own = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('{') || rest.starts_with("_count"))?;
            Some((rest.to_owned(), value.parse().ok()?))
        };
        page.lines().filter_map(own).collect()
    };
    for (alias, name) in ALIASES {
        assert!(!samples(name).is_empty());
        assert_eq!(samples(alias), samples(name), "{alias} and {name}");
    }
    let of = |name: &str| samples(name).values().sum::<f64>();
    assert_eq!((of("campanile_connections"), of("campanile_message_latency_seconds"), of("campanile_bus_messages_total")), (1.0, 1.0, 1.0));
    // The same bounds in another unit.
    let bounds = |name: &str| -> Vec<f64> {
        let bound = |line: &str| line.strip_prefix(&format!("{name}_bucket{{le=\""))?.split_once('"')?.0.parse::<f64>().ok();
        page.lines().filter(|line| line.contains("shard=\"0\"")).filter_map(bound).filter(|bound| bound.is_finite()).collect()
    };
    let (seconds, milliseconds) = (bounds("campanile_message_latency_seconds"), bounds("ws_message_latency_ms"));
    assert!(seconds.len() > 10 && seconds.len() == milliseconds.len());
    assert!(seconds.iter().zip(&milliseconds).all(|(seconds, ms)| (seconds * 1000.0 - ms).abs() < 1e-9), "{seconds:?} {milliseconds:?}");
}

/// In the PATH, or where scripts/test puts it.
fn promtool() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("promtool");
    let path = std::env::var_os("PATH")?;
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("promtool"));
    in_path.chain([own]).find(|path| path.is_file())
}

#[test]
fn promtool_finds_fault_with_the_four_old_names_alone() {
    let Some(promtool) = promtool() else {
        eprintln!("SKIPPED promtool_finds_fault_with_the_four_old_names_alone: promtool is not installed; scripts/test fetches it");
        return;
    };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    // Closed when written, which is where promtool begins.
    child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let faulted: BTreeSet<&str> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // 3: it has complaints. If it had none, it would not have read the page.
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(faulted.iter().all(|name| ALIASES.iter().any(|(alias, _)| alias == name)), "{told}");
}

/// Words that look like the name of a series. A package's file has its version behind its name.
fn named(text: &str) -> BTreeSet<&str> {
    let is_of =
        |word: &str, prefix| word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_alphabetic()));
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| ["campanile_", "ws_", "redis_pubsub_", "process_"].iter().any(|prefix| is_of(word, prefix)))
        .collect()
}

/// A series of that name is on the page.
fn is_series(families: &BTreeMap<&str, &str>, word: &str) -> bool {
    let of_histogram = |name: &str| families.get(name) == Some(&"histogram");
    families.contains_key(word) || ["_count", "_sum", "_bucket"].iter().any(|suffix| word.strip_suffix(suffix).is_some_and(of_histogram))
}

#[test]
fn the_documents_name_series_that_exist() {
    let page = page();
    let families = families(&page);
    // The functions of durable channels are called so, too.
    let exists = |word: &str| is_series(&families, word) || library::SOURCE.contains(&format!("'{word}'"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents: Vec<PathBuf> = vec![root.join("README.md")];
    for folder in ["docs", "tuning"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut count = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for word in named(&text) {
            assert!(exists(word), "{}: there is no series {word}", document.display());
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
    let operations = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
    for (alias, name) in ALIASES {
        assert!(operations.contains(&format!("| `{alias}` | `{name}` |")), "docs/operations.md names {alias} as an alias of {name}");
    }
}

fn operations(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations").join(name)
}

/// Every value that stands under this key, wherever it does.
fn values_of<'a>(json: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match json {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| values_of(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| values_of(value, key, found)),
        _ => {}
    }
}

/// The expressions of the dashboard, as Grafana asks them, and of the alerts.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(operations("grafana.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    values_of(&dashboard, "expr", &mut found);
    let on_dashboard = found.into_iter().map(|text| text.replace("$__rate_interval", "1m").replace("$instance", ".*"));
    let alerts = std::fs::read_to_string(operations("alerts.yml")).unwrap();
    let in_alerts: Vec<String> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect();
    assert_eq!(in_alerts.len(), alerts.matches("- alert:").count(), "each on a line of its own");
    on_dashboard.chain(in_alerts).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_series_and_labels_that_exist() {
    let page = page();
    let families = families(&page);
    let labels: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split(['{', ',']).skip(1).filter_map(|part| Some(part.split_once("=\"")?.0)))
        // What Prometheus adds.
        .chain(["instance", "job"])
        .collect();
    let expressions = expressions();
    assert!(expressions.len() > 50);
    for expression in &expressions {
        let series = named(expression);
        assert!(!series.is_empty() || expression.starts_with("up{"), "{expression}");
        series.iter().for_each(|name| assert!(is_series(&families, name), "there is no series {name}: {expression}"));
        let matched = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()).flat_map(|matchers| matchers.split(','));
        let matched = matched.filter_map(|matcher| matcher.split(['=', '!']).next());
        let grouped = expression.split(" by (").skip(1).chain(expression.split(" on (").skip(1));
        let grouped = grouped.filter_map(|rest| rest.split(')').next()).flat_map(|names| names.split(','));
        for label in matched.chain(grouped).map(str::trim) {
            assert!(labels.contains(label), "there is no label {label}: {expression}");
        }
    }
}

#[test]
fn promtool_reads_every_expression_and_sees_each_alert_fire() {
    let Some(promtool) = promtool() else {
        eprintln!("SKIPPED promtool_reads_every_expression_and_sees_each_alert_fire: promtool is not installed; scripts/test fetches it");
        return;
    };
    let record = |(number, expression): (usize, &String)| json!({"record": format!("tried:{number}"), "expr": expression});
    let rules: Vec<Value> = expressions().iter().enumerate().map(record).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("expressions.yml");
    // JSON is YAML.
    std::fs::write(&file, json!({"groups": [{"name": "tried", "rules": rules}]}).to_string()).unwrap();
    let alerts = operations("alerts.yml");
    let tests = operations("alerts.test.yml");
    for arguments in [
        ["check", "rules"].map(Path::new).into_iter().chain([&*file, &alerts]).collect(),
        vec![Path::new("test"), Path::new("rules"), &tests],
    ] {
        let output = Command::new(&promtool).args(&arguments).output().expect("promtool");
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
    }
    let (rules, tried) = (std::fs::read_to_string(&alerts).unwrap(), std::fs::read_to_string(&tests).unwrap());
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tried.contains(&format!("alertname=\"{alert}\"")), "{alert} is not seen to fire");
        assert!(tried.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert} is not seen to be silent when all is well");
    }
}
