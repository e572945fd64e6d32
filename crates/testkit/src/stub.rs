//! HTTP servers on loopback that answer by script and remember every request.

use crate::http::{find, read_message};
use crate::wait::wait_for;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A door that stays shut until somebody opens it; replies may wait behind it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A shut gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = lock(&self.0.0);
        while !*open {
            open = self.0.1.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    gate: Option<Gate>,
    cut_after: Option<usize>,
    announced: Option<usize>,
    drip: Option<Duration>,
}

impl Reply {
    /// An empty answer with that status.
    pub fn status(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
            gate: None,
            cut_after: None,
            announced: None,
            drip: None,
        }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Reply {
        let mut reply = Reply::status(status).header("content-type", "application/json");
        reply.body = body.to_string().into_bytes();
        reply
    }

    /// An answer of bytes of a given content type.
    pub fn bytes(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let mut reply = Reply::status(status).header("content-type", content_type);
        reply.body = body.into();
        reply
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Waits this long before answering.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Answers only once the gate is open.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Reply {
        self.gate = Some(gate.clone());
        self
    }

    /// Promises the whole body, sends `bytes` of it and hangs up.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Reply {
        self.cut_after = Some(bytes);
        self
    }

    /// Says that the body has this many bytes, whatever it has.
    #[must_use]
    pub fn announcing(mut self, bytes: usize) -> Reply {
        self.announced = Some(bytes);
        self
    }

    /// Sends the body byte by byte, each so long after the one before.
    #[must_use]
    pub fn dripping(mut self, pause: Duration) -> Reply {
        self.drip = Some(pause);
        self
    }

    fn send(&self, stream: &mut TcpStream) -> io::Result<()> {
        let announced = self.announced.unwrap_or(self.body.len());
        let mut head = format!("HTTP/1.1 {} Scripted\r\ncontent-length: {announced}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        let end = self.cut_after.unwrap_or(self.body.len()).min(self.body.len());
        match self.drip {
            None => stream.write_all(&self.body[..end])?,
            Some(pause) => {
                for byte in &self.body[..end] {
                    stream.write_all(&[*byte])?;
                    std::thread::sleep(pause);
                }
            }
        }
        if self.cut_after.is_some() {
            stream.shutdown(Shutdown::Both)?;
        }
        Ok(())
    }
}

/// A request as a stub received it.
#[derive(Clone, Debug)]
pub struct Received {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// What follows the question mark, undecoded; empty without one.
    pub query: String,
    /// In the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
    /// When the last byte of the request had arrived.
    pub at: Instant,
}

impl Received {
    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The `Idempotency-Key` header.
    ///
    /// # Panics
    /// When the request has none: meshhook sends one with every call.
    #[track_caller]
    pub fn idempotency_key(&self) -> &str {
        let key = self.header("idempotency-key");
        key.unwrap_or_else(|| panic!("{} {} carries no Idempotency-Key", self.method, self.path))
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What answers a request by its content.
type Handler = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    /// Answers everything, where there is one.
    handler: Option<Handler>,
    /// Replies still to give, per path; the last one is given for ever.
    scripts: Mutex<HashMap<String, Vec<Reply>>>,
    received: Mutex<Vec<Received>>,
    closed: AtomicBool,
}

/// A server on 127.0.0.1 with a port of its own. A path without a script answers 404.
pub struct Stub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Stub {
    /// Starts listening.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start() -> Stub {
        Stub::listen(Shared::default())
    }

    /// Starts listening, and answers each request with what `handler` says to it. Requests are not remembered: the
    /// handler keeps its own books.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn answering(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Stub {
        Stub::listen(Shared { handler: Some(Box::new(handler)), ..Shared::default() })
    }

