//! Runs: starting, canceling, reading, and the turns that move them.

mod bulk;
mod intervene;
pub mod read;
pub mod replay;
mod simulate;
pub mod snapshot;
pub mod start;
pub mod tags;
pub mod tell;
pub mod turn;
mod verify;

use meshhook_engine::definition::MAX_NAME_BYTES;
use pgrx::prelude::*;
use serde_json::json;

use crate::error::{bad_parameter, refuse, required, unknown_run};
use crate::fault;
use crate::flow::waiting;
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// Longest id a sender gives a signal, and longest name of who decides, in bytes.
pub const MAX_SIGNAL_ID_BYTES: usize = 255;
/// Longest path of a node, in bytes: ids and indexes of nested bodies.
const MAX_PATH_BYTES: usize = 512;

/// Puts a fact into the inbox. Called as the owner role; the orchestrator is woken when it commits.
pub fn post(project: Project, run: pgrx::Uuid, kind: &'static str, data: RawJsonb, actor: Role) {
    fault::around!("inbox.post");
    fault::at_commit!("inbox.commit");
    spi::exec(
        "INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
         VALUES ($1, $2, $3, $4, jsonb_build_object('actor', $5::text))",
        &[arg(project.0), arg(run), arg(kind), arg(data), arg(actor.name())],
    );
    crate::shmem::wake_on_commit();
}

/// Whether a run's row with this status is that of a run that has ended.
fn has_ended(status: &str) -> bool {
    matches!(status, "succeeded" | "failed" | "canceled")
}

/// Who asks, for which run, and whether that is over.
struct Asked {
    project: Project,
    caller: Role,
    run: pgrx::Uuid,
    status: String,
    /// Whether it waits for admission and has not begun.
    is_held_back: bool,
}

impl Asked {
    fn is_over(&self) -> bool {
        has_ended(&self.status)
    }

    fn post(&self, kind: &'static str, data: &serde_json::Value) {
        post(self.project, self.run, kind, RawJsonb::of_text(&data.to_string()), self.caller);
    }

    /// Sends a run what it may wait for; one that has not begun finds it when it does.
    fn send(&self, kind: &'static str, data: &str) {
        let data = RawJsonb::of_text(data);
        if !(self.is_held_back && waiting::keep(self.project, self.run, kind, data, self.caller)) {
            post(self.project, self.run, kind, data, self.caller);
        }
    }

    /// Holds the run, or lets it go on; false where it is over. One that has not begun has no log to say so, the audit
    /// log does.
    fn hold(&self, paused: bool, reason: Option<&str>) -> bool {
        if self.is_over() {
            return false;
        }
        let kind = if paused { "run.pause" } else { "run.resume" };
        if self.is_held_back && waiting::hold(self.project, self.run, paused, reason) {
            let action = if paused { "run.paused" } else { "run.resumed" };
            let details = Some(with_reason(reason).to_string());
            project::audit(self.project, self.caller, action, &self.run.to_string(), details);
        } else {
            self.post(kind, &with_reason(reason));
        }
        true
    }

    /// Raises 55000 where the run is over: what is sent to it would be lost.
    fn must_be_open(&self) {
        if self.is_over() {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("run \"{}\" has ended", self.run),
            )
            .detail(format!("Its status is {}.", self.status))
            .raise();
        }
    }
}

/// Looks the run up on behalf of the caller. Raises P0002 if there is none.
fn ask<T>(run: Option<pgrx::Uuid>, then: impl FnOnce(Asked) -> T) -> T {
    let run = required("run", run);
    as_owner(|caller| {
        let project = project::current(caller);
        let found = spi::run_one(
            "SELECT status, status = 'queued' AND EXISTS (
                 SELECT FROM meshhook.run_queue q WHERE q.project_id = r.project_id AND q.run_id = r.run_id)
             FROM meshhook.run r WHERE project_id = $1 AND run_id = $2",
            &[arg(project.0), arg(run)],
            |row| (row.must::<String>(1), row.must::<bool>(2)),
        );
        let (status, is_held_back) = found.unwrap_or_else(|| unknown_run(run).raise());
        then(Asked { project, caller, run, status, is_held_back })
    })
}

