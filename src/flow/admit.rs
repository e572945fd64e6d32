//! Admission: which of the starts that wait may begin, decided beside a turn and in its transaction.
//!
//! Workflows take turns, projects before workflows, and within a workflow the lanes do, each for a bounded number of
//! starts: whoever has a huge backlog waits behind those who have a small one. A lane that has used up its limit is
//! not looked at again before a slot is free or the next start has become affordable.

use std::collections::BTreeMap;

use meshhook_engine::rate::Rate;
use pgrx::datum::TimestampWithTimeZone;

use super::lock;
use crate::fault;
use crate::random::{now_micros, timestamptz, unix_micros};
use crate::spi::{self, arg};

/// Most workflows in one look.
const MAX_WORKFLOWS: usize = 32;
/// Most lanes of a workflow in one look.
const MAX_LANES: i64 = 64;
/// Most starts of a lane in one look.
const MAX_STARTS: i64 = 64;
/// Most starts of a workflow that take their place in a lane in one look.
const MAX_ARRIVALS: i64 = 2_000;
/// When to look again at starts that another session holds, in microseconds.
const HELD_MICROS: i64 = 100_000;

/// Why a run was not started: the reason of its `run.canceled`.
const SKIPPED: &str = "skipped: concurrency limit";
/// Why a run was ended in favour of another.
const SUPERSEDED: &str = "canceled: concurrency limit, a newer run has taken its place";

/// Whose turn it is; remembered between looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    after: (i32, i64),
}

/// A workflow with its limits; locked until the transaction ends.
struct Gate {
    project: i32,
    workflow: i64,
    concurrency: Option<i64>,
    on_limit: String,
    /// Of starts.
    rate: Option<Rate>,
    now: i64,
}

/// Starts of a workflow with the same keys.
struct Lane {
    id: Vec<u8>,
    concurrency_key: Option<String>,
    rate_key: Option<String>,
}

/// What keeps a lane from going on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// Only its share of this look.
    Share,
    /// Its slots are taken.
    Slots,
    /// The next start is affordable at this time.
    Rate(i64),
}

/// Admits what may begin now; true if anything happened. Called as the owner role.
pub fn admit(scope: Option<i32>, now: i64, cursor: &mut Cursor) -> bool {
    // A snapshot from before may not show who was admitted since.
    // SAFETY: a plain global of this process.
    if unsafe { pgrx::pg_sys::XactIsoLevel } >= pgrx::pg_sys::XACT_REPEATABLE_READ as i32 {
        return false;
    }
    let due = spi::run(
        "SELECT project_id, workflow_id FROM meshhook.flow_due WHERE due_at <= $1 AND ($2 IS NULL OR project_id = $2)",
        &[arg(timestamptz(now)), arg(scope)],
        |row| (row.must(1), row.must(2)),
    );
    let mut moved = false;
    for (project, workflow) in in_turn(&due, cursor.after).into_iter().take(MAX_WORKFLOWS) {
        cursor.after = (project, workflow);
        if lock::try_workflow(project, workflow)
            && let Some(gate) = Gate::of(project, workflow, now)
        {
            moved |= gate.arrivals();
            moved |= gate.freed();
            for lane in gate.lanes() {
                gate.serve(&lane);
                moved = true;
            }
        }
    }
    moved
}

/// One workflow of each project, then a second one of each, and so on, both going on where they stopped.
fn in_turn(due: &[(i32, i64)], after: (i32, i64)) -> Vec<(i32, i64)> {
    let mut of_project: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for (project, workflow) in due {
        of_project.entry(*project).or_default().push(*workflow);
    }
    for workflows in of_project.values_mut() {
        workflows.sort_unstable();
        // Workflow ids are unique in the installation, so the last one served cuts every project's list.
        let next = workflows.partition_point(|workflow| *workflow <= after.1);
        let first = next % workflows.len();
        workflows.rotate_left(first);
    }
    let first = of_project.range(after.0 + 1..).chain(of_project.range(..=after.0));
    let projects: Vec<(&i32, &Vec<i64>)> = first.collect();
    let most = of_project.values().map(Vec::len).max().unwrap_or(0);
    let round =
        |n: usize| projects.iter().filter_map(move |(project, list)| Some((**project, *list.get(n)?)));
    (0..most).flat_map(round).collect()
}

