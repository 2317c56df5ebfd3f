//! `loadgen`: puts load on a WebSocket server from one host, checks every message, and says what it cost.
//!
//! Read [`args`] for what can be asked, [`scenario`] for what is done, [`worker`] and [`sequence`] for how messages are received and checked,
//! [`publish`] for where they come from, [`floor`] for what the kernel alone would cost, [`identity`] for the tokens that clients bring, [`tls`] for whom they believe, [`report`] for what comes out.

mod args;
mod beside;
mod children;
mod client;
mod crowd;
mod events;
mod floor;
mod holders;
mod identity;
mod inflate;
mod payload;
mod pick;
mod preflight;
mod process;
mod progress;
mod publish;
mod report;
mod round;
mod run;
mod scenario;
mod sequence;
mod stamp;
mod stop;
mod tally;
mod target;
mod tls;
mod topology;
mod watcher;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Scenario};

fn main() -> ExitCode {
    let scenario = Cli::parse().scenario;
    if let Some(problem) = scenario.problem() {
        eprintln!("error: {problem}");
        return ExitCode::from(2);
    }
    match run(scenario) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(scenario: Scenario) -> anyhow::Result<ExitCode> {
    if let Scenario::FloorServer { threads, cores } = scenario {
        return floor::server::run(threads, &cores.0).map(|()| ExitCode::SUCCESS);
    }
    stop::on_signal()?;
    let (report, options) = match scenario {
        Scenario::FloorServer { .. } => unreachable!("handled above"),
        Scenario::Broadcast(options) => (scenario::broadcast::run("broadcast", &options, 1, 3.0, 15)?, options),
        Scenario::Burst(options) => (scenario::broadcast::run("burst", &options, 100, 100.0, 500)?, options),
        Scenario::Floor(options) => (scenario::floor::run(&options)?, options),
        Scenario::Connect(options) => (scenario::connect::run(&options)?, options),
        Scenario::Hold { options, hold, watched } => (scenario::hold::run(&options, hold, watched)?, options),
        Scenario::Channels { options, channels, channels_per_client, zipf, leave } => {
            let dealt = scenario::channels::Dealt { channels, per_client: channels_per_client, zipf };
            (scenario::channels::run(&options, dealt, leave)?, options)
        }
        Scenario::Mixed { options, direct, direct_rate } => (scenario::mixed::run(&options, direct, direct_rate)?, options),
        Scenario::Churn { options, churn } => (scenario::churn::run(&options, churn)?, options),
        Scenario::Slow { options, slow, never, slow_bytes, slow_ms } => {
            let habits = scenario::slow::habits(slow, never, slow_bytes, slow_ms);
            (scenario::slow::run(&options, &habits)?, options)
        }
        Scenario::Handshakes { options, handshakes, handshake_rate, head_bytes } => {
            let held = scenario::handshakes::Held { connections: handshakes, per_second: handshake_rate, head_bytes };
            (scenario::handshakes::run(&options, held)?, options)
        }
        Scenario::Arrivals { options, stay } => (scenario::arrivals::run(&options, stay)?, options),
        Scenario::Fair(options) => (scenario::fair::run(&options)?, options),
        Scenario::Storm(options) => (scenario::storm::run(&options)?, options),
        Scenario::Failover { options, outage } => (scenario::failover::run(&options, outage)?, options),
        Scenario::Outages { options, breaks, every, channels } => (scenario::outages::run(&options, breaks, every, channels)?, options),
        Scenario::Repair { options, channels, channels_per_client, missed, cluster } => {
            let redis = if cluster { target::OwnRedis::Cluster } else { target::OwnRedis::One };
            let needs = target::Needs { per_client: channels_per_client, redis, ..channels.into() };
            (scenario::repair::run(&options, needs, missed)?, options)
        }
        Scenario::Publishers { options, pipeline, data_dir } => {
            (scenario::publishers::run(&options, pipeline, data_dir.as_deref())?, options)
        }
        Scenario::Return { options, channels, missed, stay } => (scenario::coming_back::run(&options, channels, missed, stay)?, options),
        Scenario::Restart { options, drain_rate } => (scenario::restart::run(&options, drain_rate)?, options),
        Scenario::Reload { options, channels, channels_per_client } => {
            (scenario::reload::run(&options, channels, channels_per_client)?, options)
        }
        Scenario::Echo(options) => (scenario::echo::run(&options)?, options),
    };
    report.finish(&options)
}