    fn listen(shared: Shared) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("no loopback port: {e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("no local address: {e}"));
        let shared = Arc::new(shared);
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.closed.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(stream) = stream {
                    let served = Arc::clone(&served);
                    // A client that hangs up mid-way ends its own conversation, nothing else.
                    std::thread::spawn(move || converse(stream, &served).ok());
                }
            }
        });
        Stub { address, shared }
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path on this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers requests for `path` with `replies` in turn; the last one answers all that follow.
    ///
    /// # Panics
    /// When there is no reply.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut replies: Vec<Reply> = replies.into_iter().collect();
        assert!(!replies.is_empty(), "a script needs a reply");
        // Taken from the end.
        replies.reverse();
        lock(&self.shared.scripts).insert(path.into(), replies);
    }

    /// Every request so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The requests for one path so far, in order of arrival.
    pub fn received_at(&self, path: &str) -> Vec<Received> {
        let all = lock(&self.shared.received);
        all.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// Waits until `path` was asked for `count` times and returns those requests.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    #[track_caller]
    pub fn wait_received(&self, path: &str, count: usize, limit: Duration) -> Vec<Received> {
        wait_for(&format!("{count} requests for {path}"), limit, || self.received_at(path).len() >= count);
        self.received_at(path)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the listening thread, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
    }
}

/// Serves the requests of one connection until the client closes it.
fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(message) = read_message(&mut reader, false)? {
        let mut start = message.start.split(' ');
        let method = start.next().unwrap_or_default().to_owned();
        let target = start.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Received {
            method,
            path: path.into(),
            query: query.into(),
            headers: message.headers,
            body: message.body,
            at: Instant::now(),
        };
        let reply = match &shared.handler {
            Some(handler) => handler(&request),
            None => {
                let reply = next_reply(shared, path);
                lock(&shared.received).push(request);
                reply
            }
        };
        if let Some(gate) = &reply.gate {
            gate.pass();
        }
        std::thread::sleep(reply.delay);
        reply.send(&mut stream)?;
    }
    Ok(())
}

fn next_reply(shared: &Shared, path: &str) -> Reply {
    let mut scripts = lock(&shared.scripts);
    match scripts.get_mut(path) {
        Some(replies) if replies.len() > 1 => replies.pop(),
        Some(replies) => replies.last().cloned(),
        None => None,
    }
    .unwrap_or_else(|| Reply::status(404))
}

/// A test that fails while holding a lock must not hide its own message behind a poisoned one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;
    use serde_json::json;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn answers_by_script_and_remembers() {
        let stub = Stub::start();
        stub.script("/a", [Reply::status(503), Reply::json(200, &json!({"ok": true}))]);
        let headers = [("Idempotency-Key".to_owned(), "r/n".to_owned())];
        let statuses: Vec<u16> = (0..3)
            .map(|_| {
                request(stub.address(), "POST", "/a?x=1", &headers, b"{\"n\":1}").expect("an answer").status
            })
            .collect();
        assert_eq!(statuses, [503, 200, 200]);
        assert_eq!(request(stub.address(), "GET", "/b", &[], b"").expect("an answer").status, 404);
        let received = stub.received_at("/a");
        assert_eq!(received.len(), 3);
        assert_eq!(received[0].idempotency_key(), "r/n");
        assert_eq!(received[0].query, "x=1");
        assert_eq!(received[0].json(), json!({"n": 1}));
    }

    #[test]
    fn stalls_until_released_and_hangs_up_on_command() {
        let stub = Stub::start();
        let gate = Gate::new();
        stub.script("/slow", [Reply::status(204).behind(&gate)]);
        stub.script("/torn", [Reply::bytes(200, "text/plain", "0123456789").cut_after(5)]);
        let address = stub.address();
        let asker = std::thread::spawn(move || request(address, "GET", "/slow", &[], b""));
        stub.wait_received("/slow", 1, LIMIT);
        assert!(!asker.is_finished());
        gate.open();
        assert_eq!(asker.join().expect("no panic").expect("an answer").status, 204);
        let torn = request(address, "GET", "/torn", &[], b"");
        assert_eq!(torn.expect_err("half a body").kind(), io::ErrorKind::UnexpectedEof);
    }
}
