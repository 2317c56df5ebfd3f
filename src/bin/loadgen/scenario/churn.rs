//! Clients come and go while messages flow. Each must get, from the moment it is ready until it leaves, everything in order.

use anyhow::Result;
use serde_json::json;

use crate::args::Options;
use crate::crowd::{Expects, Habits};
use crate::pick::Pick;
use crate::report::Report;
use crate::run::{Run, whole};

pub fn run(options: &Options, percent_per_second: f64) -> Result<Report> {
    whole("churn", options, 1, |run| churn(run, percent_per_second))
}

fn churn(run: &mut Run, percent_per_second: f64) -> Result<()> {
    let Some(mut crowd) = run.connect(&Habits::default(), |_| 0)? else { return Ok(()) };
    // Who is there when is not known beforehand, so neither is how much will come.
    crowd.expects = Expects::Each;
    let connected_before = crowd.counts().connected;
    let schedule = run.schedule(20.0, 1, 100, Pick::new(1, 0.0));
    crowd.churn(f64::from(crowd.clients) * percent_per_second / 100.0);
    // Publishing ends it.
    let round = run.publish("churning", &crowd, schedule, |_, _| {})?;
    let all = u64::from(crowd.clients);
    run.until("coming back", &crowd, None, |counts| counts.ready + counts.ended >= all);
    let (replaced, ready) = (crowd.counts().connected - connected_before, crowd.counts().ready);
    run.report.headline("clients replaced", replaced.to_string());
    run.report.set("churn", json!({"replaced": replaced, "percent_per_second": percent_per_second}));
    run.report.round(&round);
    if ready < all {
        run.report.fail(format!("{ready} of {all} clients are connected in the end"));
    }
    if replaced == 0 {
        run.report.fail("no client was replaced: give more --messages, or more --churn");
    }
    run.check(&crowd, &[])?;
    crowd.end();
    Ok(())
}
