//! Clients publish to a durable channel as fast as they are answered, with so many messages under way each; by turns with `redis-benchmark`, which calls the same
//! function on the same Redis with as many connections and calls under way. Then `redis-benchmark` alone, with 32 messages a call.
//!
//! With a folder: no Redis, but two servers that keep the messages themselves, one in the folder and one in memory; by turns too.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use campanile::bus::redis::{keys, library};
use campanile::client::stream::Stream;
use campanile::wire::frame::{Opcode, parse_server_header};
use serde_json::json;

use super::floor::{median, middle, spread};
use super::outages::durable;
use crate::args::Options;
use crate::events::{self, Event};
use crate::progress::short;
use crate::publish::client::open;
use crate::publish::redis::{KEPT_MESSAGES, KEPT_MS};
use crate::report::Report;
use crate::run::{Run, whole};
use crate::target::frame;

const MESSAGES: u64 = 100_000;
const BATCH: u64 = 32;

pub fn run(options: &Options, pipeline: u32, data_dir: Option<&Path>) -> Result<Report> {
    let Some(folder) = data_dir else {
        return whole("publishers", &durable(options), 1, |run| publishers(run, pipeline as usize));
    };
    let options = Options { redis: None, ..durable(options) };
    whole("publishers", &options, 1, |run| {
        // The server is started elsewhere, and the path is typed here.
        let folder = std::path::absolute(folder)?.join(format!("loadgen-data-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("{} cannot be made: is there the folder of --data-dir?", folder.display()))?;
        let result = kept_and_not(run, pipeline as usize, &folder);
        let _ = std::fs::remove_dir_all(&folder);
        result
    })
}

/// The run's own server has its messages in memory.
fn kept_and_not(run: &mut Run, pipeline: usize, folder: &Path) -> Result<()> {
    run.must_be_campanile()?;
    let folder = folder.to_str().filter(|path| !path.contains(char::is_whitespace)).context("--data-dir takes no path with spaces")?;
    let keeper = run.another_server(&format!("--data-dir {folder}"))?;
    let messages = run.options.messages.unwrap_or(MESSAGES);
    let (mut kept, mut in_memory) = (Vec::new(), Vec::new());
    for pair in 0..=run.options.pairs.max(1) {
        if run.is_over_time() {
            break;
        }
        let rates =
            (through_server(run, keeper.clients, messages, pipeline)?, through_server(run, run.target.address, messages, pipeline)?);
        if pair > 0 {
            kept.push(rates.0);
            in_memory.push(rates.1);
        }
    }
    let (ratio, text) = ratio(&kept, &in_memory)?;
    let connections = run.options.clients;
    let rates = format!("{} and {}", per_second(&kept), per_second(&in_memory));
    run.report
        .headline("published, kept in a folder and not", format!("{rates}, {connections} clients, {pipeline} messages under way each"));
    run.report.headline("against memory alone", text);
    run.report.set(
        "data_dir",
        json!({
            "per_second": kept, "memory_per_second": in_memory,
            "ratio_median": ratio.middle, "ratio_min": ratio.lowest, "ratio_max": ratio.highest,
        }),
    );
    Ok(())
}

/// Of pairs of turns.
struct Ratio {
    middle: f64,
    lowest: f64,
    highest: f64,
}

fn ratio(ones: &[f64], others: &[f64]) -> Result<(Ratio, String)> {
    let ratios: Vec<f64> = ones.iter().zip(others).map(|(one, other)| one / other).collect();
    ensure!(!ratios.is_empty(), "no pair of turns was finished");
    let (lowest, highest) = spread(&ratios);
    let middle = ratios[middle(&ratios)];
    let text = format!("{middle:.2} × ({lowest:.2} to {highest:.2}, the middle one of {} pairs)", ratios.len());
    Ok((Ratio { middle, lowest, highest }, text))
}

fn per_second(rates: &[f64]) -> String {
    format!("{}/s", short(median(rates)))
}

fn publishers(run: &mut Run, pipeline: usize) -> Result<()> {
    run.must_be_campanile()?;
    let messages = run.options.messages.unwrap_or(MESSAGES);
    let (mut ours, mut theirs, mut batches) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn of each warms up.
    for pair in 0..=run.options.pairs.max(1) {
        if run.is_over_time() {
            break;
        }
        let server = run.target.address;
        let rates = (
            through_server(run, server, messages, pipeline)?,
            benchmark(run, messages, pipeline, 1)?,
            benchmark(run, messages, pipeline, BATCH)?,
        );
        if pair > 0 {
            ours.push(rates.0);
            theirs.push(rates.1);
            batches.push(rates.2);
        }
    }
    let (ratio, text) = ratio(&ours, &theirs)?;
    let connections = run.options.clients;
    run.report
        .headline("published by clients", format!("{}, {connections} of them, {pipeline} messages under way each", per_second(&ours)));
    run.report.row("redis-benchmark, the same function", per_second(&theirs));
    run.report.headline("against redis-benchmark", text);
    run.report.headline(&format!("in calls of {BATCH} messages"), format!("{} messages", per_second(&batches)));
    run.report.set(
        "publishers",
        json!({
            "per_second": ours, "benchmark_per_second": theirs, "batches_per_second": batches,
            "ratio_median": ratio.middle, "ratio_min": ratio.lowest, "ratio_max": ratio.highest,
        }),
    );
    Ok(())
}

/// Messages per second that a server has taken and answered.
fn through_server(run: &Run, server: SocketAddr, messages: u64, pipeline: usize) -> Result<f64> {
    let connections = u64::from(run.options.clients);
    let rounds = (messages / connections / pipeline as u64).max(1);
    let payload = "x".repeat(run.options.payload - 2);
    let command = format!(r#"{{"type":"publish","channel":"{}","data":"{payload}"}}"#, run.target.channels.name(0));
    let asked = frame(Opcode::Text, command.as_bytes()).repeat(pipeline);
    // Nobody is subscribed: what messages cost on their way out is not asked here.
    let target = run.target.clone().at(server).with_path("/ws?format=json".to_owned());
    let streams = (0..connections).map(|number| open(&target, &target.request(number as u32, 0, false))).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let publishing: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| publish(stream, &asked, pipeline, rounds))).collect();
        publishing.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?)
    })?;
    Ok((rounds * pipeline as u64 * connections) as f64 / begin.elapsed().as_secs_f64())
}

