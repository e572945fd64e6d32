//! Batches: many messages with one call, and how the other parts fill their stores.

use crate::event_store::Options;
use crate::event_store::contender::{self, CATEGORY, DATA};
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

/// [`Kind::Bare`]: what [`contender`] inserts one by one.
const BARE: &str = "INSERT INTO bare (project_id, global_position, stream_id, \"position\", category_hash, \"time\",
                                      id, type, data)
    SELECT 0, nextval('bare_position'), stream_id, \"position\", 4711, clock_timestamp(), id, 'Deposited', data
    FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::jsonb[]) message (stream_id, \"position\", id, data)";

/// What a call says about each message besides stream, type and data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// Its id and its stream's version.
    Checked,
    /// Not a call of ours: one prepared INSERT of as many rows into the bare table.
    Bare,
}

impl Kind {
    /// Its name in the report and that of its statement.
    fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Checked => "checked",
            Kind::Bare => "bare",
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
    contender::create_bare(&admin).await?;
    fill(server, STORE, 0..FILLED, FILLED_STREAMS).await?;
    server.settle(&[STORE]).await?;
    let mut appended = FILLED;
    let mut variants = Vec::new();
    let kinds = [Kind::Plain, Kind::Checked, Kind::Bare];
    for (kind, clients) in kinds.into_iter().flat_map(|kind| [(kind, 1), (kind, 8)]) {
        let (rates, server_cpu, other_cpu) = (Vec::new(), Vec::new(), Vec::new());
        let mut variant = Variant { kind, clients, wires: Vec::new(), rates, server_cpu, other_cpu };
        for _ in 0..clients {
            let mut wire = connect(server, STORE).await?;
            wire.prepare(Kind::Bare.name(), BARE).await?;
            variant.wires.push(wire);
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
    let best = |kind| {
        let rates =
            variants.iter().filter(|variant| variant.kind == kind).map(|variant| median(&variant.rates));
        rates.fold(0.0, f64::max)
    };
    report.check("batch.best_plain", best(Kind::Plain), "messages/s", Target::AtLeast(RATE));
    report.number("batch.best_plain_to_best_bare", best(Kind::Plain) / best(Kind::Bare), "");
    Ok(())
}

impl Variant {
    /// Has the clients append for some time and says how many messages that were in meshhook's store.
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
        Ok(if self.kind == Kind::Bare { 0 } else { count })
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
    // The bare table knows streams by number: those of one client are its own as well.
    let number = (Uuid::new_v4().as_u128() >> 66) as i64;
    let mut batches = 0;
    while Instant::now() < end {
        // Each message follows its predecessor, those of the same batch too.
        let first = batches * per_stream;
        let positions = (0..streams.len()).map(|n| (first + n % per_stream) as i64);
        let encode = |out: &mut Parameters<'_>| match kind {
            Kind::Plain => messages(out, &streams),
            Kind::Checked => {
                messages(out, &streams);
                out.int8s(positions.map(|position| position - 1));
                out.uuids(streams.iter().map(|_| Uuid::new_v4()));
            }
            Kind::Bare => {
                out.int8s((0..streams.len()).map(|n| number + (n / per_stream) as i64));
                out.int8s(positions);
                out.uuids(streams.iter().map(|_| Uuid::new_v4()));
                out.jsonbs(streams.iter().map(|_| DATA));
            }
        };
        wire.query(kind.name(), encode, |_| {}).await?;
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