fn with_reason(reason: Option<&str>) -> serde_json::Value {
    reason.map_or(json!({}), |reason| json!({ "reason": reason }))
}

/// Asks for the end of a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn cancel_run(run: Option<pgrx::Uuid>, reason: default!(Option<&str>, "NULL")) -> bool {
    ask(run, |asked| {
        if !asked.is_over() {
            asked.post("run.cancel", &with_reason(reason));
        }
        !asked.is_over()
    })
}

/// Ends a run with nothing undone; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn kill_run(run: Option<pgrx::Uuid>, reason: default!(Option<&str>, "NULL")) -> bool {
    ask(run, |asked| {
        if !asked.is_over() {
            let mut data = with_reason(reason);
            data["kill"] = json!(true);
            asked.post("run.cancel", &data);
        }
        !asked.is_over()
    })
}

/// Holds a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn pause_run(run: Option<pgrx::Uuid>, reason: default!(Option<&str>, "NULL")) -> bool {
    ask(run, |asked| asked.hold(true, reason))
}

/// Lets a run go on; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resume_run(run: Option<pgrx::Uuid>) -> bool {
    ask(run, |asked| asked.hold(false, None))
}

/// Sends a signal; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn signal_run(
    run: Option<pgrx::Uuid>,
    name: Option<&str>,
    payload: default!(Option<RawJsonb>, "NULL"),
    signal_id: default!(Option<&str>, "NULL"),
) {
    signal(run, name, payload, signal_id);
}

fn signal(run: Option<pgrx::Uuid>, name: Option<&str>, payload: Option<RawJsonb>, id: Option<&str>) {
    let fact = signal_fact(required("name", name), payload, id);
    ask(run, |asked| {
        asked.must_be_open();
        asked.send("run.signal", &fact);
    });
}

/// A signal as a fact. Refuses what is too large: 22023, 54000.
fn signal_fact(name: &str, payload: Option<RawJsonb>, id: Option<&str>) -> String {
    check_text("a signal's name", name, MAX_NAME_BYTES);
    id.iter().for_each(|id| check_text("a signal's id", id, MAX_SIGNAL_ID_BYTES));
    payload.iter().for_each(|payload| start::check_document("payload", *payload));
    signal_data(name, payload, id)
}

/// A signal as a fact's data.
pub fn signal_data(name: &str, payload: Option<RawJsonb>, id: Option<&str>) -> String {
    let payload = payload.map_or_else(|| "null".to_owned(), RawJsonb::text);
    let id = id.map_or_else(String::new, |id| format!(",\"id\":{}", json!(id)));
    format!("{{\"name\":{},\"payload\":{payload}{id}}}", json!(name))
}

/// Approves or rejects what a node waits for; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn decide_approval(
    run: Option<pgrx::Uuid>,
    node: Option<&str>,
    approved: Option<bool>,
    payload: default!(Option<RawJsonb>, "NULL"),
    decided_by: default!(Option<&str>, "NULL"),
) {
    let (node, approved) = (required("node", node), required("approved", approved));
    check_text("a node's path", node, MAX_PATH_BYTES);
    decided_by.iter().for_each(|by| check_text("who decides", by, MAX_SIGNAL_ID_BYTES));
    payload.iter().for_each(|payload| start::check_document("payload", *payload));
    ask(run, |asked| {
        asked.must_be_open();
        let payload = payload.map_or_else(String::new, |payload| format!(",\"payload\":{}", payload.text()));
        let by = decided_by.map_or_else(|| asked.caller.name(), str::to_owned);
        let data =
            format!("{{\"node\":{},\"approved\":{approved},\"by\":{}{payload}}}", json!(node), json!(by));
        asked.send("run.approval", &data);
    });
}

fn check_text(what: &str, text: &str, most: usize) {
    if text.is_empty() || text.len() > most {
        bad_parameter(format!("{what} has 1 to {most} bytes")).raise();
    }
}
