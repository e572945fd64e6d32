//! Schedules: runs that are started by the clock. When times come is the engine's business
//! (`meshhook_engine::schedule`); here they are kept, looked at, and made into runs.
//!
//! Everything that is written of a schedule is written under its row's lock: by a turn, which passes over
//! what somebody holds, or by whoever changes the schedule.

mod api;
mod arguments;
mod fire;
mod line;

pub use fire::{fire_due, next_due};

use meshhook_engine::schedule::{Calendar, Overlap};
use meshhook_engine::time::Timestamp;
use pgrx::PgSqlErrorCode;
use pgrx::datum::TimestampWithTimeZone;

use crate::error::{bug, refuse};
use crate::owner::{OWNER, Role};
use crate::project::Project;
use crate::random::{timestamptz, unix_micros};
use crate::spi::{self, RawJsonb, Row, arg};

use arguments::Times;

/// A schedule, as its row has it.
#[derive(Debug)]
struct Schedule {
    project: Project,
    id: i64,
    name: String,
    workflow: String,
    version: Option<i32>,
    times: Times,
    calendar: Calendar,
    overlap: Overlap,
    catch_up: i64,
    input: RawJsonb,
    /// The first time that was not looked at yet.
    next: Option<Timestamp>,
    waiting: usize,
    is_paused: bool,
    created_by: String,
}

impl Schedule {
    /// Reads a schedule whose row is locked.
    fn load(project: Project, id: i64) -> Self {
        let found = spi::run_one(
            "SELECT s.name, w.name, s.version, s.cron, (extract(epoch FROM s.every) * 1000000)::bigint, s.anchor,
                    s.time_zone, s.overlap, (extract(epoch FROM s.catch_up) * 1000000)::bigint,
                    (extract(epoch FROM s.jitter) * 1000000)::bigint, s.seed, s.input, s.next_time, s.waiting,
                    s.paused_at IS NOT NULL, s.created_by::text
             FROM meshhook.schedule s
             JOIN meshhook.workflow w ON w.project_id = s.project_id AND w.workflow_id = s.workflow_id
             WHERE s.project_id = $1 AND s.schedule_id = $2",
            &[arg(project.0), arg(id)],
            |row| Self::of(project, id, row),
        );
        found.unwrap_or_else(|| bug(&format!("schedule {id} is gone")))
    }

    fn of(project: Project, id: i64, row: &Row) -> Self {
        let times =
            Times::of(row.get(4), row.get::<i64>(5).map(interval), &row.must::<String>(7), row.get(6));
        let calendar =
            Calendar { rule: times.rule(), jitter: row.must(10), seed: row.must::<i64>(11).cast_unsigned() };
        Self {
            project,
            id,
            name: row.must(1),
            workflow: row.must(2),
            version: row.get(3),
            times,
            calendar,
            overlap: arguments::overlap(&row.must::<String>(8)),
            catch_up: row.must(9),
            input: row.raw_jsonb(12).unwrap_or_else(|| bug("a schedule has no input")),
            next: row.get(13).map(moment),
            waiting: usize::try_from(row.must::<i32>(14)).unwrap_or(0),
            is_paused: row.must(15),
            created_by: row.must(16),
        }
    }

    /// A schedule of the project by name, locked. Raises P0002 if there is none.
    fn locked(project: Project, name: &str) -> Self {
        let Some(id) = lock(project, name) else {
            refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("schedule \"{name}\" does not exist"))
                .hint("SELECT name FROM meshhook.schedules lists them; SET meshhook.project chooses the project.")
                .raise()
        };
        Self::load(project, id)
    }

    /// On whose behalf its runs are started: whoever made it, while that role exists.
    fn actor(&self) -> Role {
        Role::named(&self.created_by).unwrap_or_else(owner)
    }
}

/// Locks a schedule's row; its number, if there is one of that name.
fn lock(project: Project, name: &str) -> Option<i64> {
    spi::run_one(
        "SELECT schedule_id FROM meshhook.schedule WHERE project_id = $1 AND name = $2 FOR UPDATE",
        &[arg(project.0), arg(name.to_owned())],
        |row| row.must(1),
    )
}

/// The role that acts where nobody asked.
fn owner() -> Role {
    Role::named(OWNER).unwrap_or_else(|| bug("the owner role is gone"))
}

fn moment(at: TimestampWithTimeZone) -> Timestamp {
    Timestamp::from_micros(unix_micros(at))
}

fn stored(at: Timestamp) -> TimestampWithTimeZone {
    timestamptz(at.as_micros())
}

fn interval(micros: i64) -> pgrx::datum::Interval {
    pgrx::datum::Interval::from_micros(micros)
}
