//! The event store: appends beside Message DB and beside a bare insert, reads, waiting consumers, and how all that
//! moves with streams, messages and a transaction that is held open.
//!
//! Everybody lives in one private cluster, durable and with the same settings, is called by the same client, and is
//! measured in turn, several short times: what else the machine does hits all alike. Medians are reported. Whatever
//! a client was told to be appended is counted in the tables afterwards; a difference fails the benchmark.

mod append;
mod batch;
mod contender;
mod curves;
mod hold;
mod load;
mod read;
mod server;
mod wait;
mod wire;

use crate::machine;
use crate::report::Report;
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use load::Window;
use server::Server;
use std::path::PathBuf;
use std::time::Duration;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Single appends: ours, Message DB's, a bare insert's
    Append,
    /// Batches of 100 with one call
    Batch,
    /// A category from end to end
    Read,
    /// From a commit to a consumer that waits
    Wait,
    /// Rates by number of streams (minutes)
    Streams,
    /// Rates by number of messages (minutes)
    Messages,
    /// Rates while a transaction is held open (--hold-seconds)
    Hold,
    /// Everything
    All,
}

/// How much of what is done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// What is measured, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "append,batch,read,wait")]
    parts: Vec<Part>,
    /// Numbers of clients that append singly, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    clients: Vec<usize>,
    /// Measured seconds of a sample
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How many times each is measured, in turn with the others
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many times a sample of single appends is taken anew when the rest of the machine was busy
    #[arg(long, default_value_t = 0)]
    retries: usize,
    /// Messages in the category that is read from end to end
    #[arg(long, default_value_t = 1_000_000)]
    read_messages: u64,
    /// Messages whose way to a waiting consumer is measured
    #[arg(long, default_value_t = 500)]
    waits: usize,
    /// Streams at the end of the curve by streams, which begins with 1,000
    #[arg(long, default_value_t = 1_000_000)]
    streams: u64,
    /// Messages at the end of the curve by messages, which begins with 10,000
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// How long a transaction is held open
    #[arg(long, default_value_t = 600)]
    hold_seconds: u64,
    /// How often rates are taken meanwhile
    #[arg(long, default_value_t = 30)]
    hold_sample_seconds: u64,
    /// Line for the cluster's postgresql.conf, name=value; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = crate::parse_setting)]
    settings: Vec<(String, String)>,
    /// SQL to run in each database of ours before anything is measured: to try another index or setting
    #[arg(long, value_name = "FILE")]
    setup: Option<PathBuf>,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "target/bench-event-store.json")]
    output: PathBuf,
}

impl Options {
    /// The load of one sample.
    fn window(&self) -> Window {
        Window { warm_up: Duration::from_millis(500), time: Duration::from_secs_f64(self.seconds) }
    }
}

/// Measures, prints the tables and writes the file.
pub fn run(options: &Options) -> Result<()> {
    let server = Server::start(options)?;
    let runtime = crate::runtime()?;
    let report = runtime
        .block_on(measure(options, &server))
        .inspect_err(|_| machine::print_log_end(server.cluster()))?;
    drop(runtime);
    report.finish(&options.output)
}

async fn measure(options: &Options, server: &Server) -> Result<Report> {
    let mut report = Report::default();
    machine::describe(&mut report, Some(server.cluster().dir()));
    let admin = server.create_store("meshhook").await?;
    machine::describe_server(&mut report, &admin).await?;
    drop(admin);
    server.make_wal().await.context("cannot make WAL ahead")?;
    let wanted = |part| options.parts.contains(&part) || options.parts.contains(&Part::All);
    if wanted(Part::Append) {
        append::measure(options, server, &mut report).await.context("append")?;
    }
    if wanted(Part::Batch) {
        batch::measure(options, server, &mut report).await.context("batch")?;
    }
    if wanted(Part::Read) {
        read::measure(options, server, &mut report).await.context("read")?;
    }
    if wanted(Part::Wait) {
        wait::measure(options, server, &mut report).await.context("wait")?;
    }
    if wanted(Part::Streams) {
        curves::by_streams(options, server, &mut report).await.context("streams")?;
    }
    if wanted(Part::Messages) {
        curves::by_messages(options, server, &mut report).await.context("messages")?;
    }
    if wanted(Part::Hold) {
        hold::measure(options, server, &mut report).await.context("hold")?;
    }
    Ok(report)
}
