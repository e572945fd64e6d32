//! Drafts: definitions that somebody works on, sound or not, one a workflow.

use meshhook_engine::definition::{MAX_DEFINITION_BYTES, MAX_NAME_BYTES, Workflow, is_workflow_name};
use meshhook_engine::json::Json;
use pgrx::prelude::*;

use super::publish::Sound;
use crate::error::{Refusal, bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// A draft as it is stored.
struct Draft {
    revision: i64,
    definition: RawJsonb,
}

/// Keeps a definition as its workflow's draft; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn save_draft(
    definition: Option<RawJsonb>,
    expected_revision: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(revision, i64), name!(problems, i32))> {
    let definition = required("definition", definition);
    let text = definition.text();
    if text.len() > MAX_DEFINITION_BYTES {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the definition is too large")
            .detail(format!("It has {} bytes; the limit is {MAX_DEFINITION_BYTES}.", text.len()))
            .raise();
    }
    let name = draft_name(&text);
    let problems = Workflow::from_text(&text).err().map_or(0, |problems| problems.len());
    let problems = i32::try_from(problems).unwrap_or(i32::MAX);
    let revision = as_owner(|caller| {
        let project = project::current(caller);
        crate::installation::ensure();
        let saved = spi::run_one(
            "INSERT INTO meshhook.workflow_draft AS d (project_id, name, definition, problems, saved_by)
             SELECT $1, $2, $3, $4, $5::name
             WHERE coalesce($6, 0) = 0
                OR EXISTS (SELECT FROM meshhook.workflow_draft WHERE project_id = $1 AND name = $2)
             ON CONFLICT (project_id, name) DO UPDATE
             SET definition = excluded.definition, problems = excluded.problems, saved_by = excluded.saved_by,
                 saved_at = pg_catalog.now(), revision = d.revision + 1
             WHERE $6 IS NULL OR d.revision = $6
             RETURNING d.revision",
            &[
                arg(project.0),
                arg(name.clone()),
                arg(definition),
                arg(problems),
                arg(caller.name()),
                arg(expected_revision),
            ],
            |row| row.must::<i64>(1),
        );
        saved.unwrap_or_else(|| {
            let found = find(project, &name).map_or(0, |draft| draft.revision);
            moved_on(&name, expected_revision, found).raise()
        })
    });
    TableIterator::once((revision, problems))
}

/// Publishes a draft; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn publish_draft(workflow: Option<&str>, expected_revision: default!(Option<i64>, "NULL")) -> i32 {
    let workflow = required("workflow", workflow);
    let version = as_owner(|caller| {
        let project = project::current(caller);
        let draft = find(project, workflow).unwrap_or_else(|| unknown_draft(workflow).raise());
        if expected_revision.is_some_and(|expected| expected != draft.revision) {
            moved_on(workflow, expected_revision, draft.revision).raise();
        }
        let version = Sound::of(draft.definition).publish(project, caller, None);
        remove(project, workflow);
        version
    });
    crate::shmem::register_database_on_commit();
    version
}

/// Throws a draft away; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn discard_draft(workflow: Option<&str>) {
    let workflow = required("workflow", workflow);
    as_owner(|caller| {
        if remove(project::current(caller), workflow) == 0 {
            unknown_draft(workflow).raise();
        }
    });
}

/// The definition of a workflow's draft; P0002 if there is none.
pub(super) fn definition(project: Project, workflow: &str) -> RawJsonb {
    let found = spi::read_one(
        "SELECT definition FROM meshhook.workflow_draft WHERE project_id = $1 AND name = $2",
        &[arg(project.0), arg(workflow.to_owned())],
        |row| row.raw_jsonb(1),
    );
    found.flatten().unwrap_or_else(|| unknown_draft(workflow).raise())
}

/// The name in a definition that may have any other fault.
fn draft_name(text: &str) -> String {
    let definition = Json::parse(text).unwrap_or(Json::Null);
    let name = definition.get("name").and_then(Json::as_str).filter(|name| is_workflow_name(name));
    let Some(name) = name else {
        bad_parameter("a draft needs the name of its workflow")
            .detail(format!("\"name\" must have 1 to {MAX_NAME_BYTES} bytes and no control characters."))
            .raise()
    };
    name.to_owned()
}

/// A workflow's draft, locked against whoever else saves, publishes or discards it.
fn find(project: Project, workflow: &str) -> Option<Draft> {
    let found = spi::run_one(
        "SELECT revision, definition FROM meshhook.workflow_draft WHERE project_id = $1 AND name = $2 FOR UPDATE",
        &[arg(project.0), arg(workflow.to_owned())],
        |row| Some(Draft { revision: row.must(1), definition: row.raw_jsonb(2)? }),
    );
    found.flatten()
}

fn remove(project: Project, workflow: &str) -> u64 {
    spi::exec(
        "DELETE FROM meshhook.workflow_draft WHERE project_id = $1 AND name = $2",
        &[arg(project.0), arg(workflow.to_owned())],
    )
}

fn unknown_draft(workflow: &str) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("workflow \"{workflow}\" has no draft"))
        .hint("SELECT * FROM meshhook.drafts lists the drafts of the project.")
}

fn moved_on(workflow: &str, expected: Option<i64>, found: i64) -> Refusal {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("the draft of workflow \"{workflow}\" is not at the revision expected"),
    )
    .detail(format!("Expected revision {}, found {found} (0: no draft).", expected.unwrap_or(0)))
    .hint("Read it again from meshhook.drafts and bring both changes together.")
}
