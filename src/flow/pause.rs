//! Pausing a workflow or a project: new runs wait or are refused, those under way go on.

use pgrx::prelude::*;
use serde_json::json;

use crate::error::{bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::shmem;
use crate::spi::{self, arg};
use crate::workflow::{Pause, Version};

/// Refuses a start while the workflow or the project refuses all: 55000.
pub fn refuse_if_paused(version: &Version, workflow: &str) {
    if version.pause == Some(Pause::Reject) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("workflow \"{workflow}\" is paused and takes no new runs"),
        )
        .hint("SELECT meshhook.resume_workflow(…), or meshhook.resume_project(), lets it go on.")
        .raise();
    }
}

fn checked_mode(mode: Option<&str>) -> String {
    let mode = required("mode", mode);
    if !matches!(mode, "buffer" | "reject") {
        bad_parameter(format!("\"{mode}\" is not a mode of pausing"))
            .hint("Use \"buffer\" or \"reject\".")
            .raise();
    }
    mode.to_owned()
}

/// Pauses a workflow; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn pause_workflow(
    workflow: Option<&str>,
    mode: default!(Option<&str>, "'buffer'"),
    reason: default!(Option<&str>, "NULL"),
) -> bool {
    let (workflow, mode) = (required("workflow", workflow), checked_mode(mode));
    set_workflow(workflow, Some(mode), reason)
}

/// Resumes a workflow; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resume_workflow(workflow: Option<&str>, reason: default!(Option<&str>, "NULL")) -> bool {
    set_workflow(required("workflow", workflow), None, reason)
}

/// Pauses the project; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn pause_project(mode: default!(Option<&str>, "'buffer'"), reason: default!(Option<&str>, "NULL")) -> bool {
    set_project(Some(checked_mode(mode)), reason)
}

/// Resumes the project; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resume_project(reason: default!(Option<&str>, "NULL")) -> bool {
    set_project(None, reason)
}

/// Whether the session's project is paused; for the view `queued_runs`.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
pub(crate) fn project_is_paused() -> bool {
    as_owner(|caller| {
        let project = project::current(caller);
        spi::read_one(
            "SELECT pause_mode IS NOT NULL FROM meshhook.project WHERE project_id = $1",
            &[arg(project.0)],
            |row| row.must(1),
        )
        .unwrap_or(false)
    })
}

fn set_workflow(workflow: &str, mode: Option<String>, reason: Option<&str>) -> bool {
    as_owner(|caller| {
        let project = project::current(caller);
        let before = spi::run_one(
            "SELECT pause_mode FROM meshhook.workflow WHERE project_id = $1 AND name = $2 FOR NO KEY UPDATE",
            &[arg(project.0), arg(workflow.to_owned())],
            |row| row.get::<String>(1),
        );
        let Some(before) = before else {
            refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("workflow \"{workflow}\" does not exist"))
                .hint("SET meshhook.project chooses the project.")
                .raise()
        };
        if before == mode {
            return false;
        }
        spi::exec(
            "UPDATE meshhook.workflow SET pause_mode = $3, pause_reason = $4,
                 paused_at = CASE WHEN $3 IS NOT NULL THEN clock_timestamp() END
             WHERE project_id = $1 AND name = $2",
            &[arg(project.0), arg(workflow.to_owned()), arg(mode.clone()), paused_for(&mode, reason)],
        );
        told(project, caller, "workflow", workflow, mode.as_deref(), reason);
        true
    })
}

fn set_project(mode: Option<String>, reason: Option<&str>) -> bool {
    as_owner(|caller| {
        let project = project::current(caller);
        let row = spi::run_one(
            "SELECT slug, pause_mode FROM meshhook.project WHERE project_id = $1 FOR NO KEY UPDATE",
            &[arg(project.0)],
            |row| (row.must::<String>(1), row.get::<String>(2)),
        );
        let Some((slug, _)) = row.filter(|(_, before)| *before != mode) else { return false };
        spi::exec(
            "UPDATE meshhook.project SET pause_mode = $2, pause_reason = $3,
                 paused_at = CASE WHEN $2 IS NOT NULL THEN clock_timestamp() END
             WHERE project_id = $1",
            &[arg(project.0), arg(mode.clone()), paused_for(&mode, reason)],
        );
        told(project, caller, "project", &slug, mode.as_deref(), reason);
        true
    })
}

/// The reason is kept as long as the pause lasts; why it ended is in the audit log.
fn paused_for(mode: &Option<String>, reason: Option<&str>) -> spi::Arg {
    arg(mode.as_ref().and(reason).map(str::to_owned))
}

/// Writes it down, and has what waits looked at.
fn told(
    project: Project,
    caller: crate::owner::Role,
    what: &str,
    target: &str,
    mode: Option<&str>,
    reason: Option<&str>,
) {
    let action = format!("{what}.{}", if mode.is_some() { "paused" } else { "resumed" });
    let details = json!({ "mode": mode, "reason": reason }).to_string();
    project::audit(project, caller, &action, target, Some(details));
    shmem::wake_on_commit();
}
