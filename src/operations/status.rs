//! `status()`: one row for each thing an operator asks about, and what to do if it is not well.

use pgrx::prelude::*;

use crate::event_store::{self, Holder};
use crate::owner::as_owner;
use crate::spi::{self, arg};
use crate::{guc, installation, project, random, secret, shmem, worker};

/// An appender's transaction that is open for longer is worth a look.
const LONG_OPEN_SECONDS: i64 = 60;

struct Check {
    name: &'static str,
    ok: bool,
    value: String,
    hint: String,
}

impl Check {
    fn new(name: &'static str, ok: bool, value: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = if ok { String::new() } else { hint.into() };
        Self { name, ok, value: value.into(), hint }
    }
}

/// How meshhook is doing; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn status() -> TableIterator<
    'static,
    (name!(check_name, String), name!(ok, bool), name!(value, String), name!(hint, Option<String>)),
> {
    let checks = as_owner(|caller| {
        let scope = project::served(caller);
        let mut checks = vec![activation(), orchestrator(), inbox(scope)];
        checks.extend([
            due(scope),
            ready_jobs(scope),
            executors(scope),
            leases(scope),
            open_runs(scope),
            diverging_runs(scope),
            schedules(scope),
            long_runs(scope),
            positions(scope),
            key_file(),
        ]);
        checks
    });
    let row = |check: Check| {
        let hint = (!check.hint.is_empty()).then_some(check.hint);
        (check.name.to_owned(), check.ok, check.value, hint)
    };
    TableIterator::new(checks.into_iter().map(row))
}

/// A transaction that has appended and stays open holds back the readers of its categories.
fn positions(scope: Option<i32>) -> Check {
    let now = random::now_micros() - random::PG_EPOCH_MICROS;
    let age = |holder: &Holder| holder.since.map_or(0, |since| (now - since) / 1_000_000);
    let holders = event_store::holders(scope);
    let oldest = holders.iter().max_by_key(|holder| age(holder));
    let value = oldest.map_or_else(
        || "nothing holds readers back".to_owned(),
        |oldest| {
            format!("process {} holds readers back at {} for {} s", oldest.pid, oldest.bound, age(oldest))
        },
    );
    let ok = oldest.is_none_or(|oldest| age(oldest) < LONG_OPEN_SECONDS);
    Check::new("event_store", ok, value, "SELECT * FROM meshhook.position_holders; end that transaction")
}

fn activation() -> Check {
    let active = installation::active();
    let value = if active { "active" } else { "dormant: a copy of another database" };
    Check::new(
        "activation",
        active,
        value,
        "SELECT meshhook.activate() if this copy is to act, and only then",
    )
}

fn orchestrator() -> Check {
    let served = worker::is_served();
    let value = match worker::orchestrator_pid() {
        Some(pid) => format!("{} (pid {pid})", worker::state().as_str()),
        None => worker::state().as_str().to_owned(),
    };
    let hint = if shmem::available() {
        "SELECT meshhook.start_workers(); see also meshhook.databases and the server log"
    } else {
        "put meshhook into shared_preload_libraries, or SELECT meshhook.start_workers(), or call meshhook.tick()"
    };
    Check::new("orchestrator", served, value, hint)
}

/// Count (at most a thousand) and age in seconds of the oldest of some rows.
fn backlog(sql: &'static str, scope: Option<i32>) -> (i64, f64) {
    spi::read_one(sql, &[arg(scope)], |row| (row.must::<i64>(1), row.get::<f64>(2).unwrap_or(0.0)))
        .unwrap_or((0, 0.0))
}

fn described((count, age): (i64, f64)) -> String {
    match count {
        0 => "none".to_owned(),
        1000.. => format!("1000 or more, oldest {age:.1} s"),
        _ => format!("{count}, oldest {age:.1} s"),
    }
}

fn inbox(scope: Option<i32>) -> Check {
    let found = backlog(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(created_at))::float8
         FROM (SELECT created_at FROM meshhook.inbox WHERE $1 IS NULL OR project_id = $1 ORDER BY inbox_id LIMIT 1000) i",
        scope,
    );
    Check::new(
        "inbox",
        found.1 < 10.0,
        described(found),
        "nobody takes turns, or more comes in than one orchestrator takes",
    )
}

fn due(scope: Option<i32>) -> Check {
    let found = backlog(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(due_at))::float8
         FROM (SELECT due_at FROM meshhook.timer WHERE due_at <= clock_timestamp() AND ($1 IS NULL OR project_id = $1)
               ORDER BY due_at LIMIT 1000) t",
        scope,
    );
    Check::new(
        "overdue timers",
        found.1 < 10.0,
        described(found),
        "nobody takes turns: see the orchestrator's row",
    )
}

fn ready_jobs(scope: Option<i32>) -> Check {
    let found = backlog(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(ready_at))::float8
         FROM (SELECT ready_at FROM meshhook.job
               WHERE executor IS NULL AND ready_at <= clock_timestamp() AND ($1 IS NULL OR project_id = $1) LIMIT 1000) j",
        scope,
    );
    let hint = "no executor claims them fast enough: SELECT queue, count(*) FROM meshhook.job WHERE executor IS NULL GROUP BY queue";
    Check::new("ready jobs", found.1 < 60.0, described(found), hint)
}

