//! A session that tails what the writers append. All it remembers is the last global position it was given.

use super::load::{Load, once_in};
use fastrand::Rng;
use meshhook_testkit::Session;
use meshhook_testkit::order::Message;
use meshhook_testkit::session::{Params, describe};
use postgres::{Row, Statement};
use std::collections::HashMap;
use std::time::Duration;

/// Most messages of a read.
const BATCH: i32 = 1_000;
/// How long a reader that found nothing at all leaves the server to others.
const BREATH: Duration = Duration::from_millis(2);

const CATEGORY: &str =
    "SELECT id, stream, position, global_position FROM meshhook.read_category($1, $2, $3::int)";
const ALL: &str = "SELECT id, stream, position, global_position FROM meshhook.read_all($1, $2::int)";
const MESSAGE_STORE: &str = "SELECT id::uuid, stream_name::text, position, global_position \
     FROM message_store.get_category_messages($1::text, $2, $3::int)";
const CONSUMER: &str = "SELECT id, stream, position, global_position, token \
     FROM meshhook.read_consumer($1, $2, $3, $4, $5)";
const COMMIT_CONSUMER: &str = "SELECT meshhook.commit_consumer($1, $2, $3, $4)";
/// As somebody would read who does not know that positions are drawn before they are committed.
const UNGUARDED: &str = "SELECT m.id, s.name, m.position, m.global_position \
     FROM meshhook.message m JOIN meshhook.stream s USING (project_id, stream_id) \
     WHERE m.project_id = 0 AND m.global_position >= $1 ORDER BY m.global_position LIMIT $2::int";

/// What is read, and how.
#[derive(Clone, Debug)]
pub enum Source {
    /// `read_category`.
    Category(String),
    /// `read_all`.
    All,
    /// Message DB's `get_category_messages`.
    MessageStore(String),
    /// `read_consumer` and `commit_consumer`, as one member of a group: the database remembers the position.
    Consumer {
        /// The category.
        category: String,
        /// The member, from 0.
        member: i32,
        /// Members of the group.
        size: i32,
    },
    /// The table itself, past the store: broken on purpose.
    Unguarded,
}

/// A read that found something.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// When it had returned.
    pub at: Duration,
    /// The position it began at.
    pub from: i64,
    /// The last position it returned.
    pub through: i64,
}

/// One thing that is tailed.
#[derive(Debug)]
pub struct Tail {
    /// What.
    pub source: Source,
    /// What it was given, in that order.
    pub delivered: Vec<Message>,
    /// In how many pieces.
    pub reads: Vec<Read>,
    /// The last global position.
    last: i64,
}

impl Tail {
    /// From the beginning.
    pub fn new(source: Source) -> Tail {
        Tail { source, delivered: Vec::new(), reads: Vec::new(), last: 0 }
    }

    fn take(&mut self, load: &Load, rows: &[Row]) {
        let (from, at) = (self.last + 1, load.now());
        self.delivered.extend(rows.iter().map(|row| Message {
            id: row.get(0),
            stream: load.name(row.get(1)),
            position: row.get(2),
            global_position: row.get(3),
        }));
        if let (Some(message), false) = (self.delivered.last(), rows.is_empty()) {
            self.last = message.global_position;
            self.reads.push(Read { at, from, through: self.last });
        }
    }
}

/// A reader at work.
pub struct Reader<'a> {
    load: &'a Load<'a>,
    rng: Rng,
    session: Session,
    statements: HashMap<&'static str, Statement>,
    tails: Vec<Tail>,
}

