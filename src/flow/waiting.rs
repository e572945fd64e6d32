//! What may happen to a run that waits for admission and has not begun: it is sent something, held back, or ended.

use pgrx::prelude::*;

use crate::error::{Refusal, refuse};
use crate::fault;
use crate::owner::Role;
use crate::project::Project;
use crate::shmem;
use crate::spi::{self, RawJsonb, arg};

/// Most facts kept for one run.
const MAX_FACTS: i32 = 100;
/// Most bytes of them. They are one value, written anew with each.
const MAX_FACT_BYTES: i32 = 4 << 20;

/// A run that has been sent as much as is kept of it.
#[derive(Clone, Copy, Debug)]
pub struct Full;

/// Keeps a fact until the run begins; false if it no longer waits, and then its start lies in the inbox. Raises 54000
/// where it has been sent too much. Called as the owner role.
pub fn keep(project: Project, run: pgrx::Uuid, kind: &'static str, data: RawJsonb, actor: Role) -> bool {
    try_keep(project, run, kind, data, actor).unwrap_or_else(|Full| {
        too_much(&format!("run \"{run}\" has been sent too much before it has begun")).raise()
    })
}

/// Like [`keep`], and tells where it has been sent too much.
pub fn try_keep(
    project: Project,
    run: pgrx::Uuid,
    kind: &'static str,
    data: RawJsonb,
    actor: Role,
) -> Result<bool, Full> {
    fault::around!("inbox.keep");
    fault::at_commit!("inbox.commit");
    let kept = spi::exec(
        "UPDATE meshhook.run_queue SET facts = facts || more.fact
         FROM (SELECT jsonb_build_object('kind', $3::text, 'data', $4::jsonb,
                                         'metadata', jsonb_build_object('actor', $5::text))) AS more (fact)
         WHERE project_id = $1 AND run_id = $2
           AND jsonb_array_length(facts) < $6 AND pg_column_size(facts || more.fact) <= $7",
        &[
            arg(project.0),
            arg(run),
            arg(kind),
            arg(data),
            arg(actor.name()),
            arg(MAX_FACTS),
            arg(MAX_FACT_BYTES),
        ],
    );
    // What is there and was not changed had no room.
    match kept {
        0 if waits(project, run) => Err(Full),
        kept => Ok(kept > 0),
    }
}

/// Whether a run waits, as it is committed now.
fn waits(project: Project, run: pgrx::Uuid) -> bool {
    let found = spi::run_one(
        "SELECT true FROM meshhook.run_queue WHERE project_id = $1 AND run_id = $2",
        &[arg(project.0), arg(run)],
        |row| row.must::<bool>(1),
    );
    found.is_some()
}

/// Keeps a signal for those of `runs` that wait: which they were. Raises 54000 as [`keep`] does, 55P03 where another
/// session holds one. Called as the owner role.
pub fn keep_for_all(project: Project, runs: Vec<pgrx::Uuid>, data: RawJsonb, actor: &str) -> Vec<pgrx::Uuid> {
    let kept = spi::run(
        "WITH waiting AS MATERIALIZED (
             SELECT run_id FROM meshhook.run_queue WHERE project_id = $1 AND run_id = ANY ($2) FOR UPDATE NOWAIT)
         UPDATE meshhook.run_queue q
         SET facts = facts || jsonb_build_object('kind', 'run.signal', 'data', $3::jsonb,
                                                 'metadata', jsonb_build_object('actor', $4::text))
         FROM waiting w WHERE q.project_id = $1 AND q.run_id = w.run_id
         RETURNING q.run_id, jsonb_array_length(facts) > $5 OR pg_column_size(facts) > $6",
        &[
            arg(project.0),
            arg(runs),
            arg(data),
            arg(actor.to_owned()),
            arg(MAX_FACTS),
            arg(MAX_FACT_BYTES),
        ],
        |row| (row.must::<pgrx::Uuid>(1), row.must::<bool>(2)),
    );
    if kept.iter().any(|(_, full)| *full) {
        too_much("a run has been sent too much before it has begun").raise();
    }
    kept.into_iter().map(|(run, _)| run).collect()
}

fn too_much(message: &str) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
        .detail(format!(
            "The limits are {MAX_FACTS} signals and decisions, and {MAX_FACT_BYTES} bytes of them."
        ))
        .hint("meshhook.queued_runs says what it waits for.")
}

/// Holds a run back, or lets it take its place again; false if it no longer waits. Called as the owner role.
pub fn hold(project: Project, run: pgrx::Uuid, paused: bool, reason: Option<&str>) -> bool {
    let waits = spi::exec(
        "UPDATE meshhook.run_queue SET paused = $3, pause_reason = $4, in_lane = in_lane AND NOT $3
         WHERE project_id = $1 AND run_id = $2",
        &[arg(project.0), arg(run), arg(paused), arg(reason.map(str::to_owned))],
    );
    if !paused {
        shmem::wake_on_commit();
    }
    waits > 0
}

/// Takes a run out of the queue, for a turn that ends it: what it would have started from. `None` if it does not wait,
/// or another session holds it.
pub fn take(project: Project, run: pgrx::Uuid) -> Option<String> {
    fault::around!("admit.take");
    spi::run_one(
        "WITH waiting AS MATERIALIZED (
             SELECT run_id FROM meshhook.run_queue WHERE project_id = $1 AND run_id = $2 FOR UPDATE SKIP LOCKED)
         DELETE FROM meshhook.run_queue q USING waiting w WHERE q.project_id = $1 AND q.run_id = w.run_id
         RETURNING q.data",
        &[arg(project.0), arg(run)],
        |row| row.must::<RawJsonb>(1).text(),
    )
}
