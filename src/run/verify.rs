//! The proof that a run follows from its log: everything is decided again, and what is derived from it is compared.

use meshhook_engine::event::Recorded;
use meshhook_engine::json::Json;
use meshhook_engine::replay::{Difference, first_difference, verify};
use meshhook_engine::state::{NodeState, NodeStatus, RunState};
use meshhook_engine::to_json;
use pgrx::prelude::*;

use super::read::{RunRow, find, log};
use super::snapshot;
use crate::owner::as_owner;
use crate::project;
use crate::random::unix_micros;
use crate::spi::{self, RawJsonb, arg};
use crate::workflow;

/// Replays a run and compares; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn verify_run(
    run: pgrx::Uuid,
) -> TableIterator<
    'static,
    (
        name!(position, i64),
        name!(path, String),
        name!(expected, Option<RawJsonb>),
        name!(found, Option<RawJsonb>),
    ),
> {
    let differences = as_owner(|caller| {
        let project = project::current(caller);
        let row = find(project, run);
        let workflow = workflow::compiled(project, row.version_id);
        let log = log(&row);
        match verify(&workflow, &run.to_string(), &log) {
            Err(difference) => vec![*difference],
            Ok(state) => {
                let differences = compare_projections(&row, &state);
                if differences.is_empty() { compare_snapshots(&row, &log) } else { differences }
            }
        }
    });
    let raw = |json: Option<Json>| json.as_ref().map(RawJsonb::of);
    let rows: Vec<_> = differences
        .into_iter()
        .map(|d| (d.position.cast_signed(), d.path, raw(d.expected), raw(d.found)))
        .collect();
    TableIterator::new(rows)
}

/// What is derived from the log (row, jobs, timers) against the replayed state.
fn compare_projections(row: &RunRow, state: &RunState) -> Vec<Difference> {
    let number = |n: u64| Json::from(n.cast_signed());
    // What others still hold of a run that ended is on its way out: the report, the timer or the lease's end
    // takes it.
    let ended = state.status.is_terminal();
    let open_jobs = if ended { ready_jobs(row) } else { found_jobs(row) };
    let open_timers = if ended { expected_timers(state) } else { found_timers(row) };
    let expected = Json::object([
        (
            "run",
            Json::object([
                ("position", number(state.position)),
                ("status", Json::from(state.status.as_str())),
            ]),
        ),
        ("jobs", expected_jobs(state)),
        ("timers", expected_timers(state)),
    ]);
    let found = Json::object([
        (
            "run",
            Json::object([("position", number(row.position)), ("status", Json::from(row.status.as_str()))]),
        ),
        ("jobs", open_jobs),
        ("timers", open_timers),
    ]);
    let difference = first_difference(&expected, &found);
    difference
        .map(|(path, expected, found)| Difference { position: state.position, path, expected, found })
        .into_iter()
        .collect()
}

/// The snapshots that a replay could start from against the log. One that no replay would use is none of them.
fn compare_snapshots(row: &RunRow, log: &[Recorded]) -> Vec<Difference> {
    let (mut state, mut events) = (RunState::default(), log.iter());
    let snapshots = snapshot::usable(row.key, row.position);
    let difference = snapshots.iter().find_map(|stored| {
        while state.position < stored.position {
            // What verify has gone through can be folded.
            state.apply(events.next()?).ok()?;
        }
        let (path, expected, found) = first_difference(&to_json(&state), &to_json(stored))?;
        Some(Difference { position: state.position, path: format!("/snapshot{path}"), expected, found })
    });
    difference.into_iter().collect()
}

/// Whether a pause has put off a fact of one of these kinds about a node: such a fact has taken the node's row away.
fn is_put_off(state: &RunState, kinds: &[&str], path: &str) -> bool {
    let is_about = |data: &Json| data.get("node").and_then(Json::as_str) == Some(path);
    state.deferred.iter().any(|fact| kinds.contains(&&*fact.kind) && is_about(&fact.data))
}

fn expected_jobs(state: &RunState) -> Json {
    let is_job = |node: &NodeState| {
        node.status == NodeStatus::Scheduled && node.job.as_ref().is_some_and(|job| job.queue.is_some())
    };
    let reports = ["job.completed", "job.failed"];
    let scheduled =
        state.open_work().filter(|(path, node)| is_job(node) && !is_put_off(state, &reports, path));
    Json::object(
        scheduled.map(|(path, node)| (&**path, Json::from(i64::from(node.attempt)))).collect::<Vec<_>>(),
    )
}

fn expected_timers(state: &RunState) -> Json {
    let of_nodes = state.open_work().filter_map(|(path, node)| Some((&**path, node.timer()?)));
    let own = state.deadline.filter(|_| !state.status.is_terminal()).map(|at| ("", at));
    let waiting = of_nodes.chain(own).filter(|(path, _)| !is_put_off(state, &["timer.due"], path));
    Json::object(waiting.map(|(path, at)| (path, Json::from(at.to_string()))).collect::<Vec<_>>())
}

/// A job on its way into the log is neither missing nor superfluous: its report lies in the inbox.
fn found_jobs(row: &RunRow) -> Json {
    jobs(
        row,
        "SELECT node, attempt FROM meshhook.job WHERE project_id = $1 AND run_id = $2
         UNION SELECT data ->> 'node', (data -> 'attempt')::integer FROM meshhook.inbox
               WHERE project_id = $1 AND run_id = $2 AND kind IN ('job.completed', 'job.failed')",
    )
}

fn ready_jobs(row: &RunRow) -> Json {
    jobs(
        row,
        "SELECT node, attempt FROM meshhook.job WHERE project_id = $1 AND run_id = $2 AND executor IS NULL",
    )
}

fn jobs(row: &RunRow, sql: &'static str) -> Json {
    let jobs = spi::read(sql, &[arg(row.key.project), arg(row.key.run)], |row| {
        (row.must::<String>(1), Json::from(i64::from(row.must::<i32>(2))))
    });
    Json::object(jobs.iter().map(|(node, attempt)| (node.as_str(), attempt.clone())).collect::<Vec<_>>())
}

fn found_timers(row: &RunRow) -> Json {
    let timers = spi::read(
        "SELECT node, due_at FROM meshhook.timer WHERE project_id = $1 AND run_id = $2",
        &[arg(row.key.project), arg(row.key.run)],
        |row| (row.must::<String>(1), unix_micros(row.must(2))),
    );
    let time = |micros| Json::from(meshhook_engine::time::Timestamp::from_micros(micros).to_string());
    Json::object(timers.iter().map(|(node, due)| (node.as_str(), time(*due))).collect::<Vec<_>>())
}
