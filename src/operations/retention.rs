//! How long runs are kept. What forgetting does is in `sql/operations/retention.sql`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{bad_parameter, refuse};
use crate::guc;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{self, arg};

/// Most runs that are copied when a leaf is rebuilt: what a second or two of held locks can hold.
const MAX_SURVIVORS: i64 = 10_000;
/// Shortest and longest time to keep, in microseconds: an hour, a thousand years.
const KEEP_MICROS: std::ops::RangeInclusive<i128> = 3_600_000_000..=31_557_600_000_000_000;

/// Says how long runs are kept; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_retention(keep: Option<Interval>, workflow: default!(Option<&str>, "NULL")) {
    if keep.as_ref().is_some_and(|keep| !KEEP_MICROS.contains(&keep.as_micros())) {
        bad_parameter("runs are kept from 1 hour to 1000 years after their end").raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        let id = workflow.map_or(0, |name| {
            spi::read_one(
                "SELECT workflow_id FROM meshhook.workflow WHERE project_id = $1 AND name = $2",
                &[arg(project.0), arg(name.to_owned())],
                |row| row.must::<i64>(1),
            )
            .unwrap_or_else(|| {
                refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("workflow \"{name}\" does not exist"))
                    .hint("SET meshhook.project chooses the project.")
                    .raise()
            })
        });
        let seconds =
            keep.as_ref().map(|keep| i64::try_from(keep.as_micros() / 1_000_000).unwrap_or(i64::MAX));
        match keep {
            Some(keep) => spi::exec(
                "INSERT INTO meshhook.retention (project_id, workflow_id, keep) VALUES ($1, $2, $3)
                 ON CONFLICT (project_id, workflow_id) DO UPDATE SET keep = excluded.keep",
                &[arg(project.0), arg(id), arg(keep)],
            ),
            None => spi::exec(
                "DELETE FROM meshhook.retention WHERE project_id = $1 AND workflow_id = $2",
                &[arg(project.0), arg(id)],
            ),
        };
        let details = json!({ "keep_seconds": seconds }).to_string();
        project::audit(project, caller, "retention.set", workflow.unwrap_or("*"), Some(details));
    });
}

/// What would be forgotten; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn preview_retention() -> TableIterator<
    'static,
    (
        name!(leaf, String),
        name!(runs_from, Option<TimestampWithTimeZone>),
        name!(runs_to, TimestampWithTimeZone),
        name!(runs, i64),
        name!(expired, i64),
        name!(action, String),
    ),
> {
    let rows = as_owner(|_| {
        spi::run(
            "SELECT leaf, runs_from, runs_to, runs, expired, action FROM meshhook.retention_plan($1, $2)",
            &[arg(guc::RETENTION_DAYS.get()), arg(MAX_SURVIVORS)],
            |row| (row.must(1), row.get(2), row.must(3), row.must(4), row.must(5), row.must(6)),
        )
    });
    TableIterator::new(rows)
}

/// The next step of forgetting: of blobs that no run refers to any more, of runs, and then of deliveries, of which some may
/// expire every moment. Called as the owner role.
pub(super) fn step() -> Vec<(String, String)> {
    let of_blobs =
        spi::run("SELECT step, target FROM meshhook.forget_blobs()", &[], |row| (row.must(1), row.must(2)));
    if !of_blobs.is_empty() {
        return of_blobs;
    }
    let of_runs = spi::run(
        "SELECT step, target FROM meshhook.apply_retention($1, $2)",
        &[arg(guc::RETENTION_DAYS.get()), arg(MAX_SURVIVORS)],
        |row| (row.must(1), row.must(2)),
    );
    if !of_runs.is_empty() {
        return of_runs;
    }
    spi::run(
        "SELECT step, target FROM meshhook.forget_deliveries($1)",
        &[arg(guc::DELIVERY_DAYS.get())],
        |row| (row.must(1), row.must(2)),
    )
}
