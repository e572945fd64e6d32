//! Runs while a long log is replayed again and again: what replays take from them.
//!
//! One load goes on all the time; whether somebody replays meanwhile changes every few seconds, so that what else the
//! machine does hits all alike.

use crate::connection::connect;
use crate::report::{Report, Target as Goal, median};
use crate::runs::Options;
use crate::runs::driver::Shared;
use crate::runs::load::hold;
use crate::runs::target::Target;
use anyhow::{Result, bail};
use clap::Parser;
use serde_json::json;
use std::cell::Cell;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Config};
use uuid::Uuid;

/// Replays in a second where they have a rate.
const RATE: u32 = 10;
/// Items of the map whose log is replayed; each makes three events.
const ITEMS: i32 = 333;
/// After each change, before it counts.
const SETTLE: Duration = Duration::from_secs(1);
/// At the long run, 50 ms apart, until it must have succeeded.
const LOOKS: usize = 1_200;
const WARM_UP: Duration = Duration::from_secs(5);

/// The usual benchmark of runs, as it is without arguments.
#[derive(Parser, Debug)]
struct Usual {
    #[command(flatten)]
    options: Options,
}

/// Who replays meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replays {
    /// Nobody.
    None,
    /// One session, [`RATE`] times a second.
    AtRate,
    /// One session, without pause.
    WithoutPause,
}

/// What was counted while it was so.
#[derive(Default)]
struct Counted {
    runs: Vec<f64>,
    replays: Vec<f64>,
}

/// Adds runs/s alone and beside replays.
pub fn measure(rounds: usize, seconds: u64, report: &mut Report) -> Result<()> {
    let options = Usual::try_parse_from(["meshhook-bench"])?.options;
    let target = Target::open(&options)?;
    let runtime = crate::runtime()?;
    let [alone, at_rate, without_pause] = runtime
        .block_on(count(&options, &target, rounds, Duration::from_secs(seconds)))
        .inspect_err(|_| target.print_log_end())?;
    let usual = median(&alone.runs);
    report.number("beside.runs_alone", usual, "runs/s");
    report.number("beside.replays_at_rate", median(&at_rate.replays), "/s of 1,000 events");
    report.number("beside.runs_at_rate", median(&at_rate.runs), "runs/s");
    report.check("beside.ratio_at_rate", median(&at_rate.runs) / usual, "", Goal::AtLeast(0.9));
    report.number("beside.replays_without_pause", median(&without_pause.replays), "/s of 1,000 events");
    report.number("beside.runs_without_pause", median(&without_pause.runs), "runs/s");
    report.number("beside.ratio_without_pause", median(&without_pause.runs) / usual, "");
    Ok(())
}

async fn count(options: &Options, target: &Target, rounds: usize, window: Duration) -> Result<[Counted; 3]> {
    let admin = target.admin().await?;
    target.prepare(&admin).await?;
    let long = long_run(&admin).await?;
    let shared = Shared::new(options.in_flight);
    let (mode, replays) = (Cell::new(Replays::None), Cell::new(0_u64));
    let mut counted: [Counted; 3] = Default::default();
    hold(&shared, 1, options, target, &admin, async || {
        let watch = async {
            shared.sleep(WARM_UP).await?;
            for round in 0..rounds {
                for step in 0..3 {
                    // Another one first in each round.
                    let which = (round + step) % 3;
                    mode.set([Replays::None, Replays::AtRate, Replays::WithoutPause][which]);
                    shared.sleep(SETTLE).await?;
                    let (begun, before, replayed) = (Instant::now(), shared.finished.get(), replays.get());
                    shared.sleep(window).await?;
                    let seconds = begun.elapsed().as_secs_f64();
                    counted[which].runs.push((shared.finished.get() - before) as f64 / seconds);
                    counted[which].replays.push((replays.get() - replayed) as f64 / seconds);
                }
            }
            anyhow::Ok(())
        };
        tokio::select! {
            done = watch => done,
            failed = replay(target.application("bench replayer"), long, &mode, &replays) => failed,
        }
    })
    .await?;
    Ok(counted)
}

/// A run of about a thousand events, ended.
async fn long_run(admin: &Client) -> Result<Uuid> {
    let body = json!({"nodes": [{"id": "t", "type": "transform", "with": {"output": "{{ .index }}"}}]});
    let items = format!("{{{{ [range({ITEMS})] }}}}");
    let definition = json!({"name": "long", "nodes": [
        {"id": "each", "type": "map", "with": {"items": items, "concurrency": 100, "body": body}}]});
    admin.query_one("SELECT meshhook.publish_workflow($1)", &[&definition]).await?;
    let run: Uuid = admin.query_one("SELECT meshhook.start_run('long')", &[]).await?.get(0);
    for _ in 0..LOOKS {
        let status = "SELECT status::text FROM meshhook.runs WHERE run_id = $1";
        if admin.query_one(status, &[&run]).await?.get::<_, &str>(0) == "succeeded" {
            return Ok(run);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the long run does not succeed")
}

/// Replays and verifies the run in turn, as often as `mode` says, until it is dropped.
async fn replay(config: Config, run: Uuid, mode: &Cell<Replays>, replays: &Cell<u64>) -> Result<()> {
    let (client, _) = connect(&config).await?;
    let calls = [
        client.prepare("SELECT meshhook.replay_run($1, use_snapshots => false)").await?,
        client.prepare("SELECT * FROM meshhook.verify_run($1)").await?,
    ];
    let mut pace = tokio::time::interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut calls = calls.iter().cycle();
    loop {
        if mode.get() != Replays::WithoutPause {
            pace.tick().await;
        }
        if mode.get() == Replays::None {
            continue;
        }
        if let Some(call) = calls.next() {
            client.query(call, &[&run]).await?;
        }
        replays.set(replays.get() + 1);
    }
}
