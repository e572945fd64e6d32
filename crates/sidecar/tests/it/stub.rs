//! A server that answers by path, badly where asked to.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub head: String,
    pub body: String,
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    now: HashMap<String, usize>,
    peak: HashMap<String, usize>,
}

/// A running stub; stops with the runtime of its test.
#[derive(Clone)]
pub struct Stub {
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
    gate: watch::Sender<bool>,
    keep: bool,
}

impl Stub {
    pub async fn start() -> Self {
        Self::with(true).await
    }

    /// Records nothing: for measuring.
    pub async fn forgetful() -> Self {
        Self::with(false).await
    }

    async fn with(keep: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            address: listener.local_addr().unwrap(),
            record: Arc::default(),
            gate: watch::channel(false).0,
            keep,
        };
        let server = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let _ = server.serve(stream).await;
                });
            }
        });
        stub
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Lets all requests to `/gate` go on.
    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.record.lock().unwrap().seen.clone()
    }

    /// Requests to this path in progress now.
    pub fn now(&self, path: &str) -> usize {
        let record = self.record.lock().unwrap();
        record.now.get(path).copied().unwrap_or(0)
    }

    /// Most requests to this path in progress at once.
    pub fn peak(&self, path: &str) -> usize {
        let record = self.record.lock().unwrap();
        record.peak.get(path).copied().unwrap_or(0)
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        loop {
            let Some(seen) = read_request(&mut stream, &mut buffer).await? else {
                return Ok(());
            };
            let path = seen.line.split(' ').nth(1).unwrap_or("").to_owned();
            if self.keep {
                let mut record = self.record.lock().unwrap();
                record.seen.push(seen);
                let now = record.now.entry(path.clone()).or_default();
                *now += 1;
                let now = *now;
                let peak = record.peak.entry(path.clone()).or_default();
                *peak = now.max(*peak);
            }
            let done = self.answer(&path, &mut stream).await;
            if self.keep {
                let mut record = self.record.lock().unwrap();
                *record.now.get_mut(&path).unwrap() -= 1;
            }
            if !done? {
                return Ok(());
            }
        }
    }

    /// Answers; true if the connection can be used again.
    async fn answer(&self, path: &str, stream: &mut TcpStream) -> std::io::Result<bool> {
        let (route, argument) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let plain = |status: &str, extra: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{extra}\r\n{body}", body.len())
        };
        match route {
            "ok" => {
                let reply = plain("200 OK", "content-type: application/json\r\n", r#"{"ok":true}"#);
                stream.write_all(reply.as_bytes()).await?;
            }
            "status" => {
                let reply = plain(argument, "retry-after: 1.5\r\n", "sorry");
                stream.write_all(reply.as_bytes()).await?;
            }
            "nul" => {
                let reply = plain("200 OK", "content-type: application/json\r\n", r#""a\u0000b""#);
                stream.write_all(reply.as_bytes()).await?;
            }
            "poison" => {
                stream.write_all(plain("200 OK", "", "poison").as_bytes()).await?;
            }
            "sized" => {
                let body = "x".repeat(argument.parse().unwrap());
                stream.write_all(plain("200 OK", "", &body).as_bytes()).await?;
            }
            "redirect" => {
                let reply = plain("302 Found", &format!("location: {}\r\n", self.url("/ok")), "");
                stream.write_all(reply.as_bytes()).await?;
            }
            // So many redirects, the last one to /ok.
            "hops" => {
                let left: u32 = argument.parse().unwrap();
                let next = if left == 1 { "/ok".to_owned() } else { format!("/hops/{}", left - 1) };
                stream.write_all(plain("307 Again", &format!("location: {next}\r\n"), "").as_bytes()).await?;
            }
            // A redirect to any address, which is hex: it has slashes.
            "to" => {
                let target = String::from_utf8(hex::decode(argument).unwrap()).unwrap();
                stream
                    .write_all(plain("302 Found", &format!("location: {target}\r\n"), "").as_bytes())
                    .await?;
            }
            // A thousand zeros, or eight million that pack into less than the cap.
            "packed" | "bomb" => {
                let size = if route == "packed" { 1000 } else { 8 << 20 };
                let body = pack(argument, size);
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-encoding: {argument}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body).await?;
            }
            // What asks for a window of a gigabyte.
            "wide-window" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 4\r\n\r\n")
                    .await?;
                stream.write_all(&[0x11, 30, 0, 0]).await?;
            }
            "mislabelled" => {
                stream
                    .write_all(plain("200 OK", "content-encoding: gzip\r\n", "plain text").as_bytes())
                    .await?;
            }
            "cut-gzip" => {
                let body = pack("gzip", 1000);
                let half = &body[..body.len() / 2];
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
                    half.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(half).await?;
            }
            "close" => {
                stream.write_all(plain("200 OK", "connection: close\r\n", "closed").as_bytes()).await?;
                return Ok(false);
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(argument.parse().unwrap())).await;
                stream.write_all(plain("200 OK", "", "slow").as_bytes()).await?;
            }
            "gate" => {
                let mut gate = self.gate.subscribe();
                let mut byte = [0];
                tokio::select! {
                    open = gate.wait_for(|open| *open) => { open.unwrap(); }
                    // Ends when the client hangs up.
                    _ = stream.read(&mut byte) => return Ok(false),
                }
                stream.write_all(plain("200 OK", "", "opened").as_bytes()).await?;
            }
            "stall" => std::future::pending().await,
            "drip" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n").await?;
                loop {
                    stream.write_all(b"x").await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            "endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                loop {
                    stream.write_all(chunk.as_bytes()).await?;
                }
            }
            "announced" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await?;
                std::future::pending::<()>().await;
            }
            "too-short" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await?;
                return Ok(false);
            }
            "reset" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await?;
                // Closes with RST.
                stream.set_zero_linger()?;
                return Ok(false);
            }
            "two-lengths" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef")
                    .await?;
                return Ok(false);
            }
            "garbage" => {
                stream.write_all(b"SMTP ready\r\n\r\n").await?;
                return Ok(false);
            }
            "long-header" => {
                let header = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000));
                stream.write_all(header.as_bytes()).await?;
                return Ok(false);
            }
            "nothing" => return Ok(false),
            other => panic!("no such route: {other:?}"),
        }
        Ok(true)
    }
}

/// So many zeros, compressed.
fn pack(coding: &str, size: usize) -> Vec<u8> {
    let zeros = vec![b'0'; size];
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&zeros).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut packed = Vec::new();
            // The best quality takes seconds, which are not the client's.
            let quick = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
            brotli::BrotliCompress(&mut &zeros[..], &mut packed, &quick).unwrap();
            packed
        }
        "zstd" => zstd::encode_all(&zeros[..], 3).unwrap(),
        other => panic!("no such coding: {other}"),
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&buffer[head_end..head_end + length]).into_owned();
    buffer.drain(..head_end + length);
    let line = head.lines().next().unwrap_or("").to_owned();
    Ok(Some(Seen { line, head, body }))
}
