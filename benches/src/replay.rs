//! Replay: what it costs to fold a long log, with and without snapshots, what writing snapshots costs, and what replays
//! take from runs beside them.
//!
//! The logs are those of real runs, moved by the orchestrator of a private cluster, durable: maps of inline nodes, whose
//! state keeps what came out of every item, and loops of them, whose state keeps next to nothing. With and without
//! snapshots are measured in turn, several times: what else the machine does hits both alike.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use meshhook_testkit::{Cluster, Session};
use serde_json::{Value, json};

use crate::machine;
use crate::report::{Report, Target, median, percentile};
use crate::runs::beside;

/// Items of one map, and iterations of one loop: the most there may be.
const ITEMS: i64 = 10_000;
/// Events of one item: begun, the node's, done.
const ITEM_EVENTS: i64 = 3;
/// Longest a run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How much of what is done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Events of the long run, about
    #[arg(long, default_value_t = 100_000)]
    events: i64,
    /// Calls of each kind that are measured
    #[arg(long, default_value_t = 50)]
    calls: usize,
    /// Measurements with snapshots, each beside one without
    #[arg(long, default_value_t = 40)]
    pairs: usize,
    /// Rounds of runs alone and beside replays; 0 leaves that out
    #[arg(long, default_value_t = 5)]
    beside_rounds: usize,
    /// Seconds of each such measurement
    #[arg(long, default_value_t = 6)]
    beside_seconds: u64,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "target/bench-replay.json")]
    output: PathBuf,
}

/// Measures, prints the table and writes the file.
pub fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::builder()
        .setting("shared_preload_libraries", "meshhook")
        .setting("meshhook.max_run_events", "0")
        .setting("shared_buffers", "256MB")
        .setting("log_min_messages", "warning")
        .start();
    cluster.create_database("replay");
    let mut report = Report::default();
    machine::describe(&mut report, Some(cluster.dir()));
    let mut session = cluster.superuser("replay");
    let measured = ["map", "repeat"]
        .iter()
        .try_for_each(|kind| reading(options, kind, &mut session, &mut report))
        .and_then(|()| writing(options, &cluster, &mut session, &mut report));
    measured.inspect_err(|_| machine::print_log_end(&cluster))?;
    drop(session);
    drop(cluster);
    if options.beside_rounds > 0 {
        beside::measure(options.beside_rounds, options.beside_seconds, &mut report)?;
    }
    report.finish(&options.output)
}

/// One map or loop behind the other.
fn definition(name: &str, kind: &str, many: i64, items: i64) -> Value {
    let node = |n: i64| {
        let body = json!({"nodes": [{"id": format!("t{n}"), "type": "transform", "with": {"output": "{{ .index }}"}}]});
        let with = if kind == "map" {
            json!({"items": format!("{{{{ [range({items})] }}}}"), "concurrency": 100, "body": body})
        } else {
            json!({"until": format!(".index >= {}", items - 1), "max_iterations": items, "body": body})
        };
        json!({"id": format!("n{n}"), "type": kind, "with": with})
    };
    let edge = |n: i64| json!({"from": format!("n{n}"), "to": format!("n{}", n + 1)});
    json!({"name": name, "nodes": (0..many).map(node).collect::<Vec<_>>(),
        "edges": (0..many - 1).map(edge).collect::<Vec<_>>()})
}

