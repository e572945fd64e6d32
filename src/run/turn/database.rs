//! Work that the database does itself, in a turn of the run: functions that `sql` nodes call, messages that `emit`
//! nodes append. What it does and the event that says so are one commit.

use std::cell::Cell;
use std::time::Duration;

use meshhook_engine::fact::{Fact, JobCompleted, JobFailed};
use meshhook_engine::json::Json;
use meshhook_engine::state::{JobOrigin, NodeStatus, RunState};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use super::{LockedRun, RunKey};
use crate::guc::MAX_PAYLOAD_BYTES;
use crate::owner::{Role, as_role};
use crate::project::Project;
use crate::spi::{self, RawJsonb, arg};
use crate::{event_store, fault, subtransaction};

/// How long a function may take where its node does not say; the definition's own default is stricter.
const DEFAULT_LIMIT: Duration = Duration::from_secs(5);

/// Work that is due, as the inbox says it.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub node: String,
    pub attempt: u32,
}

/// What a piece of work came to.
pub(super) enum Outcome {
    /// It was done, or has failed.
    Fact(Box<Fact>),
    /// Nobody waits for it any more.
    Obsolete,
    /// Somebody holds what it needs: to be tried again in a later turn.
    Held,
}

/// Why it failed: class and message.
type Fault = (String, String);

/// Whether the work calls a function that the user wrote: such a run has its turn alone.
pub(super) fn is_users(state: &RunState, due: &Due) -> bool {
    origin(state, due).is_some_and(|job| &*job.kind == "sql")
}

/// Does the work.
pub(super) fn perform(run: &LockedRun, state: &RunState, due: &Due) -> Outcome {
    let Some(job) = origin(state, due) else { return Outcome::Obsolete };
    let input = input(&run.key, job.input_position);
    let result = match &*job.kind {
        "emit" => match emit(run.key.project, &input) {
            Some(result) => result,
            None => return Outcome::Held,
        },
        _ => call(run, job, &input),
    };
    let (node, attempt) = (due.node.as_str().into(), due.attempt);
    Outcome::Fact(Box::new(match result {
        Ok(output) => Fact::JobCompleted(JobCompleted { node, attempt, output }),
        Err((class, message)) => {
            let error = Json::object([("class", Json::from(class)), ("message", Json::from(message))]);
            Fact::JobFailed(JobFailed { node, attempt, error })
        }
    }))
}

/// What the work is made of, if exactly this attempt is still wanted.
fn origin<'a>(state: &'a RunState, due: &Due) -> Option<&'a JobOrigin> {
    let node = state.nodes.get(due.node.as_str())?;
    node.job.as_ref().filter(|_| node.status == NodeStatus::Scheduled && node.attempt == due.attempt)
}

fn input(key: &RunKey, position: u64) -> Json {
    let text = spi::run_one(
        "SELECT (data -> 'input')::text FROM meshhook.run_event WHERE project_id = $1 AND run_id = $2 AND position = $3",
        &[arg(key.project), arg(key.run), arg(position.cast_signed())],
        |row| row.must::<String>(1),
    );
    text.and_then(|text| Json::parse(&text).ok()).unwrap_or(Json::Null)
}

/// Appends a message; `None` if another transaction holds the stream.
fn emit(project: i32, input: &Json) -> Option<Result<Json, Fault>> {
    let text = |name: &str| input.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let (stream, kind) = (text("stream"), text("message_type"));
    if !event_store::try_lock(project, &stream) {
        return None;
    }
    let document = |name: &str| input.get(name).map(RawJsonb::of);
    fault::around!("turn.emit");
    let appended = subtransaction::attempt(|| {
        event_store::append_one(project, &stream, &kind, document("data"), document("metadata"))
    });
    Some(match appended {
        Ok((position, global_position)) => Ok(Json::object([
            ("stream", Json::from(stream)),
            ("position", Json::from(position)),
            ("global_position", Json::from(global_position)),
        ])),
        Err(caught) => Err((class_of(caught.sqlstate), caught.message)),
    })
}

