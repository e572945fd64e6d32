//! From the commit of an append to a consumer that waits for it.

use crate::event_store::Options;
use crate::event_store::batch::{FILLED_STREAMS, fill};
use crate::event_store::contender::{CATEGORY, Contender, Message};
use crate::event_store::read;
use crate::event_store::server::Server;
use crate::event_store::wire::{Parameters, Wire};
use crate::report::{Report, Target, percentile};
use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use uuid::Uuid;

const STORE: &str = "wait";

/// Milliseconds that are wanted.
const P50: f64 = 2.0;
const P99: f64 = 15.0;

/// Samples that are not counted: they fill caches.
const WARM_UP: usize = 20;

/// Between two appends at least, so that everybody has gone to sleep.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a message may stay away.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a consumer waits.
#[derive(Clone, Copy)]
enum Way {
    /// `CALL meshhook.wait_for_messages`.
    Call,
    /// `LISTEN meshhook_messages`.
    Listen,
}

/// Adds the latencies of both ways.
pub async fn measure(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    server.create_store(STORE).await?;
    fill(server, STORE, 0..10_000, FILLED_STREAMS).await?;
    server.settle(&[STORE]).await?;
    for (word, way) in [("call", Way::Call), ("listen", Way::Listen)] {
        let samples = match (way, latencies(server, way, options.waits).await) {
            // Nobody is promised notifications: what went wrong with them is told, and spoils nothing else.
            (Way::Listen, Err(error)) => {
                report.text(format!("wait.{word}"), format!("{error:#}"));
                continue;
            }
            (_, samples) => samples?,
        };
        let sorted = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let from_commit = sorted(|sample| sample.from_commit);
        for (p, value, target) in [("p50", 0.5, P50), ("p99", 0.99, P99)] {
            let name = format!("wait.{word}.{p}");
            match way {
                Way::Call => {
                    report.check(name, percentile(&from_commit, value), "ms", Target::Below(target));
                }
                Way::Listen => report.number(name, percentile(&from_commit, value), "ms"),
            }
        }
        report.number(format!("wait.{word}.max"), percentile(&from_commit, 1.0), "ms");
        let from_call = sorted(|sample| sample.from_call);
        report.number(format!("wait.{word}.with_append_p50"), percentile(&from_call, 0.5), "ms");
    }
    report.number("wait.samples", options.waits as f64, "");
    Ok(())
}

/// Milliseconds of one message.
struct Sample {
    /// Since the append had returned; 0 if the consumer was even earlier.
    from_commit: f64,
    /// Since the append was called.
    from_call: f64,
}

async fn latencies(server: &Server, way: Way, samples: usize) -> Result<Vec<Sample>> {
    let (report, mut seen) = mpsc::unbounded_channel();
    let (mut consumer, after) = connect(server, way).await?;
    let consumer = tokio::spawn(async move { consume(&mut consumer, way, after, &report).await });
    let mut appender = Contender::Native.connect(server, STORE).await?;
    let stream = format!("{CATEGORY}-{}", Uuid::new_v4());
    let mut results = Vec::new();
    for n in 0..samples + WARM_UP {
        // Not always the same, lest it beats in time with something else.
        tokio::time::sleep(PAUSE + Duration::from_micros(n as u64 * 7_919 % 10_000)).await;
        let message = Message { stream: &stream, number: 0, position: n as i64, id: Uuid::new_v4() };
        let called = Instant::now();
        Contender::Native.append(&mut appender, &message).await?;
        let returned = Instant::now();
        let seen = match tokio::time::timeout(PATIENCE, seen.recv()).await {
            Ok(Some(seen)) => seen,
            // The consumer gave up, and its error says why.
            Ok(None) => break,
            Err(_) => bail!("message {n} was not seen within {PATIENCE:?}"),
        };
        let ms = |since: Instant| seen.saturating_duration_since(since).as_secs_f64() * 1e3;
        if n >= WARM_UP {
            results.push(Sample { from_commit: ms(returned), from_call: ms(called) });
        }
    }
    if consumer.is_finished() {
        consumer.await?.context("the consumer failed")?;
        bail!("the consumer ended early");
    }
    consumer.abort();
    Ok(results)
}

/// Connects a consumer that has read everything there is; also the last position.
async fn connect(server: &Server, way: Way) -> Result<(Wire, i64)> {
    let mut wire = read::connect(server, STORE, 10_000).await?;
    match way {
        Way::Call => wire.prepare("wait", "CALL meshhook.wait_for_messages($1, $2, '10 s')").await?,
        Way::Listen => wire.execute("LISTEN meshhook_messages").await?,
    }
    let mut last = 0;
    loop {
        match read::page(&mut wire, last + 1).await? {
            (0, _) => return Ok((wire, last)),
            (_, position) => last = position,
        }
    }
}

/// Reports the moment at which it has each message.
async fn consume(
    wire: &mut Wire,
    way: Way,
    mut after: i64,
    report: &mpsc::UnboundedSender<Instant>,
) -> Result<()> {
    loop {
        match way {
            Way::Call => {
                let parameters = |out: &mut Parameters<'_>| {
                    out.text(CATEGORY);
                    out.int8(after);
                };
                wire.query("wait", parameters, |_| {}).await?;
            }
            Way::Listen => wire.notification().await?,
        }
        let (count, last) = read::page(wire, after + 1).await?;
        let now = Instant::now();
        for _ in 0..count {
            if report.send(now).is_err() {
                return Ok(());
            }
        }
        after = last;
    }
}
