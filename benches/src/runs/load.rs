//! Sustained load: as many runs as the server carries.

use crate::report::Report;
use crate::runs::Options;
use crate::runs::driver::{Shared, executor, starter};
use crate::runs::snapshot::{Snapshot, transactions};
use crate::runs::target::{NAME, Target};
use anyhow::{Result, ensure};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};
use tokio_postgres::Client;

/// How long the runs under way may take to end once no further ones are started.
const DRAIN: Duration = Duration::from_secs(120);

/// How runs are started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One call per run, each a transaction.
    Single,
    /// As many runs per statement and transaction as a batch holds.
    Batched,
}

/// Adds what the server carries in this mode.
pub async fn measure(
    mode: Mode,
    options: &Options,
    target: &Target,
    admin: &Client,
    report: &mut Report,
) -> Result<()> {
    let (prefix, per_transaction) = match mode {
        Mode::Single => ("single", 1),
        Mode::Batched => ("batched", u32::try_from(options.batch)?),
    };
    let observer = target.observer().await?;
    let runs_before = count_runs(admin).await?;
    // Each mode starts from the same place.
    admin.batch_execute("CHECKPOINT").await?;
    let transactions_before = transactions(&observer, target.database()).await?;

    let shared = Shared::new(options.in_flight.max(options.batch * options.connections));
    let (before, after) = hold(&shared, per_transaction, options, target, admin, async || {
        shared.sleep(Duration::from_secs(options.warm_up_seconds)).await?;
        let before = Snapshot::take(admin).await?;
        shared.sleep(Duration::from_secs(options.seconds)).await?;
        Ok((before, Snapshot::take(admin).await?))
    })
    .await?;

    let runs = count_runs(admin).await? - runs_before;
    ensure!(
        u64::try_from(runs)? == shared.started.get(),
        "{runs} runs succeeded of {} started",
        shared.started.get()
    );
    let transactions = transactions(&observer, target.database()).await? - transactions_before;

    let seconds = after.seconds_since(&before);
    let in_window = "SELECT pg_catalog.count(*),
            pg_catalog.percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP
                (ORDER BY 1e3 * extract(epoch FROM finished_at - created_at)::float8)
         FROM meshhook.runs WHERE finished_at >= $1 AND finished_at < $2";
    let row = admin.query_one(in_window, &[&before.at, &after.at]).await?;
    let finished = row.get::<_, i64>(0) as f64;
    let latencies: Option<Vec<f64>> = row.get(1);
    ensure!(finished > 0.0, "no run ended in the measured window");
    let events =
        "SELECT pg_catalog.count(*) FROM meshhook.run_event WHERE created_at >= $1 AND created_at < $2";
    let events = admin.query_one(events, &[&before.at, &after.at]).await?.get::<_, i64>(0) as f64;
    let wal = (after.wal - before.wal) as f64;

    let name = |what: &str| format!("{prefix}.{what}");
    report.number(name("runs_per_second"), finished / seconds, "runs/s");
    report.number(name("events_per_second"), events / seconds, "events/s");
    report.number(name("wal_per_run"), wal / finished, "B");
    report.number(name("wal_per_event"), wal / events, "B");
    // Over the whole of this mode, since the counters lag too much for a window.
    report.number(name("transactions_per_run"), transactions as f64 / runs as f64, "");
    for (what, latency) in ["latency_p50", "latency_p99"].iter().zip(latencies.unwrap_or_default()) {
        report.number(name(what), latency, "ms");
    }
    let checkpoints = if after.checkpoint == before.checkpoint { "none" } else { "at least one" };
    report.text(name("checkpoints"), checkpoints);
    let cpu = after.cpu_since(&before);
    for (who, spent) in &cpu {
        report.number(name(&format!("cpu_{who}")), spent / seconds, "cores");
    }
    // Least sensitive to what else the machine does; absent when the server is elsewhere.
    if !cpu.is_empty() {
        let server: f64 = cpu.iter().filter(|(who, _)| *who != "driver").map(|(_, spent)| spent).sum();
        report.number(name("server_cpu_per_run"), 1e3 * server / finished, "ms");
    }
    Ok(())
}

/// Holds the server under load for as long as `watch` looks, then lets what was started end.
pub async fn hold<T>(
    shared: &Rc<Shared>,
    per_transaction: u32,
    options: &Options,
    target: &Target,
    admin: &Client,
    watch: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    // Executors end with it, so that their backends have reported what they did when it is read.
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut starters = JoinSet::new();
            for _ in 0..options.connections {
                let config = target.application("bench starter");
                starters.spawn_local(starter(Rc::clone(shared), config, per_transaction));
            }
            let mut executors = JoinSet::new();
            for _ in 0..options.executors {
                let poll = Duration::from_millis(options.poll_ms);
                let config = target.executor("bench executor");
                executors.spawn_local(executor(Rc::clone(shared), config, options.batch, poll));
            }
            let seen = watch().await?;
            shared.closing.set(true);
            let closed = Instant::now();
            while !starters.is_empty() || shared.finished.get() < shared.started.get() {
                shared.sleep(Duration::from_millis(10)).await?;
                while starters.try_join_next().is_some() {}
                ensure!(closed.elapsed() < DRAIN, "runs were still under way after {DRAIN:?}");
            }
            wait_until_ended(admin).await?;
            Ok(seen)
        })
        .await
}

async fn count_runs(admin: &Client) -> Result<i64> {
    let count = "SELECT pg_catalog.count(*) FROM meshhook.runs WHERE workflow = $1 AND status = 'succeeded'";
    Ok(admin.query_one(count, &[&NAME]).await?.get(0))
}

/// The last job's completion is not yet the run's end: a turn follows.
async fn wait_until_ended(admin: &Client) -> Result<()> {
    let open = "SELECT pg_catalog.count(*) FROM meshhook.runs WHERE workflow = $1 AND finished_at IS NULL";
    let started = Instant::now();
    while admin.query_one(open, &[&NAME]).await?.get::<_, i64>(0) > 0 {
        ensure!(started.elapsed() < DRAIN, "runs had not ended after {DRAIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
