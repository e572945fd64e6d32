//! Single appends, each checked against the stream's version and each a transaction: everybody side by side.

use crate::event_store::Options;
use crate::event_store::contender::{self, CATEGORY, Contender};
use crate::event_store::load::{self, Client, Sample, Streams, Window};
use crate::event_store::server::{MESSAGE_DB, Server};
use crate::report::{Report, Target, median};
use anyhow::{Result, ensure};
use std::time::Duration;

/// The database of everybody but Message DB.
const STORE: &str = "append";

/// Streams of one client.
const STREAMS: usize = 4;

/// Cores that may be busy with something else: the kernel's own part in all this is about a tenth.
const CALM: f64 = 0.2;

/// Clients, and how many times Message DB's rate is wanted.
const RATIOS: [(usize, f64); 3] = [(1, 1.3), (8, 4.5), (32, 6.0)];

/// Which part of a bare insert's rate is wanted.
const PART_OF_BARE: f64 = 0.75;

/// Adds the rates, the latencies and the ratios.
pub async fn measure(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let admin = server.create_store(STORE).await?;
    contender::create_bare(&admin).await?;
    let drop_in = contender::install_drop_in(&admin).await?;
    if !drop_in {
        report.text("append.drop_in", "not installed");
    }
    let contenders: Vec<Contender> =
        Contender::ALL.into_iter().filter(|&contender| drop_in || contender != Contender::DropIn).collect();
    let mut appended = vec![0; contenders.len()];

    // Nobody is measured on an empty table.
    let window = Window { warm_up: Duration::ZERO, time: Duration::from_secs(2) };
    for (contender, appended) in contenders.iter().zip(&mut appended) {
        let mut clients = load::connect(server, STORE, *contender, streams(8)).await?;
        *appended += load::append(server, &mut clients, window).await?.1;
    }
    for &count in &options.clients {
        server.settle(&[STORE, MESSAGE_DB]).await?;
        let samples = rounds(options, server, &contenders, count, &mut appended).await?;
        add(count, &contenders, &samples, report);
    }
    check_counts(&admin, server, &contenders, &appended).await
}

/// Fresh streams for some clients.
pub fn streams(clients: usize) -> impl Iterator<Item = Streams> {
    (0..clients).map(|_| Streams::fresh(STREAMS))
}

/// All samples of one number of clients, by contender.
async fn rounds(
    options: &Options,
    server: &Server,
    contenders: &[Contender],
    count: usize,
    appended: &mut [u64],
) -> Result<Vec<Vec<Sample>>> {
    let window = options.window();
    let mut clients = Vec::new();
    for contender in contenders {
        clients.push(load::connect(server, STORE, *contender, streams(count)).await?);
    }
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for turn in 0..contenders.len() {
            // Another order each time: nobody always comes behind the same one.
            let n = (turn + round) % contenders.len();
            let (sample, appends) = calm_sample(options, server, &mut clients[n], window).await?;
            samples[n].push(sample);
            appended[n] += appends;
        }
    }
    Ok(samples)
}

/// One sample; if the rest of the machine disturbed it, the calmest of several. Also how many appends that took.
async fn calm_sample(
    options: &Options,
    server: &Server,
    clients: &mut Vec<Client>,
    window: Window,
) -> Result<(Sample, u64)> {
    let (mut calmest, mut appended) = load::append(server, clients, window).await?;
    for _ in 0..options.retries {
        if calmest.other_cpu < CALM {
            break;
        }
        // Whoever it was may be done then.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (sample, appends) = load::append(server, clients, window).await?;
        appended += appends;
        if sample.other_cpu < calmest.other_cpu {
            calmest = sample;
        }
    }
    Ok((calmest, appended))
}

fn add(count: usize, contenders: &[Contender], samples: &[Vec<Sample>], report: &mut Report) {
    let of = |contender| contenders.iter().zip(samples).find(|(c, _)| **c == contender).map(|(_, s)| s);
    for (contender, samples) in contenders.iter().zip(samples) {
        let name = |what: &str| format!("append.{count}.{}.{what}", contender.name());
        let middle = |value: &dyn Fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>());
        report.number(name("rate"), middle(&|sample| sample.rate), "/s");
        report.number(name("p50"), middle(&|sample| sample.latency(0.5)), "ms");
        report.number(name("p99"), middle(&|sample| sample.latency(0.99)), "ms");
        report.number(name("server_cpu"), middle(&|sample| sample.server_cpu), "ms");
        report.number(name("client_cpu"), middle(&|sample| sample.client_cpu), "ms");
    }
    // Each had the same neighbours.
    let others: Vec<f64> = samples.iter().flatten().map(|sample| sample.other_cpu).collect();
    report.number(format!("append.{count}.other_cpu"), median(&others), "cores");
    for (one, other) in [
        (Contender::Native, Contender::MessageDb),
        (Contender::Native, Contender::Bare),
        (Contender::DropIn, Contender::MessageDb),
    ] {
        let (Some(ours), Some(theirs)) = (of(one), of(other)) else {
            continue;
        };
        // Within a round both had the same machine: its changes from round to round fall out.
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.rate / b.rate).collect();
        let name = format!("append.{count}.{}_to_{}", one.name(), other.name());
        let times = RATIOS.iter().find(|(clients, _)| *clients == count).map(|(_, ratio)| *ratio);
        match (one, other, times) {
            (_, Contender::Bare, _) => {
                report.check(name, median(&ratios), "x", Target::AtLeast(PART_OF_BARE));
            }
            (Contender::Native, _, Some(times)) => {
                report.check(name, median(&ratios), "x", Target::AtLeast(times));
            }
            _ => report.number(name, median(&ratios), "x"),
        }
    }
}

/// Whoever said that it appended must have done so.
async fn check_counts(
    admin: &tokio_postgres::Client,
    server: &Server,
    contenders: &[Contender],
    appended: &[u64],
) -> Result<()> {
    let message_db = server.admin(MESSAGE_DB).await?;
    let ours = "SELECT count(*) FROM meshhook.message";
    for (whose, client, count) in [
        (&[Contender::Native, Contender::DropIn][..], admin, ours),
        (&[Contender::Bare][..], admin, "SELECT count(*) FROM bare"),
        (&[Contender::MessageDb][..], &message_db, "SELECT count(*) FROM message_store.messages"),
    ] {
        let said = contenders.iter().zip(appended).filter(|(c, _)| whose.contains(c)).map(|(_, n)| n);
        let (said, found): (u64, i64) = (said.sum(), client.query_one(count, &[]).await?.get(0));
        ensure!(u64::try_from(found)? == said, "{found} messages of {CATEGORY} for {said} appends: {count}");
    }
    Ok(())
}
