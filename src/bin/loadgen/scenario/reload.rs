//! The rules change under clients that have several channels each: half of the channels are forbidden to all. Nobody may be closed, everybody is told, and
//! no turn of the server's loops may be long: who waits for one has nothing meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Options;
use crate::crowd::{ChannelRange, Habits, Subscriptions};
use crate::report::Report;
use crate::run::{Run, whole};
use crate::target::Needs;

/// Longer than this, a turn counts as long.
const TURN_SECONDS: &str = "0.005";

/// The server's file of settings; it goes with the run.
struct File(PathBuf);

impl File {
    fn new() -> Result<File> {
        let file = File(std::env::temp_dir().join(format!("loadgen-reload-{}.toml", std::process::id())));
        file.write("")?;
        Ok(file)
    }

    /// Under the name as a whole, or not at all.
    fn write(&self, rules: &str) -> Result<()> {
        let new = self.0.with_extension("new");
        // The server reads it when it is told to.
        std::fs::write(&new, format!("reload_on_change = false\n{rules}"))?;
        std::fs::rename(&new, &self.0).context("the server's file of settings")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn run(options: &Options, channels: u32, per_client: u32) -> Result<Report> {
    let file = File::new()?;
    let serve = options.serve.as_deref().unwrap_or_default();
    let options = Options { serve: Some(format!("{serve} --config {}", file.0.display())), ..options.clone() };
    whole("reload", &options, Needs { per_client, ..channels.into() }, |run| reload(run, &file, channels, per_client))
}

fn reload(run: &mut Run, file: &File, channels: u32, per_client: u32) -> Result<()> {
    run.must_be_campanile()?;
    let channels_of = |client: u32| {
        let first = client % channels;
        let further = ChannelRange { first: (first + 1) % channels, count: per_client - 1, of: channels };
        Subscriptions { first, further: (per_client > 1).then_some(further) }
    };
    let Some(crowd) = run.connect(&Habits::default(), channels_of)? else { return Ok(()) };
    if crowd.further_subscriptions > 0 && !run.subscribe(&crowd)? {
        return Ok(());
    }
    // Every second channel, a table for each.
    let forbidden = |channel: u32| channel.is_multiple_of(2);
    let tables = (0..channels)
        .filter(|&channel| forbidden(channel))
        .map(|channel| format!("[[channels]]\nprefix = \"{}\"\nsubscribe = \"nobody\"\n", run.target.channels.name(channel)));
    let rules: String = tables.collect();
    let of_client = |client: u32| (0..per_client).filter(move |at| forbidden((client % channels + at) % channels)).count() as u64;
    let all: u64 = (0..crowd.clients).map(of_client).sum();
    let control = run.options.control.context("the server's control address")?;
    let before = Turns::read(control)?;
    let begin = Instant::now();
    file.write(&rules)?;
    let answer = agent().post(format!("http://{control}/reload")).send_empty()?;
    let answered = begin.elapsed();
    ensure!(answer.status().is_success(), "POST /reload is answered {}", answer.status());
    let ended = run.until("reloading", &crowd, None, |counts| counts.unsubscribed >= all || counts.errors > 0);
    let told = begin.elapsed();
    let after = Turns::read(control)?;
    let counts = crowd.counts();
    if counts.unsubscribed != all {
        let why = run.why(ended);
        run.report.fail(format!("{} of {all} subscriptions were ended{why}", counts.unsubscribed));
    }
    let (turns, long) = (after.count - before.count, after.longer_than(TURN_SECONDS)? - before.longer_than(TURN_SECONDS)?);
    let longest = after.longest_since(&before);
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    run.report.headline("in force after", milliseconds(answered));
    run.report.headline("subscriptions ended", format!("{all}, the last is told after {}", milliseconds(told)));
    run.report.headline("turns meanwhile", format!("{turns}, {long} of them longer than 5 ms, the longest within {longest} s"));
    run.report.set(
        "reload",
        json!({
            "subscriptions_ended": counts.unsubscribed, "answered_us": answered.as_micros() as u64, "told_us": told.as_micros() as u64,
            "turns": turns, "turns_longer_than_5_ms": long, "longest_turn_within_seconds": longest,
        }),
    );
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).http_status_as_error(false).proxy(None).build().into()
}

/// `campanile_loop_turn_seconds` of all shards together.
#[derive(Debug, Default)]
struct Turns {
    count: u64,
    /// Not longer than that, as the page spells it.
    up_to: BTreeMap<String, u64>,
}

impl Turns {
    fn read(control: std::net::SocketAddr) -> Result<Turns> {
        let page = agent().get(format!("http://{control}/metrics")).call()?.body_mut().read_to_string()?;
        let mut turns = Turns::default();
        for line in page.lines() {
            let Some((labels, value)) = line.strip_prefix("campanile_loop_turn_seconds_bucket{").and_then(|line| line.rsplit_once("} "))
            else {
                continue;
            };
            let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a bucket's bound")?;
            *turns.up_to.entry(bound.to_owned()).or_default() += value.parse::<f64>()? as u64;
        }
        turns.count = *turns.up_to.get("+Inf").context("no turns are counted")?;
        Ok(turns)
    }

    fn longer_than(&self, bound: &str) -> Result<u64> {
        Ok(self.count - self.up_to.get(bound).context("a bucket of five milliseconds")?)
    }

    /// The lowest bound that no turn since then was longer than.
    fn longest_since(&self, before: &Turns) -> String {
        let turns = self.count - before.count;
        let holds_all = |(bound, count): &(&String, &u64)| *count - before.up_to.get(*bound).copied().unwrap_or(0) == turns;
        let number = |bound: &str| bound.parse::<f64>().unwrap_or(f64::INFINITY);
        let bounds = self.up_to.iter().filter(holds_all).map(|(bound, _)| bound.clone());
        bounds.min_by(|a, b| number(a).total_cmp(&number(b))).unwrap_or_default()
    }
}
