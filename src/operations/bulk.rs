//! Acts on many runs: rehearsed, noted, worked off beside the turns. What an act does is in `sql/operations/bulk.sql`.

use pgrx::prelude::*;

use crate::error::{bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::spi::{self, RawJsonb, arg};
use crate::{fault, project, shmem};

/// Runs that one step looks at.
const CANDIDATES: i32 = 1_000;

/// Begins an act on many runs, or counts them; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_bulk_operation(
    action: Option<&str>,
    filter: Option<RawJsonb>,
    reason: default!(Option<&str>, "NULL"),
    arguments: default!(Option<RawJsonb>, "'{}'"),
    dry_run: default!(bool, "true"),
) -> TableIterator<'static, (name!(operation_id, Option<i64>), name!(matched, i64))> {
    let (action, filter) = (required("action", action), required("filter", filter));
    let arguments = required("arguments", arguments);
    if !dry_run && reason.is_none_or(str::is_empty) {
        bad_parameter("an act on many runs needs a reason").hint("It is kept in the audit log.").raise();
    }
    let row = as_owner(|caller| {
        let project = project::current(caller);
        spi::run_one(
            "SELECT operation_id, matched FROM meshhook.bulk_create($1, $2, $3, $4, $5, $6, $7)",
            &[
                arg(project.0),
                arg(caller.name()),
                arg(action.to_owned()),
                arg(filter),
                arg(reason.map(str::to_owned)),
                arg(arguments),
                arg(dry_run),
            ],
            |row| (row.get(1), row.must(2)),
        )
    });
    if !dry_run {
        shmem::wake_on_commit();
    }
    TableIterator::new(row)
}

/// Stops an act on many runs; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn cancel_bulk_operation(operation_id: i64) -> bool {
    as_owner(|caller| {
        let project = project::current(caller);
        let was_running = spi::run_one(
            "WITH operation AS MATERIALIZED (
                 SELECT status = 'running' AS running FROM meshhook.bulk_operation
                 WHERE project_id = $1 AND operation_id = $2 FOR UPDATE),
             stopped AS (
                 UPDATE meshhook.bulk_operation SET status = 'canceled', finished_at = clock_timestamp()
                 WHERE project_id = $1 AND operation_id = $2 AND (SELECT running FROM operation))
             SELECT running FROM operation",
            &[arg(project.0), arg(operation_id)],
            |row| row.must::<bool>(1),
        );
        let Some(was_running) = was_running else {
            refuse(
                PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
                format!("bulk operation {operation_id} does not exist"),
            )
            .hint("SELECT * FROM meshhook.bulk_operations lists those of your project.")
            .raise()
        };
        if was_running {
            project::audit(project, caller, "bulk.canceled", &operation_id.to_string(), None);
        }
        was_running
    })
}

/// Whether there is an operation to work off. Called as the owner role.
pub fn is_under_way(scope: Option<i32>) -> bool {
    let open = spi::run_one(
        "SELECT 1 FROM meshhook.bulk_operation WHERE status = 'running' AND ($1 IS NULL OR project_id = $1) LIMIT 1",
        &[arg(scope)],
        |_| (),
    );
    open.is_some()
}

/// One step of one operation, if there is one. Called as the owner role, beside a turn.
pub fn step(scope: Option<i32>) {
    if is_under_way(scope) {
        fault::around!("due.bulk");
        fault::at_commit!("turn.commit");
        spi::exec("SELECT meshhook.bulk_step($1, $2)", &[arg(scope), arg(CANDIDATES)]);
    }
}
