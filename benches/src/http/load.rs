//! A sender of webhooks: connections that are kept open, each with one request under way.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use meshhook_testkit::sign;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Where webhooks go, and what signs them.
pub struct Address {
    pub server: SocketAddr,
    pub path: String,
    pub secret: String,
    /// Begins the ids of deliveries.
    pub prefix: String,
}

/// When requests are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As soon as the answer before is there.
    Closed,
    /// So many a second, whether answers come or not: times count from when a request was due.
    Open(f64),
}

/// Delivers webhooks, each an event of its own, over `connections` for `length`, and tells how long each took from due to
/// answered: milliseconds, sorted. Fails on an answer other than 202.
pub async fn deliver(address: Address, connections: usize, length: Duration, pace: Pace) -> Result<Vec<f64>> {
    let (address, next) = (Rc::new(address), Rc::new(Cell::new(0_u32)));
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (address, next) = (Rc::clone(&address), Rc::clone(&next));
        senders.spawn_local(async move {
            let mut connection = connect(address.server).await?;
            let mut milliseconds = Vec::new();
            loop {
                let number = next.replace(next.get() + 1);
                let due = match pace {
                    Pace::Closed => Instant::now(),
                    Pace::Open(rate) => begun + Duration::from_secs_f64(f64::from(number) / rate),
                };
                if due >= begun + length {
                    return anyhow::Ok(milliseconds);
                }
                tokio::time::sleep_until(due.into()).await;
                send(&mut connection, &address, number).await?;
                milliseconds.push(due.elapsed().as_secs_f64() * 1e3);
            }
        });
    }
    let mut milliseconds = Vec::new();
    while let Some(sent) = senders.join_next().await {
        milliseconds.extend(sent??);
    }
    milliseconds.sort_by(f64::total_cmp);
    Ok(milliseconds)
}

async fn connect(server: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(server).await.context("cannot connect to the sidecar")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn send(connection: &mut SendRequest<Full<Bytes>>, address: &Address, number: u32) -> Result<()> {
    let body = format!("{{\"order\": {number}, \"customer\": \"c{}\", \"amount\": 120.50}}", number % 100);
    let id = format!("{}{number}", address.prefix);
    let signed = sign::standard(&address.secret, &id, sign::unix_now(), body.as_bytes());
    let mut request = Request::post(&address.path).header("host", address.server.to_string());
    for (name, value) in signed {
        request = request.header(name, value);
    }
    connection.ready().await?;
    let answer = connection.send_request(request.body(Full::from(body))?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status == 202, "a delivery was answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}
