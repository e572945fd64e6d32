//! What a turn does for schedules: looks at those of which a time is due, or whose line may move on.

use pgrx::PgSqlErrorCode;
use pgrx::datum::TimestampWithTimeZone;
use serde_json::json;

use super::line::{Line, Origin};
use super::{Schedule, owner};
use crate::error::{may_be_a_runs_fault, refuse};
use crate::project::{self, Project};
use crate::random::{now_micros, timestamptz, unix_micros};
use crate::spi::{self, Row, arg};
use crate::subtransaction::attempt;
use meshhook_engine::time::Timestamp;

/// Most schedules of a kind that are looked at in one turn.
const MAX_SCHEDULES: i64 = 100;
/// So many runs started are enough for a turn: those that are there want to be moved too.
const ENOUGH_RUNS: usize = 500;

/// What a turn did for schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Runs that were started.
    pub runs: usize,
    /// Whether there may be more to do.
    pub more: bool,
}

/// Starts the runs that are due. A schedule that somebody holds is passed over.
pub fn fire_due(scope: Option<i32>, now: i64) -> Fired {
    let name = |row: &Row| (Project(row.must(1)), row.must::<i64>(2));
    let due = spi::run(
        "SELECT project_id, schedule_id FROM meshhook.schedule
         WHERE paused_at IS NULL AND due_at <= $1 AND ($2 IS NULL OR project_id = $2)
         ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED",
        &[arg(timestamptz(now)), arg(scope), arg(MAX_SCHEDULES)],
        name,
    );
    let free = spi::run(
        "SELECT s.project_id, s.schedule_id FROM meshhook.schedule s
         WHERE s.waiting > 0 AND s.paused_at IS NULL AND ($1 IS NULL OR s.project_id = $1) AND NOT EXISTS (
             SELECT FROM meshhook.schedule_firing f
             WHERE f.project_id = s.project_id AND f.schedule_id = s.schedule_id AND f.run_id IS NOT NULL
               AND (SELECT r.finished_at IS NULL FROM meshhook.run r
                    WHERE r.project_id = f.project_id AND r.run_id = f.run_id))
         LIMIT $2 FOR UPDATE SKIP LOCKED",
        &[arg(scope), arg(MAX_SCHEDULES)],
        name,
    );
    let full = |found: &[_]| found.len() as i64 == MAX_SCHEDULES;
    let mut fired = Fired { runs: 0, more: full(&due) || full(&free) };
    let once = free.iter().filter(|schedule| !due.contains(schedule));
    for (project, id) in due.iter().chain(once).copied() {
        if fired.runs >= ENOUGH_RUNS {
            fired.more = true;
            break;
        }
        match attempt(|| look(project, id, now)) {
            Ok(looked) => {
                fired.runs += looked.runs;
                fired.more |= looked.more;
            }
            Err(caught) if is_the_schedules_fault(caught.sqlstate) => pause(project, id, &caught.message),
            Err(caught) => refuse(caught.sqlstate, caught.message).raise(),
        }
    }
    fired
}

/// Whether an error says something of the schedule: of its data, or of the workflow it starts. Any other is
/// no schedule's fault, and the turn is tried again.
fn is_the_schedules_fault(sqlstate: PgSqlErrorCode) -> bool {
    may_be_a_runs_fault(sqlstate)
        || matches!(
            sqlstate,
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND | PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        )
}

/// Looks at one schedule, whose row is locked.
fn look(project: Project, id: i64, now: i64) -> Fired {
    let schedule = Schedule::load(project, id);
    let mut line = Line::of(&schedule, schedule.actor());
    line.release();
    let now = Timestamp::from_micros(now);
    let Some(from) = schedule.next else { return Fired { runs: line.store(None, 0), more: false } };
    let due = schedule.calendar.due(from, now, schedule.catch_up);
    for time in &due.times {
        line.admit(*time, Origin::Calendar, schedule.overlap);
    }
    if let Some((first, last)) = due.missed_between {
        let details = json!({ "missed": due.missed, "first": first.to_string(), "last": last.to_string() });
        project::audit(project, owner(), "schedule.missed", &schedule.name, Some(details.to_string()));
    }
    let more = due.next.is_some_and(|next| schedule.calendar.due_at(next) <= now);
    Fired { runs: line.store(due.next, due.missed), more }
}

/// Pauses a schedule whose run cannot be started: it would fail again, and hold up nobody but itself.
fn pause(project: Project, id: i64, reason: &str) {
    let name = spi::run_one(
        "UPDATE meshhook.schedule SET paused_at = clock_timestamp(), paused_by = NULL, pause_reason = $3
         WHERE project_id = $1 AND schedule_id = $2 RETURNING name",
        &[arg(project.0), arg(id), arg(reason.to_owned())],
        |row| row.must::<String>(1),
    );
    if let Some(name) = name {
        let details = json!({ "reason": reason }).to_string();
        project::audit(project, owner(), "schedule.paused", &name, Some(details));
    }
}

/// When the next schedule is due, in microseconds since 1970: now, where a time waits and nothing is open.
pub fn next_due() -> Option<i64> {
    let (due, is_free) = spi::run_one(
        "SELECT (SELECT min(due_at) FROM meshhook.schedule WHERE paused_at IS NULL),
                EXISTS (SELECT FROM meshhook.schedule s
                        WHERE s.waiting > 0 AND s.paused_at IS NULL AND NOT EXISTS (
                            SELECT FROM meshhook.schedule_firing f
                            WHERE f.project_id = s.project_id AND f.schedule_id = s.schedule_id
                              AND f.run_id IS NOT NULL
                              AND (SELECT r.finished_at IS NULL FROM meshhook.run r
                                   WHERE r.project_id = f.project_id AND r.run_id = f.run_id)))",
        &[],
        |row| (row.get::<TimestampWithTimeZone>(1).map(unix_micros), row.must::<bool>(2)),
    )?;
    due.into_iter().chain(is_free.then(now_micros)).min()
}
