//! Webhooks in: how many signed deliveries a second become finished runs, and how long their senders wait.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::task::LocalSet;

use super::load::{Address, Pace, deliver};
use super::{Bench, Options};
use crate::report::{Report, Target, median, percentile};

const WORKFLOW: &str = "intake";

/// Adds the most there is, and the senders' wait at half of that.
pub fn measure(options: &Options, bench: &Bench, report: &mut Report) -> Result<()> {
    bench.publish(&json!({"name": WORKFLOW, "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input.order }}"}}]}));
    let made = bench.admin().rows("SELECT path, secret FROM meshhook.create_endpoint($1)", &[&WORKFLOW]);
    let (path, secret): (String, String) = (made[0].get(0), made[0].get(1));
    let address = |kind: &str, round: usize| Address {
        server: bench.sidecar.address(),
        path: path.clone(),
        secret: secret.clone(),
        prefix: format!("{kind}_{round}_"),
    };
    let length = Duration::from_secs(options.seconds);
    held(bench, options, address("warm", 0), length / 4, Pace::Closed)?;

    let (mut rates, mut waits) = (Vec::new(), Vec::new());
    let before = bench.spent();
    for round in 0..options.rounds {
        let (answers, rate) = held(bench, options, address("most", round), length, Pace::Closed)?;
        rates.push(rate);
        waits.push(percentile(&answers, 0.99));
    }
    let most = median(&rates);
    report.check("intake.deliveries_per_second", most, "1/s", Target::AtLeast(1_500.0));
    report.number("intake.wait_p99_at_most", median(&waits), "ms");
    bench.report_cores(report, "intake", before, options.seconds as f64 * options.rounds as f64);

    let (mut halves, mut tails) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let pace = Pace::Open(most / 2.0);
        let (answers, _) = held(bench, options, address("half", round), length, pace)?;
        halves.push(percentile(&answers, 0.5));
        tails.push(percentile(&answers, 0.99));
    }
    report.number("intake.wait_p50_at_half", median(&halves), "ms");
    report.check("intake.wait_p99_at_half", median(&tails), "ms", Target::Below(50.0));
    Ok(())
}

/// Delivers, and tells how many runs a second were begun and had succeeded meanwhile; every delivery's run has to.
fn held(
    bench: &Bench,
    options: &Options,
    address: Address,
    length: Duration,
    pace: Pace,
) -> Result<(Vec<f64>, f64)> {
    let runtime = crate::runtime()?;
    let mut admin = bench.admin();
    let before = bench.ended(WORKFLOW)?;
    let begun: SystemTime = admin.value("SELECT clock_timestamp()", &[]);
    let answers = LocalSet::new().block_on(&runtime, deliver(address, options.connections, length, pace))?;
    let until: SystemTime = admin.value("SELECT clock_timestamp()", &[]);
    let runs = bench.ended(WORKFLOW)? - before;
    ensure!(
        u64::try_from(runs)? == answers.len() as u64,
        "{runs} runs succeeded of {} deliveries",
        answers.len()
    );
    let within: i64 = admin.value(
        "SELECT count(*) FROM meshhook.runs WHERE workflow = $1 AND created_at >= $2 AND finished_at < $3",
        &[&WORKFLOW, &begun, &until],
    );
    Ok((answers, within as f64 / until.duration_since(begun)?.as_secs_f64()))
}