/// A statement about the first starts of a lane, at most $4 of them: `gone` are the ones it takes from the queue.
macro_rules! with_first_of_lane {
    ($then:literal) => {
        concat!(
            "WITH picked AS MATERIALIZED (
                 SELECT run_id FROM meshhook.run_queue
                 WHERE project_id = $1 AND workflow_id = $2 AND lane = $3 AND in_lane
                 ORDER BY priority DESC, ready_at, run_id LIMIT $4 FOR UPDATE SKIP LOCKED),
             gone AS (
                 DELETE FROM meshhook.run_queue q USING picked p WHERE q.project_id = $1 AND q.run_id = p.run_id
                 RETURNING q.run_id, q.priority, q.ready_at, q.data, q.metadata, q.facts)",
            $then
        )
    };
}

impl Gate {
    /// The limits in force; `None` if the workflow is paused. Read after the lock is taken.
    fn of(project: i32, workflow: i64, now: i64) -> Option<Self> {
        spi::run_one(
            "SELECT w.concurrency_limit::bigint, coalesce(w.on_limit, 'queue'), w.rate_limit::bigint, w.rate_ms * 1000
             FROM meshhook.workflow w JOIN meshhook.project p ON p.project_id = w.project_id
             WHERE w.project_id = $1 AND w.workflow_id = $2 AND w.pause_mode IS NULL AND p.pause_mode IS NULL",
            &[arg(project), arg(workflow)],
            |row| Self {
                project,
                workflow,
                concurrency: row.get(1),
                on_limit: row.must(2),
                rate: row.get(3).zip(row.get(4)).map(|(limit, period)| Rate::new(limit, period)),
                now,
            },
        )
    }

