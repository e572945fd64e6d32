//! Publishing: a definition becomes the next version, which never changes.

use std::cell::RefCell;
use std::collections::HashMap;

use meshhook_engine::definition::{self, Workflow};
use meshhook_engine::json::Json;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

use super::{checks, refuse_faults, unknown_version};
use crate::error::{bad_parameter, required};
use crate::owner::{OWNER, Role, as_owner};
use crate::project::{self, Project};
use crate::run::start::OWN_KEYS;
use crate::spi::{self, RawJsonb, arg};
use crate::{flow, resume};

/// A definition without faults, ready to be published.
pub(super) struct Sound {
    definition: RawJsonb,
    workflow: Workflow,
    checksum: Vec<u8>,
}

impl Sound {
    /// Checks a definition; 22023 with every fault if it has one.
    pub(super) fn of(definition: RawJsonb) -> Self {
        let text = definition.text();
        let workflow = super::sound(&text);
        // The canonical text, so that the checksum does not depend on how jsonb prints.
        let canonical = Json::parse(&text).map(|json| json.to_string()).unwrap_or(text);
        let checksum = Sha256::digest(canonical.as_bytes()).to_vec();
        Self { definition, workflow, checksum }
    }

    /// Makes it the next version, unless it is the newest already and takes runs. `from` is the version that a
    /// rollback goes back to. Called as the owner role.
    pub(super) fn publish(self, project: Project, caller: Role, from: Option<i32>) -> i32 {
        crate::installation::ensure();
        let name = self.workflow.name.to_string();
        if name.starts_with(OWN_KEYS) && Role::named(OWNER) != Some(caller) {
            bad_parameter(format!("names of workflows that begin with \"{OWN_KEYS}\" are reserved"))
                .hint("Choose another name.")
                .raise();
        }
        let checked = checks::check(project, caller, &self.workflow);
        if !checked.problems.is_empty() {
            refuse_faults(&checked.problems);
        }
        resume::check(&self.workflow);
        let children = serde_json::json!(checked.children);
        // The row lock gives concurrent publishers different numbers.
        let workflow_id = lock(project, &name);
        let newest = spi::run_one(
            "SELECT version, checksum, archived_at IS NULL AND children = $3 FROM meshhook.workflow_version
             WHERE project_id = $1 AND workflow_id = $2 ORDER BY version DESC LIMIT 1",
            &[arg(project.0), arg(workflow_id), arg(RawJsonb::of_text(&children.to_string()))],
            |row| (row.must::<i32>(1), row.must::<Vec<u8>>(2), row.must::<bool>(3)),
        );
        // The same document is another version once the workflows it starts have moved on.
        if let Some((version, checksum, true)) = &newest
            && *checksum == self.checksum
        {
            return *version;
        }
        let version = newest.map_or(1, |(version, ..)| version + 1);
        spi::exec(
            "INSERT INTO meshhook.workflow_version (project_id, workflow_id, version, definition, schema_version,
                 expression_profile, checksum, checks_input, published_by, children,
                 flow_controlled) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::name, $10, $11)",
            &[
                arg(project.0),
                arg(workflow_id),
                arg(version),
                arg(self.definition),
                arg(definition::SCHEMA_VERSION.cast_signed()),
                arg(definition::EXPRESSION_PROFILE.to_owned()),
                arg(self.checksum),
                arg(self.workflow.input_contract.is_some()),
                arg(caller.name()),
                arg(RawJsonb::of_text(&children.to_string())),
                arg(self.workflow.flow.is_limited()),
            ],
        );
        flow::set_limits(project, workflow_id, &self.workflow.flow);
        let (action, details) = match from {
            Some(from) => {
                ("workflow.rolled_back", format!("{{\"version\": {version}, \"to_version\": {from}}}"))
            }
            None => ("workflow.published", format!("{{\"version\": {version}}}")),
        };
        project::audit(project, caller, action, &name, Some(details));
        version
    }
}

/// Locks a workflow against other publishers; makes its row where there is none.
fn lock(project: Project, name: &str) -> Option<i64> {
    spi::exec(
        "INSERT INTO meshhook.workflow (project_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        &[arg(project.0), arg(name.to_owned())],
    );
    spi::run_one(
        "SELECT workflow_id FROM meshhook.workflow WHERE project_id = $1 AND name = $2 FOR UPDATE",
        &[arg(project.0), arg(name.to_owned())],
        |row| row.must(1),
    )
}

thread_local! {
    /// Revisions of definitions that meshhook brings along.
    static OWN: RefCell<HashMap<&'static str, Option<i64>>> = RefCell::new(HashMap::new());
}

/// Makes a definition that meshhook brings along the newest version of its workflow, unless what is there is of the same
/// `vars.revision` or a later one: while a cluster is updated two releases publish side by side. Called as the owner role.
pub fn ensure_own(project: Project, owner: Role, name: &str, definition: &'static str) {
    let revision = || {
        let own = Json::parse(definition).ok();
        own.as_ref().and_then(|own| own.get("vars")?.get("revision")?.as_i64())
    };
    let own = OWN.with_borrow_mut(|known| *known.entry(definition).or_insert_with(revision));
    let is_there = || {
        let newest: Option<Option<i64>> = spi::run_one(
            "SELECT (v.definition -> 'vars' -> 'revision')::text FROM meshhook.workflow w
             JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
             WHERE w.project_id = $1 AND w.name = $2 ORDER BY v.version DESC LIMIT 1",
            &[arg(project.0), arg(name.to_owned())],
            |row| row.get::<String>(1).and_then(|revision| revision.parse().ok()),
        );
        newest.is_some_and(|revision| revision >= own)
    };
    if is_there() {
        return;
    }
    // Looked at again under the lock that publishers take: another release may be publishing now.
    lock(project, name);
    if !is_there() {
        Sound::of(RawJsonb::of_text(definition)).publish(project, owner, None);
    }
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

/// The JSON Schema of definitions; see the COMMENT.
#[pg_extern(immutable)]
#[search_path(pg_catalog, pg_temp)]
fn workflow_schema() -> RawJsonb {
    RawJsonb::of_text(&definition::schema().to_string())
}

/// Publishes a definition as the next version; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn publish_workflow(definition: Option<RawJsonb>) -> i32 {
    let sound = Sound::of(required("definition", definition));
    let version = as_owner(|caller| sound.publish(project::current(caller), caller, None));
    crate::shmem::register_database_on_commit();
    version
}

/// Publishes an earlier version's definition again; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn rollback_workflow(workflow: Option<&str>, to_version: Option<i32>) -> i32 {
    let (workflow, to_version) = (required("workflow", workflow), required("to_version", to_version));
    as_owner(|caller| {
        let project = project::current(caller);
        let definition = published(project, workflow, to_version);
        Sound::of(definition).publish(project, caller, Some(to_version))
    })
}

/// The definition of a published version, archived or not; P0002 if there is none.
pub(super) fn published(project: Project, workflow: &str, version: i32) -> RawJsonb {
    let found = spi::read_one(
        "SELECT v.definition FROM meshhook.workflow w
         JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
         WHERE w.project_id = $1 AND w.name = $2 AND v.version = $3",
        &[arg(project.0), arg(workflow.to_owned()), arg(version)],
        |row| row.raw_jsonb(1),
    );
    found.flatten().unwrap_or_else(|| unknown_version(workflow, Some(version)).raise())
}
