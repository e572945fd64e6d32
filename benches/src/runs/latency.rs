//! How long one run takes when nothing else goes on.

use crate::connection::connect;
use crate::report::{Report, percentile};
use crate::runs::Options;
use crate::runs::driver::{Shared, executor};
use crate::runs::target::{NAME, Target};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::LocalSet;
use tokio_postgres::Client;
use uuid::Uuid;

/// Runs that are not counted: they fill caches.
const WARM_UP: usize = 20;

/// Between two runs, so that everything has gone to sleep.
const PAUSE: Duration = Duration::from_millis(10);

/// What an executor waits for a notification here: long, so that a lost one shows.
const SAFETY_POLL: Duration = Duration::from_secs(1);

struct Sample {
    called: SystemTime,
    start_ms: f64,
    seen_ms: f64,
}

/// Adds the latency of single runs, from the client's call to the end as the client sees it and as the log
/// records it (client and server share a clock when they share a machine).
pub async fn measure(options: &Options, target: &Target, admin: &Client, report: &mut Report) -> Result<()> {
    let shared = Shared::new(1);
    let mut samples: HashMap<Uuid, Sample> = HashMap::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            let config = target.executor("bench executor");
            tokio::task::spawn_local(executor(Rc::clone(&shared), config, options.batch, SAFETY_POLL));
            let (client, _) = connect(&target.application("bench starter")).await?;
            let start = client.prepare("SELECT meshhook.start_run($1, $2)").await?;
            let wait = client.prepare("CALL meshhook.await_run($1, '10 s')").await?;
            for n in 0..options.latency_runs + WARM_UP {
                shared.sleep(PAUSE).await?;
                let input = serde_json::json!({"n": n});
                let called = SystemTime::now();
                let clock = Instant::now();
                let run: Uuid = client.query_one(&start, &[&NAME, &input]).await?.get(0);
                let start_ms = clock.elapsed().as_secs_f64() * 1e3;
                let row = client.query_one(&wait, &[&run]).await?;
                let seen_ms = clock.elapsed().as_secs_f64() * 1e3;
                let status: Option<&str> = row.get(0);
                // An executor's failure is the better explanation.
                shared.sleep(Duration::ZERO).await?;
                ensure!(status == Some("succeeded"), "run {run} ended as {status:?}");
                if n >= WARM_UP {
                    samples.insert(run, Sample { called, start_ms, seen_ms });
                }
            }
            anyhow::Ok(())
        })
        .await?;
    drop(local);

    let ids: Vec<Uuid> = samples.keys().copied().collect();
    let ends = "SELECT run_id, finished_at FROM meshhook.runs WHERE run_id = ANY($1)";
    let mut logged = Vec::new();
    for row in admin.query(ends, &[&ids]).await? {
        let end: SystemTime = row.get(1);
        if let Some(sample) = samples.get(&row.get(0)) {
            // The log's clock may have been read a little earlier than this process read the same one.
            let elapsed = end.duration_since(sample.called).unwrap_or_default();
            logged.push(elapsed.as_secs_f64() * 1e3);
        }
    }
    let of = |value: fn(&Sample) -> f64| samples.values().map(value).collect::<Vec<f64>>();
    for (what, mut values) in [
        ("client", of(|sample| sample.seen_ms)),
        ("log", logged),
        ("start_call", of(|sample| sample.start_ms)),
    ] {
        values.sort_by(f64::total_cmp);
        report.number(format!("idle_latency.{what}_p50"), percentile(&values, 0.5), "ms");
        report.number(format!("idle_latency.{what}_p99"), percentile(&values, 0.99), "ms");
    }
    report.number("idle_latency.samples", samples.len() as f64, "runs");
    report.number("idle_latency.jobs_not_announced", shared.unannounced.get() as f64, "");
    Ok(())
}
