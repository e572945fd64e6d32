//! A load that goes on whatever happens to the server: clients that start runs, and executors that do their work.

use crate::{EXECUTOR, Stop};
use meshhook_testkit::{Cluster, Session, history, wait_for};
use postgres::config::Config;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// How long one start may be tried before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts at what failed.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an executor that takes jobs here has for them.
const LEASE: &str = "5 s";

/// What clients were told: which runs were started, when, and what was refused meanwhile.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    started: BTreeMap<Uuid, (String, SystemTime)>,
    refused: BTreeSet<String>,
}

impl Ledger {
    /// How many runs are known to be started.
    pub fn started(&self) -> usize {
        self.entries().started.len()
    }

    /// When each start was acknowledged, in order.
    pub fn times(&self) -> Vec<SystemTime> {
        let mut times: Vec<SystemTime> = self.entries().started.values().map(|(_, at)| *at).collect();
        times.sort();
        times
    }

    /// SQLSTATEs of the starts that were refused; `closed` for a connection that broke.
    pub fn refused(&self) -> BTreeSet<String> {
        self.entries().refused.clone()
    }

    /// Forgets what was refused so far.
    pub fn forget_refused(&self) {
        self.entries().refused.clear();
    }

    /// Waits until so many more runs were started.
    #[track_caller]
    pub fn wait_more(&self, count: usize) {
        let goal = self.started() + count;
        wait_for(&format!("{count} more starts"), PATIENCE, || self.started() >= goal);
    }

    /// Runs that were acknowledged and are not there, and runs that are there and were not acknowledged, or more than
    /// once for one order.
    pub fn lost_and_doubled(&self, session: &mut Session, workflow: &str) -> (usize, usize) {
        let sql = "SELECT run_id, input ->> 'order' FROM meshhook.runs WHERE workflow = $1";
        let rows = session.rows(sql, &[&workflow]);
        let there: BTreeMap<Uuid, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let started = &self.entries().started;
        let lost = started.iter().filter(|(run, (order, _))| there.get(run) != Some(order)).count();
        let doubled = there.keys().filter(|run| !started.contains_key(run)).count();
        let orders: BTreeSet<&String> = started.values().map(|(order, _)| order).collect();
        (lost, doubled + started.len() - orders.len())
    }

    /// Waits until every run has ended, and demands that exactly those that were acknowledged are there, that all
    /// succeeded, and that their logs are in order.
    #[track_caller]
    pub fn check(&self, session: &mut Session, workflow: &str) {
        let open = "SELECT count(*) FROM meshhook.runs WHERE finished_at IS NULL AND workflow = $1";
        wait_for("every run to end", PATIENCE, || session.value::<i64>(open, &[&workflow]) == 0);
        assert_eq!(self.lost_and_doubled(session, workflow), (0, 0), "runs lost and doubled");
        let failed = "SELECT run_id FROM meshhook.runs WHERE status <> 'succeeded' AND workflow = $1";
        let failed: Vec<Uuid> = session.values(failed, &[&workflow]);
        assert!(failed.is_empty(), "runs that did not succeed: {failed:?}");
        history::check_all(session);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a run was started for an order.
    pub fn note(&self, run: Uuid, order: String) {
        self.entries().started.insert(run, (order, SystemTime::now()));
    }
}

/// Who connects as whom to what, for threads that connect again and again.
pub fn configs<'a>(
    cluster: &'a Cluster,
    user: &'a str,
    database: &'a str,
) -> impl Fn() -> Config + Sync + 'a {
    move || {
        let mut config = cluster.config(user, database);
        config.connect_timeout(Duration::from_secs(2));
        config
    }
}