fn executors(scope: Option<i32>) -> Check {
    let found = spi::read_one(
        "SELECT count(DISTINCT executor), string_agg(DISTINCT executor, ', ' ORDER BY executor)
         FROM (SELECT executor FROM meshhook.job
               WHERE lease_expires_at IS NOT NULL AND ($1 IS NULL OR project_id = $1) LIMIT 1000) j",
        &[arg(scope)],
        |row| (row.must::<i64>(1), row.get::<String>(2)),
    );
    let value = match found {
        Some((n, Some(names))) => format!("{n} with a lease: {names}"),
        _ => "none with a lease".to_owned(),
    };
    Check::new("executors", true, value, "")
}

fn leases(scope: Option<i32>) -> Check {
    let found = backlog(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(lease_expires_at))::float8
         FROM (SELECT lease_expires_at FROM meshhook.job
               WHERE lease_expires_at < clock_timestamp() AND ($1 IS NULL OR project_id = $1) LIMIT 1000) j",
        scope,
    );
    Check::new(
        "expired leases",
        found.1 < 10.0,
        described(found),
        "nobody takes turns: see the orchestrator's row",
    )
}

fn open_runs(scope: Option<i32>) -> Check {
    let found = backlog(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(created_at))::float8
         FROM (SELECT created_at FROM meshhook.run
               WHERE finished_at IS NULL AND ($1 IS NULL OR project_id = $1) LIMIT 1000) r",
        scope,
    );
    Check::new("open runs", true, described(found), "")
}

fn diverging_runs(scope: Option<i32>) -> Check {
    let found = spi::read_one(
        "SELECT count(*), min(run_id::text) FROM meshhook.run_divergence WHERE $1 IS NULL OR project_id = $1",
        &[arg(scope)],
        |row| (row.must::<i64>(1), row.get::<String>(2)),
    );
    let value = match &found {
        Some((n, Some(run))) => format!("{n} left alone, among them {run}"),
        _ => "none".to_owned(),
    };
    let ok = found.is_none_or(|(n, _)| n == 0);
    let hint = "SELECT * FROM meshhook.diverging_runs; run the release that wrote their logs, or kill them";
    Check::new("diverging runs", ok, value, hint)
}

fn schedules(scope: Option<i32>) -> Check {
    let found = spi::read_one(
        "SELECT count(*), count(*) FILTER (WHERE paused_at IS NULL AND due_at < clock_timestamp() - interval '10 seconds'),
                count(*) FILTER (WHERE paused_at IS NOT NULL AND paused_by IS NULL)
         FROM meshhook.schedule WHERE $1 IS NULL OR project_id = $1",
        &[arg(scope)],
        |row| (row.must::<i64>(1), row.must::<i64>(2), row.must::<i64>(3)),
    );
    let (all, overdue, failed) = found.unwrap_or_default();
    let value = format!("{all}, of which {overdue} overdue and {failed} paused after an error");
    let hint = if failed > 0 {
        "SELECT name, pause_reason FROM meshhook.schedules WHERE paused; then meshhook.resume_schedule(name)"
    } else {
        "nobody takes turns: see the orchestrator's row"
    };
    Check::new("schedules", overdue == 0 && failed == 0, value, hint)
}

/// Runs that will fail soon for the length of their log, while something can still be done about it. Looks at
/// the first 100,000 open runs.
fn long_runs(scope: Option<i32>) -> Check {
    let Some(limit) = guc::max_run_events() else {
        return Check::new("long runs", true, "no limit", "");
    };
    let near = i64::try_from(limit / 5 * 4).unwrap_or(i64::MAX);
    let found = spi::read_one(
        "SELECT count(*), (array_agg(run_id ORDER BY position DESC))[1]::text, max(position)
         FROM (SELECT run_id, position FROM meshhook.run
               WHERE finished_at IS NULL AND ($1 IS NULL OR project_id = $1) LIMIT 100000) r
         WHERE position >= $2",
        &[arg(scope), arg(near)],
        |row| (row.must::<i64>(1), row.get::<String>(2), row.get::<i64>(3)),
    );
    let value = match &found {
        Some((n, Some(run), Some(events))) => {
            format!("{n} above 80 % of {limit} events, the longest with {events}: {run}")
        }
        _ => format!("none above 80 % of {limit} events"),
    };
    let ok = found.is_none_or(|(n, ..)| n == 0);
    Check::new(
        "long runs",
        ok,
        value,
        "they fail at meshhook.max_run_events: end them, or raise it and reload",
    )
}

fn key_file() -> Check {
    match secret::key_ids() {
        Ok(ids) => {
            Check::new("key file", true, format!("{} key(s), sealing with \"{}\"", ids.len(), ids[0]), "")
        }
        Err(error) => {
            let needed = spi::read_one("SELECT EXISTS (SELECT FROM meshhook.endpoint)", &[], |row| {
                row.must::<bool>(1)
            });
            let hint = "webhooks are answered 503: set meshhook.kek_file and reload";
            Check::new("key file", needed != Some(true), error.0, hint)
        }
    }
}
