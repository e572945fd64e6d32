//! What users do with schedules: make, change, pause, resume, trigger, backfill, drop, preview.

use meshhook_engine::schedule::{Calendar, Overlap};
use meshhook_engine::time::Timestamp;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use serde_json::json;

use super::arguments::{self, Times, check_name};
use super::line::{Line, MAX_WAITING, Origin, Outcome, key};
use super::{Schedule, interval, lock, stored};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::run::start::{check_document, warn_if_unserved};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Version};
use crate::{installation, random, shmem};

/// Most times that one backfill takes.
const MAX_BACKFILL: usize = MAX_WAITING;
/// Most times that a preview shows.
const MAX_PREVIEW: usize = 1_000;

/// What a schedule is to be, checked.
struct Wanted<'a> {
    name: &'a str,
    workflow: Version,
    version: Option<i32>,
    times: Times,
    input: RawJsonb,
    overlap: Overlap,
    catch_up: i64,
    jitter: i64,
}

/// Makes or changes a schedule; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the arguments are the SQL contract")]
fn create_schedule(
    name: Option<&str>,
    workflow: Option<&str>,
    cron: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "NULL"),
    time_zone: default!(Option<&str>, "'UTC'"),
    input: default!(Option<RawJsonb>, "'{}'"),
    overlap: default!(Option<&str>, "'skip'"),
    catch_up: default!(Option<Interval>, "'1 hour'"),
    jitter: default!(Option<Interval>, "'0'"),
    version: default!(Option<i32>, "NULL"),
    anchor: default!(Option<TimestampWithTimeZone>, "NULL"),
    replace: default!(bool, "false"),
) -> TimestampWithTimeZone {
    let (name, workflow) = (required("name", name), required("workflow", workflow));
    check_name(name);
    let times = Times::of(cron, every, required("time_zone", time_zone), anchor);
    let input = required("input", input);
    check_document("input", input);
    let overlap = arguments::overlap(required("overlap", overlap));
    let catch_up = arguments::catch_up(required("catch_up", catch_up));
    let jitter = arguments::jitter(required("jitter", jitter));
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let workflow = workflow::find(project, workflow, version);
        let wanted = Wanted { name, workflow, version, times, input, overlap, catch_up, jitter };
        let next = match lock(project, name) {
            None => insert(project, caller, wanted),
            Some(id) if replace => update(caller, &Schedule::load(project, id), wanted),
            Some(_) => refuse(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                format!("schedule \"{name}\" exists already"),
            )
            .hint("replace => true changes it.")
            .raise(),
        };
        warn_if_unserved();
        shmem::wake_on_commit();
        stored(next)
    })
}

/// Makes a schedule; its first time.
fn insert(project: Project, caller: Role, wanted: Wanted) -> Timestamp {
    let now = Timestamp::from_micros(random::now_micros());
    let seed = random::seed();
    let times = wanted.times.anchored_at(now);
    let next = times.first_after(now);
    let calendar = Calendar { rule: times.rule(), jitter: wanted.jitter, seed: seed.cast_unsigned() };
    spi::exec(
        "INSERT INTO meshhook.schedule (project_id, name, workflow_id, version, cron, every, anchor, time_zone, input,
             overlap, catch_up, jitter, seed, next_time, due_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::name)",
        &[
            arg(project.0),
            arg(wanted.name.to_owned()),
            arg(wanted.workflow.workflow_id),
            arg(wanted.version),
            arg(times.cron.clone()),
            arg(times.every.map(interval)),
            arg(times.anchor.map(stored)),
            arg(times.zone.name().to_owned()),
            arg(wanted.input),
            arg(wanted.overlap.name()),
            arg(interval(wanted.catch_up)),
            arg(interval(wanted.jitter)),
            arg(seed),
            arg(stored(next)),
            arg(stored(calendar.due_at(next))),
            arg(caller.name()),
        ],
    );
    project::audit(project, caller, "schedule.created", wanted.name, None);
    next
}

