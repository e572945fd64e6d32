//! Archiving: a version takes no new runs; those under way go on.

use pgrx::prelude::*;

use super::{exists, unknown_version};
use crate::error::required;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{self, arg};

/// Closes versions to new runs; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn archive_workflow(workflow: Option<&str>, version: default!(Option<i32>, "NULL")) -> i32 {
    set(required("workflow", workflow), version, true)
}

/// Opens archived versions to new runs again; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn unarchive_workflow(workflow: Option<&str>, version: default!(Option<i32>, "NULL")) -> i32 {
    set(required("workflow", workflow), version, false)
}

/// Archives or opens a version, or all of them; returns how many were not so before.
fn set(workflow: &str, version: Option<i32>, archived: bool) -> i32 {
    as_owner(|caller| {
        let project = project::current(caller);
        if !exists(project, workflow, version) {
            unknown_version(workflow, version).raise();
        }
        let changed = spi::exec(
            "UPDATE meshhook.workflow_version v
             SET archived_at = CASE WHEN $4 THEN pg_catalog.now() END, archived_by = CASE WHEN $4 THEN $5::name END
             FROM meshhook.workflow w
             WHERE w.project_id = $1 AND w.name = $2 AND v.project_id = w.project_id
               AND v.workflow_id = w.workflow_id AND ($3 IS NULL OR v.version = $3) AND (v.archived_at IS NULL) = $4",
            &[arg(project.0), arg(workflow.to_owned()), arg(version), arg(archived), arg(caller.name())],
        );
        if changed > 0 {
            let action = if archived { "workflow.archived" } else { "workflow.unarchived" };
            let details = version.map(|version| format!("{{\"version\": {version}}}"));
            project::audit(project, caller, action, workflow, details);
        }
        i32::try_from(changed).unwrap_or(i32::MAX)
    })
}
