//! Workflows: drafts, published versions, and the version a run starts on.

mod archive;
mod diff;
mod draft;
mod publish;
pub use publish::ensure_own;

mod checks;

mod preview;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use meshhook_engine::contract::Violation;
use meshhook_engine::definition::{Problem, Workflow, shown};
use meshhook_engine::json::Json;
use pgrx::prelude::*;

use crate::error::{Refusal, bad_parameter, bug, refuse};
use crate::kept::{self, Kept};
use crate::project::Project;
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
    /// Whether it has a schema for its input.
    pub checks_input: bool,
    /// Whether its starts have to ask for admission.
    pub flow_controlled: bool,
    /// Whether its starts, or all of the project's, are held back.
    pub pause: Option<Pause>,
}

/// What becomes of starts while a workflow or a project is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// They wait.
    Buffer,
    /// They are refused.
    Reject,
}

thread_local! {
    /// Compiled definitions by table oid and version. A version never changes; the oid tells a dropped
    /// and re-created extension apart.
    static COMPILED: RefCell<HashMap<(u32, i64), Rc<Workflow>>> = RefCell::new(HashMap::new());
    /// What starts begin on, by project, workflow, and version where one is asked for.
    static NEWEST: Kept<(i32, String, Option<i32>), Version> = Kept::new();
}

/// Most compiled definitions a backend keeps.
const MAX_COMPILED: usize = 1_000;

/// The compiled definition of a published version. Called as the owner role.
pub fn compiled(project: Project, version_id: i64) -> Rc<Workflow> {
    let key = (kept::marker().to_u32(), version_id);
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

/// A definition that somebody gives, compiled. Raises 22023 with all its faults.
pub fn sound(definition: &str) -> Workflow {
    Workflow::from_text(definition).unwrap_or_else(|problems| refuse_faults(&problems))
}

/// Faults as lines of a DETAIL.
pub fn listing(problems: &[Problem]) -> String {
    let line =
        |problem: &Problem| format!("{}: {} ({})", shown(&problem.pointer), problem.message, problem.code);
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The version a new run starts on: the one named, or the newest that is not archived. Called as the owner role.
pub fn find(project: Project, workflow: &str, version: Option<i32>) -> Version {
    startable(project, workflow, version).unwrap_or_else(|| not_startable(project, workflow, version).raise())
}

/// The version a new run starts on, if there is one.
pub fn startable(project: Project, workflow: &str, version: Option<i32>) -> Option<Version> {
    let arguments = || [arg(project.0), arg(workflow.to_owned()), arg(version)];
    let load = || spi::run_one(STARTABLE, &arguments(), version_of);
    NEWEST.with(|kept| kept.get((project.0, workflow.to_owned(), version), load))
}

const STARTABLE: &str = "SELECT w.workflow_id, v.version_id, v.version, v.checks_input, v.flow_controlled,
            w.pause_mode IS NOT NULL OR p.pause_mode IS NOT NULL, 'reject' IN (w.pause_mode, p.pause_mode)
     FROM meshhook.workflow w
     JOIN meshhook.project p ON p.project_id = w.project_id
     CROSS JOIN LATERAL (
         SELECT * FROM meshhook.workflow_version v
         WHERE v.project_id = w.project_id AND v.workflow_id = w.workflow_id
           AND ($3 IS NULL OR v.version = $3) AND v.archived_at IS NULL
         ORDER BY v.version DESC LIMIT 1) v
     WHERE w.project_id = $1 AND w.name = $2";

fn version_of(row: &spi::Row) -> Version {
    Version {
        workflow_id: row.must(1),
        version_id: row.must(2),
        version: row.must(3),
        checks_input: row.must(4),
        flow_controlled: row.must(5),
        pause: row.must::<bool>(6).then(|| match row.get(7) {
            Some(true) => Pause::Reject,
            _ => Pause::Buffer,
        }),
    }
}

/// Why a workflow, or a version of it, takes no new runs.
fn not_startable(project: Project, workflow: &str, version: Option<i32>) -> Refusal {
    if exists(project, workflow, version) {
        let what = match version {
            Some(version) => format!("version {version} of workflow \"{workflow}\" is archived"),
            None => format!("workflow \"{workflow}\" is archived"),
        };
        return refuse(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, what)
            .hint("SELECT meshhook.unarchive_workflow(…) lets it take new runs again.");
    }
    unknown_version(workflow, version)
}

/// Whether a workflow, or a version of it, has been published, archived or not.
fn exists(project: Project, workflow: &str, version: Option<i32>) -> bool {
    let found = spi::read_one(
        "SELECT true FROM meshhook.workflow w
         JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
         WHERE w.project_id = $1 AND w.name = $2 AND ($3 IS NULL OR v.version = $3) LIMIT 1",
        &[arg(project.0), arg(workflow.to_owned()), arg(version)],
        |row| row.must::<bool>(1),
    );
    found.is_some()
}

/// A workflow or version that was never published, or is another project's: P0002.
fn unknown_version(workflow: &str, version: Option<i32>) -> Refusal {
    let what = match version {
        Some(version) => format!("workflow \"{workflow}\" has no published version {version}"),
        None => format!("workflow \"{workflow}\" is not published"),
    };
    refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, what).hint(
        "Publish it with SELECT meshhook.publish_workflow(…), or SET meshhook.project to the project that has it.",
    )
}

/// Where an input breaks a version's input schema. Called as the owner role.
pub fn input_violations(project: Project, version: Version, input: RawJsonb) -> Vec<Violation> {
    if !version.checks_input {
        return Vec::new();
    }
    let workflow = compiled(project, version.version_id);
    let Ok(input) = Json::parse(&input.text()) else { bug("jsonb has printed what is no JSON") };
    workflow.input_contract.as_ref().map(|contract| contract.violations(&input)).unwrap_or_default()
}

/// Violations as lines of a DETAIL.
pub fn violation_lines(violations: &[Violation]) -> String {
    let line = |violation: &Violation| format!("{}: {}", shown(&violation.pointer), violation.message);
    violations.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn refuse_faults(problems: &[Problem]) -> ! {
    let count = problems.len();
    let plural = if count == 1 { "" } else { "s" };
    bad_parameter(format!("the workflow definition has {count} fault{plural}"))
        .detail(listing(problems))
        .hint("SELECT * FROM meshhook.validate_workflow(…) lists those of the document as rows.")
        .raise()
}
