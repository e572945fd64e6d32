//! Clients that append one message after the other.

use crate::event_store::contender::{CATEGORY, Contender, Message};
use crate::event_store::server::Server;
use crate::event_store::wire::Wire;
use crate::report::percentile;
use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

/// The streams of one client: nobody else appends to them, so it knows their versions.
pub struct Streams {
    names: Vec<String>,
    /// The position that each one's next message gets.
    next: Vec<i64>,
    /// The bare table's number of the first one.
    first: i64,
    /// Where the next append goes.
    cursor: usize,
}

impl Streams {
    /// Empty streams that nobody has used yet.
    pub fn fresh(count: usize) -> Streams {
        let names = (0..count).map(|_| format!("{CATEGORY}-{}", Uuid::new_v4())).collect();
        // The bare table's numbers only have to differ; half of a random id does.
        let first = Uuid::new_v4().as_u64_pair().0.cast_signed() >> 1;
        Streams { names, next: vec![0; count], first, cursor: 0 }
    }

    /// Streams that exist, each with messages up to before `next`.
    pub fn existing(names: Vec<String>, next: i64) -> Streams {
        let count = names.len();
        Streams { names, next: vec![next; count], first: 0, cursor: 0 }
    }

    /// The stream to append to next: all in turn, neighbours far apart.
    fn turn(&mut self) -> usize {
        // A prime of the size of the golden section of 2^32 comes by everything before it comes back.
        self.cursor = (self.cursor + 2_654_435_761) % self.names.len().max(1);
        self.cursor
    }
}

/// What was measured at a time.
pub struct Sample {
    /// Appends per second.
    pub rate: f64,
    /// Milliseconds an append took, sorted.
    pub latencies: Vec<f64>,
    /// Milliseconds of CPU the server spent on an append.
    pub server_cpu: f64,
    /// Milliseconds of CPU this client spent on an append.
    pub client_cpu: f64,
    /// Cores that were busy with something else: the more, the more doubtful is the rest.
    pub other_cpu: f64,
}

impl Sample {
    /// A percentile of the latencies in milliseconds.
    pub fn latency(&self, p: f64) -> f64 {
        percentile(&self.latencies, p)
    }
}

/// Seconds of load: what comes first is not measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Before.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
}

/// Whoever appends, connected for as long as it lives: backends that have just begun are slow.
pub struct Client {
    wire: Wire,
    streams: Streams,
    contender: Contender,
}

/// Connects a client for each element of `streams`; `store` is the database.
pub async fn connect(
    server: &Server,
    store: &str,
    contender: Contender,
    streams: impl IntoIterator<Item = Streams>,
) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for streams in streams {
        clients.push(Client { wire: contender.connect(server, store).await?, streams, contender });
    }
    Ok(clients)
}

/// Has all clients append. Returns what was measured, and how many appends there were in all.
pub async fn append(server: &Server, clients: &mut Vec<Client>, window: Window) -> Result<(Sample, u64)> {
    let begin = Instant::now() + window.warm_up;
    let end = begin + window.time;
    let mut tasks = JoinSet::new();
    for client in clients.drain(..) {
        tasks.spawn(client.append(begin, end));
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = server.cpu();
    tokio::time::sleep_until(end.into()).await;
    let spent = server.cpu().since(&before);

    let mut latencies = Vec::new();
    let mut appends = 0;
    while let Some(task) = tasks.join_next().await {
        let done = task?.context("a client failed")?;
        latencies.extend(done.microseconds.iter().map(|&us| f64::from(us) / 1e3));
        appends += done.appends;
        clients.push(done.client);
    }
    latencies.sort_by(f64::total_cmp);
    let count = latencies.len() as f64;
    let sample = Sample {
        rate: count / window.time.as_secs_f64(),
        server_cpu: 1e3 * spent.server / count,
        client_cpu: 1e3 * spent.client / count,
        other_cpu: spent.other() / window.time.as_secs_f64(),
        latencies,
    };
    Ok((sample, appends))
}

struct Done {
    client: Client,
    /// Of the appends that ended in the window.
    microseconds: Vec<u32>,
    /// All appends.
    appends: u64,
}

impl Client {
    async fn append(mut self, begin: Instant, end: Instant) -> Result<Done> {
        let mut microseconds = Vec::new();
        let mut appends = 0;
        let streams = &mut self.streams;
        let mut now = Instant::now();
        while now < end {
            let turn = streams.turn();
            let message = Message {
                stream: &streams.names[turn],
                number: streams.first + turn as i64,
                position: streams.next[turn],
                id: Uuid::new_v4(),
            };
            self.contender.append(&mut self.wire, &message).await?;
            streams.next[turn] += 1;
            appends += 1;
            let done = Instant::now();
            if done >= begin && done < end {
                microseconds.push(u32::try_from((done - now).as_micros()).unwrap_or(u32::MAX));
            }
            now = done;
        }
        Ok(Done { client: self, microseconds, appends })
    }
}
