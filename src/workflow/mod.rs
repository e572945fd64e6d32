//! Workflows: checking a definition, publishing it, finding the version a run starts on.

mod preview;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use meshhook_engine::definition::{self, Problem, Workflow};
use meshhook_engine::json::Json;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{bad_parameter, bug, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// A published version, as a run needs it to start.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The workflow's number in its project.
    pub workflow_id: i64,
    /// The version's row.
    pub version_id: i64,
    /// The version's number, from 1.
    pub version: i32,
}

thread_local! {
    /// Compiled definitions by table oid and version. A version never changes; the oid tells a dropped
    /// and re-created extension apart.
    static COMPILED: RefCell<HashMap<(u32, i64), Rc<Workflow>>> = RefCell::new(HashMap::new());
}

/// Most compiled definitions a backend keeps.
const MAX_COMPILED: usize = 1_000;

/// The compiled definition of a published version. Called as the owner role.
pub fn compiled(project: Project, version_id: i64) -> Rc<Workflow> {
    let key = (table_oid(), version_id);
    if let Some(workflow) = COMPILED.with_borrow(|cache| cache.get(&key).cloned()) {
        return workflow;
    }
    // With a snapshot of its own: the run may have been started, and its version published, a moment ago.
    let definition = spi::run_one(
        "SELECT definition FROM meshhook.workflow_version WHERE project_id = $1 AND version_id = $2",
        &[arg(project.0), arg(version_id)],
        |row| row.must::<RawJsonb>(1).text(),
    );
    let Some(definition) = definition else { bug(&format!("workflow version {version_id} is gone")) };
    let workflow = match Workflow::from_text(&definition) {
        Ok(workflow) => Rc::new(workflow),
        Err(problems) => refuse(
            PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            "a published workflow cannot be read by this release",
        )
        .detail(listing(&problems))
        .raise(),
    };
    COMPILED.with_borrow_mut(|cache| {
        if cache.len() >= MAX_COMPILED {
            cache.clear();
        }
        cache.insert(key, Rc::clone(&workflow));
    });
    workflow
}

fn table_oid() -> u32 {
    // SAFETY: catalogue look-ups inside a transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"meshhook".as_ptr(), true);
        pg_sys::get_relname_relid(c"workflow_version".as_ptr(), schema).to_u32()
    }
}

fn listing(problems: &[Problem]) -> String {
    let line = |problem: &Problem| {
        let place = if problem.pointer.is_empty() { "/" } else { &problem.pointer };
        format!("{place}: {} ({})", problem.message, problem.code)
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The version a new run starts on: the one named, or the newest. Called as the owner role.
pub fn find(project: Project, workflow: &str, version: Option<i32>) -> Version {
    let found = spi::read_one(
        "SELECT w.workflow_id, v.version_id, v.version FROM meshhook.workflow w
         JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
         WHERE w.project_id = $1 AND w.name = $2 AND ($3 IS NULL OR v.version = $3)
         ORDER BY v.version DESC LIMIT 1",
        &[arg(project.0), arg(workflow.to_owned()), arg(version)],
        |row| Version { workflow_id: row.must(1), version_id: row.must(2), version: row.must(3) },
    );
    found.unwrap_or_else(|| {
        let what = match version {
            Some(version) => format!("workflow \"{workflow}\" has no published version {version}"),
            None => format!("workflow \"{workflow}\" is not published"),
        };
        refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, what)
            .hint("Publish it with SELECT meshhook.publish_workflow(…), or SET meshhook.project to the project that has it.")
            .raise()
    })
}

/// Every fault of a definition; see the COMMENT.
#[pg_extern(immutable)]
#[search_path(pg_catalog, pg_temp)]
fn validate_workflow(
    definition: Option<RawJsonb>,
) -> TableIterator<'static, (name!(pointer, String), name!(code, String), name!(message, String))> {
    let problems = Workflow::from_text(&required("definition", definition).text()).err().unwrap_or_default();
    TableIterator::new(problems.into_iter().map(|p| (p.pointer, p.code.to_owned(), p.message)))
}

/// Publishes a definition as the next version; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn publish_workflow(definition: Option<RawJsonb>) -> i32 {
    let definition = required("definition", definition);
    let text = definition.text();
    let workflow = Workflow::from_text(&text).unwrap_or_else(|problems| {
        let count = problems.len();
        let plural = if count == 1 { "" } else { "s" };
        bad_parameter(format!("the workflow definition has {count} fault{plural}"))
            .detail(listing(&problems))
            .hint("SELECT * FROM meshhook.validate_workflow(…) lists them as rows.")
            .raise()
    });
    // The canonical text, so that the checksum does not depend on how jsonb prints.
    let canonical = Json::parse(&text).map(|json| json.to_string()).unwrap_or(text);
    let checksum = Sha256::digest(canonical.as_bytes()).to_vec();
    let version = as_owner(|caller| {
        let project = project::current(caller);
        crate::installation::ensure();
        spi::exec(
            "INSERT INTO meshhook.workflow (project_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[arg(project.0), arg(workflow.name.to_string())],
        );
        // The row lock gives concurrent publishers different numbers.
        let workflow_id: Option<i64> = spi::run_one(
            "SELECT workflow_id FROM meshhook.workflow WHERE project_id = $1 AND name = $2 FOR UPDATE",
            &[arg(project.0), arg(workflow.name.to_string())],
            |row| row.must(1),
        );
        let newest = spi::run_one(
            "SELECT version, checksum FROM meshhook.workflow_version WHERE project_id = $1 AND workflow_id = $2
             ORDER BY version DESC LIMIT 1",
            &[arg(project.0), arg(workflow_id)],
            |row| (row.must::<i32>(1), row.must::<Vec<u8>>(2)),
        );
        if let Some((version, _)) = newest.as_ref().filter(|(_, published)| *published == checksum) {
            return *version;
        }
        let version = newest.map_or(1, |(version, _)| version + 1);
        spi::exec(
            "INSERT INTO meshhook.workflow_version (project_id, workflow_id, version, definition, schema_version,
                 expression_profile, checksum, published_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::name)",
            &[
                arg(project.0),
                arg(workflow_id),
                arg(version),
                arg(definition),
                arg(definition::SCHEMA_VERSION.cast_signed()),
                arg(definition::EXPRESSION_PROFILE.to_owned()),
                arg(checksum),
                arg(caller.name()),
            ],
        );
        let details = format!("{{\"version\": {version}}}");
        project::audit(project, caller, "workflow.published", &workflow.name, Some(details));
        version
    });
    crate::shmem::register_database_on_commit();
    version
}
