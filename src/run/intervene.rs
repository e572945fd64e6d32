//! What people change in a run by hand, and events that are decided at once. Each is one event of the run, with who
//! did it and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshhook_engine::event::{NodeOverridden, RunEdited, RunForked, RunRedriven};
use meshhook_engine::fact::Fact;
use meshhook_engine::json::Json;
use meshhook_engine::replay::boundary;
use meshhook_engine::state::RunState;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::read::{self, RunRow};
use super::turn::{RunKey, submit};
use super::{MAX_PATH_BYTES, check_text, signal_fact, start};
use crate::blob::Uses;
use crate::error::{bad_parameter, bug, refuse, required};
use crate::flow::waiting;
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};
use crate::{event_store, fault, workflow};

/// What somebody changes: variables, and outputs by the path of their node.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Patch {
    vars: Option<Json>,
    outputs: BTreeMap<Arc<str>, Json>,
}

impl Patch {
    /// Raises 22023 or 54000 for one that cannot be read.
    fn of(patch: Option<RawJsonb>) -> Self {
        let Some(patch) = patch else { return Self::default() };
        start::check_document("patch", patch);
        serde_json::from_str(&patch.text()).unwrap_or_else(|error| {
            bad_parameter("a patch is an object of vars and outputs").detail(error.to_string()).raise()
        })
    }
}

/// A run of the caller's project, and who asks.
struct Asked {
    caller: Role,
    row: RunRow,
}

/// Does something to a run on behalf of the caller, notes it in the audit log, and answers with the run's state.
fn intervene(
    run: Option<pgrx::Uuid>,
    action: &str,
    reason: Option<&str>,
    fact: impl FnOnce() -> Fact,
) -> RawJsonb {
    let run = required("run", run);
    let document = as_owner(|caller| {
        let project = project::current(caller);
        let state = submit(RunKey { project: project.0, run }, &fact(), caller);
        project::audit(
            project,
            caller,
            action,
            &run.to_string(),
            Some(json!({ "reason": reason }).to_string()),
        );
        read::document(&read::find_now(project, run), &state)
    });
    RawJsonb::of(&document)
}

/// Changes variables and outputs; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn edit_run(
    run: Option<pgrx::Uuid>,
    patch: Option<RawJsonb>,
    reason: default!(Option<&str>, "NULL"),
) -> RawJsonb {
    let Patch { vars, outputs } = Patch::of(Some(required("patch", patch)));
    intervene(run, "run.edited", reason, || {
        Fact::Edit(RunEdited { reason: reason.map(Arc::from), vars, outputs })
    })
}