/// So many commands at once, and the next ones when all are answered.
fn publish((mut stream, mut incoming): (Stream, Vec<u8>), asked: &[u8], pipeline: usize, rounds: u64) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..rounds {
        stream.write_all(asked)?;
        let mut answered = 0;
        while answered < pipeline {
            let count = stream.read(&mut buffer).context("no answer to a publish")?;
            ensure!(count > 0, "the server closed a publisher's connection");
            incoming.extend_from_slice(&buffer[..count]);
            let mut taken = 0;
            while let Some(header) = parse_server_header(&incoming[taken..])? {
                let begin = taken + header.header_len as usize;
                let Some(payload) = incoming.get(begin..begin + header.payload_len as usize) else { break };
                taken = begin + payload.len();
                if let Event::Error(refusal) = events::read(true, payload) {
                    bail!("the server did not take a message ({}): give it --allow-client-publish", refusal.text);
                }
                answered += usize::from(payload.starts_with(br#"{"type":"published""#));
            }
            incoming.drain(..taken);
        }
    }
    Ok(())
}

/// Messages per second that Redis takes when it is asked by its own program.
fn benchmark(run: &Run, messages: u64, pipeline: usize, batch: u64) -> Result<f64> {
    let url = run.redis_url.as_deref().context("there is a Redis")?;
    let port = url.rsplit(':').next().context("a port")?;
    let (prefix, name) = (&run.options.prefix, run.target.channels.name(0));
    let payload = "x".repeat(run.options.payload);
    let calls = (messages / batch).max(1);
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", port, "-q", "-c", &run.options.clients.to_string(), "-P", &pipeline.to_string(), "-n", &calls.to_string()]);
    let function = if batch > 1 { library::PUBLISH_PACKED } else { library::PUBLISH };
    command.args(["FCALL", function, "2", &keys::stream(prefix, &name), &keys::meta(prefix, &name)]);
    command.args(["PUBLISH", &format!("{prefix}{name}"), &KEPT_MESSAGES.to_string(), &KEPT_MS.to_string(), "0"]);
    command.args(std::iter::repeat_n(payload, batch as usize));
    let output = command.output().context("redis-benchmark cannot be started: is the package redis-tools installed?")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate =
        text.rsplit_once(" requests per second").and_then(|(before, _)| before.rsplit([' ', '\r', '\n']).next()?.parse::<f64>().ok());
    Ok(rate.with_context(|| format!("redis-benchmark says no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))? * batch as f64)
}
