//! What a turn reads: which runs have something waiting, their rows, their facts, their events.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use lru::LruCache;
use meshhook_engine::definition::Workflow;
use meshhook_engine::event::{Event, Recorded};
use meshhook_engine::fact::{Fact, JobFailed};
use meshhook_engine::json::Json;
use meshhook_engine::replay::{Difference, verify_rest};
use meshhook_engine::snapshot::Growth;
use meshhook_engine::state::{RunState, RunStatus};
use meshhook_engine::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;

use super::{LockedRun, RunKey, database};
use crate::error::bug;
use crate::fault;
use crate::project::Project;
use crate::random::{timestamptz, unix_micros};
use crate::run::snapshot;
use crate::spi::{self, Row, arg};
use crate::workflow;

/// Most due timers and expired leases taken into one turn.
const MAX_DUE: i64 = 1_000;
/// Most facts of a run that are read at a time, in the order they came in.
const MAX_FACTS: i64 = 1_000;
/// How long a turn decides logs again. Far more than logs of their usual length take; a log whose expressions are costly
/// must not hold up other runs, or make the turn take longer than it may.
const DECIDE_AGAIN_LIMIT: Duration = Duration::from_secs(2);
/// How many pages of runs held by others a turn looks past.
const MAX_PAGES: usize = 64;

/// A fact as it lies in the inbox.
#[derive(Debug)]
pub(super) struct Incoming {
    pub inbox_id: i64,
    /// The fact, or why it cannot be read.
    pub fact: Result<Fact, String>,
    /// Work for the database, whose outcome becomes the fact.
    pub due: Option<database::Due>,
    pub metadata: Option<String>,
}

/// What a process remembers of a run: its state, and how far the log has grown since the last snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub state: RunState,
    pub growth: Growth,
}

/// A locked run with everything the engine needs.
#[derive(Debug)]
pub(super) struct Work {
    pub run: LockedRun,
    pub held: Option<Held>,
    pub facts: Vec<Incoming>,
    /// Where the log, as it was read, is not what the engine decides. What is held is then the fold of it.
    pub divergence: Option<Box<Difference>>,
}

impl Work {
    /// Whether the run must be left alone: its log is not what the engine decides, and it is not to be killed, or its
    /// log does not even lead to a state that an end could be added to.
    pub fn is_stopped(&self) -> bool {
        let is_whole = self.held.as_ref().is_some_and(|held| {
            let status = held.state.status;
            held.state.position == self.run.position && status != RunStatus::Queued && !status.is_terminal()
        });
        self.divergence.is_some() && !(is_whole && self.is_killed())
    }

    /// Whether somebody wants the run to end at once.
    pub fn is_killed(&self) -> bool {
        self.facts.iter().any(is_kill)
    }

    /// Of a run that diverges and has been told more than is read at a time: reads on to where it is killed.
    fn look_for_kill(&mut self) {
        if self.divergence.is_some() && self.has_more() && !self.is_killed() {
            self.facts.extend(first_kill(self.run.key));
        }
    }

    /// Whether there may be facts behind those that were read.
    fn has_more(&self) -> bool {
        i64::try_from(self.facts.len()).is_ok_and(|read| read >= MAX_FACTS)
    }

    /// Of a run that diverges: leaves nothing to be decided but its end.
    pub fn keep_kill(&mut self) {
        if self.divergence.is_some() {
            self.facts.retain(is_kill);
            self.facts.truncate(1);
        }
    }

    /// Up to where the log is known, if more of it is needed.
    fn seen(&self) -> Option<u64> {
        let seen = self.held.as_ref()?.state.position;
        (seen < self.run.position && (!self.run.finished || self.is_redriven())).then_some(seen)
    }

    /// Whether the run may go on after its end.
    pub fn is_redriven(&self) -> bool {
        self.facts.iter().any(|fact| matches!(fact.fact, Ok(Fact::Redrive(_))))
    }
}

