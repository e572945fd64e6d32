//! `message_store` keeps the contract of Message DB 1.3.0.
//!
//! Nothing here is expected of ours that was not seen in the original: each test runs against the original first,
//! which so proves the test, and then against ours. Where the two differ on purpose the test says both.
//!
//! Deliberate differences: `messages` is a view that nobody may write to; categories that begin with `meshhook:` are
//! reserved; any search path will do; conditions need an administrator's setting; a stale snapshot is told apart from
//! a conflict (40001); a transaction that has written cannot be prepared; no query is printed by the debug settings.

mod catalogue;
mod contract;
mod differential;
mod errors;
mod generator;
mod names;
mod projects;
mod python_client;
mod reading;
mod settings;
mod transactions;

use meshhook_e2e::{Database, SOON};
use meshhook_testkit::message_db::{self, ROLE};
use meshhook_testkit::{Session, wait_for};
use postgres::SimpleQueryMessage;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use uuid::Uuid;

/// A store that keeps, or should keep, the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Message DB's own SQL.
    Original,
    /// Ours in a server that preloads meshhook.
    Ours,
    /// Ours in a server that loads meshhook when a session first calls it.
    OursUnloaded,
}

impl Kind {
    /// All of them, the one to learn from first.
    pub const ALL: [Kind; 3] = [Kind::Original, Kind::Ours, Kind::OursUnloaded];

    /// Ours alone, for what the original does not promise.
    pub const OURS: [Kind; 2] = [Kind::Ours, Kind::OursUnloaded];
}

/// A database with a store in it.
pub struct Store {
    /// Whose store it is.
    pub kind: Kind,
    /// Where it is.
    pub database: Database<'static>,
}

impl Store {
    /// Makes a database and installs the store.
    fn create(kind: Kind, name: &str) -> Store {
        // Both installations make the role, which is the cluster's, and neither expects somebody else to do the same.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let name = format!("mdb_{name}_{kind:?}").to_lowercase();
        let database = match kind {
            Kind::Ours => Database::preloaded(&name),
            Kind::Original | Kind::OursUnloaded => Database::plain(&name),
        };
        let mut admin = database.admin();
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            Kind::Original => message_db::install(&mut admin),
            Kind::Ours | Kind::OursUnloaded => admin.exec("SELECT meshhook.install_message_store('default')"),
        }
        Store { kind, database }
    }

    /// One of the stores that tests share which keep to categories of their own.
    fn shared(kind: Kind) -> &'static Store {
        static STORES: [OnceLock<Store>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
        STORES[kind as usize].get_or_init(|| Store::create(kind, "shared"))
    }

    /// Whether it is the original.
    pub fn is_original(&self) -> bool {
        self.kind == Kind::Original
    }

    /// A connection as Message DB's clients make it: role `message_store`, everything else as it comes.
    #[track_caller]
    pub fn client(&self) -> Session {
        self.database.cluster.connect(ROLE, &self.database.name)
    }

    /// A superuser's connection, which finds the store's functions unqualified as clients do.
    #[track_caller]
    pub fn admin(&self) -> Session {
        let mut admin = self.database.admin();
        admin.exec("SET search_path = message_store, public");
        admin
    }

    /// Makes a login role, runs what it is to be granted, and connects as it.
    #[track_caller]
    pub fn make_role(&self, role: &str, grants: &str) -> Session {
        // It is the cluster's, and another store's test may have made it.
        self.database.admin().exec(&format!(
            "DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; {grants}"
        ));
        self.database.cluster.connect(role, &self.database.name)
    }

    /// Sets a parameter for every session that begins from now on.
    #[track_caller]
    pub fn set_for_all(&self, name: &str, value: &str) {
        self.database.admin().exec(&format!(
            "ALTER DATABASE {} SET {name} = {}",
            self.database.name,
            literal(value)
        ));
    }
}

/// Keeps the cluster of a test that fails, which a store that lives as long as the process would not do.
struct KeepOnFailure<'a>(&'a Store);

impl Drop for KeepOnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.database.cluster.keep();
        }
    }
}

/// Runs a test on shared stores of these kinds. What it prints on failure names the store.
pub fn on(kinds: &[Kind], test: impl Fn(&Store)) {
    for &kind in kinds {
        println!("on {kind:?}:");
        let store = Store::shared(kind);
        let _keep = KeepOnFailure(store);
        test(store);
    }
}

/// The same on stores that nobody else uses, for tests that count everything or change a database's settings.
pub fn on_own(name: &str, kinds: &[Kind], test: impl Fn(&Store)) {
    for &kind in kinds {
        println!("on {kind:?}:");
        test(&Store::create(kind, name));
    }
}

/// What the server says when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// DETAIL and HINT, if there are any.
    pub more: Option<String>,
}

