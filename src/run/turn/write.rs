//! What a turn writes: one statement a table, whatever the number of runs.

use super::batch::{Batch, Jobs};
use super::children;
use crate::random::PG_EPOCH_MICROS;
use crate::run::snapshot;
use crate::spi::{self, arg};
use crate::{blob, event_store, fault, shmem};

/// Writes a turn. The caller commits.
pub(super) fn all(batch: &mut Batch) {
    cancel_open_work(batch);
    drop_work(batch);
    blobs(batch);
    events(batch);
    #[cfg(not(feature = "faults"))]
    jobs(&batch.jobs);
    #[cfg(feature = "faults")]
    fault::bugs::torn_turn({
        let held = std::mem::take(&mut batch.jobs);
        move || jobs(&held)
    });
    timers(batch);
    database(batch);
    children::start(&batch.children);
    batch.uses.keep();
    runs(batch);
    returns(batch);
    slots(batch);
    // One statement each: they are few and large.
    batch.snapshots.drain(..).for_each(|(key, stored)| snapshot::store(&key, stored));
    if !batch.consumed.is_empty() {
        fault::around!("turn.inbox");
        spi::exec("DELETE FROM meshhook.inbox WHERE inbox_id = ANY ($1)", &[arg(batch.consumed.clone())]);
    }
}

/// Deletes the rows of a table that have these keys, but for those that another session holds.
macro_rules! take_back {
    ($table:literal, of $columns:literal, by $key:literal) => {
        concat!(
            "WITH open AS MATERIALIZED (
                 SELECT t.project_id, t.run_id, t.node FROM unnest(",
            $columns,
            ") AS u (",
            $key,
            ") JOIN meshhook.",
            $table,
            " t USING (",
            $key,
            ") FOR UPDATE OF t SKIP LOCKED)
             DELETE FROM meshhook.",
            $table,
            " t USING open o
             WHERE t.project_id = o.project_id AND t.run_id = o.run_id AND t.node = o.node"
        )
    };
}

/// Takes back what is open for runs that ended. A job or timer that another session holds (an executor that
/// is just reporting, an open `tick()`) is left alone, for a turn waits for nobody: the report, the fired
/// timer or the lease's end finds the run over and is dropped.
fn cancel_open_work(batch: &Batch) {
    let closed = &batch.closed;
    if closed.run.is_empty() {
        return;
    }
    fault::around!("turn.take_back");
    take_back_work(&closed.project, &closed.run);
}

/// Deletes jobs and timers of runs, but for those that another session holds.
pub(super) fn take_back_work(projects: &[i32], runs: &[pgrx::Uuid]) {
    let keys = [arg(projects.to_vec()), arg(runs.to_vec())];
    spi::exec(take_back!("job", of "$1::integer[], $2::uuid[]", by "project_id, run_id"), &keys);
    spi::exec(take_back!("timer", of "$1::integer[], $2::uuid[]", by "project_id, run_id"), &keys);
}

/// What is too large for the log, before the log refers to it.
fn blobs(batch: &Batch) {
    if batch.blobs.is_empty() {
        return;
    }
    fault::around!("turn.blobs");
    blob::put_all(&batch.blobs);
}

fn events(batch: &Batch) {
    let events = &batch.events;
    if events.kind.is_empty() {
        return;
    }
    fault::around!("turn.events");
    // The events of a run lie together, so a project is named again only where it changes.
    let mut projects = events.keys.project.clone();
    projects.dedup();
    projects.into_iter().for_each(event_store::register_runs);
    spi::exec(
        "INSERT INTO meshhook.run_event (project_id, run_id, position, global_position, type, data, metadata, created_at)
         SELECT project_id, run_id, position, nextval('meshhook.global_position_seq'), type, data::jsonb, metadata::jsonb,
                created_at
         FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
              AS u (project_id, run_id, position, type, data, metadata, created_at)",
        &[
            arg(events.keys.project.clone()),
            arg(events.keys.run.clone()),
            arg(events.position.clone()),
            arg(events.kind.clone()),
            arg(events.data.clone()),
            arg(events.metadata.clone()),
            arg(events.at.clone()),
        ],
    );
}

fn jobs(jobs: &Jobs) {
    if jobs.node.is_empty() {
        return;
    }
    fault::around!("turn.jobs");
    spi::exec(
        "INSERT INTO meshhook.job (project_id, run_id, node, attempt, kind, queue, input_position, timeout_ms, token, ready_at)
         SELECT project_id, run_id, node, attempt, kind, queue, input_position, timeout_ms, token,
                -- A log that is ahead of the clock must not keep its jobs from being claimed.
                least(at, clock_timestamp())
         FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[],
                     $8::bigint[], $9::bigint[], $10::timestamptz[])
              AS j (project_id, run_id, node, attempt, kind, queue, input_position, timeout_ms, token, at)",
        &[
            arg(jobs.keys.project.clone()),
            arg(jobs.keys.run.clone()),
            arg(jobs.node.clone()),
            arg(jobs.attempt.clone()),
            arg(jobs.kind.clone()),
            arg(jobs.queue.clone()),
            arg(jobs.input_position.clone()),
            arg(jobs.timeout_ms.clone()),
            arg(jobs.token.clone()),
            arg(jobs.at.clone()),
        ],
    );
    // An empty payload: every LISTENer of the database hears it, whoever's jobs these are.
    spi::exec("SELECT pg_notify('meshhook_jobs', '')", &[]);
}

