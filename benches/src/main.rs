//! Benchmarks of meshhook on this machine, over the wire and durably.
//!
//! `meshhook-bench runs` (`make bench`) measures workflows, `meshhook-bench event-store` (`make bench-event-store`)
//! the event store beside Message DB and beside a bare insert, `meshhook-bench replay` (`make bench-replay`) long logs,
//! `meshhook-bench http` (`make bench-http`) webhooks in and calls out.

mod connection;
mod event_store;
mod http;
mod machine;
mod process;
mod replay;
mod report;
mod runs;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Load driver of meshhook.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand, Debug)]
enum Benchmark {
    /// Workflows: runs/s, latency, what idleness costs
    Runs(runs::Options),
    /// The event store: appends beside Message DB and a bare insert, reads, waiting consumers, curves
    EventStore(event_store::Options),
    /// Replaying a long log, and what snapshots cost
    Replay(replay::Options),
    /// Signed webhooks in and HTTP calls out, through the sidecar
    Http(http::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().benchmark {
        Benchmark::Runs(options) => runs::run(&options),
        Benchmark::EventStore(options) => event_store::run(&options),
        Benchmark::Replay(options) => replay::run(&options),
        Benchmark::Http(options) => http::run(&options),
    }
}

/// One thread for the whole driver: it takes little from the cores it shares with the server.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the driver")
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
