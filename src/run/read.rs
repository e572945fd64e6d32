//! Reading runs: state and history.

use meshhook_engine::event::Recorded;
use meshhook_engine::json::Json;
use meshhook_engine::state::RunState;
use meshhook_engine::to_json;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::replay::{Start, replay};
use super::turn::{RunKey, events_after};
use crate::error::{bad_parameter, bug, unknown_run};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, Row, arg};

/// Most events one call of `run_history` returns.
const MAX_HISTORY: i32 = 100_000;

/// A run's row with the name and version of its workflow.
#[derive(Debug)]
pub struct RunRow {
    /// The run.
    pub key: RunKey,
    /// The version it runs on.
    pub version_id: i64,
    pub(super) status: String,
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
        super::has_ended(&self.status)
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
    let document = as_owner(|caller| {
        let row = find(project::current(caller), run);
        document(&row, &replay(row.key, row.position, Start::Snapshot).state)
    });
    RawJsonb::of(&document)
}

/// A state as `run_state` shows it.
pub(super) fn document(row: &RunRow, state: &RunState) -> Json {
    let time =
        |at: Option<meshhook_engine::time::Timestamp>| at.map_or(Json::Null, |at| Json::from(at.to_string()));
    let nodes = state.nodes.iter().map(|(id, node)| (&**id, node.to_json()));
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