fn timers(batch: &Batch) {
    let timers = &batch.timers;
    if timers.node.is_empty() {
        return;
    }
    fault::around!("turn.timers");
    spi::exec(
        "INSERT INTO meshhook.timer (project_id, run_id, node, due_at)
         SELECT * FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::timestamptz[])
         ON CONFLICT (project_id, run_id, node) DO UPDATE SET due_at = excluded.due_at",
        &[
            arg(timers.keys.project.clone()),
            arg(timers.keys.run.clone()),
            arg(timers.node.clone()),
            arg(timers.due.clone()),
        ],
    );
    if let Some(earliest) = timers.earliest {
        shmem::note_deadline_on_commit(earliest - PG_EPOCH_MICROS);
    }
}

fn runs(batch: &Batch) {
    let updates = &batch.updates;
    if updates.status.is_empty() {
        return;
    }
    fault::around!("turn.runs");
    spi::exec(
        "UPDATE meshhook.run r
         SET status = u.status, position = u.position, started_at = u.started_at, finished_at = u.finished_at,
             last_at = u.last_at
         FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[],
                     $7::timestamptz[]) AS u (project_id, run_id, status, position, started_at, finished_at, last_at)
         WHERE r.project_id = u.project_id AND r.run_id = u.run_id",
        &[
            arg(updates.keys.project.clone()),
            arg(updates.keys.run.clone()),
            arg(updates.status.clone()),
            arg(updates.position.clone()),
            arg(updates.started.clone()),
            arg(updates.finished.clone()),
            arg(updates.last.clone()),
        ],
    );
}

/// Takes back jobs and timers of single nodes; what another session holds is left alone, as above.
fn drop_work(batch: &Batch) {
    if batch.dropped_nodes.is_empty() {
        return;
    }
    let dropped = &batch.dropped;
    fault::around!("turn.drop");
    let keys = [arg(dropped.project.clone()), arg(dropped.run.clone()), arg(batch.dropped_nodes.clone())];
    spi::exec(
        take_back!("job", of "$1::integer[], $2::uuid[], $3::text[]", by "project_id, run_id, node"),
        &keys,
    );
    spi::exec(
        take_back!("timer", of "$1::integer[], $2::uuid[], $3::text[]", by "project_id, run_id, node"),
        &keys,
    );
    if batch.canceled_runs.is_empty() {
        return;
    }
    fault::around!("turn.cancel");
    let canceled = &batch.canceled;
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
         SELECT project_id, child::uuid, 'run.cancel', jsonb_build_object('reason', format('run %s no longer waits for it', run_id))
         FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS u (project_id, run_id, child)",
        &[arg(canceled.project.clone()), arg(canceled.run.clone()), arg(batch.canceled_runs.clone())],
    );
}

/// Work for a later turn of the same run lies in its inbox.
fn database(batch: &Batch) {
    let work = &batch.database;
    if work.node.is_empty() {
        return;
    }
    fault::around!("turn.database");
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
         SELECT project_id, run_id, 'work.due', jsonb_build_object('node', node, 'attempt', attempt)
         FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::integer[]) AS u (project_id, run_id, node, attempt)",
        &[
            arg(work.keys.project.clone()),
            arg(work.keys.run.clone()),
            arg(work.node.clone()),
            arg(work.attempt.clone()),
        ],
    );
}

/// Tells the runs that wait for those that ended.
fn returns(batch: &Batch) {
    let returns = &batch.returns;
    if returns.node.is_empty() {
        return;
    }
    fault::around!("turn.returns");
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data)
         SELECT u.project_id, u.parent::uuid, 'child.ended',
                jsonb_build_object('node', u.node, 'run', u.run_id, 'status', u.status)
                || CASE WHEN e.data ? 'output' THEN jsonb_build_object('output', e.data -> 'output') ELSE '{}' END
                || CASE WHEN e.data ? 'error' THEN jsonb_build_object('error', e.data -> 'error') ELSE '{}' END
         FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[])
              AS u (project_id, run_id, status, position, parent, node)
         JOIN meshhook.run_event e ON e.project_id = u.project_id AND e.run_id = u.run_id AND e.position = u.position",
        &[
            arg(returns.keys.project.clone()),
            arg(returns.keys.run.clone()),
            arg(returns.status.clone()),
            arg(returns.position.clone()),
            arg(returns.parent.clone()),
            arg(returns.node.clone()),
        ],
    );
}

/// Gives back the slots of runs that ended.
fn slots(batch: &Batch) {
    if batch.slots.run.is_empty() {
        return;
    }
    fault::around!("turn.slots");
    spi::exec(
        "INSERT INTO meshhook.run_slot_freed (project_id, run_id, workflow_id)
         SELECT s.project_id, s.run_id, s.workflow_id FROM unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         JOIN meshhook.run_slot s ON s.project_id = u.project_id AND s.run_id = u.run_id
         ON CONFLICT DO NOTHING",
        &[arg(batch.slots.project.clone()), arg(batch.slots.run.clone())],
    );
}
