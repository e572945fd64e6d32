//! Projects: which one a session works in, and who may.

use pgrx::prelude::*;

use crate::error::{bad_parameter, refuse, required};
use crate::guc;
use crate::owner::{Role, as_owner};
use crate::run::turn;
use crate::spi::{self, arg};

/// A project, by the number that leads every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project(pub i32);

/// The project that is there from the start.
pub const DEFAULT: Project = Project(0);

/// The session's project if the role may work in it. A function that a run calls works in the run's project.
fn chosen(caller: Role) -> Option<Project> {
    let Some(slug) = guc::text(&guc::PROJECT) else {
        let project = turn::calling().unwrap_or(DEFAULT);
        return is_open_to(project, caller).then_some(project);
    };
    if slug == "default" {
        return Some(DEFAULT);
    }
    // Operators are named in full: some callers do not pin the search path.
    let members = spi::read(
        "SELECT p.project_id, m.role_name::pg_catalog.text FROM meshhook.project p
         LEFT JOIN meshhook.project_member m ON m.project_id OPERATOR(pg_catalog.=) p.project_id
         WHERE p.slug OPERATOR(pg_catalog.=) $1",
        &[arg(slug)],
        |row| (Project(row.must(1)), row.get::<String>(2)),
    );
    let project = members.first()?.0;
    let is_member = |name: &str| Role::named(name).is_some_and(|role| caller.acts_for(role));
    let allowed =
        caller.is_executor() || members.iter().any(|(_, role)| role.as_deref().is_some_and(is_member));
    allowed.then_some(project)
}

/// The session's project. Raises 42501 if the role may not work in it, in the same words as if it did
/// not exist.
pub fn current(caller: Role) -> Project {
    chosen(caller).unwrap_or_else(|| {
        let slug = guc::text(&guc::PROJECT).unwrap_or_default();
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("project \"{slug}\" does not exist or is not yours"),
        )
        .hint("SET meshhook.project to a project of yours, or RESET it for the default project.")
        .raise()
    })
}

/// Whether a role may work in a project.
fn is_open_to(project: Project, caller: Role) -> bool {
    if project == DEFAULT || caller.is_executor() {
        return true;
    }
    let members = spi::read(
        "SELECT role_name::pg_catalog.text FROM meshhook.project_member WHERE project_id OPERATOR(pg_catalog.=) $1",
        &[arg(project.0)],
        |row| row.must::<String>(1),
    );
    members.iter().any(|name| Role::named(name).is_some_and(|role| caller.acts_for(role)))
}

/// A project by its number, as schema `message_store` names it. Raises 42501 if the role may not work in it.
pub fn numbered(project: i32, caller: Role) -> Project {
    if !is_open_to(Project(project), caller) {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "the project of this message store does not exist or is not yours",
        )
        .hint("SELECT meshhook.add_member(project, role) lets a role work in a project.")
        .raise();
    }
    Project(project)
}

/// What an executor or an orchestrator session serves: `None` is every project.
///
/// Members of `meshhook_executor` serve all projects unless they chose one; everybody else serves the
/// project of the session.
pub fn served(caller: Role) -> Option<i32> {
    match guc::text(&guc::PROJECT) {
        None if caller.is_executor() => None,
        _ => Some(current(caller).0),
    }
}

/// The project of a slug, whoever asks. Raises 42704 if there is none.
pub fn named(slug: &str) -> Project {
    let found = spi::read_one(
        "SELECT project_id FROM meshhook.project WHERE slug = $1",
        &[arg(slug.to_owned())],
        |row| Project(row.must(1)),
    );
    found.unwrap_or_else(|| {
        refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("project \"{slug}\" does not exist")).raise()
    })
}

/// Writes a line of the audit log.
pub fn audit(project: Project, actor: Role, action: &str, target: &str, details: Option<String>) {
    spi::exec(
        "INSERT INTO meshhook.audit_log (project_id, actor, action, target, details) VALUES ($1, $2::name, $3, $4, $5::jsonb)",
        &[arg(project.0), arg(actor.name()), arg(action.to_owned()), arg(target.to_owned()), arg(details)],
    );
}

/// The session's project for row policies: NULL where the role may not work in it, so that nothing is seen.
#[pg_extern(stable, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn current_project_id() -> Option<i32> {
    as_owner(|caller| chosen(caller).map(|project| project.0))
}

/// Makes a project; see the COMMENT below.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_project(slug: Option<&str>, name: default!(Option<&str>, "NULL")) -> pgrx::Uuid {
    let slug = required("slug", slug);
    let well_formed = !slug.is_empty()
        && slug.len() <= 63
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        && !slug.starts_with(['-', '_']);
    if !well_formed {
        bad_parameter(format!("\"{slug}\" is not a project slug"))
            .hint("A slug has 1 to 63 lower-case letters, digits, \"-\" and \"_\" and begins with a letter or digit.")
            .raise();
    }
    as_owner(|caller| {
        crate::installation::ensure();
        let made = spi::run_one(
            "INSERT INTO meshhook.project (slug, name) VALUES ($1, coalesce($2, $1)) ON CONFLICT (slug) DO NOTHING
             RETURNING project_id, uuid",
            &[arg(slug.to_owned()), arg(name.map(str::to_owned))],
            |row| (Project(row.must(1)), row.must::<pgrx::Uuid>(2)),
        );
        let Some((project, uuid)) = made else {
            refuse(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, format!("project \"{slug}\" exists already"))
                .raise()
        };
        audit(project, caller, "project.created", slug, None);
        uuid
    })
}

/// Lets a role work in a project; see the COMMENT below.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_member(project: &str, role: crate::types::RegRole) {
    let member = role.0;
    as_owner(|caller| {
        let found = named(project);
        if found == DEFAULT {
            bad_parameter(
                "the default project has no members: it is open to every role that may use the API",
            )
            .raise();
        }
        let member = Role::of(member).name();
        spi::exec(
            "INSERT INTO meshhook.project_member (project_id, role_name) VALUES ($1, $2::name) ON CONFLICT DO NOTHING",
            &[arg(found.0), arg(member.clone())],
        );
        audit(found, caller, "project.member_added", &member, None);
    });
}