/// Starts runs and waits until all have succeeded.
fn finish(session: &mut Session, workflow: &str, runs: i32) -> Result<()> {
    let begun = Instant::now();
    let start = "SELECT count(meshhook.start_run($1)) FROM generate_series(1, $2::integer)";
    session.value::<i64>(start, &[&workflow, &runs]);
    let open = "SELECT count(*) FROM meshhook.runs WHERE workflow = $1 AND finished_at IS NULL";
    while session.value::<i64>(open, &[&workflow]) > 0 {
        ensure!(begun.elapsed() < LIMIT, "runs of {workflow} were open after {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let failed = "SELECT count(*) FROM meshhook.runs WHERE workflow = $1 AND status <> 'succeeded'";
    ensure!(session.value::<i64>(failed, &[&workflow]) == 0, "a run of {workflow} did not succeed");
    Ok(())
}

/// What a long log costs to read.
fn reading(options: &Options, kind: &str, session: &mut Session, report: &mut Report) -> Result<()> {
    let many = (options.events / (ITEMS * ITEM_EVENTS)).max(1) + 1;
    session.value::<i32>("SELECT meshhook.publish_workflow($1)", &[&definition(kind, kind, many, ITEMS)]);
    finish(session, kind, 1)?;
    let run: uuid::Uuid = session.value("SELECT run_id FROM meshhook.runs WHERE workflow = $1", &[&kind]);
    let events: i64 = session.value("SELECT position FROM meshhook.run WHERE run_id = $1", &[&run]);
    report.number(format!("{kind}.events"), events as f64, "events");

    let mut rates = Vec::new();
    for _ in 0..options.calls.div_ceil(10) {
        let debug: Value = session.value(
            "SELECT meshhook.replay_run($1, use_snapshots => false, debug => true) -> 'debug'",
            &[&run],
        );
        let milliseconds = debug["duration_ms"].as_f64().unwrap_or(f64::INFINITY);
        rates.push(debug["events_applied"].as_f64().unwrap_or(0.0) * 1_000.0 / milliseconds);
    }
    report.check(format!("{kind}.replay_from_zero"), median(&rates), "events/s", Target::AtLeast(300_000.0));

    session.exec("DELETE FROM meshhook.snapshot");
    report.number(format!("{kind}.run_state_without_snapshots_p50"), call(session, run, 5).0, "ms");
    session.value::<i64>("SELECT meshhook.create_snapshot($1)", &[&run]);
    let size: i32 =
        session.value("SELECT octet_length(state) FROM meshhook.snapshot WHERE run_id = $1", &[&run]);
    report.number(format!("{kind}.snapshot"), f64::from(size), "B");
    let (p50, p99) = call(session, run, options.calls);
    report.check(format!("{kind}.run_state_p50"), p50, "ms", Target::Below(10.0));
    report.number(format!("{kind}.run_state_p99"), p99, "ms");
    let same = "SELECT meshhook.replay_run($1)::text = meshhook.replay_run($1, use_snapshots => false)::text";
    ensure!(
        session.value::<bool>(same, &[&run]),
        "a replay from a snapshot differs from one from the first event"
    );
    Ok(())
}

/// Half and 99 % of the calls of `run_state` take at most so many milliseconds.
fn call(session: &mut Session, run: uuid::Uuid, calls: usize) -> (f64, f64) {
    let mut times: Vec<f64> = (0..calls)
        .map(|_| {
            let begun = Instant::now();
            session.value::<i64>("SELECT (meshhook.run_state($1) ->> 'position')::bigint", &[&run]);
            begun.elapsed().as_secs_f64() * 1_000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (percentile(&times, 0.5), percentile(&times, 0.99))
}

/// What snapshots cost the runs that get them.
fn writing(options: &Options, cluster: &Cluster, session: &mut Session, report: &mut Report) -> Result<()> {
    session.value::<i32>("SELECT meshhook.publish_workflow($1)", &[&definition("many", "map", 1, ITEMS)]);
    finish(session, "many", 1)?;
    let mut timed = |on: bool| -> Result<f64> {
        for (setting, default) in [("snapshot_events", "5000"), ("snapshot_bytes", "'1MB'")] {
            let value = if on { default } else { "0" };
            session.exec(&format!("ALTER SYSTEM SET meshhook.{setting} = {value}"));
        }
        cluster.reload();
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        finish(session, "many", 2)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..options.pairs {
        // Either is first in turn, and each is compared with its neighbour alone: what else the machine does comes and
        // goes within seconds, and would outweigh what is measured.
        let with_first = pair % 2 == 0;
        let (first, second) = (timed(with_first)?, timed(!with_first)?);
        let (on, off) = if with_first { (first, second) } else { (second, first) };
        with.push(on);
        without.push(off);
        ratios.push(on / off);
    }
    let written: i64 = session.value("SELECT count(*) FROM meshhook.snapshot", &[]);
    ensure!(written > 1, "no snapshot was written");
    report.number("snapshots.seconds_with", median(&with), "s");
    report.number("snapshots.seconds_without", median(&without), "s");
    let cost = (median(&ratios) - 1.0) * 100.0;
    report.check("snapshots.cost", cost, "%", Target::Below(3.0));
    Ok(())
}