impl Failure {
    /// `SQLSTATE message`, and what else there is.
    pub fn text(&self) -> String {
        let more = self.more.as_ref().map(|more| format!(" ({more})")).unwrap_or_default();
        format!("{} {}{more}", self.code, self.message)
    }
}

/// A row as text, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// Asks for rows, as text, over the simple protocol: so each statement can be repeated in psql as it stands.
pub fn ask(session: &mut Session, sql: &str) -> Result<Vec<Row>, Failure> {
    let answer = session.simple_query(sql).map_err(|e| match e.as_db_error() {
        Some(e) => Failure {
            code: e.code().code().into(),
            message: e.message().into(),
            more: [e.detail(), e.hint()].into_iter().flatten().map(String::from).reduce(|a, b| a + "; " + &b),
        },
        None => panic!("{e}\n{sql}"),
    })?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(String::from)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

/// The rows as psql prints them unaligned: columns separated by `|`, NULL as `<N>`.
#[track_caller]
pub fn lines(session: &mut Session, sql: &str) -> Vec<String> {
    match ask(session, sql) {
        Ok(rows) => rows.iter().map(line).collect(),
        Err(failure) => panic!("{}\n{sql}", failure.text()),
    }
}

/// The only row, as [`lines`] has it.
#[track_caller]
pub fn one(session: &mut Session, sql: &str) -> String {
    let mut found = lines(session, sql);
    assert_eq!(found.len(), 1, "one row expected of: {sql}\n{found:?}");
    found.remove(0)
}

/// The error of a statement that must fail, as [`Failure::text`] has it.
#[track_caller]
pub fn refused(session: &mut Session, sql: &str) -> String {
    match ask(session, sql) {
        Ok(rows) => panic!("an error expected, got {} rows of: {sql}", rows.len()),
        Err(failure) => failure.text(),
    }
}

/// The SQLSTATE of a statement that must fail.
#[track_caller]
pub fn refused_with(session: &mut Session, sql: &str) -> String {
    refused(session, sql).chars().take(5).collect()
}

fn line(row: &Row) -> String {
    row.iter().map(|value| value.as_deref().unwrap_or("<N>")).collect::<Vec<_>>().join("|")
}

/// Text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A new message id as an SQL literal.
pub fn new_id() -> String {
    literal(&Uuid::now_v7().to_string())
}

/// Reads a category from a global position on: `stream|position` of each message, and where to read on.
#[track_caller]
pub fn poll(session: &mut Session, category: &str, from: i64, batch: i64) -> (Vec<String>, i64) {
    let sql = format!(
        "SELECT global_position, stream_name, position \
         FROM message_store.get_category_messages({}, {from}, {batch})",
        literal(category)
    );
    let (mut next, mut found) = (from, Vec::new());
    for row in lines(session, &sql) {
        let (global, rest) = row.split_once('|').unwrap_or_default();
        next = global.parse::<i64>().unwrap_or_else(|_| panic!("no position: {row}")) + 1;
        found.push(rest.to_owned());
    }
    (found, next)
}

/// Writes a message of type `Event` without data or metadata; its position.
#[track_caller]
pub fn write(session: &mut Session, stream: &str) -> i64 {
    write_with(session, stream, "'Event', '{}'")
}

/// Writes a message given the SQL of the arguments from the third one on; its position.
#[track_caller]
pub fn write_with(session: &mut Session, stream: &str, rest: &str) -> i64 {
    let sql = format!("SELECT message_store.write_message({}, {}, {rest})", new_id(), literal(stream));
    let position = one(session, &sql);
    position.parse().unwrap_or_else(|_| panic!("a position expected, got {position} of: {sql}"))
}

/// A statement under way in a thread of its own.
pub struct Pending {
    pid: i32,
    sql: String,
    thread: JoinHandle<(Session, Result<Vec<Row>, Failure>)>,
}

impl Pending {
    /// Starts it.
    pub fn start(mut session: Session, sql: &str) -> Pending {
        let (pid, text) = (session.backend_pid(), sql.to_owned());
        let thread = std::thread::spawn(move || {
            let answer = ask(&mut session, &text);
            (session, answer)
        });
        Pending { pid, sql: sql.into(), thread }
    }

    /// Waits until it waits for a lock that another session holds.
    #[track_caller]
    pub fn wait_blocked(&self, store: &Store) {
        let mut watcher = store.database.admin();
        wait_for("the statement to wait for a lock", SOON, || {
            assert!(!self.thread.is_finished(), "nothing held up: {}", self.sql);
            watcher.value::<bool>(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')",
                &[&self.pid],
            )
        });
    }

    /// Waits for its end: the session and what came of it.
    #[track_caller]
    pub fn end(self) -> (Session, Result<Vec<Row>, Failure>) {
        wait_for("the statement to end", SOON, || self.thread.is_finished());
        self.thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    }
}
