//! Runs: what one Postgres with meshhook does on this machine, over the wire and durably.
//!
//! A workflow of three `task` nodes is started by a few connections and worked on by a few executors, all in this
//! one thread so that the driver takes little from the cores it shares with the server. Figures are taken from the
//! log and from the server's own counters, not from what the driver believes; a run that did not succeed, or whose
//! state differs from its replay, fails the benchmark.

pub mod beside;
mod driver;
mod idle;
mod latency;
mod load;
mod snapshot;
mod target;

use crate::machine;
use crate::report::Report;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use target::Target;

/// How much of what is done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Database that has the extension; its user must be a superuser. Without it: a private cluster,
    /// preloaded, fsync on, deleted at the end
    #[arg(long, env = "MESHHOOK_BENCH_URL")]
    database_url: Option<String>,
    /// Line for the private cluster's postgresql.conf, name=value; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = crate::parse_setting)]
    settings: Vec<(String, String)>,
    /// Connections that start runs
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Connections that claim and complete jobs
    #[arg(long, default_value_t = 2)]
    executors: usize,
    /// Jobs claimed and completed at once, and runs per transaction in batched mode
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// Most runs under way at a time
    #[arg(long, default_value_t = 2_000)]
    in_flight: usize,
    /// How long an executor that found nothing waits for a notification, in milliseconds
    #[arg(long, default_value_t = 5)]
    poll_ms: u64,
    /// Seconds of load before the measured ones
    #[arg(long, default_value_t = 5)]
    warm_up_seconds: u64,
    /// Measured seconds of load; 0 leaves the load out
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Runs, one at a time, whose latency is measured; 0 leaves that out
    #[arg(long, default_value_t = 300)]
    latency_runs: usize,
    /// Seconds in which nothing is done and queries are counted; 0 leaves that out
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Show the statements that took most time; they are counted by pg_stat_statements, which costs some speed
    #[arg(long)]
    statements: bool,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "target/bench.json")]
    output: PathBuf,
}

/// Measures, prints the table and writes the file.
pub fn run(options: &Options) -> Result<()> {
    // The cluster lives outside the runtime: its kit talks to the server in its own, blocking way.
    let target = Target::open(options)?;
    let runtime = crate::runtime()?;
    let report = runtime.block_on(measure(options, &target)).inspect_err(|_| target.print_log_end())?;
    drop(runtime);
    report.finish(&options.output)
}

async fn measure(options: &Options, target: &Target) -> Result<Report> {
    let admin = target.admin().await?;
    let mut report = Report::default();
    machine::describe(&mut report, target.folder());
    machine::describe_server(&mut report, &admin).await?;
    target.prepare(&admin).await?;
    if options.seconds > 0 {
        load::measure(load::Mode::Single, options, target, &admin, &mut report).await?;
        load::measure(load::Mode::Batched, options, target, &admin, &mut report).await?;
    }
    if options.latency_runs > 0 {
        latency::measure(options, target, &admin, &mut report).await?;
    }
    target.check_replay(&admin, &mut report).await?;
    if options.statements {
        target.print_statements(&admin).await?;
    }
    if options.idle_seconds > 0 {
        drop(admin);
        idle::measure(Duration::from_secs(options.idle_seconds), target, &mut report).await?;
    }
    Ok(report)
}
