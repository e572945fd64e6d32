//! Runs: starting, canceling, reading, and the turns that move them.

pub mod read;
pub mod start;
pub mod tags;
pub mod turn;

use pgrx::prelude::*;

use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// Puts a fact into the inbox. Called as the owner role; the orchestrator is woken when it commits.
pub fn post(project: Project, run: pgrx::Uuid, kind: &'static str, data: RawJsonb, actor: Role) {
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
         VALUES ($1, $2, $3, $4, jsonb_build_object('actor', $5::text))",
        &[arg(project.0), arg(run), arg(kind), arg(data), arg(actor.name())],
    );
    crate::shmem::wake_on_commit();
}

/// Asks for the end of a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn cancel_run(run: Option<pgrx::Uuid>, reason: default!(Option<&str>, "NULL")) -> bool {
    let run = crate::error::required("run", run);
    as_owner(|caller| {
        let project = project::current(caller);
        let finished = spi::run_one(
            "SELECT finished_at IS NOT NULL FROM meshhook.run WHERE project_id = $1 AND run_id = $2",
            &[arg(project.0), arg(run)],
            |row| row.must::<bool>(1),
        );
        match finished {
            None => crate::error::unknown_run(run).raise(),
            Some(true) => false,
            Some(false) => {
                crate::flow::cancel(project, run, reason, caller);
                true
            }
        }
    })
}
