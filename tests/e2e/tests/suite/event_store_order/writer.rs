//! A session that appends: alone and in batches, with savepoints, roll-backs, pauses, and now and then its end.

use super::load::{CATEGORIES, Load, once_in};
use fastrand::Rng;
use meshhook_testkit::Session;
use meshhook_testkit::order::Written;
use meshhook_testkit::session::describe;
use postgres::{Error, Statement};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use uuid::Uuid;

/// Most calls of a transaction.
const CALLS: usize = 20;
/// Of a hundred transactions so many are rolled back.
const ROLLED_BACK: u32 = 30;

const SINGLE: &str =
    "SELECT meshhook.append_message($1, 'Noted', '{}', expected_version => $2, id => $3, idempotent => $4)";
const BATCHED: &str = "SELECT position, global_position FROM meshhook.append_messages($1, \
     array_fill('Noted'::text, ARRAY[cardinality($1::text[])]), \
     array_fill('{}'::jsonb, ARRAY[cardinality($1::text[])]), expected_versions => $2, ids => $3)";
const VERSION: &str = "SELECT coalesce(meshhook.stream_version($1), -1)";
const FOUND: &str = "SELECT count(*) FROM meshhook.message WHERE project_id = 0 AND id = ANY($1)";

/// A transaction, for the story of what a reader missed.
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    /// The writer's number for the first message.
    pub first: u64,
    /// The number after the last one's.
    pub end: u64,
    /// When it began.
    pub began: Duration,
    /// When its commit was asked for, if it was.
    pub committing: Option<Duration>,
    /// When its writer knew how it had ended.
    pub ended: Duration,
}

/// What a writer has done.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages that are committed.
    pub written: Vec<Written>,
    /// Messages appended, whatever became of them.
    pub appended: u64,
    /// All transactions, in order.
    pub transactions: Vec<Transaction>,
    /// How many transactions ended in which way; errors by SQLSTATE.
    pub ends: BTreeMap<String, u64>,
}

/// How a transaction is to go.
struct Shape {
    begin: &'static str,
    /// One call that is a transaction by itself.
    autocommit: bool,
    calls: usize,
    commits: bool,
    /// Ask for the session's end before this call.
    kill_before: Option<usize>,
    /// Stay open for a while before this call.
    pause: Option<(usize, Duration)>,
}

impl Shape {
    fn draw(rng: &mut Rng) -> Shape {
        let calls = if rng.u8(0..10) < 4 { 1 } else { rng.usize(1..=CALLS) };
        let commits = rng.u32(0..100) >= ROLLED_BACK;
        let begin = if once_in(rng, 20) { "BEGIN ISOLATION LEVEL REPEATABLE READ" } else { "BEGIN" };
        let ms = match rng.u32(0..300) {
            0 => rng.u64(200..700),
            1..=45 => rng.u64(1..20),
            _ => 0,
        };
        Shape {
            begin,
            autocommit: calls == 1 && commits && rng.bool(),
            calls,
            commits,
            kill_before: once_in(rng, 60).then(|| rng.usize(0..=calls)),
            pause: (ms > 0).then(|| (rng.usize(1..=calls), Duration::from_millis(ms))),
        }
    }
}

struct Connection {
    session: Session,
    pid: i32,
    single: Statement,
    batched: Statement,
    version: Statement,
}

impl Connection {
    fn open(load: &Load) -> Connection {
        let mut session = load.connect_writer();
        let mut prepare = |sql: &str| session.prepare(sql).unwrap_or_else(|e| panic!("{}", describe(&e)));
        let (single, batched, version) = (prepare(SINGLE), prepare(BATCHED), prepare(VERSION));
        Connection { pid: session.backend_pid(), session, single, batched, version }
    }
}

/// A writer at work.
pub struct Writer<'a> {
    load: &'a Load<'a>,
    number: u64,
    rng: Rng,
    connection: Connection,
    /// Ends the session of a process id, soon.
    killer: Sender<i32>,
    /// Messages that were given an id.
    numbered: u64,
    /// Messages of the transaction under way, without those that a savepoint took back.
    pending: Vec<Written>,
    /// Since when nobody but the server knows how the transaction ends.
    committing: Option<Duration>,
    ledger: Ledger,
}

