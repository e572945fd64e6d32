//! Starting a run: in the caller's transaction, without touching anything another session may hold.

use std::cell::Cell;

use meshhook_engine::blob::references_in;
use meshhook_engine::definition::flow::Keys;
use meshhook_engine::json::MAX_DOCUMENT_DEPTH;
use meshhook_engine::selection::MAX_KEY_BYTES;
pub use meshhook_engine::selection::OWN_KEYS;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use super::tags;
use crate::blob::Uses;
use crate::error::{bad_parameter, refuse, required};
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::random;
use crate::spi::{self, Arg, RawJsonb, arg};
use crate::workflow::{self, Version};
use crate::{fault, flow, guc, installation, shmem, worker};

/// Farthest a start is put off, in microseconds: 10 years.
const MAX_DELAY_MICROS: i64 = 3_653 * 86_400_000_000;

thread_local! {
    /// Whether this session was told already that nobody serves the database.
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// What a start is made of.
#[derive(Debug)]
pub struct Start<'a> {
    /// The project.
    pub project: Project,
    /// The new run's id.
    pub run: pgrx::Uuid,
    /// The time in it.
    pub now: TimestampWithTimeZone,
    /// The version to run.
    pub version: Version,
    /// The workflow's name.
    pub workflow: &'a str,
    /// The run's input.
    pub input: RawJsonb,
    /// The caller's idempotency key.
    pub key: Option<&'a str>,
    /// Who or what starts it, as JSON text.
    pub trigger: String,
    /// The role that starts it; none for what the engine itself starts.
    pub actor: Option<Role>,
    /// The run above it, as JSON text.
    pub parent: Option<String>,
    /// How it starts.
    pub options: Options,
}

/// How a run starts, where that is not at once and like any other.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Among the starts that wait, higher ones go first.
    pub priority: i16,
    /// Not before.
    pub start_at: Option<TimestampWithTimeZone>,
    /// What it can be found by.
    pub tags: Vec<String>,
    /// How long the idempotency key is taken, in microseconds; `None` is for ever.
    pub window: Option<i64>,
    /// The run that has ended and whose key this one takes, if it still has it.
    pub successor_of: Option<pgrx::Uuid>,
    /// What the start is counted under.
    pub keys: Keys,
}

/// A new run's id and time.
pub fn new_run() -> (pgrx::Uuid, TimestampWithTimeZone) {
    random::uuid_v7()
}

/// A statement that makes the run and hands its start on: `fact` has the start's data and metadata. Takes the
/// arguments that [`recorded`] makes.
macro_rules! recorded_start {
    ($into:literal) => {
        concat!(
            "WITH run AS (
                 INSERT INTO meshhook.run (project_id, run_id, version_id, status, created_at)
                 VALUES ($1, $2, $3, 'queued', $4)),
             fact AS (
                 SELECT jsonb_build_object('workflow', $5::text, 'version', $6::integer, 'input', $7::jsonb,
                            'seed', $8::bigint, 'trigger', $9::jsonb)
                        || CASE WHEN $10::text IS NULL THEN '{}'
                                ELSE jsonb_build_object('idempotency_key', $10::text) END
                        || CASE WHEN $12::jsonb IS NULL THEN '{}' ELSE jsonb_build_object('parent', $12::jsonb) END AS data,
                        jsonb_strip_nulls(jsonb_build_object('actor', $11::text)) AS metadata)
             ",
            $into
        )
    };
}
pub(crate) use recorded_start;

/// Starts a run, or finds the one that was started under the same key. Called as the owner role.
pub fn start(start: &Start) -> pgrx::Uuid {
    let run = start.run;
    fault::at_commit!("start.commit");
    if let Some(key) = start.key
        && let Some(earlier) = fault::around!("start.key", claim_key(start, key, run))
    {
        return earlier;
    }
    fault::around!("start.run");
    tags::add(start.project, run, &start.options.tags);
    if flow::must_wait(&start.version, &start.options) {
        enqueue(start);
        return run;
    }
    spi::exec(
        recorded_start!(
            "INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
             SELECT $1, $2, 'run.start', data, metadata FROM fact"
        ),
        &recorded(start),
    );
    keep_blobs(start);
    shmem::wake_on_commit();
    run
}