/// Settles an open node by hand; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn skip_node(
    run: Option<pgrx::Uuid>,
    node: Option<&str>,
    output: default!(Option<RawJsonb>, "NULL"),
    port: default!(Option<&str>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> RawJsonb {
    let node = required("node", node);
    check_text("a node's path", node, MAX_PATH_BYTES);
    let output = output.map_or(Json::Null, |output| {
        start::check_document("output", output);
        document(output)
    });
    intervene(run, "node.overridden", reason, || {
        let (node, port, reason) = (Arc::from(node), port.map(Arc::from), reason.map(Arc::from));
        Fact::Override(NodeOverridden { node, port, output, reason })
    })
}

/// Lets a run that failed or was canceled go on; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn retry_run(
    run: Option<pgrx::Uuid>,
    from_node: default!(Option<&str>, "NULL"),
    patch: default!(Option<RawJsonb>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> RawJsonb {
    let Patch { vars, outputs } = Patch::of(patch);
    intervene(run, "run.redriven", reason, || {
        let (reason, from) = (reason.map(Arc::from), from_node.map(Arc::from));
        Fact::Redrive(RunRedriven { reason, from, vars, outputs, ..RunRedriven::default() })
    })
}

/// Copies a run up to a position; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn fork_run(
    run: Option<pgrx::Uuid>,
    at_position: default!(Option<i64>, "NULL"),
    input: default!(Option<RawJsonb>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> pgrx::Uuid {
    ask(run, |asked| asked.fork(at_position, input, reason))
}

/// Copies a run and ends it in favour of the copy; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn reset_run(
    run: Option<pgrx::Uuid>,
    at_position: default!(Option<i64>, "NULL"),
    input: default!(Option<RawJsonb>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
) -> pgrx::Uuid {
    ask(run, |asked| {
        let fork = asked.fork(at_position, input, reason);
        let RunKey { project, run } = asked.row.key;
        if !asked.row.is_over() {
            let cancel = json!({ "reason": format!("reset: run {fork} has taken its place"), "kill": true });
            super::post(
                Project(project),
                run,
                "run.cancel",
                RawJsonb::of_text(&cancel.to_string()),
                asked.caller,
            );
        }
        spi::exec(
            "UPDATE meshhook.run_key SET run_id = $3 WHERE project_id = $1 AND run_id = $2",
            &[arg(project), arg(run), arg(fork)],
        );
        fork
    })
}

fn ask<T>(run: Option<pgrx::Uuid>, then: impl FnOnce(Asked) -> T) -> T {
    let run = required("run", run);
    as_owner(|caller| then(Asked { caller, row: read::find_now(project::current(caller), run) }))
}

impl Asked {
    fn fork(&self, at_position: Option<i64>, input: Option<RawJsonb>, reason: Option<&str>) -> pgrx::Uuid {
        let until = at_position.map(|at| match u64::try_from(at) {
            Ok(at) if (1..=self.row.position).contains(&at) => at,
            _ => bad_parameter(format!("at_position must be from 1 to {}", self.row.position)).raise(),
        });
        input.iter().for_each(|input| start::check_document("input", *input));
        let project = Project(self.row.key.project);
        let (source, log) = (self.row.key.run.to_string(), read::log(&self.row));
        let workflow = workflow::compiled(project, self.row.version_id);
        let cut = boundary(&workflow, &source, &log, until).unwrap_or_else(|difference| {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the run's log cannot be replayed",
            )
            .detail(difference.to_string())
            .raise()
        });
        let fork = self.copy(project, cut.position);
        let fact = Fact::Fork(RunForked {
            run: Arc::from(cut.run),
            input: input.map(document),
            reason: reason.map(Arc::from),
            deadline: None,
        });
        submit(RunKey { project: project.0, run: fork }, &fact, self.caller);
        let details = json!({ "reason": reason, "run": source, "position": cut.position }).to_string();
        project::audit(project, self.caller, "run.forked", &fork.to_string(), Some(details));
        fork
    }

    /// A new run with the events of this one up to a position.
    fn copy(&self, project: Project, until: u64) -> pgrx::Uuid {
        let (fork, now) = start::new_run();
        let RunKey { project: project_id, run } = self.row.key;
        let key = [arg(project_id), arg(run), arg(fork), arg(until.cast_signed())];
        fault::around!("hand.fork");
        spi::exec(
            "INSERT INTO meshhook.run (project_id, run_id, version_id, status, position, created_at)
             VALUES ($1, $2, $3, 'running', $4, $5)",
            &[arg(project_id), arg(fork), arg(self.row.version_id), arg(until.cast_signed()), arg(now)],
        );
        fault::around!("hand.fork_events");
        event_store::register_runs(project.0);
        spi::exec(
            "INSERT INTO meshhook.run_event (project_id, run_id, position, global_position, type, data, metadata, created_at)
             SELECT project_id, $3, position, nextval('meshhook.global_position_seq'), type, data, metadata, created_at
             FROM (SELECT * FROM meshhook.run_event
                   WHERE project_id = $1 AND run_id = $2 AND position <= $4 ORDER BY position OFFSET 0) e",
            &key,
        );
        spi::exec(
            "INSERT INTO meshhook.run_tag (project_id, run_id, tag)
             SELECT project_id, $3, tag FROM meshhook.run_tag WHERE project_id = $1 AND run_id = $2 AND $4 > 0",
            &key,
        );
        let mut uses = Uses::default();
        uses.add_all_of(project_id, run, fork);
        uses.keep();
        fork
    }
}

/// Hands an event to a run and decides it at once; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn submit_event(
    run: Option<pgrx::Uuid>,
    name: Option<&str>,
    payload: default!(Option<RawJsonb>, "NULL"),
    event_id: default!(Option<&str>, "NULL"),
) -> RawJsonb {
    let fact = signal_fact(required("name", name), payload, event_id);
    let run = required("run", run);
    let document = as_owner(|caller| {
        let project = project::current(caller);
        let key = RunKey { project: project.0, run };
        if waiting::keep(project, run, "run.signal", RawJsonb::of_text(&fact), caller) {
            return read::document(&read::find_now(project, run), &RunState::default());
        }
        let signal = Fact::from_parts("run.signal", &fact).unwrap_or_else(|message| bug(&message));
        let state = submit(key, &signal, caller);
        read::document(&read::find_now(project, run), &state)
    });
    RawJsonb::of(&document)
}

/// Hands an event to a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enqueue_event(
    run: Option<pgrx::Uuid>,
    name: Option<&str>,
    payload: default!(Option<RawJsonb>, "NULL"),
    event_id: default!(Option<&str>, "NULL"),
) {
    super::signal(run, name, payload, event_id);
}

fn document(json: RawJsonb) -> Json {
    Json::parse(&json.text()).unwrap_or_else(|error| bad_parameter(error.to_string()).raise())
}
