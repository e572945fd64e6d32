//! Reading a category from end to end.

use crate::event_store::Options;
use crate::event_store::batch::{FILLED_STREAMS, fill};
use crate::event_store::contender::CATEGORY;
use crate::event_store::server::Server;
use crate::event_store::wire::{Parameters, Wire};
use crate::report::{Report, Target, median};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Column of a message's global position.
pub const GLOBAL_POSITION: usize = 4;

/// Messages per second that are wanted.
const RATE: f64 = 300_000.0;

/// Each of them takes long, and one reading is much like the other.
const MAX_ROUNDS: usize = 3;

/// The name under which each reader prepares its statement.
const PAGE: &str = "page";

/// Adds messages per second by size of page and number of readers.
pub async fn measure(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    server.create_store("read").await?;
    fill(server, "read", 0..options.read_messages, FILLED_STREAMS).await?;
    server.settle(&["read"]).await?;
    let mut samples: Vec<((u32, usize), Vec<f64>)> =
        [(1_000, 1), (10_000, 1), (1_000, 2), (10_000, 2)].map(|variant| (variant, Vec::new())).into();
    // The first one fills caches.
    to_the_end(&mut connect(server, "read", 10_000).await?).await?;
    for _ in 0..options.rounds.min(MAX_ROUNDS) {
        for ((page, readers), rates) in &mut samples {
            let mut wires = Vec::new();
            for _ in 0..*readers {
                wires.push(connect(server, "read", *page).await?);
            }
            let begin = Instant::now();
            let mut tasks = JoinSet::new();
            for mut wire in wires {
                tasks.spawn(async move { to_the_end(&mut wire).await });
            }
            let mut count = 0;
            while let Some(read) = tasks.join_next().await {
                let read = read?.context("a reader failed")?;
                ensure!(read == options.read_messages, "a reader found {read} messages");
                count += read;
            }
            rates.push(count as f64 / begin.elapsed().as_secs_f64());
        }
    }
    for ((page, readers), rates) in &samples {
        let name = format!("read.{readers}.pages_of_{page}");
        report.check(name, median(rates), "messages/s", Target::AtLeast(RATE));
    }
    Ok(())
}

/// Connects a reader.
pub async fn connect(server: &Server, store: &str, page: u32) -> Result<Wire> {
    let mut wire = server.client(store).await?;
    let sql = format!("SELECT * FROM meshhook.read_category($1, $2, {page})");
    wire.prepare(PAGE, &sql).await?;
    Ok(wire)
}

/// Reads one page: how many messages, and the last one's position. Messages must be in order.
pub async fn page(wire: &mut Wire, from: i64) -> Result<(u64, i64)> {
    let mut last = from - 1;
    let mut in_order = true;
    let parameters = |out: &mut Parameters<'_>| {
        out.text(CATEGORY);
        out.int8(from);
    };
    let count = wire
        .query(PAGE, parameters, |row| {
            let position = row.int8(GLOBAL_POSITION).unwrap_or(0);
            in_order &= position > last;
            last = position;
        })
        .await?;
    ensure!(in_order, "messages from {from} on came out of order");
    Ok((count, last))
}

async fn to_the_end(wire: &mut Wire) -> Result<u64> {
    let (mut count, mut from) = (0, 1);
    loop {
        let (read, last) = page(wire, from).await?;
        if read == 0 {
            return Ok(count);
        }
        count += read;
        from = last + 1;
    }
}

/// Messages per second that one reader gets in pages of 1,000, over and over again from the first to the last.
pub async fn rate(server: &Server, store: &str, time: Duration) -> Result<f64> {
    let mut wire = connect(server, store, 1_000).await?;
    // The first calls plan, and fill the backend's caches.
    for _ in 0..10 {
        page(&mut wire, 1).await?;
    }
    let begin = Instant::now();
    let (mut count, mut from) = (0, 1);
    while begin.elapsed() < time {
        let (read, last) = page(&mut wire, from).await?;
        from = if read == 0 { 1 } else { last + 1 };
        count += read;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}
