//! The event store between real sessions: readers that remember a position miss nothing, whatever writers do, and
//! nobody waits for who does not concern them.
//!
//! What depends on how undecided positions are registered runs twice ([`both`]): in the preloaded cluster, where shared
//! memory keeps the register, and in the plain one, where the lock table does.

mod append;
mod batches;
mod consumers;
mod crash;
mod dump;
mod import;
mod listening;
mod pitfalls;
mod rebalancing;
mod stalled;
mod standby;
mod tenancy;
mod transactions;
mod waking;

use meshhook_e2e::{Database, SOON};
use meshhook_testkit::session::describe;
use meshhook_testkit::{Session, wait_for};
use postgres::Row;
use serde_json::{Value, json};
use std::thread::JoinHandle;
use std::time::Instant;
use uuid::Uuid;

/// Runs a test in a database of the preloaded cluster and then in one of the plain cluster.
pub fn both(name: &str, test: impl Fn(&Database)) {
    for preloaded in [true, false] {
        // What a failing test printed says where it failed.
        println!("{}:", if preloaded { "preloaded" } else { "plain" });
        let name = format!("es_{name}");
        let db = if preloaded { Database::preloaded(&name) } else { Database::plain(&name) };
        test(&db);
    }
}

/// What a reader is given that is held back.
pub const NOTHING: [i64; 0] = [];

/// An id nobody has.
pub fn new_id() -> Uuid {
    Uuid::from_u128(fastrand::u128(..))
}

/// Where a message was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Counted from 0 in its stream.
    pub position: i64,
    /// In the one order of all.
    pub global: i64,
    /// Unique in the project.
    pub id: Uuid,
}

/// What is appended where the content does not matter.
pub fn note(n: i64) -> Value {
    json!({ "n": n })
}

/// Appends one message.
#[track_caller]
pub fn append(session: &mut Session, stream: &str) -> Placed {
    append_all(session, &[stream]).remove(0)
}

/// Appends one message to each of these streams in one statement.
#[track_caller]
pub fn append_all(session: &mut Session, streams: &[&str]) -> Vec<Placed> {
    let (types, data) = (vec!["Noted"; streams.len()], vec![note(0); streams.len()]);
    let rows = session.rows(
        "SELECT position, global_position, id FROM meshhook.append_messages($1, $2, $3)",
        &[&streams, &types, &data],
    );
    placed(&rows)
}

/// Rows of position, global position and id.
pub fn placed(rows: &[Row]) -> Vec<Placed> {
    rows.iter().map(|row| Placed { position: row.get(0), global: row.get(1), id: row.get(2) }).collect()
}

/// The position that the sequence gave last; 0 if none.
#[track_caller]
pub fn last_drawn(admin: &mut Session) -> i64 {
    admin.value("SELECT coalesce(pg_sequence_last_value('meshhook.global_position_seq'), 0)", &[])
}

/// Up to where a category (or all) is decided.
#[track_caller]
pub fn safe(session: &mut Session, category: Option<&str>) -> i64 {
    session.value("SELECT meshhook.safe_position($1)", &[&category])
}

/// The global positions of all messages of a category (or of all) that are committed by now, past the reading
/// functions.
#[track_caller]
pub fn committed(admin: &mut Session, category: Option<&str>) -> Vec<i64> {
    admin.values(
        "SELECT m.global_position FROM meshhook.message m \
         JOIN meshhook.stream s ON s.project_id = m.project_id AND s.stream_id = m.stream_id \
         WHERE $1::text IS NULL OR split_part(s.name, '-', 1) = $1 ORDER BY 1",
        &[&category],
    )
}

/// A reader that remembers the last global position it saw and nothing else.
pub struct Reader {
    session: Session,
    sql: String,
    last: i64,
    /// Everything it was given, in that order.
    pub seen: Vec<i64>,
}

impl Reader {
    /// One of a category.
    #[track_caller]
    pub fn of(db: &Database, category: &str) -> Reader {
        Reader::with(db.app(), &format!("meshhook.read_category('{category}', $1, 50)"))
    }

    /// One of everything.
    #[track_caller]
    pub fn of_all(db: &Database) -> Reader {
        Reader::with(db.app(), "meshhook.read_all($1, 50)")
    }