/// Turns due timers and expired leases into facts; true if there may be more.
pub(super) fn fire_due(scope: Option<i32>, now: i64) -> bool {
    let timers = fault::around!("due.timers", due_timers(scope, now));
    let leases = fault::around!("due.leases", due_leases(scope, now));
    timers.max(leases) >= MAX_DUE.cast_unsigned()
}

fn due_timers(scope: Option<i32>, now: i64) -> u64 {
    spi::exec(
        "WITH due AS MATERIALIZED (
             SELECT project_id, run_id, node FROM meshhook.timer
             WHERE due_at <= $1 AND ($2 IS NULL OR project_id = $2) ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED),
         gone AS (
             DELETE FROM meshhook.timer t USING due d
             WHERE t.project_id = d.project_id AND t.run_id = d.run_id AND t.node = d.node
             RETURNING t.project_id, t.run_id, t.node)
         INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
         SELECT project_id, run_id, 'timer.due', jsonb_build_object('node', node) FROM gone",
        &[arg(timestamptz(now)), arg(scope), arg(MAX_DUE)],
    )
}

fn due_leases(scope: Option<i32>, now: i64) -> u64 {
    spi::exec(
        "WITH due AS MATERIALIZED (
             SELECT project_id, run_id, node FROM meshhook.job
             WHERE lease_expires_at <= $1 AND ($2 IS NULL OR project_id = $2) ORDER BY lease_expires_at LIMIT $3
             FOR UPDATE SKIP LOCKED),
         gone AS (
             DELETE FROM meshhook.job j USING due d
             WHERE j.project_id = d.project_id AND j.run_id = d.run_id AND j.node = d.node RETURNING j.*)
         INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
         SELECT project_id, run_id, 'job.failed',
                jsonb_build_object('node', node, 'attempt', attempt, 'error',
                    CASE WHEN claimed_at + make_interval(secs => timeout_ms / 1000.0) <= lease_expires_at
                         THEN jsonb_build_object('class', 'timeout', 'message',
                                  format('the attempt took longer than %s ms', timeout_ms))
                         ELSE jsonb_build_object('class', 'lease_expired', 'message',
                                  'the executor neither reported nor renewed its lease in time') END),
                jsonb_build_object('executor', executor, 'claimed_at',
                    to_char(claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))
         FROM gone",
        &[arg(timestamptz(now)), arg(scope), arg(MAX_DUE)],
    )
}

/// Picks the runs whose facts have waited longest and locks those that nobody else holds; says whether it
/// passed over one that somebody holds.
///
/// A run held by an open transaction elsewhere is left out of the next page, however many of its facts lie
/// in front.
pub(super) fn pick<'a>(
    scope: Option<i32>,
    batch: usize,
    left_alone: impl Iterator<Item = &'a RunKey>,
) -> (Vec<LockedRun>, bool) {
    let mut refused: Vec<pgrx::Uuid> = left_alone.map(|key| key.run).collect();
    let mut passed_over = false;
    for _ in 0..MAX_PAGES {
        let mut seen: HashSet<RunKey> = HashSet::new();
        let mut keys = spi::run(
            "SELECT project_id, run_id FROM meshhook.inbox
             WHERE ($1 IS NULL OR project_id = $1) AND run_id <> ALL ($2) ORDER BY inbox_id LIMIT $3",
            &[arg(scope), arg(refused.clone()), arg(i64::try_from(batch).unwrap_or(i64::MAX))],
            |row| RunKey { project: row.must(1), run: row.must(2) },
        );
        keys.retain(|key| seen.insert(*key));
        if keys.is_empty() {
            break;
        }
        let locked = lock(&keys);
        passed_over |= locked.len() < keys.len();
        if !locked.is_empty() {
            return (locked, passed_over);
        }
        refused.extend(keys.iter().map(|key| key.run));
    }
    (Vec::new(), passed_over)
}

