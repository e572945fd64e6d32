//! How rates move while a transaction elsewhere is held open, with a snapshot and a transaction id: nothing that
//! dies after it began can be cleared away.

use crate::event_store::Options;
use crate::event_store::append::streams;
use crate::event_store::batch::{FILLED_STREAMS, fill};
use crate::event_store::contender::{CATEGORY, Contender};
use crate::event_store::curves::CLIENTS;
use crate::event_store::load::{self, Window};
use crate::event_store::read::{self, GLOBAL_POSITION};
use crate::event_store::server::Server;
use crate::event_store::wire::Parameters;
use crate::report::{Curve, Report};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const STORE: &str = "hold";

/// The consumer that reads and commits.
const CONSUMER: &str = "bench";

/// Column of what a commit must know of the read.
const TOKEN: usize = 8;

/// Messages in the store at the beginning.
const MESSAGES: u64 = 100_000;

/// Adds the curve. Its first line is from before the transaction, its last from after it.
pub async fn measure(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let admin = server.create_store(STORE).await?;
    let found = "SELECT pg_catalog.to_regproc('meshhook.commit_consumer') IS NOT NULL";
    let with_consumer: bool = admin.query_one(found, &[]).await?.get(0);
    if !with_consumer {
        report.text("hold.consumer", "not installed");
    }
    fill(server, STORE, 0..MESSAGES, FILLED_STREAMS).await?;
    server.settle(&[STORE]).await?;
    // Vacuum must have its chance, and fail.
    admin.batch_execute("ALTER SYSTEM SET autovacuum = on").await?;
    admin.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '10s'").await?;
    admin.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;

    let columns =
        &["seconds held", "appends/s", "append p99 ms", "reads/s", "consumer commits/s", "dead rows"];
    let mut curve = Curve::new("while a transaction is held", columns);
    let clients = load::connect(server, STORE, Contender::Native, streams(CLIENTS)).await?;
    let mut sampler = Sampler { options, server, admin: &admin, with_consumer, clients };
    curve.add(line(0.0, sampler.sample().await?));

    // In the same database, where its snapshot keeps every dead row.
    let holder = server.admin(STORE).await?;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    holder.query("SELECT pg_catalog.pg_current_xact_id(), count(*) FROM pg_catalog.pg_class", &[]).await?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(options.hold_seconds) {
        let rates = sampler.sample().await?;
        curve.add(line(begin.elapsed().as_secs_f64(), rates));
    }
    holder.batch_execute("COMMIT").await?;
    curve.add(line(f64::NAN, sampler.sample().await?));
    report.curve(curve);

    admin.batch_execute("ALTER SYSTEM RESET autovacuum_naptime").await?;
    admin.batch_execute("ALTER SYSTEM RESET autovacuum").await?;
    admin.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
    Ok(())
}

/// A line of the curve, with how long the transaction had been held at its end.
fn line(seconds_held: f64, rates: [f64; 5]) -> Vec<f64> {
    std::iter::once(seconds_held).chain(rates).collect()
}

/// What takes one line of the curve.
struct Sampler<'a> {
    options: &'a Options,
    server: &'a Server,
    admin: &'a Client,
    with_consumer: bool,
    clients: Vec<load::Client>,
}

impl Sampler<'_> {
    /// Takes as long as the time between two lines: commits and reads for a moment each, appends for the rest, since
    /// a store that is held up is one that is used.
    async fn sample(&mut self) -> Result<[f64; 5]> {
        let time = Duration::from_secs_f64(self.options.seconds);
        let commits = if self.with_consumer { consume(self.server, time).await? } else { f64::NAN };
        let reads = read::rate(self.server, STORE, time).await?;
        let warm_up = self.options.window().warm_up;
        let whole = Duration::from_secs(self.options.hold_sample_seconds);
        let window = Window { warm_up, time: whole.saturating_sub(2 * time + warm_up).max(time) };
        let (sample, _) = load::append(self.server, &mut self.clients, window).await?;
        check_newest(self.admin).await?;
        let dead = "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_catalog.pg_stat_all_tables
                    WHERE schemaname = 'meshhook'";
        let dead: i64 = self.admin.query_one(dead, &[]).await?.get(0);
        Ok([sample.rate, sample.latency(0.99), reads, commits, dead as f64])
    }
}

/// Nobody's transaction may keep readers from what was committed.
async fn check_newest(admin: &Client) -> Result<()> {
    let newest = "SELECT max(global_position) FROM meshhook.message";
    let newest: i64 = admin.query_one(newest, &[]).await?.get(0);
    let read = "SELECT count(*) FROM meshhook.read_category($1, $2)";
    let found: i64 = admin.query_one(read, &[&CATEGORY, &newest]).await?.get(0);
    ensure!(found == 1, "the newest message cannot be read");
    Ok(())
}

/// Times per second that a consumer reads ten messages and commits how far it has come.
async fn consume(server: &Server, time: Duration) -> Result<f64> {
    let mut wire = server.client(STORE).await?;
    wire.prepare("read", "SELECT * FROM meshhook.read_consumer($1, $2, batch_size => 10)").await?;
    wire.prepare("commit", "SELECT meshhook.commit_consumer($1, $2, $3)").await?;
    let begin = Instant::now();
    let mut commits = 0;
    while begin.elapsed() < time {
        let mut last = None;
        let consumer = |out: &mut Parameters<'_>| {
            out.text(CONSUMER);
            out.text(CATEGORY);
        };
        wire.query("read", consumer, |row| {
            last = row.int8(GLOBAL_POSITION).zip(row.int8(TOKEN));
        })
        .await?;
        // Faster than the appends were: it has read everything.
        let Some((last, token)) = last else { break };
        let position = |out: &mut Parameters<'_>| {
            out.text(CONSUMER);
            out.int8(last);
            out.int8(token);
        };
        wire.query("commit", position, |_| {}).await.context("cannot commit")?;
        commits += 1;
    }
    ensure!(commits > 0, "the consumer found nothing to read");
    Ok(f64::from(commits) / begin.elapsed().as_secs_f64())
}
