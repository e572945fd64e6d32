//! Batches: many messages with one call, and how the other parts fill their stores.

use crate::event_store::Options;
use crate::event_store::contender::{CATEGORY, DATA};
use crate::event_store::server::Server;
use crate::event_store::wire::{Parameters, Wire};
use crate::report::{Report, Target, median};
use anyhow::{Context as _, Result, ensure};
use std::ops::Range;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

const STORE: &str = "batch";

/// Messages in the store at the beginning.
const FILLED: u64 = 10_000;

/// Messages of one call.
const BATCH: u64 = 100;

/// Streams that share a measured batch.
const STREAMS_PER_BATCH: u64 = 10;

/// Messages per second that are wanted.
const RATE: f64 = 100_000.0;

/// Streams of a store that is filled. A multiple of what all loaders have under way: none waits for another's stream.
pub const FILLED_STREAMS: u64 = 1_000;

/// What a call says about each message besides stream, type and data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// Its id and its stream's version.
    Checked,
}

impl Kind {
    /// Its name in the report and that of its statement.
    fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Checked => "checked",
        }
    }
}

/// What is measured in turn with the others.
struct Variant {
    kind: Kind,
    clients: usize,
    wires: Vec<Wire>,
    /// Messages per second.
    rates: Vec<f64>,
    /// Microseconds of the server's CPU a message took.
    server_cpu: Vec<f64>,
    /// Cores that were busy with something else.
    other_cpu: Vec<f64>,
}

/// Adds messages per second, with one connection and with several.
pub async fn measure(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let admin = server.create_store(STORE).await?;
    fill(server, STORE, 0..FILLED, FILLED_STREAMS).await?;
    server.settle(&[STORE]).await?;
    let mut appended = FILLED;
    let mut variants = Vec::new();
    for (kind, clients) in [(Kind::Plain, 1), (Kind::Plain, 8), (Kind::Checked, 1), (Kind::Checked, 8)] {
        let (rates, server_cpu, other_cpu) = (Vec::new(), Vec::new(), Vec::new());
        let mut variant = Variant { kind, clients, wires: Vec::new(), rates, server_cpu, other_cpu };
        for _ in 0..clients {
            variant.wires.push(connect(server, STORE).await?);
        }
        // Backends that have just begun are slow.
        appended += variant.sample(server, options.window().warm_up).await?;
        (variant.rates, variant.server_cpu, variant.other_cpu) = (Vec::new(), Vec::new(), Vec::new());
        variants.push(variant);
    }
    for _ in 0..options.rounds {
        // So many bytes come together here that files made ahead would soon be used up.
        server.checkpoint().await?;
        for variant in &mut variants {
            appended += variant.sample(server, options.window().time).await?;
        }
    }
    let count = "SELECT count(*) FROM meshhook.message";
    let found = u64::try_from(admin.query_one(count, &[]).await?.get::<_, i64>(0))?;
    ensure!(found == appended, "{found} messages in the store after {appended} were appended");
    for variant in &variants {
        let name = |what: &str| format!("batch.{}.{}.{what}", variant.clients, variant.kind.name());
        report.number(name("rate"), median(&variant.rates), "messages/s");
        report.number(name("server_cpu"), median(&variant.server_cpu), "us");
    }
    let others: Vec<f64> = variants.iter().flat_map(|variant| variant.other_cpu.clone()).collect();
    report.number("batch.other_cpu", median(&others), "cores");
    let plain = variants.iter().filter(|variant| variant.kind == Kind::Plain);
    let best = plain.map(|variant| median(&variant.rates)).fold(0.0, f64::max);
    report.check("batch.best_plain", best, "messages/s", Target::AtLeast(RATE));
    Ok(())
}

impl Variant {
    /// Has the clients append for some time and says how many messages that were.
    async fn sample(&mut self, server: &Server, time: Duration) -> Result<u64> {
        let before = server.cpu();
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for wire in self.wires.drain(..) {
            tasks.spawn(append(wire, self.kind, begin + time));
        }
        let mut count = 0;
        while let Some(done) = tasks.join_next().await {
            let (wire, appended) = done?.context("a client failed")?;
            self.wires.push(wire);
            count += appended;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let spent = server.cpu().since(&before);
        self.rates.push(count as f64 / seconds);
        self.server_cpu.push(1e6 * spent.server / count as f64);
        self.other_cpu.push(spent.other() / seconds);
        Ok(count)
    }
}

async fn connect(server: &Server, store: &str) -> Result<Wire> {
    let mut wire = server.client(store).await?;
    wire.prepare(Kind::Plain.name(), "SELECT * FROM meshhook.append_messages($1, $2, $3)").await?;
    let checked = "SELECT * FROM meshhook.append_messages($1, $2, $3, expected_versions => $4, ids => $5)";
    wire.prepare(Kind::Checked.name(), checked).await?;
    Ok(wire)
}

/// Appends batches to streams of its own and says how many messages that were.
async fn append(mut wire: Wire, kind: Kind, end: Instant) -> Result<(Wire, u64)> {
    let names: Vec<String> =
        (0..STREAMS_PER_BATCH).map(|_| format!("{CATEGORY}-{}", Uuid::new_v4())).collect();
    let per_stream = (BATCH / STREAMS_PER_BATCH) as usize;
    let streams: Vec<&str> =
        names.iter().flat_map(|name| std::iter::repeat_n(name.as_str(), per_stream)).collect();
    let mut batches = 0;
    while Instant::now() < end {
        if kind == Kind::Plain {
            wire.query(kind.name(), |out| messages(out, &streams), |_| {}).await?;
        } else {
            // Each message expects its predecessor, those of the same batch too.
            let first = batches * per_stream;
            let versions = (0..streams.len()).map(|n| (first + n % per_stream) as i64 - 1);
            let encode = |out: &mut Parameters<'_>| {
                messages(out, &streams);
                out.int8s(versions);
                out.uuids(streams.iter().map(|_| Uuid::new_v4()));
            };
            wire.query(kind.name(), encode, |_| {}).await?;
        }
        batches += 1;
    }
    Ok((wire, batches as u64 * BATCH))
}

fn messages(out: &mut Parameters<'_>, streams: &[&str]) {
    out.texts(streams.iter().copied());
    out.texts(streams.iter().map(|_| "Deposited"));
    out.jsonbs(streams.iter().map(|_| DATA));
}

/// The name of a stream that [`fill`] made.
pub fn stream(number: u64) -> String {
    format!("{CATEGORY}-{number}")
}

/// Appends the messages of these numbers, each to the stream of its number modulo `streams`.
pub async fn fill(server: &Server, store: &str, numbers: Range<u64>, streams: u64) -> Result<()> {
    /// One for each core that a machine of this kind has.
    const LOADERS: u64 = 2;
    let mut tasks = JoinSet::new();
    for loader in 0..LOADERS {
        let mut wire = connect(server, store).await?;
        let numbers = numbers.clone();
        tasks.spawn(async move {
            let mut first = numbers.start + loader * BATCH;
            while first < numbers.end {
                let names: Vec<String> =
                    (first..numbers.end.min(first + BATCH)).map(|number| stream(number % streams)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                wire.query(Kind::Plain.name(), |out| messages(out, &names), |_| {}).await?;
                first += LOADERS * BATCH;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?.with_context(|| format!("cannot fill {store}"))?;
    }
    Ok(())
}