/// Changes a schedule; its next time. While the times are the same ones, it goes on from where it was, so
/// that saying the same thing again changes nothing.
fn update(caller: Role, schedule: &Schedule, wanted: Wanted) -> Timestamp {
    let now = Timestamp::from_micros(random::now_micros());
    let (before, mut times) = (&schedule.times, wanted.times);
    if times.every == before.every {
        times.anchor = times.anchor.or(before.anchor);
    }
    let times = times.anchored_at(now);
    let is_same = (&times.cron, times.every, times.anchor, &times.zone)
        == (&before.cron, before.every, before.anchor, &before.zone);
    let next = schedule.next.filter(|_| is_same).unwrap_or_else(|| times.first_after(now));
    let calendar = Calendar { rule: times.rule(), jitter: wanted.jitter, seed: schedule.calendar.seed };
    spi::exec(
        "UPDATE meshhook.schedule SET workflow_id = $3, version = $4, cron = $5, every = $6, anchor = $7,
             time_zone = $8, input = $9, overlap = $10, catch_up = $11, jitter = $12, next_time = $13, due_at = $14
         WHERE project_id = $1 AND schedule_id = $2",
        &[
            arg(schedule.project.0),
            arg(schedule.id),
            arg(wanted.workflow.workflow_id),
            arg(wanted.version),
            arg(times.cron.clone()),
            arg(times.every.map(interval)),
            arg(times.anchor.map(stored)),
            arg(times.zone.name().to_owned()),
            arg(wanted.input),
            arg(wanted.overlap.name()),
            arg(interval(wanted.catch_up)),
            arg(interval(wanted.jitter)),
            arg(stored(next)),
            arg(stored(calendar.due_at(next))),
        ],
    );
    project::audit(schedule.project, caller, "schedule.replaced", wanted.name, None);
    next
}

/// Stops a schedule; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn pause_schedule(name: Option<&str>, reason: default!(Option<&str>, "NULL")) -> bool {
    let name = required("name", name);
    as_owner(|caller| {
        let schedule = Schedule::locked(project::current(caller), name);
        if schedule.is_paused {
            return false;
        }
        spi::exec(
            "UPDATE meshhook.schedule SET paused_at = clock_timestamp(), paused_by = $3::name, pause_reason = $4
             WHERE project_id = $1 AND schedule_id = $2",
            &[arg(schedule.project.0), arg(schedule.id), arg(caller.name()), arg(reason.map(str::to_owned))],
        );
        let details = reason.map(|reason| json!({ "reason": reason }).to_string());
        project::audit(schedule.project, caller, "schedule.paused", name, details);
        true
    })
}

/// Lets a schedule go on; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resume_schedule(name: Option<&str>) -> Option<TimestampWithTimeZone> {
    let name = required("name", name);
    as_owner(|caller| {
        let schedule = Schedule::locked(project::current(caller), name);
        if !schedule.is_paused {
            return schedule.next.map(stored);
        }
        let next = schedule.calendar.rule.next_after(Timestamp::from_micros(random::now_micros()));
        spi::exec(
            "UPDATE meshhook.schedule SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, next_time = $3,
                 due_at = $4 WHERE project_id = $1 AND schedule_id = $2",
            &[
                arg(schedule.project.0),
                arg(schedule.id),
                arg(next.map(stored)),
                arg(next.map(|next| stored(schedule.calendar.due_at(next)))),
            ],
        );
        project::audit(schedule.project, caller, "schedule.resumed", name, None);
        shmem::wake_on_commit();
        next.map(stored)
    })
}

/// Asks for a run now; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn trigger_schedule(name: Option<&str>, overlap: default!(Option<&str>, "NULL")) -> Option<pgrx::Uuid> {
    let name = required("name", name);
    let overlap = overlap.map(arguments::overlap);
    as_owner(|caller| {
        let schedule = Schedule::locked(project::current(caller), name);
        warn_if_unserved();
        let mut line = Line::of(&schedule, caller);
        let now = Timestamp::from_micros(random::now_micros());
        let outcome = line.admit(now, Origin::Trigger, overlap.unwrap_or(schedule.overlap));
        line.store(schedule.next, 0);
        project::audit(schedule.project, caller, "schedule.triggered", name, None);
        match outcome {
            Outcome::Started(run) => return Some(run),
            Outcome::Waits => {
                pgrx::notice!("the run waits until an earlier one of schedule \"{name}\" has ended")
            }
            Outcome::Skipped => {
                pgrx::notice!("no run was started: an earlier one of schedule \"{name}\" has not ended");
            }
        }
        None
    })
}

