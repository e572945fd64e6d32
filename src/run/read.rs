//! Reading runs: state, history, and the proof that one follows from the other.

use meshhook_engine::event::Recorded;
use meshhook_engine::json::Json;
use meshhook_engine::replay::{Difference, first_difference, verify};
use meshhook_engine::state::{NodeState, NodeStatus, RunState};
use meshhook_engine::to_json;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::replay::{Start, replay};
use super::turn::{RunKey, events_after};
use crate::error::{bad_parameter, bug, unknown_run};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::random::unix_micros;
use crate::spi::{self, RawJsonb, Row, arg};
use crate::workflow;

/// Most events one call of `run_history` returns.
const MAX_HISTORY: i32 = 100_000;

/// A run's row with the name and version of its workflow.
#[derive(Debug)]
pub struct RunRow {
    /// The run.
    pub key: RunKey,
    /// The version it runs on.
    pub version_id: i64,
    status: String,
    /// Where its log ends.
    pub position: u64,
    /// The workflow's name.
    pub workflow: String,
    version: i32,
}

const FIND: &str = "SELECT r.version_id, r.status, r.position, w.name, v.version FROM meshhook.run r
     JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
     JOIN meshhook.workflow w ON w.project_id = v.project_id AND w.workflow_id = v.workflow_id
     WHERE r.project_id = $1 AND r.run_id = $2";

impl RunRow {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "canceled")
    }

    fn of(key: RunKey) -> impl FnMut(&Row) -> Self {
        move |row| Self {
            key,
            version_id: row.must(1),
            status: row.must(2),
            position: row.must::<i64>(3).cast_unsigned(),
            workflow: row.must(4),
            version: row.must(5),
        }
    }
}

/// The row of a run as the snapshot in force has it. Raises P0002 if there is none.
pub(super) fn find(project: Project, run: pgrx::Uuid) -> RunRow {
    look(project, run).unwrap_or_else(|| unknown_run(run).raise())
}

fn look(project: Project, run: pgrx::Uuid) -> Option<RunRow> {
    let key = RunKey { project: project.0, run };
    spi::read_one(FIND, &[arg(project.0), arg(run)], RunRow::of(key))
}

/// The row of a run with all that this transaction has done to it. Raises P0002 if there is none.
pub(super) fn find_now(project: Project, run: pgrx::Uuid) -> RunRow {
    let key = RunKey { project: project.0, run };
    let row = spi::run_one(FIND, &[arg(project.0), arg(run)], RunRow::of(key));
    row.unwrap_or_else(|| unknown_run(run).raise())
}

/// A run and the state its log comes to, if there is such a run. Called as the owner role.
pub fn state(project: Project, run: pgrx::Uuid) -> Option<(RunRow, RunState)> {
    let row = look(project, run)?;
    let state = replay(row.key, row.position, Start::Snapshot).state;
    Some((row, state))
}

/// The log of a run up to the position its row stands at: what commits meanwhile is left out.
pub(super) fn log(row: &RunRow) -> Vec<Recorded> {
    let mut events = events_after(&[(row.key, 0)]).remove(&row.key).unwrap_or_default().events;
    events.retain(|event| event.position <= row.position);
    events
}

/// Where a run stands; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn run_state(run: pgrx::Uuid) -> RawJsonb {
    let text = as_owner(|caller| {
        let row = find(project::current(caller), run);
        document(&row, &replay(row.key, row.position, Start::Snapshot).state).to_string()
    });
    RawJsonb::of_text(&text)
}

/// A state as `run_state` shows it.
pub(super) fn document(row: &RunRow, state: &RunState) -> Json {
    let time =
        |at: Option<meshhook_engine::time::Timestamp>| at.map_or(Json::Null, |at| Json::from(at.to_string()));
    let nodes = state.nodes.iter().map(|(id, node)| (&**id, to_json(node)));
    Json::object([
        ("run", Json::from(row.key.run.to_string())),
        ("workflow", Json::from(row.workflow.as_str())),
        ("version", Json::from(i64::from(row.version))),
        ("status", Json::from(state.status.as_str())),
        ("position", Json::from(state.position.cast_signed())),
        ("input", state.input.clone()),
        ("output", state.output.clone().unwrap_or(Json::Null)),
        ("error", state.error.as_ref().map_or(Json::Null, to_json)),
        ("reason", state.reason.as_deref().map_or(Json::Null, Json::from)),
        ("nodes", Json::object(nodes)),
        ("started_at", time(state.started_at)),
        ("finished_at", time(state.finished_at)),
    ])
}

/// The events of a run; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn run_history(
    run: pgrx::Uuid,
    after_position: default!(i64, 0),
    batch_size: default!(i32, 1000),
) -> TableIterator<
    'static,
    (
        name!(id, pgrx::Uuid),
        name!(position, i64),
        name!(global_position, i64),
        name!(type, String),
        name!(data, RawJsonb),
        name!(metadata, Option<RawJsonb>),
        name!(time, TimestampWithTimeZone),
    ),
> {
    if !(1..=MAX_HISTORY).contains(&batch_size) {
        bad_parameter(format!("batch_size must be from 1 to {MAX_HISTORY}")).raise();
    }
    let rows = as_owner(|caller| {
        let project = project::current(caller);
        find(project, run);
        spi::read(
            "SELECT md5(run_id || '/' || position)::uuid, position, global_position, type, data, metadata, created_at
             FROM meshhook.run_event WHERE project_id = $1 AND run_id = $2 AND position > $3 ORDER BY position LIMIT $4",
            &[arg(project.0), arg(run), arg(after_position), arg(i64::from(batch_size))],
            |row| {
                let data = row.raw_jsonb(5).unwrap_or_else(|| bug("an event without data"));
                (row.must(1), row.must(2), row.must(3), row.must(4), data, row.raw_jsonb(6), row.must(7))
            },
        )
    });
    TableIterator::new(rows)
}

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
        match verify(&workflow, &run.to_string(), &log(&row)) {
            Err(difference) => vec![*difference],
            Ok(state) => compare_projections(&row, &state),
        }
    });
    let raw = |json: Option<Json>| json.map(|json| RawJsonb::of_text(&json.to_string()));
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
