//! How rates move with the number of streams and of messages.

use crate::event_store::Options;
use crate::event_store::append::streams;
use crate::event_store::batch::{FILLED_STREAMS, fill, stream};
use crate::event_store::contender::Contender;
use crate::event_store::load::{self, Streams};
use crate::event_store::read;
use crate::event_store::server::Server;
use crate::report::{Curve, Report, median};
use anyhow::Result;
use std::time::Duration;

/// Clients that append.
pub const CLIENTS: usize = 8;

/// Messages of every store of the curve by streams: only the streams differ.
const MESSAGES: u64 = 1_000_000;

/// Adds the curve by streams: each point in a store of its own that has as many messages as the others.
pub async fn by_streams(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    let columns = &["streams", "appends/s", "append p50 ms", "append p99 ms", "reads/s"];
    let mut curve = Curve::new("by streams", columns);
    for count in powers_of_ten(1_000, options.streams) {
        let store = format!("streams_{count}");
        server.create_store(&store).await?;
        let messages = MESSAGES.max(count).next_multiple_of(count);
        fill(server, &store, 0..messages, count).await?;
        let streams = (0..CLIENTS as u64).map(|client| {
            let own = (client..count).step_by(CLIENTS);
            Streams::existing(own.map(stream).collect(), (messages / count) as i64)
        });
        curve.add(point(options, server, &store, count, streams).await?);
    }
    report.curve(curve);
    Ok(())
}

/// Adds the curve by messages: one store that grows.
pub async fn by_messages(options: &Options, server: &Server, report: &mut Report) -> Result<()> {
    const STORE: &str = "messages";
    let columns = &["messages", "appends/s", "append p50 ms", "append p99 ms", "reads/s"];
    let mut curve = Curve::new("by messages", columns);
    let admin = server.create_store(STORE).await?;
    let mut filled = 0;
    for target in powers_of_ten(10_000, options.messages) {
        let count = "SELECT count(*) FROM meshhook.message";
        let have = u64::try_from(admin.query_one(count, &[]).await?.get::<_, i64>(0))?;
        // The appends of the last point count as well.
        let more = target.saturating_sub(have);
        fill(server, STORE, filled..filled + more, FILLED_STREAMS).await?;
        filled += more;
        curve.add(point(options, server, STORE, have + more, streams(CLIENTS)).await?);
    }
    report.curve(curve);
    Ok(())
}

/// One line: reads first, since appends change what there is to read.
async fn point(
    options: &Options,
    server: &Server,
    store: &str,
    size: u64,
    streams: impl Iterator<Item = Streams>,
) -> Result<Vec<f64>> {
    server.settle(&[store]).await?;
    let (mut reads, mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        reads.push(read::rate(server, store, Duration::from_secs_f64(options.seconds)).await?);
    }
    let mut clients = load::connect(server, store, Contender::Native, streams).await?;
    for _ in 0..options.rounds {
        let (sample, _) = load::append(server, &mut clients, options.window()).await?;
        rates.push(sample.rate);
        p50.push(sample.latency(0.5));
        p99.push(sample.latency(0.99));
    }
    Ok(vec![size as f64, median(&rates), median(&p50), median(&p99), median(&reads)])
}

fn powers_of_ten(first: u64, last: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(first), |value| value.checked_mul(10)).take_while(move |&value| value <= last)
}