/// Makes up for the times of a range; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn backfill_schedule(
    name: Option<&str>,
    from_time: Option<TimestampWithTimeZone>,
    until_time: Option<TimestampWithTimeZone>,
    overlap: default!(Option<&str>, "'queue_all'"),
) -> i32 {
    let name = required("name", name);
    let from = arguments::moment("from_time", required("from_time", from_time));
    let until = arguments::moment("until_time", required("until_time", until_time));
    let overlap = arguments::overlap(required("overlap", overlap));
    if from >= until {
        bad_parameter("from_time must be before until_time").raise();
    }
    if until.as_micros() > random::now_micros() {
        bad_parameter("until_time must not be in the future")
            .hint("What is to come, comes by itself.")
            .raise();
    }
    as_owner(|caller| {
        let schedule = Schedule::locked(project::current(caller), name);
        warn_if_unserved();
        let mut line = Line::of(&schedule, caller);
        let mut taken = 0;
        for time in without_run(&schedule, &times_between(&schedule, from, until)) {
            taken += i32::from(line.admit(time, Origin::Backfill, overlap) != Outcome::Skipped);
        }
        line.store(schedule.next, 0);
        let details = json!({ "from": from.to_string(), "until": until.to_string(), "times": taken });
        project::audit(schedule.project, caller, "schedule.backfilled", name, Some(details.to_string()));
        taken
    })
}

/// The schedule's times of a range. Raises 54000 if they are too many.
fn times_between(schedule: &Schedule, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let times = schedule.calendar.between(from, until, MAX_BACKFILL + 1);
    if times.len() + schedule.waiting > MAX_BACKFILL {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the range has too many times")
            .detail(format!("{} wait already; the limit is {MAX_BACKFILL} together.", schedule.waiting))
            .hint("Backfill a shorter range, and the next one when its runs have ended.")
            .raise();
    }
    times
}

/// Of some times those that have no run yet and do not wait for one.
fn without_run(schedule: &Schedule, times: &[Timestamp]) -> Vec<Timestamp> {
    let version = workflow::find(schedule.project, &schedule.workflow, schedule.version);
    let keys: Vec<String> = times.iter().map(|time| key(schedule.id, *time)).collect();
    let times: Vec<TimestampWithTimeZone> = times.iter().copied().map(stored).collect();
    spi::run(
        "SELECT u.nominal_time FROM unnest($1::timestamptz[], $2::text[]) WITH ORDINALITY AS u (nominal_time, key, n)
         WHERE NOT EXISTS (SELECT FROM meshhook.run_key k
                           WHERE k.project_id = $3 AND k.workflow_id = $4 AND k.idempotency_key = u.key)
           AND NOT EXISTS (SELECT FROM meshhook.schedule_firing f
                           WHERE f.project_id = $3 AND f.schedule_id = $5 AND f.nominal_time = u.nominal_time)
         ORDER BY u.n",
        &[arg(times), arg(keys), arg(schedule.project.0), arg(version.workflow_id), arg(schedule.id)],
        |row| super::moment(row.must(1)),
    )
}

/// Forgets a schedule; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_schedule(name: Option<&str>) {
    let name = required("name", name);
    as_owner(|caller| {
        let schedule = Schedule::locked(project::current(caller), name);
        spi::exec(
            "DELETE FROM meshhook.schedule WHERE project_id = $1 AND schedule_id = $2",
            &[arg(schedule.project.0), arg(schedule.id)],
        );
        project::audit(schedule.project, caller, "schedule.dropped", name, None);
    });
}

/// The next times of a pattern or period; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn preview_schedule(
    cron: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "NULL"),
    time_zone: default!(Option<&str>, "'UTC'"),
    count: default!(i32, 10),
    after: default!(Option<TimestampWithTimeZone>, "NULL"),
    anchor: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> TableIterator<'static, (name!(nominal_time, TimestampWithTimeZone), name!(local_time, String))> {
    let Some(count) = usize::try_from(count).ok().filter(|n| (1..=MAX_PREVIEW).contains(n)) else {
        bad_parameter(format!("count must be from 1 to {MAX_PREVIEW}")).raise()
    };
    let after = after
        .map_or_else(|| Timestamp::from_micros(random::now_micros()), |at| arguments::moment("after", at));
    let times = Times::of(cron, every, required("time_zone", time_zone), anchor).anchored_at(after);
    let first = times.first_after(after);
    let rule = times.rule();
    let rows = std::iter::successors(Some(first), move |time| rule.next_after(*time)).take(count);
    TableIterator::new(rows.map(move |time| (stored(time), times.zone.reading(time))))
}