/// Locks the rows of runs; those held by others are left out.
pub(super) fn lock(keys: &[RunKey]) -> Vec<LockedRun> {
    let (projects, runs) = columns(keys);
    spi::run(
        "SELECT u.project_id, u.run_id, r.version_id, r.position, r.finished
         FROM unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         CROSS JOIN LATERAL (
             SELECT version_id, position, finished_at IS NOT NULL AS finished FROM meshhook.run
             WHERE project_id = u.project_id AND run_id = u.run_id FOR NO KEY UPDATE SKIP LOCKED) r",
        &[arg(projects), arg(runs)],
        |row| LockedRun {
            key: RunKey { project: row.must(1), run: row.must(2) },
            version_id: row.must(3),
            position: position(row, 4),
            finished: row.must(5),
            is_verified: false,
        },
    )
}

/// Locks the row of a run, whoever holds it: waits as `lock_timeout` allows. `None` if there is no such run.
pub(super) fn wait_for(key: RunKey) -> Option<LockedRun> {
    spi::run_one(
        "SELECT version_id, position, finished_at IS NOT NULL FROM meshhook.run
         WHERE project_id = $1 AND run_id = $2 FOR NO KEY UPDATE",
        &[arg(key.project), arg(key.run)],
        |row| LockedRun {
            key,
            version_id: row.must(1),
            position: position(row, 2),
            finished: row.must(3),
            is_verified: false,
        },
    )
}

/// The facts of runs, in the order they came in.
pub(super) fn facts(keys: &[RunKey]) -> HashMap<RunKey, Vec<Incoming>> {
    let (projects, runs) = columns(keys);
    let mut facts: HashMap<RunKey, Vec<Incoming>> = HashMap::with_capacity(keys.len());
    let rows = spi::run(
        "SELECT u.project_id, u.run_id, i.inbox_id, i.kind, i.data::text, i.metadata::text,
                i.data ->> 'node', (i.data ->> 'attempt')::integer
         FROM unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         CROSS JOIN LATERAL (
             SELECT inbox_id, kind, data, metadata FROM meshhook.inbox
             WHERE project_id = u.project_id AND run_id = u.run_id ORDER BY inbox_id LIMIT $3) i",
        &[arg(projects), arg(runs), arg(MAX_FACTS)],
        incoming,
    );
    for (key, fact) in rows {
        facts.entry(key).or_default().push(fact);
    }
    facts
}

/// The fact that ends a run at once, wherever it stands among its facts.
fn first_kill(key: RunKey) -> Option<Incoming> {
    let kill = spi::run_one(
        "SELECT project_id, run_id, inbox_id, kind, data::text, metadata::text, NULL::text, NULL::integer
         FROM meshhook.inbox
         WHERE project_id = $1 AND run_id = $2 AND kind = 'run.cancel' AND data -> 'kill' = 'true'
         ORDER BY inbox_id LIMIT 1",
        &[arg(key.project), arg(key.run)],
        incoming,
    );
    kill.map(|(_, fact)| fact)
}

/// The facts about work (those of `redrive::is_of_work`) that lie behind those that were read, without what they say.
pub(super) fn further_reports(work: &Work) -> Vec<Incoming> {
    let Some(last) = work.facts.last().filter(|_| work.has_more()) else { return Vec::new() };
    let key = work.run.key;
    spi::run(
        "SELECT inbox_id FROM meshhook.inbox WHERE project_id = $1 AND run_id = $2 AND inbox_id > $3
           AND kind IN ('job.completed', 'job.failed', 'job.logged', 'timer.due', 'work.due')",
        &[arg(key.project), arg(key.run), arg(last.inbox_id)],
        |row| Incoming { inbox_id: row.must(1), fact: Err(String::new()), due: None, metadata: None },
    )
}

fn incoming(row: &Row) -> (RunKey, Incoming) {
    let key = RunKey { project: row.must(1), run: row.must(2) };
    let (kind, data): (String, String) = (row.must(4), row.must(5));
    let (node, attempt): (Option<String>, Option<i32>) = (row.get(7), row.get(8));
    let due = (kind == "work.due").then(|| database::Due {
        node: node.clone().unwrap_or_default(),
        attempt: attempt.unwrap_or(0).cast_unsigned(),
    });
    let fact = if due.is_some() { Err(String::new()) } else { read_fact(&kind, &data, node, attempt) };
    (key, Incoming { inbox_id: row.must(3), fact, due, metadata: row.get(6) })
}