thread_local! {
    /// The project whose run a turn of this process calls a user's function for.
    static CALLING: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Says for whom a function is called, until it goes out of scope: also where a cancel goes on beyond the turn.
struct Calling;

impl Calling {
    fn of(project: i32) -> Self {
        CALLING.set(Some(project));
        Self
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        CALLING.set(None);
    }
}

/// Whether a turn of this process is calling a user's function: that turn has the run's row and a state of its own, and
/// what a turn within did to the run would be written over.
pub(super) fn is_calling() -> bool {
    CALLING.get().is_some()
}

/// The project of the run that a turn of this process calls a user's function for.
pub fn calling() -> Option<Project> {
    CALLING.get().map(Project)
}

/// Calls the function of an `sql` node as the role that published the workflow, or the one it names.
fn call(run: &LockedRun, job: &JobOrigin, input: &Json) -> Result<Json, Fault> {
    let role = role(run, input)?;
    let function = input.get("function").and_then(Json::as_str).unwrap_or_default();
    let statement = format!("SELECT ({}($1))::text", quoted(function));
    let argument = input.get("argument").map_or_else(|| "null".to_owned(), Json::to_string);
    let limit = job.timeout_ms.map_or(DEFAULT_LIMIT, Duration::from_millis);
    let calling = Calling::of(run.key.project);
    let output = fault::around!(
        "turn.function",
        subtransaction::attempt_within(limit, || as_role(role, || execute(&statement, &argument)))
    );
    drop(calling);
    let output = output.map_err(|caught| match caught.sqlstate {
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED => {
            ("timeout".to_owned(), format!("{function} took longer than {} ms", limit.as_millis()))
        }
        code => (class_of(code), caught.message),
    })?;
    let Some(text) = output else { return Ok(Json::Null) };
    if text.len() > MAX_PAYLOAD_BYTES {
        let message = format!("{function} returned {} bytes; the limit is {MAX_PAYLOAD_BYTES}", text.len());
        return Err(("limit.payload".to_owned(), message));
    }
    Json::parse(&text).map_err(|error| ("output_unreadable".to_owned(), error.to_string()))
}

/// The function's answer as text. Nothing is deferred to the commit: what broke there would be the turn's failure and
/// not the function's (and the restricted context refuses to fire what was put off).
///
/// Settings end with the function, those of a session as well: the session is that of runs of every project. The project
/// is its run's, whatever the session that takes the turn has chosen.
fn execute(statement: &str, argument: &str) -> Option<String> {
    let argument = RawJsonb::of_text(argument);
    // SAFETY: closed below; where the function raises, the abort of the subtransaction around it puts everything back.
    let settings = unsafe { pg_sys::NewGUCNestLevel() };
    let answer = Spi::connect_mut(|client| {
        let settle = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
                             pg_catalog.set_config('meshhook.project', '', true)";
        client
            .update(settle, None, &[])
            .and_then(|_| client.update("SET CONSTRAINTS ALL IMMEDIATE", None, &[]))
            .and_then(|_| client.update(statement, Some(1), &[DatumWithOid::from(argument)]))
            .and_then(|table| table.first().get::<String>(1))
    })
    .unwrap_or_else(|error| crate::error::bug(&format!("a function's answer cannot be read: {error}")));
    // SAFETY: the level opened above; false puts back what was set since.
    unsafe { pg_sys::AtEOXact_GUC(false, settings) };
    answer
}

/// Whose rights the function has: checked at every call, for roles change.
fn role(run: &LockedRun, input: &Json) -> Result<Role, Fault> {
    let fault = |message: String| ("sql.role".to_owned(), message);
    let publisher = spi::run_one(
        "SELECT published_by::text FROM meshhook.workflow_version WHERE project_id = $1 AND version_id = $2",
        &[arg(run.key.project), arg(run.version_id)],
        |row| row.must::<String>(1),
    );
    let publisher = publisher.unwrap_or_default();
    let named = |name: &str| {
        Role::named(name).ok_or_else(|| fault(format!("role \"{name}\" does not exist any more")))
    };
    let publishing = named(&publisher)?;
    let role = match input.get("run_as").and_then(Json::as_str) {
        Some(name) => named(name)?,
        None => publishing,
    };
    if !publishing.acts_for(role) {
        return Err(fault(format!("role \"{publisher}\" is not a member of role \"{}\"", role.name())));
    }
    if role.is_above_policies() {
        return Err(fault(format!("role \"{}\" is a superuser or bypasses row security", role.name())));
    }
    Ok(role)
}

/// `schema.name` as SQL takes it whatever the words; the definition allows letters, digits and underscores.
fn quoted(function: &str) -> String {
    function.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".")
}

/// `sql.` and the SQLSTATE in lower case: something to branch and to retry on.
fn class_of(code: PgSqlErrorCode) -> String {
    // SAFETY: returns a static, NUL-terminated buffer.
    let state = unsafe { std::ffi::CStr::from_ptr(pg_sys::unpack_sql_state(code as i32)) };
    format!("sql.{}", state.to_string_lossy().to_lowercase())
}