/// Starts runs of a workflow one after the other, with a pause, until told to stop. Each is for one order, whose number
/// is its idempotency key, and is asked for again until the answer arrives.
///
/// # Panics
/// When one start finds no answer for two minutes.
pub fn keep_starting(
    server: impl Fn() -> Config,
    workflow: &str,
    client: &str,
    pause: Duration,
    ledger: &Ledger,
    stop: &Stop,
) {
    let mut session = None;
    for n in 0.. {
        let order = format!("{client}-{n}");
        let asked = Instant::now();
        loop {
            match ask(&mut session, &server, workflow, &order) {
                Ok(run) => {
                    ledger.note(run, order);
                    break;
                }
                Err(refused) => {
                    ledger.entries().refused.insert(refused);
                    assert!(
                        asked.elapsed() < PATIENCE,
                        "order {order} cannot be started: {:?}",
                        ledger.refused()
                    );
                    std::thread::sleep(PAUSE);
                }
            }
        }
        if stop.is_set() {
            return;
        }
        std::thread::sleep(pause);
    }
}

fn ask(
    session: &mut Option<Session>,
    server: &impl Fn() -> Config,
    workflow: &str,
    order: &str,
) -> Result<Uuid, String> {
    let code = |e: &postgres::Error| e.code().map_or("closed".to_owned(), |code| code.code().to_owned());
    let mut connected = match session.take() {
        Some(connected) => connected,
        None => Session::connect(&server()).map_err(|e| code(&e))?,
    };
    let sql = "SELECT meshhook.start_run($1, $2, idempotency_key => $3)";
    let answer = connected.query_one(sql, &[&workflow, &json!({"order": order}), &order]);
    if !connected.is_closed() {
        *session = Some(connected);
    }
    answer.map(|row| row.get(0)).map_err(|e| code(&e))
}

/// Works as an executor, reconnecting for ever, until told to stop: each job of queue `default` gets its input as
/// output.
pub fn keep_working(server: impl Fn() -> Config, stop: &Stop) {
    let claim = format!(
        "WITH claimed AS MATERIALIZED (SELECT * FROM meshhook.claim_jobs('default', 'test', 50, '{LEASE}')) \
         SELECT job_id, token, payload FROM claimed"
    );
    while !stop.is_set() {
        let Ok(mut session) = Session::connect(&server()) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        while !stop.is_set() {
            match session.query(&claim, &[]) {
                Ok(rows) if rows.is_empty() => std::thread::sleep(Duration::from_millis(5)),
                Ok(rows) => rows.iter().for_each(|row| report(&mut session, row)),
                Err(_) if session.is_closed() => break,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Reports one job as done, until the server has taken it or the connection is gone: the lease sees to the rest.
fn report(session: &mut Session, row: &postgres::Row) {
    let (id, token, payload): (String, i64, Value) = (row.get(0), row.get(1), row.get(2));
    let begun = Instant::now();
    while session.query("SELECT meshhook.complete_job($1, $2, $3)", &[&id, &token, &payload]).is_err() {
        if session.is_closed() || begun.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Keeps a workflow of tasks under load in `database`, with so many clients that rest for `pause` between two starts, and
/// two executors, while `body` does what it likes.
pub fn under_load<T>(
    cluster: &Cluster,
    database: &str,
    workflow: &str,
    pause: Duration,
    body: impl FnOnce(&Ledger) -> T,
) -> (Ledger, T) {
    let (ledger, starting, working) = (Ledger::default(), Stop::default(), Stop::default());
    let result = std::thread::scope(|scope| {
        let _work = working.at_end();
        for _ in 0..2 {
            scope.spawn(|| keep_working(configs(cluster, EXECUTOR, database), &working));
        }
        let starts = starting.at_end();
        let clients: Vec<_> = ["a", "b"]
            .map(|client| {
                let (ledger, stop) = (&ledger, &starting);
                let server = configs(cluster, crate::APP, database);
                scope.spawn(move || keep_starting(server, workflow, client, pause, ledger, stop))
            })
            .into();
        ledger.wait_more(20);
        let result = body(&ledger);
        drop(starts);
        for client in clients {
            client.join().unwrap_or_else(|_| panic!("a client gave up"));
        }
        ledger.check(&mut cluster.superuser(database), workflow);
        result
    });
    (ledger, result)
}