/// Reads a fact. A result that only the engine finds too deep or odd is the attempt's failure, not the
/// run's; node and attempt come from the server, which could read it.
fn read_fact(kind: &str, data: &str, node: Option<String>, attempt: Option<i32>) -> Result<Fact, String> {
    Fact::from_parts(kind, data).or_else(|message| match (kind, node, attempt.map(u32::try_from)) {
        ("job.completed" | "job.failed", Some(node), Some(Ok(attempt))) => {
            let error = Json::object([
                ("class", Json::from("output_unreadable")),
                ("message", Json::from(message)),
                ("retryable", Json::Bool(false)),
            ]);
            Ok(Fact::JobFailed(JobFailed { node: node.into(), attempt, error }))
        }
        _ => Err(message),
    })
}

fn is_kill(fact: &Incoming) -> bool {
    matches!(&fact.fact, Ok(Fact::Cancel(cancel)) if cancel.kill)
}

impl Work {
    /// Takes in the events that nobody here has seen, each decided again: what follows is not built on a log that the
    /// engine would not have written. What is left at the deadline is only folded.
    fn catch_up(&mut self, unseen: Unseen, deadline: Instant) {
        let Some(held) = &mut self.held else { return };
        held.growth.add(unseen.events.len(), unseen.bytes);
        let key = self.run.key;
        if self.run.is_verified {
            held.state = folded(key);
            return;
        }
        let workflow = workflow::compiled(Project(key.project), self.run.version_id);
        if let Err(difference) = decide_again(&workflow, &self.run, &mut held.state, &unseen.events, deadline)
        {
            held.state = folded(key);
            self.divergence = Some(difference);
        }
    }
}

/// Decides the rest of a log again. A panic of the engine is a difference like any other.
fn decide_again(
    workflow: &Workflow,
    run: &LockedRun,
    state: &mut RunState,
    rest: &[Recorded],
    deadline: Instant,
) -> Result<(), Box<Difference>> {
    let (seen, head) = (state.position, run.position);
    let id = run.key.run.to_string();
    let in_time = || Instant::now() < deadline;
    let verified = catch_unwind(AssertUnwindSafe(|| verify_rest(workflow, &id, state, rest, in_time)));
    let at = |position, path: &str, expected, found| {
        Err(Box::new(Difference { position, path: path.to_owned(), expected, found }))
    };
    if matches!(verified, Ok(Ok(()))) {
        let decided = state.position;
        rest.iter().filter(|event| event.position > decided).all(|event| state.apply(event).is_ok());
    }
    match verified {
        Err(_) => at(seen + 1, "", None, None),
        Ok(Ok(())) if state.position != head => {
            let number = |position: u64| Some(Json::from(position.cast_signed()));
            at(state.position, "/run/position", number(state.position), number(head))
        }
        Ok(verified) => verified,
    }
}

/// The state that a log leads to, as far as one can be made of it.
fn folded(key: RunKey) -> RunState {
    let log = events_after(&[(key, 0)]).remove(&key).unwrap_or_default();
    let mut state = RunState::default();
    log.events.iter().all(|event| state.apply(event).is_ok());
    state
}

/// Joins runs, facts and states; reads the events that no cached state has seen, all in one query.
pub(super) fn with_states(
    locked: Vec<LockedRun>,
    mut facts: HashMap<RunKey, Vec<Incoming>>,
    cache: &mut LruCache<RunKey, Held>,
    cache_bytes: &mut usize,
) -> Vec<Work> {
    let mut work: Vec<Work> = locked
        .into_iter()
        .map(|run| {
            let cached = cache.pop(&run.key);
            if let Some(held) = &cached {
                *cache_bytes = cache_bytes.saturating_sub(held.state.byte_size());
            }
            // A state from a log that was rolled back or restored cannot be told from one that is merely
            // behind; it never is ahead.
            let held = cached.filter(|held| held.state.position <= run.position).unwrap_or_default();
            let facts = facts.remove(&run.key).unwrap_or_default();
            Work { run, held: Some(held), facts, divergence: None }
        })
        .collect();
    from_snapshots(&mut work);
    let behind: Vec<(RunKey, u64)> =
        work.iter().filter_map(|work| work.seen().map(|seen| (work.run.key, seen))).collect();
    if !behind.is_empty() {
        let mut unseen = events_after(&behind);
        let deadline = Instant::now() + DECIDE_AGAIN_LIMIT;
        for work in work.iter_mut().filter(|work| work.seen().is_some()) {
            pgrx::check_for_interrupts!();
            work.catch_up(unseen.remove(&work.run.key).unwrap_or_default(), deadline);
            work.look_for_kill();
        }
    }
    work
}