/// What the input refers to is kept from now on, however long the run waits.
fn keep_blobs(start: &Start) {
    if !start.input.contains("sha256") {
        return;
    }
    let mut uses = Uses::default();
    for sha256 in references_in(&start.input.text()) {
        uses.add(start.project.0, start.run, &sha256);
    }
    uses.keep();
}

/// Makes a run that waits for admission. Called as the owner role.
pub fn enqueue(start: &Start) {
    flow::enqueue(start, recorded(start));
    keep_blobs(start);
}

/// The arguments of [`recorded_start`].
fn recorded(start: &Start) -> Vec<Arg> {
    vec![
        arg(start.project.0),
        arg(start.run),
        arg(start.version.version_id),
        arg(start.now),
        arg(start.workflow.to_owned()),
        arg(start.version.version),
        arg(start.input),
        arg(random::seed()),
        arg(start.trigger.clone()),
        arg(start.key.map(str::to_owned)),
        arg(start.actor.map(Role::name)),
        arg(start.parent.clone()),
    ]
}

/// Takes the key for `run`; the run that has it already, if there is one. A concurrent start under the
/// same key is waited for: its commit decides.
fn claim_key(start: &Start, key: &str, run: pgrx::Uuid) -> Option<pgrx::Uuid> {
    loop {
        let taken = spi::exec(
            "INSERT INTO meshhook.run_key (project_id, workflow_id, idempotency_key, run_id) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[arg(start.project.0), arg(start.version.workflow_id), arg(key.to_owned()), arg(run)],
        );
        if taken == 1
            || start.options.window.is_some_and(|window| take_over(start, key, run, window))
            || start.options.successor_of.is_some_and(|ended| take_from(start, key, run, ended))
        {
            return None;
        }
        let earlier = spi::run_one(
            "SELECT run_id FROM meshhook.run_key WHERE project_id = $1 AND workflow_id = $2 AND idempotency_key = $3",
            &[arg(start.project.0), arg(start.version.workflow_id), arg(key.to_owned())],
            |row| row.must(1),
        );
        // Retention may have taken the key of an old run away meanwhile: then it is there to be taken.
        if earlier.is_some() {
            return earlier;
        }
    }
}

/// Takes a key whose window is over from the run that had it.
fn take_over(start: &Start, key: &str, run: pgrx::Uuid, window: i64) -> bool {
    let taken = spi::exec(
        "UPDATE meshhook.run_key SET run_id = $4, created_at = clock_timestamp()
         WHERE project_id = $1 AND workflow_id = $2 AND idempotency_key = $3
           AND created_at <= clock_timestamp() - $5 * interval '1 us'",
        &[arg(start.project.0), arg(start.version.workflow_id), arg(key.to_owned()), arg(run), arg(window)],
    );
    taken == 1
}

/// Takes a key from a run that has ended, unless another one has done so before.
fn take_from(start: &Start, key: &str, run: pgrx::Uuid, ended: pgrx::Uuid) -> bool {
    let taken = spi::exec(
        "UPDATE meshhook.run_key SET run_id = $4, created_at = clock_timestamp()
         WHERE project_id = $1 AND workflow_id = $2 AND idempotency_key = $3 AND run_id = $5",
        &[arg(start.project.0), arg(start.version.workflow_id), arg(key.to_owned()), arg(run), arg(ended)],
    );
    taken == 1
}

/// Says once a session that the run will wait, and what to do about it.
pub fn warn_if_unserved() {
    if WARNED.get() || worker::is_served() {
        return;
    }
    WARNED.set(true);
    let state = PgSqlErrorCode::ERRCODE_WARNING;
    if installation::active() {
        refuse(state, "nobody takes turns in this database: the run waits")
            .hint("Put meshhook into shared_preload_libraries, or call SELECT meshhook.start_workers(), or SELECT meshhook.tick() now and then.")
            .warn();
    } else {
        refuse(state, "this database is a dormant copy: the run waits")
            .hint("SELECT meshhook.activate() makes it the one that acts.")
            .warn();
    }
    shmem::register_database_on_commit();
}