    /// Starts whose time has come take their place in their lanes; true if there were any that nobody holds.
    fn arrivals(&self) -> bool {
        fault::around!("admit.arrivals");
        let arrived = spi::exec(
            "WITH due AS MATERIALIZED (
                 SELECT run_id, lane, concurrency_key, rate_key FROM meshhook.run_queue
                 WHERE project_id = $1 AND workflow_id = $2 AND NOT in_lane AND NOT paused AND ready_at <= $3
                 ORDER BY ready_at LIMIT $4 FOR UPDATE SKIP LOCKED),
             lanes AS (
                 INSERT INTO meshhook.run_lane AS l (project_id, workflow_id, lane, concurrency_key, rate_key, due_at)
                 SELECT DISTINCT ON (lane) $1, $2, lane, concurrency_key, rate_key, $3 FROM due
                 ON CONFLICT (project_id, workflow_id, lane) DO UPDATE SET due_at = excluded.due_at
                 WHERE l.due_at IS DISTINCT FROM excluded.due_at)
             UPDATE meshhook.run_queue q SET in_lane = true FROM due d WHERE q.project_id = $1 AND q.run_id = d.run_id",
            &[arg(self.project), arg(self.workflow), arg(timestamptz(self.now)), arg(MAX_ARRIVALS)],
        );
        arrived > 0
    }

    /// Takes away the slots of runs that have ended and has their lanes looked at; all lanes after a change of
    /// limits. True if there were any.
    fn freed(&self) -> bool {
        fault::around!("admit.freed");
        let key = [arg(self.project), arg(self.workflow), arg(timestamptz(self.now))];
        let found = spi::run_one(
            "WITH ended AS (
                 DELETE FROM meshhook.run_slot_freed WHERE project_id = $1 AND workflow_id = $2 RETURNING run_id),
             gone AS (
                 DELETE FROM meshhook.run_slot s USING ended e WHERE s.project_id = $1 AND s.run_id = e.run_id
                 RETURNING s.concurrency_key),
             woken AS (
                 UPDATE meshhook.run_lane l SET due_at = $3 FROM (SELECT DISTINCT concurrency_key FROM gone) g
                 WHERE l.project_id = $1 AND l.workflow_id = $2 AND l.concurrency_key = g.concurrency_key)
             SELECT EXISTS (SELECT FROM ended),
                    EXISTS (SELECT FROM ended WHERE run_id = '00000000-0000-0000-0000-000000000000')",
            &key,
            |row| (row.must::<bool>(1), row.must::<bool>(2)),
        );
        let (any, limits_changed) = found.unwrap_or_default();
        if limits_changed {
            spi::exec(
                "UPDATE meshhook.run_lane SET due_at = $3 WHERE project_id = $1 AND workflow_id = $2",
                &key,
            );
        }
        any
    }

    /// The lanes that have waited longest for their turn.
    fn lanes(&self) -> Vec<Lane> {
        spi::run(
            "SELECT lane, concurrency_key, rate_key FROM meshhook.run_lane
             WHERE project_id = $1 AND workflow_id = $2 AND due_at <= $3 ORDER BY due_at LIMIT $4",
            &[arg(self.project), arg(self.workflow), arg(timestamptz(self.now)), arg(MAX_LANES)],
            |row| Lane { id: row.must(1), concurrency_key: row.get(2), rate_key: row.get(3) },
        )
    }

    /// Begins what a lane may begin, and says when to look at it next.
    fn serve(&self, lane: &Lane) {
        let slots = self.free_slots(lane);
        let (tokens, next_token) = self.affordable(lane);
        let mut bound = if slots <= tokens && slots < MAX_STARTS {
            Bound::Slots
        } else if tokens < MAX_STARTS {
            Bound::Rate(next_token)
        } else {
            Bound::Share
        };
        let room = slots.min(tokens).min(MAX_STARTS);
        let begun = if room > 0 { self.begin(lane, room) } else { 0 };
        if begun > 0 {
            self.pay(lane, begun);
        }
        if bound == Bound::Slots && begun == room {
            match self.on_limit.as_str() {
                "skip" if self.skip(lane) == MAX_STARTS => bound = Bound::Share,
                "cancel_oldest" => self.cancel_oldest(lane),
                _ => {}
            }
        }
        self.park(lane, bound, begun == room);
    }

    fn free_slots(&self, lane: &Lane) -> i64 {
        let (Some(limit), Some(key)) = (self.concurrency, &lane.concurrency_key) else { return i64::MAX };
        let held = spi::run_one(
            "SELECT count(*) FROM (
                 SELECT FROM meshhook.run_slot WHERE project_id = $1 AND workflow_id = $2 AND concurrency_key = $3
                 LIMIT $4) held",
            &[arg(self.project), arg(self.workflow), arg(key.clone()), arg(limit)],
            |row| row.must::<i64>(1),
        );
        limit - held.unwrap_or(0)
    }

    /// How many starts the rate allows now, and when it allows one more than these.
    fn affordable(&self, lane: &Lane) -> (i64, i64) {
        let (Some(rate), Some(key)) = (self.rate, &lane.rate_key) else { return (i64::MAX, self.now) };
        let paid = spi::run_one(
            "SELECT paid_at FROM meshhook.run_rate WHERE project_id = $1 AND workflow_id = $2 AND rate_key = $3",
            &[arg(self.project), arg(self.workflow), arg(key.clone())],
            |row| unix_micros(row.must::<TimestampWithTimeZone>(1)),
        );
        let level = rate.level(paid.unwrap_or(self.now), self.now);
        (level.tokens, level.more_at)
    }

    fn pay(&self, lane: &Lane, begun: i64) {
        let (Some(rate), Some(key)) = (self.rate, &lane.rate_key) else { return };
        fault::around!("admit.pay");
        spi::exec(
            "INSERT INTO meshhook.run_rate AS r (project_id, workflow_id, rate_key, paid_at)
             VALUES ($1, $2, $3, $4 + $5 * interval '1 us')
             ON CONFLICT (project_id, workflow_id, rate_key)
             DO UPDATE SET paid_at = greatest(r.paid_at, $4) + $5 * interval '1 us'",
            &[
                arg(self.project),
                arg(self.workflow),
                arg(key.clone()),
                arg(timestamptz(self.now)),
                arg(rate.step() * begun),
            ],
        );
    }

    /// Begins the first starts of a lane: each becomes a fact of its run, with what was sent to it behind, and takes a
    /// slot.
    fn begin(&self, lane: &Lane, most: i64) -> i64 {
        fault::around!("admit.begin");
        let begun = spi::run_one(
            with_first_of_lane!(
                ", slots AS (
                     INSERT INTO meshhook.run_slot (project_id, run_id, workflow_id, concurrency_key, admitted_at)
                     SELECT $1, run_id, $2, $5, clock_timestamp() FROM gone WHERE $5::text IS NOT NULL),
                 begun AS (
                     INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
                     SELECT $1, g.run_id, f.kind, f.data, f.metadata
                     FROM gone g CROSS JOIN LATERAL (
                         SELECT 0 AS n, 'run.start' AS kind, g.data, g.metadata
                         UNION ALL
                         SELECT n, fact ->> 'kind', fact -> 'data', fact -> 'metadata'
                         FROM jsonb_array_elements(g.facts) WITH ORDINALITY AS kept (fact, n)) f
                     ORDER BY g.priority DESC, g.ready_at, g.run_id, f.n)
                 SELECT count(*) FROM gone"
            ),
            &[
                arg(self.project),
                arg(self.workflow),
                arg(lane.id.clone()),
                arg(most),
                arg(lane.concurrency_key.clone()),
            ],
            |row| row.must::<i64>(1),
        );
        begun.unwrap_or(0)
    }

    /// Ends the starts of a full lane without beginning them; how many.
    fn skip(&self, lane: &Lane) -> i64 {
        fault::around!("admit.skip");
        let skipped = spi::exec(
            with_first_of_lane!(
                " INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
                 SELECT $1, run_id, 'run.cancel', jsonb_build_object('reason', $5::text, 'start', data), metadata FROM gone"
            ),
            &[
                arg(self.project),
                arg(self.workflow),
                arg(lane.id.clone()),
                arg(MAX_STARTS),
                arg(SKIPPED.to_owned()),
            ],
        );
        skipped.cast_signed()
    }

    /// Asks as many of the oldest runs to end as there are starts waiting, those counted that were asked before.
    fn cancel_oldest(&self, lane: &Lane) {
        let (Some(limit), Some(key)) = (self.concurrency, &lane.concurrency_key) else { return };
        fault::around!("admit.cancel_oldest");
        spi::exec(
            "WITH held AS MATERIALIZED (
                 SELECT run_id, canceling, admitted_at FROM meshhook.run_slot
                 WHERE project_id = $1 AND workflow_id = $2 AND concurrency_key = $4),
             wanted AS (
                 SELECT (SELECT count(*) FROM (
                             SELECT FROM meshhook.run_queue
                             WHERE project_id = $1 AND workflow_id = $2 AND lane = $3 AND in_lane LIMIT $5) waiting)
                        - (SELECT count(*) FROM held WHERE canceling) AS n),
             asked AS (
                 UPDATE meshhook.run_slot s SET canceling = true
                 FROM (SELECT run_id FROM held WHERE NOT canceling ORDER BY admitted_at, run_id
                       LIMIT (SELECT greatest(n, 0) FROM wanted)) oldest
                 WHERE s.project_id = $1 AND s.run_id = oldest.run_id
                 RETURNING s.run_id)
             INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
             SELECT $1, run_id, 'run.cancel', jsonb_build_object('reason', $6::text), '{}' FROM asked",
            &[
                arg(self.project),
                arg(self.workflow),
                arg(lane.id.clone()),
                arg(key.clone()),
                arg(limit),
                arg(SUPERSEDED.to_owned()),
            ],
        );
    }

    /// When to look at a lane next. One that is empty is forgotten. One that found fewer starts than it had room for,
    /// and yet is not empty, has some that another session holds.
    fn park(&self, lane: &Lane, bound: Bound, found_all: bool) {
        fault::around!("admit.park");
        let next = match bound {
            _ if !found_all => Some(now_micros() + HELD_MICROS),
            Bound::Share => Some(now_micros()),
            Bound::Slots => None,
            Bound::Rate(at) => Some(at),
        };
        spi::exec(
            "WITH waiting AS MATERIALIZED (
                 SELECT EXISTS (SELECT FROM meshhook.run_queue
                     WHERE project_id = $1 AND workflow_id = $2 AND lane = $3 AND in_lane) AS any),
             parked AS (
                 UPDATE meshhook.run_lane SET due_at = $4
                 WHERE project_id = $1 AND workflow_id = $2 AND lane = $3 AND (SELECT w.any FROM waiting w))
             DELETE FROM meshhook.run_lane
             WHERE project_id = $1 AND workflow_id = $2 AND lane = $3 AND NOT (SELECT w.any FROM waiting w)",
            &[arg(self.project), arg(self.workflow), arg(lane.id.clone()), arg(next.map(timestamptz))],
        );
    }
}

/// When the next start can be looked at, in microseconds since 1970.
pub fn next_due() -> Option<i64> {
    spi::run_one(
        // Slots that were freed are due since ever; a time before 1970 is as good.
        "SELECT greatest(min(due_at), 'epoch') FROM meshhook.flow_due HAVING count(*) > 0",
        &[],
        |row| row.get::<TimestampWithTimeZone>(1).map(unix_micros),
    )?
}

#[cfg(test)]
mod unit {
    use super::in_turn;

    #[test]
    fn projects_take_turns_before_workflows() {
        let due = [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)];
        assert_eq!(in_turn(&due, (0, 0)), [(1, 10), (2, 20), (3, 30), (1, 11), (3, 31), (1, 12)]);
        assert_eq!(in_turn(&due, (1, 10))[..3], [(2, 20), (3, 30), (1, 11)]);
        assert_eq!(in_turn(&due, (3, 31))[0], (1, 10));
        assert_eq!(in_turn(&[], (3, 31)), []);
    }
}