/// Lets runs of which nothing is remembered begin behind their snapshots.
fn from_snapshots(work: &mut [Work]) {
    let unknown: Vec<(RunKey, u64)> = work
        .iter()
        .filter(|work| work.seen() == Some(0))
        .map(|work| (work.run.key, work.run.position))
        .collect();
    if unknown.is_empty() {
        return;
    }
    let mut found = snapshot::newest(&unknown, true);
    for work in work {
        let Some((state, size)) = found.remove(&work.run.key).and_then(|found| found.state) else { continue };
        work.held = Some(Held { state, growth: Growth::behind(size) });
    }
}

/// Events of a run, with how many bytes of data they have.
#[derive(Debug, Default)]
pub struct Unseen {
    /// The events, in order.
    pub events: Vec<Recorded>,
    /// Bytes of their data.
    pub bytes: usize,
}

/// The events of runs after a position each.
pub fn events_after(after: &[(RunKey, u64)]) -> HashMap<RunKey, Unseen> {
    let keys: Vec<RunKey> = after.iter().map(|(key, _)| *key).collect();
    let (projects, runs) = columns(&keys);
    let positions: Vec<i64> = after.iter().map(|(_, position)| position.cast_signed()).collect();
    let mut events: HashMap<RunKey, Unseen> = HashMap::with_capacity(after.len());
    let rows = spi::run(
        "SELECT u.project_id, u.run_id, e.position, e.created_at, e.type, e.data, octet_length(e.data)
         FROM unnest($1::integer[], $2::uuid[], $3::bigint[]) AS u (project_id, run_id, after)
         CROSS JOIN LATERAL (
             SELECT position, created_at, type, data::text AS data FROM meshhook.run_event
             WHERE project_id = u.project_id AND run_id = u.run_id AND position > u.after
             ORDER BY position OFFSET 0) e",
        &[arg(projects), arg(runs), arg(positions)],
        |row| (RunKey { project: row.must(1), run: row.must(2) }, recorded(row, 3), row.must::<i32>(7)),
    );
    for (key, event, bytes) in rows {
        let unseen = events.entry(key).or_default();
        unseen.events.push(event);
        unseen.bytes += usize::try_from(bytes).unwrap_or(0);
    }
    events
}

/// Reads position, time, type and data from four columns.
pub fn recorded(row: &Row, first: i32) -> Recorded {
    // Borrowed from the row, whose frame is open.
    let (kind, data): (&str, &str) = (row.must(first + 2), row.must(first + 3));
    let at: TimestampWithTimeZone = row.must(first + 1);
    let event = Event::from_parts(kind, data).unwrap_or_else(|message| bug(&message));
    Recorded { position: position(row, first), at: Timestamp::from_micros(unix_micros(at)), event }
}

fn position(row: &Row, column: i32) -> u64 {
    row.must::<i64>(column).cast_unsigned()
}

/// The earliest timer or lease, in microseconds since 1970.
pub(super) fn next_due() -> Option<i64> {
    spi::read_one(
        "SELECT least((SELECT min(due_at) FROM meshhook.timer), (SELECT min(lease_expires_at) FROM meshhook.job
             WHERE lease_expires_at IS NOT NULL))",
        &[],
        |row| row.get::<TimestampWithTimeZone>(1).map(unix_micros),
    )?
}

/// Runs as columns.
pub fn columns(keys: &[RunKey]) -> (Vec<i32>, Vec<pgrx::Uuid>) {
    keys.iter().map(|key| (key.project, key.run)).unzip()
}