/// Starts a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the arguments are the SQL contract")]
fn start_run(
    workflow: Option<&str>,
    input: default!(Option<RawJsonb>, "'{}'"),
    idempotency_key: default!(Option<&str>, "NULL"),
    version: default!(Option<i32>, "NULL"),
    priority: default!(i16, "0"),
    delay: default!(Option<Interval>, "NULL"),
    start_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    tags: default!(Vec<Option<String>>, "'{}'"),
    idempotency_window: default!(Option<Interval>, "NULL"),
) -> pgrx::Uuid {
    if let Some(key) = idempotency_key
        && (key.is_empty() || key.len() > MAX_KEY_BYTES)
    {
        bad_parameter(format!("an idempotency key has 1 to {MAX_KEY_BYTES} bytes")).raise();
    }
    if idempotency_key.is_some_and(|key| key.starts_with(OWN_KEYS)) {
        bad_parameter(format!("idempotency keys that begin with \"{OWN_KEYS}\" are reserved"))
            .hint("Choose another key.")
            .raise();
    }
    let (workflow, input) = (required("workflow", workflow), required("input", input));
    check_document("input", input);
    let options = Options {
        priority,
        start_at: start_time(delay, start_at),
        tags: tags::checked(tags),
        window: idempotency_window.map(|window| window_micros(&window, idempotency_key)),
        ..Options::default()
    };
    as_owner(|caller| {
        let project = project::current(caller);
        let version = workflow::find(project, workflow, version);
        flow::refuse_if_paused(&version, workflow);
        check_contract(project, version, workflow, input);
        warn_if_unserved();
        let trigger = r#"{"type": "sql"}"#.to_owned();
        let (run, now) = new_run();
        let keys = flow::keys(project, &version, input, run, &trigger)
            .unwrap_or_else(|error| flow::refuse_key(workflow, error).raise());
        start(&Start {
            project,
            run,
            now,
            version,
            workflow,
            input,
            key: idempotency_key,
            trigger,
            actor: Some(caller),
            parent: None,
            options: Options { keys, ..options },
        })
    })
}

/// When a run shall start, from the two ways to say so.
fn start_time(
    delay: Option<Interval>,
    start_at: Option<TimestampWithTimeZone>,
) -> Option<TimestampWithTimeZone> {
    let at = match (delay, start_at) {
        (Some(_), Some(_)) => bad_parameter("give delay or start_at, not both").raise(),
        (None, at) => at?,
        (Some(delay), None) => match i64::try_from(delay.as_micros()) {
            Ok(micros) if micros >= 0 => random::timestamptz(random::now_micros().saturating_add(micros)),
            _ => bad_parameter("delay must not be negative").raise(),
        },
    };
    if random::unix_micros(at) > random::now_micros().saturating_add(MAX_DELAY_MICROS) {
        bad_parameter("a start lies at most 10 years ahead").raise();
    }
    Some(at)
}

/// The window of an idempotency key, in microseconds.
fn window_micros(window: &Interval, key: Option<&str>) -> i64 {
    if key.is_none() {
        bad_parameter("idempotency_window needs an idempotency_key").raise();
    }
    match i64::try_from(window.as_micros()) {
        Ok(micros) if micros > 0 => micros,
        _ => bad_parameter("idempotency_window must be more than nothing").raise(),
    }
}

/// Refuses a document that is too large or nested too deep for a run: 54000.
pub fn check_document(what: &str, document: RawJsonb) {
    check_size(what, document);
    if nesting(&document.text()) > MAX_DOCUMENT_DEPTH {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("the {what} is nested too deep"))
            .detail(format!("The limit is {MAX_DOCUMENT_DEPTH} levels."))
            .raise();
    }
}

/// Refuses an input that breaks the version's input schema: 22023.
fn check_contract(project: Project, version: Version, workflow: &str, input: RawJsonb) {
    let violations = workflow::input_violations(project, version, input);
    if !violations.is_empty() {
        let number = version.version;
        bad_parameter(format!(
            "the input breaks the input schema of workflow \"{workflow}\", version {number}"
        ))
        .detail(workflow::violation_lines(&violations))
        .raise();
    }
}

/// How deep the arrays and objects of a JSON text are nested.
pub fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Refuses a document that is too large: 54000.
fn check_size(what: &str, document: RawJsonb) {
    let (size, limit) = (document.size(), guc::MAX_PAYLOAD_BYTES);
    if size > limit {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("the {what} is too large"))
            .detail(format!("It has {size} bytes; the limit is {limit}."))
            .hint("Keep large data in a table or an object store and pass a reference.")
            .raise();
    }
}