impl<'a> Reader<'a> {
    /// A reader of these, in the order of a round.
    pub fn new(load: &'a Load, number: u64, session: Session, sources: Vec<Source>) -> Reader<'a> {
        let tails = sources.into_iter().map(Tail::new).collect();
        Reader { load, rng: load.rng(1_000 + number), session, statements: HashMap::new(), tails }
    }

    /// Goes round until the writers have ended and a whole round finds nothing.
    pub fn run(mut self) -> Vec<Tail> {
        while !self.load.is_given_up() {
            // Looked at first: what is committed before the end is seen by a round that begins after it.
            let last_round = self.load.writers_ended.is_set();
            let found: usize = (0..self.tails.len()).map(|n| self.visit(n)).sum();
            if found == 0 && last_round {
                break;
            }
            if found == 0 {
                std::thread::sleep(BREATH);
            }
        }
        self.tails
    }

    /// Reads a tail; how many messages there were.
    fn visit(&mut self, tail: usize) -> usize {
        let held = once_in(&mut self.rng, 8);
        if matches!(self.tails[tail].source, Source::Consumer { .. }) {
            return self.consume(tail, held);
        }
        if !held {
            return self.read(tail);
        }
        self.begin_held();
        let mut found = self.read(tail);
        for _ in 0..self.rng.usize(1..4) {
            let other = if self.rng.bool() { tail } else { self.rng.usize(0..self.tails.len()) };
            if !matches!(self.tails[other].source, Source::Consumer { .. }) {
                found += self.read(other);
            }
        }
        self.session.exec("COMMIT");
        found
    }

    /// Begins a transaction that is held to one snapshot, sometimes to one of a while ago.
    fn begin_held(&mut self) {
        self.session.exec("BEGIN ISOLATION LEVEL REPEATABLE READ");
        if self.rng.bool() {
            self.session.exec("SELECT FROM meshhook.safe_position()");
            std::thread::sleep(Duration::from_millis(self.rng.u64(0..8)));
        }
    }

    fn batch(&mut self) -> i32 {
        if self.rng.bool() { BATCH } else { self.rng.i32(1..=BATCH / 4) }
    }

    fn read(&mut self, tail: usize) -> usize {
        let batch = self.batch();
        let from = self.tails[tail].last + 1;
        let rows = match self.tails[tail].source.clone() {
            Source::Category(name) => self.rows(CATEGORY, &[&name, &from, &batch]),
            Source::MessageStore(name) => self.rows(MESSAGE_STORE, &[&name, &from, &batch]),
            Source::All => self.rows(ALL, &[&from, &batch]),
            Source::Unguarded => self.rows(UNGUARDED, &[&from, &batch]),
            Source::Consumer { .. } => unreachable!("a consumer is read in transactions of its own"),
        };
        self.tails[tail].take(self.load, &rows);
        rows.len()
    }

    /// Reads and commits as a consumer, in one transaction; now and then its work fails, and all is read again.
    fn consume(&mut self, tail: usize, held: bool) -> usize {
        let Source::Consumer { category, member, size } = self.tails[tail].source.clone() else {
            unreachable!("only consumers come here")
        };
        let name = format!("tail of {category}");
        if held {
            self.begin_held();
        } else {
            self.session.exec("BEGIN");
        }
        let mut pages = Vec::new();
        for _ in 0..self.rng.usize(1..3) {
            let batch = self.batch();
            let rows = self.rows(CONSUMER, &[&name, &category, &batch, &member, &size]);
            let Some(last) = rows.last() else { break };
            let (through, token): (i64, i64) = (last.get(3), last.get(4));
            self.rows(COMMIT_CONSUMER, &[&name, &through, &token, &member]);
            pages.push(rows);
        }
        let found = pages.iter().map(Vec::len).sum();
        if found > 0 && once_in(&mut self.rng, 10) {
            self.session.exec("ROLLBACK");
            return found;
        }
        self.session.exec("COMMIT");
        pages.iter().for_each(|rows| self.tails[tail].take(self.load, rows));
        found
    }

    fn rows(&mut self, sql: &'static str, params: Params) -> Vec<Row> {
        if !self.statements.contains_key(sql) {
            let statement = self.session.prepare(sql).unwrap_or_else(|e| panic!("{}\n{sql}", describe(&e)));
            self.statements.insert(sql, statement);
        }
        let answer = self.session.query(&self.statements[sql], params);
        answer.unwrap_or_else(|e| panic!("{}\n{sql} {params:?}", describe(&e)))
    }
}