    /// One that calls a function with the position to begin at.
    pub fn with(session: Session, function: &str) -> Reader {
        let sql = format!("SELECT global_position FROM {function}");
        Reader { session, sql, last: 0, seen: Vec::new() }
    }

    /// Reads on until nothing more comes and returns what came.
    #[track_caller]
    pub fn read(&mut self) -> Vec<i64> {
        let before = self.seen.len();
        while self.read_once() > 0 {}
        self.seen[before..].to_vec()
    }

    /// Reads one batch.
    #[track_caller]
    pub fn read_once(&mut self) -> usize {
        let batch: Vec<i64> = self.session.values(&self.sql, &[&(self.last + 1)]);
        for global in &batch {
            assert!(*global > self.last, "{global} comes after {}", self.last);
            self.last = *global;
        }
        self.seen.extend(&batch);
        batch.len()
    }

    /// The position it remembers.
    pub fn last(&self) -> i64 {
        self.last
    }
}

/// A statement that another thread runs.
pub struct Pending {
    pid: i32,
    thread: JoinHandle<Ended>,
}

/// How it ended.
pub struct Ended {
    /// The session that ran it.
    pub session: Session,
    /// What the server answered.
    pub result: Result<Vec<Row>, postgres::Error>,
    /// When the answer was here.
    pub at: Instant,
}

impl Pending {
    /// Starts one.
    pub fn start(mut session: Session, sql: &str) -> Pending {
        let pid = session.backend_pid();
        let sql = sql.to_owned();
        let thread = std::thread::spawn(move || {
            let result = session.query(&sql, &[]);
            Ended { result, at: Instant::now(), session }
        });
        Pending { pid, thread }
    }

    /// The backend that runs it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until it waits for a lock.
    #[track_caller]
    pub fn wait_blocked(&self, admin: &mut Session) {
        self.wait_state(admin, "Lock");
    }

    /// Waits until it sleeps until it is woken.
    #[track_caller]
    pub fn wait_asleep(&self, admin: &mut Session) {
        self.wait_state(admin, "Extension");
    }

    #[track_caller]
    fn wait_state(&self, admin: &mut Session, kind: &str) {
        wait_for(&format!("process {} to wait ({kind})", self.pid), SOON, || {
            assert!(!self.thread.is_finished(), "the statement has ended instead of waiting");
            let sql = "SELECT count(*) = 1 FROM pg_stat_activity \
                       WHERE pid = $1 AND state = 'active' AND wait_event_type = $2";
            admin.value(sql, &[&self.pid, &kind])
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(self) -> Ended {
        wait_for("the statement to end", SOON, || self.thread.is_finished());
        self.thread.join().unwrap_or_else(|_| panic!("the thread of process {} panicked", self.pid))
    }
}

impl Ended {
    /// The rows and the session of a statement that succeeded.
    #[track_caller]
    pub fn succeeded(self) -> (Vec<Row>, Session) {
        match self.result {
            Ok(rows) => (rows, self.session),
            Err(e) => panic!("{}", describe(&e)),
        }
    }

    /// The SQLSTATE and the session of a statement that failed.
    #[track_caller]
    pub fn failed(self) -> (String, Session) {
        match self.result {
            Ok(rows) => panic!("an error expected, got {} rows", rows.len()),
            Err(e) => (e.code().map(|code| code.code().to_owned()).unwrap_or_default(), self.session),
        }
    }
}

/// The SQLSTATE of an error of the server.
#[track_caller]
pub fn code(error: &postgres::Error) -> &str {
    error.code().unwrap_or_else(|| panic!("an error of the server expected, got {error}")).code()
}

/// Two names of categories that share a bit of the mask that writers publish, and one that does not.
pub fn colliding(admin: &mut Session) -> (String, String, String) {
    let name = |n: usize| format!("category{n}");
    let mut bit = |name: &str| {
        let hash: i64 = admin.value("SELECT meshhook.hash_64($1)", &[&name]);
        hash.cast_unsigned() % 63
    };
    let first = bit(&name(0));
    let (mut same, mut other) = (None, None);
    for n in 1..10_000 {
        if bit(&name(n)) == first {
            same = same.or(Some(name(n)));
        } else {
            other = other.or(Some(name(n)));
        }
        if let (Some(same), Some(other)) = (&same, &other) {
            return (name(0), same.clone(), other.clone());
        }
    }
    panic!("no two of ten thousand categories share one of 63 bits")
}