impl<'a> Writer<'a> {
    /// Connects the nth writer.
    pub fn new(load: &'a Load, number: u64, killer: Sender<i32>) -> Writer<'a> {
        Writer {
            load,
            number,
            rng: load.rng(number),
            connection: Connection::open(load),
            killer,
            numbered: 0,
            pending: Vec::new(),
            committing: None,
            ledger: Ledger::default(),
        }
    }

    /// Appends this many messages, or until somebody gives up.
    pub fn run(mut self, messages: u64) -> Ledger {
        while self.ledger.appended < messages && !self.load.is_given_up() {
            self.transaction();
        }
        self.ledger
    }

    fn transaction(&mut self) {
        self.pending.clear();
        self.committing = None;
        let shape = Shape::draw(&mut self.rng);
        let (first, began) = (self.numbered, self.load.now());
        let (committed, how) = match self.attempt(&shape) {
            Ok(committed) => (committed, if committed { "committed" } else { "rolled back" }.to_owned()),
            Err(e) => self.recover(&e),
        };
        *self.ledger.ends.entry(how).or_default() += 1;
        if committed {
            self.ledger.written.append(&mut self.pending);
        }
        self.ledger.transactions.push(Transaction {
            first,
            end: self.numbered,
            began,
            committing: self.committing,
            ended: self.load.now(),
        });
    }

    /// Goes through a transaction; whether it was committed.
    fn attempt(&mut self, shape: &Shape) -> Result<bool, Error> {
        if !shape.autocommit {
            self.simply(shape.begin)?;
        }
        for n in 0..shape.calls {
            self.disturb(shape, n);
            if shape.autocommit {
                self.committing = Some(self.load.now());
                self.append()?;
                return Ok(true);
            }
            match self.rng.u8(0..100) {
                0..=7 => self.within_savepoint()?,
                8 => self.refused_within_savepoint()?,
                _ => self.append()?,
            }
        }
        self.disturb(shape, shape.calls);
        if !shape.commits {
            self.simply("ROLLBACK")?;
            return Ok(false);
        }
        self.committing = Some(self.load.now());
        self.simply("COMMIT")?;
        Ok(true)
    }

    fn disturb(&self, shape: &Shape, call: usize) {
        if let Some((before, time)) = shape.pause
            && before == call
            && !shape.autocommit
        {
            std::thread::sleep(time);
        }
        if shape.kill_before == Some(call) {
            // Not waited for: it comes anywhere in what follows.
            let _ = self.killer.send(self.connection.pid);
        }
    }

    fn simply(&mut self, sql: &str) -> Result<(), Error> {
        self.connection.session.batch_execute(sql)
    }

    fn within_savepoint(&mut self) -> Result<(), Error> {
        let before = self.pending.len();
        self.simply("SAVEPOINT part")?;
        for _ in 0..self.rng.usize(1..=4) {
            self.append()?;
        }
        if self.rng.bool() {
            self.pending.truncate(before);
            self.simply("ROLLBACK TO SAVEPOINT part")
        } else {
            self.simply("RELEASE SAVEPOINT part")
        }
    }

    /// An append that cannot succeed, and leaves nothing behind.
    fn refused_within_savepoint(&mut self) -> Result<(), Error> {
        let before = self.pending.len();
        self.simply("SAVEPOINT refused")?;
        let stream = self.any_stream();
        match self.append_single(&stream, Some(1_000_000_000)) {
            Ok(()) => panic!("writer {}: appended to {stream} at a wrong version", self.number),
            Err(e) if state_of(&e) == "55000" => {}
            Err(e) => return Err(e),
        }
        self.pending.truncate(before);
        self.simply("ROLLBACK TO SAVEPOINT refused")
    }

    fn append(&mut self) -> Result<(), Error> {
        match self.rng.u8(0..100) {
            0..=39 => self.append_batch(),
            40..=45 => self.append_expecting(),
            46 => self.repeat(),
            _ => {
                let stream = self.any_stream();
                self.append_single(&stream, None)
            }
        }
    }

    fn any_stream(&mut self) -> Arc<str> {
        let category = self.rng.usize(0..CATEGORIES);
        self.stream_of(category)
    }

    /// A stream of a category; its first ones are more in demand.
    fn stream_of(&mut self, category: usize) -> Arc<str> {
        let streams = self.load.streams_of(category);
        let most = if once_in(&mut self.rng, 20) { 5 } else { streams.len() };
        Arc::clone(&streams[self.rng.usize(0..most)])
    }

    /// Notes a message before the append: should the answer be lost, its id is known all the same.
    fn note(&mut self, stream: &Arc<str>) -> Uuid {
        let id = self.load.id(self.number, self.numbered);
        self.numbered += 1;
        let stream = Arc::clone(stream);
        self.pending.push(Written { id, stream, position: None, global_position: None });
        id
    }

    /// The position this transaction has given a stream last; its lock keeps others out until the end.
    fn own_version(&self, stream: &str) -> Option<i64> {
        let last = self.pending.iter().rev().find(|written| &*written.stream == stream);
        last.and_then(|written| written.position)
    }

    fn append_single(&mut self, stream: &Arc<str>, expected: Option<i64>) -> Result<(), Error> {
        let id = self.note(stream);
        let Connection { session, single, .. } = &mut self.connection;
        let position = session.query_one(single, &[&&**stream, &expected, &id, &false])?.get(0);
        if let Some(written) = self.pending.last_mut() {
            written.position = Some(position);
        }
        self.ledger.appended += 1;
        Ok(())
    }

    /// Appends at the version found: it may be another's by then, unless the stream is this transaction's already.
    fn append_expecting(&mut self) -> Result<(), Error> {
        let own = self.pending.last().map(|written| Arc::clone(&written.stream)).filter(|_| self.rng.bool());
        let stream = own.unwrap_or_else(|| self.any_stream());
        let known = self.own_version(&stream);
        let Connection { session, version, .. } = &mut self.connection;
        let found: i64 = session.query_one(version, &[&&*stream])?.get(0);
        assert!(known.is_none_or(|known| known == found), "{stream} is at {known:?}, {found} was found");
        let appended = self.append_single(&stream, Some(found));
        if let (Some(known), Err(e)) = (known, &appended) {
            assert_ne!(state_of(e), "55000", "{stream} is not at {known}: {}", describe(e));
        }
        appended
    }

    /// Appends a message a second time, which changes nothing.
    fn repeat(&mut self) -> Result<(), Error> {
        if self.ledger.written.is_empty() {
            return Ok(());
        }
        let first = &self.ledger.written[self.rng.usize(0..self.ledger.written.len())];
        let Connection { session, single, .. } = &mut self.connection;
        let row = session.query_one(single, &[&&*first.stream, &None::<i64>, &first.id, &true])?;
        let position: i64 = row.get(0);
        assert!(first.position.is_none_or(|known| known == position), "{first:?} is at {position} too");
        Ok(())
    }

    fn append_batch(&mut self) -> Result<(), Error> {
        let count = self.rng.usize(2..=self.load.batch);
        let mut streams = Vec::new();
        let mut category = self.rng.usize(0..CATEGORIES);
        for _ in 0..self.rng.usize(1..=6) {
            if once_in(&mut self.rng, 4) {
                category = self.rng.usize(0..CATEGORIES);
            }
            streams.push(self.stream_of(category));
        }
        let chosen: Vec<Arc<str>> =
            (0..count).map(|_| Arc::clone(&streams[self.rng.usize(0..streams.len())])).collect();
        let names: Vec<&str> = chosen.iter().map(|stream| &**stream).collect();
        let expected = self.own_version(names[0]).map(|version| vec![Some(version)]);
        let before = self.pending.len();
        let ids: Vec<Uuid> = chosen.iter().map(|stream| self.note(stream)).collect();
        let Connection { session, batched, .. } = &mut self.connection;
        let rows = session.query(batched, &[&names, &expected, &ids])?;
        assert_eq!(rows.len(), count);
        for (written, row) in self.pending[before..].iter_mut().zip(rows) {
            (written.position, written.global_position) = (Some(row.get(0)), Some(row.get(1)));
        }
        self.ledger.appended += count as u64;
        Ok(())
    }

    /// After an error: whether the transaction was committed all the same, and what happened.
    fn recover(&mut self, error: &Error) -> (bool, String) {
        if !self.is_lost(error) {
            match state_of(error).as_str() {
                // Deadlock, a stream that has grown since the snapshot, or since its version was read.
                code @ ("40P01" | "40001" | "55000") => match self.simply("ROLLBACK") {
                    Ok(()) => return (false, code.to_owned()),
                    Err(e) => assert!(self.is_lost(&e), "{}", describe(&e)),
                },
                _ => panic!("writer {}: {}", self.number, describe(error)),
            }
            self.committing = None;
        }
        self.connection = Connection::open(self.load);
        if self.committing.is_none() {
            return (false, "killed".to_owned());
        }
        let ids: Vec<Uuid> = self.pending.iter().map(|written| written.id).collect();
        let found: i64 = self.load.db.admin().value(FOUND, &[&ids]);
        let committed = found > 0;
        assert!(!committed || found as usize == ids.len(), "{found} of {} committed: {ids:?}", ids.len());
        (committed, format!("killed at commit, which {}", if committed { "succeeded" } else { "failed" }))
    }

    fn is_lost(&self, error: &Error) -> bool {
        self.connection.session.is_closed() || state_of(error) == "57P01"
    }
}

fn state_of(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}
