//! A TCP proxy on loopback before a Postgres server, that cuts, refuses, delays, and loses answers on command.
//!
//! It follows the protocol just far enough to know which answer belongs to which statement, so that it can lose
//! the answer to one that has committed: what was done is done, and the client never learns of it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Protocol 3.0, in a startup message.
const STARTUP: u32 = 196_608;

/// Longest text of a statement that is remembered, in bytes: what is looked for stands at its beginning.
const MAX_TEXT: usize = 4_096;

/// A proxy that listens on 127.0.0.1. Dropping it cuts its connections and frees the port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Both ends of each connection, by its number.
    connections: Mutex<HashMap<u64, [TcpStream; 2]>>,
    refuses: AtomicBool,
    closed: AtomicBool,
    delay_ms: AtomicU64,
    orders: Mutex<Orders>,
}

/// Which answers are still to be lost.
#[derive(Debug, Default)]
struct Orders {
    containing: String,
    left: usize,
    lost: u64,
}

impl Proxy {
    /// Starts listening for connections to `port` on loopback.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("no loopback port: {e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("no local address: {e}"));
        let shared = Arc::new(Shared {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            connections: Mutex::default(),
            refuses: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            orders: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in (0u64..).zip(listener.incoming()) {
                if served.closed.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(client) = client {
                    // A server that is away is a connection that ends at once.
                    let _ = serve(client, number, &served);
                }
            }
        });
        Proxy { address, shared }
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every connection that stands now; returns how many those were.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        for end in connections.values().flatten() {
            // It may be gone already.
            let _ = end.shutdown(Shutdown::Both);
        }
        connections.len()
    }

    /// Whether new connections end before they begin.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Holds back everything that passes, in either direction, for so long.
    pub fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_ms.store(millis, Ordering::Relaxed);
    }

    /// Loses the answers to the next `count` statements whose text contains `containing`, each once its transaction
    /// has committed (or was rolled back), and the connection with it. Statements within a transaction keep theirs.
    pub fn lose_answers(&self, count: usize, containing: &str) {
        let mut orders = lock(&self.shared.orders);
        (orders.containing, orders.left) = (containing.to_owned(), count);
    }

    /// How many answers were lost so far.
    pub fn lost_answers(&self) -> u64 {
        lock(&self.shared.orders).lost
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        self.refuse(false);
        self.delay(Duration::ZERO);
        self.lose_answers(0, "");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
        // Wakes the listening thread, which then sees that it is closed.
        let _ = TcpStream::connect(self.address);
    }
}

/// Passes one connection on, with a thread for each direction.
fn serve(client: TcpStream, number: u64, shared: &Arc<Shared>) -> io::Result<()> {
    if shared.refuses.load(Ordering::Relaxed) {
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(shared.target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    lock(&shared.connections).insert(number, [client.try_clone()?, server.try_clone()?]);
    let talk = Arc::new(Mutex::new(Talk::default()));
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let (orders, heard) = (Arc::clone(shared), Arc::clone(&talk));
    std::thread::spawn(move || {
        let _ = pump(from, to, &orders, |bytes, out| lock(&heard).ask(bytes, out));
    });
    let orders = Arc::clone(shared);
    std::thread::spawn(move || {
        let _ = pump(server, client, &orders, |bytes, out| lock(&talk).answer(bytes, out, &orders.orders));
        lock(&orders.connections).remove(&number);
    });
    Ok(())
}

/// Passes on what `look` lets through, until an end is gone or `look` has enough; then ends both.
fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    shared: &Shared,
    mut look: impl FnMut(&[u8], &mut Vec<u8>) -> Next,
) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    let mut out = Vec::new();
    loop {
        let count = from.read(&mut buffer).unwrap_or(0);
        let next = look(&buffer[..count], &mut out);
        std::thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
        if count == 0 || next == Next::Cut || to.write_all(&out).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return to.shutdown(Shutdown::Both);
        }
        out.clear();
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Pass,
    Cut,
}

/// What is known of one connection.
#[derive(Debug, Default)]
struct Talk {
    asked: Vec<u8>,
    answered: Vec<u8>,
    /// Whether the startup message has passed.
    begun: bool,
    /// Whether the server's next byte is its answer to a request for encryption.
    offers: bool,
    /// Texts of prepared statements by name.
    statements: HashMap<Vec<u8>, String>,
    /// The text of what was bound or asked for since the last synchronisation.
    bound: Option<String>,
    /// What the answers that are still to come belong to.
    outstanding: VecDeque<Option<String>>,
    /// The answer that may have to be lost, as far as it has come.
    held: Vec<u8>,
}

impl Talk {
    /// Takes in what the client says; all of it passes.
    fn ask(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Next {
        out.extend_from_slice(bytes);
        self.asked.extend_from_slice(bytes);
        loop {
            if !self.begun {
                let Some(frame) = take_frame(&mut self.asked, 0) else { return Next::Pass };
                self.begun = frame.get(4..8).is_some_and(|code| code == STARTUP.to_be_bytes());
                self.offers = !self.begun;
                continue;
            }
            let Some(frame) = take_frame(&mut self.asked, 1) else { return Next::Pass };
            self.note(frame[0], &frame[5..]);
        }
    }

    fn note(&mut self, kind: u8, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'P' => {
                let (name, sql) = (text().to_vec(), text());
                self.statements.insert(name, beginning(sql));
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.bound = self.statements.get(name).cloned();
            }
            b'Q' => {
                let sql = beginning(text());
                self.outstanding.push_back(Some(sql));
            }
            b'S' => self.outstanding.push_back(self.bound.take()),
            _ => {}
        }
    }

    /// Takes in what the server says, and passes it on but for what is to be lost.
    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>, orders: &Mutex<Orders>) -> Next {
        self.answered.extend_from_slice(bytes);
        if self.offers && !self.answered.is_empty() {
            self.offers = false;
            out.push(self.answered.remove(0));
        }
        while let Some(frame) = take_frame(&mut self.answered, 1) {
            let is_wanted = matches!(self.outstanding.front(), Some(Some(text)) if lock(orders).want(text));
            if !is_wanted && self.held.is_empty() {
                out.extend_from_slice(&frame);
            } else {
                self.held.extend_from_slice(&frame);
            }
            // "Ready for query" ends an answer; the first one of all ends the startup.
            if frame[0] != b'Z' || self.outstanding.pop_front().is_none() {
                continue;
            }
            if is_wanted && frame[5] == b'I' && lock(orders).take() {
                return Next::Cut;
            }
            out.append(&mut self.held);
        }
        Next::Pass
    }
}

impl Orders {
    fn want(&self, text: &str) -> bool {
        self.left > 0 && text.contains(&self.containing)
    }

    /// Whether this answer is lost: of two that come at once only so many as were ordered.
    fn take(&mut self) -> bool {
        let is_lost = self.left > 0;
        if is_lost {
            self.left -= 1;
            self.lost += 1;
        }
        is_lost
    }
}

/// The first whole message, with so many bytes before its length, taken off the front.
fn take_frame(bytes: &mut Vec<u8>, before: usize) -> Option<Vec<u8>> {
    let length: [u8; 4] = bytes.get(before..before + 4)?.try_into().ok()?;
    let whole = before + usize::try_from(u32::from_be_bytes(length)).ok()?.max(4);
    (bytes.len() >= whole).then(|| bytes.drain(..whole).collect())
}

fn beginning(sql: &[u8]) -> String {
    String::from_utf8_lossy(&sql[..sql.len().min(MAX_TEXT)]).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cluster, Session, wait_for};
    use postgres::Config;

    const LIMIT: Duration = Duration::from_secs(10);

    fn through(cluster: &Cluster, proxy: &Proxy) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname("postgres");
        assert_ne!(cluster.port(), proxy.port());
        config
    }

    #[test]
    fn loses_the_answer_and_nothing_else() {
        let cluster = Cluster::builder().start();
        let proxy = Proxy::start(cluster.port());
        let config = through(&cluster, &proxy);
        let mut session = Session::connect(&config).expect("a connection");
        session.exec("CREATE TABLE t (x int)");
        proxy.lose_answers(1, "INSERT");
        // Another statement, one in a transaction that goes on, and one that is only prepared keep their answers.
        assert_eq!(session.value::<i32>("SELECT 1", &[]), 1);
        let insert = session.prepare("INSERT INTO t VALUES ($1)").expect("it can be prepared");
        let mut transaction = session.transaction().expect("a transaction");
        transaction.execute(&insert, &[&1]).expect("an answer within the transaction");
        transaction.commit().expect("an answer to the commit");
        assert_eq!(proxy.lost_answers(), 0);

        let lost = session.execute(&insert, &[&2]).expect_err("the answer is lost");
        assert!(lost.code().is_none(), "the connection broke: {lost}");
        assert_eq!(proxy.lost_answers(), 1);
        let mut session = Session::connect(&config).expect("another connection");
        assert_eq!(session.values::<i32>("SELECT x FROM t ORDER BY x", &[]), [1, 2]);
        session.exec("INSERT INTO t VALUES (3)");

        proxy.lose_answers(1, "COMMIT");
        assert!(session.batch_execute("BEGIN; INSERT INTO t VALUES (4); COMMIT").is_err());
        assert_eq!(cluster.superuser("postgres").value::<i64>("SELECT count(*) FROM t", &[]), 4);
    }

    #[test]
    fn cuts_refuses_and_delays() {
        let cluster = Cluster::builder().start();
        let proxy = Proxy::start(cluster.port());
        let config = through(&cluster, &proxy);
        let mut session = Session::connect(&config).expect("a connection");
        let pid = session.backend_pid();
        assert_eq!(proxy.cut(), 1);
        assert!(session.query("SELECT 1", &[]).is_err());
        let mut admin = cluster.superuser("postgres");
        wait_for("the backend to see the end of its client", LIMIT, || {
            admin.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", &[&pid]) == 0
        });
        proxy.refuse(true);
        assert!(Session::connect(&config).is_err());
        proxy.heal();
        let mut session = Session::connect(&config).expect("a connection after healing");
        proxy.delay(Duration::from_millis(150));
        let asked = std::time::Instant::now();
        session.exec("SELECT 1");
        assert!(asked.elapsed() >= Duration::from_millis(300), "there and back");
    }
}
