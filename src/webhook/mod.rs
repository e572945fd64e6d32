//! Webhooks: endpoints and what arrives at them.

mod accept;
mod action;
mod answer;
mod endpoint;
mod outcome;
mod rate;
mod receive;
mod record;
mod redeliver;
mod rpc;
mod schema;
mod settings;

use std::borrow::Cow;
use std::rc::Rc;

use meshhook_engine::selection::Expressions;
use meshhook_engine::signature::{JWT, OWN_SCHEME, Preset, SchemeFault};
use pgrx::PgSqlErrorCode;
use pgrx::datum::Interval;
use serde_json::{Map, Value};

use crate::error::refuse;
use crate::kept::Kept;
use crate::project::Project;
use crate::spi::{self, arg};

/// In microseconds.
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 1_440 * MINUTE;

/// An interval in microseconds; what is too long for them is as long as they go, and so outside of every bound.
fn micros(interval: &Interval) -> i64 {
    i64::try_from(interval.as_micros()).unwrap_or(i64::MAX)
}

/// An endpoint as intake needs it.
#[derive(Debug)]
struct Endpoint {
    project: Project,
    id: String,
    preset: Cow<'static, Preset>,
    tolerance_seconds: i64,
    workflow: String,
    /// How long a delivery is recognised, in microseconds.
    dedupe_window: i64,
    keep: Keep,
    action: Action,
    /// The expressions that say what is wanted and whom it is for.
    expressions: Expressions,
    /// The JSON Schema of what is wanted.
    schema: Option<String>,
    /// How long senders wait for the answer of their run, in microseconds.
    respond_within: Option<i64>,
    limits: Vec<rate::Limit>,
    secrets: Vec<Sealed>,
}

/// A secret that verifies senders.
#[derive(Debug)]
struct Sealed {
    id: pgrx::Uuid,
    sealed: Vec<u8>,
    /// When it ends, in microseconds since 1970.
    expires: Option<i64>,
}

/// A request as it came.
#[derive(Clone, Copy, Debug)]
struct Came<'a> {
    headers: &'a Map<String, Value>,
    query: Option<&'a str>,
    body: &'a [u8],
}

/// What a delivery does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// It starts a run.
    Start,
    /// It signals the run that has its business key.
    Signal,
    /// It signals the run that has its business key, and starts one where none has it.
    SignalOrStart,
}

impl Action {
    /// By its name in SQL.
    fn of(name: &str) -> Option<Self> {
        [Self::Start, Self::Signal, Self::SignalOrStart].into_iter().find(|action| action.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal => "signal",
            Self::SignalOrStart => "signal_or_start",
        }
    }
}

/// Of which deliveries headers and body are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Nothing,
    Refused,
    All,
}

impl Keep {
    /// By its name in SQL.
    fn of(name: &str) -> Option<Self> {
        [Self::Nothing, Self::Refused, Self::All].into_iter().find(|keep| keep.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Refused => "refused",
            Self::All => "all",
        }
    }
}

thread_local! {
    /// Endpoints by their addresses.
    static ENDPOINTS: Kept<String, Rc<Endpoint>> = Kept::new();
}

/// The endpoint at an address, with its secrets, the newest first.
fn find(endpoint: &str) -> Option<Rc<Endpoint>> {
    ENDPOINTS.with(|kept| kept.get(endpoint.to_owned(), || load(endpoint).map(Rc::new)))
}

fn load(endpoint: &str) -> Option<Endpoint> {
    let mut endpoint = spi::run_one(
        "SELECT e.project_id, e.endpoint_id, e.preset, extract(epoch FROM e.tolerance)::bigint, w.name,
                e.scheme::text, (extract(epoch FROM e.dedupe_window) * 1000000)::bigint, e.keep,
                e.rate_limit, e.rate_ms, r.rate_limit, r.rate_ms, e.action, e.filter, e.route, e.business_key, e.signal,
                e.schema::text, (extract(epoch FROM e.respond_within) * 1000000)::bigint
         FROM meshhook.endpoint e
         JOIN meshhook.workflow w ON w.project_id = e.project_id AND w.workflow_id = e.workflow_id
         LEFT JOIN meshhook.webhook_rate r ON r.project_id = e.project_id
         WHERE e.endpoint_id = $1 AND e.dropped_at IS NULL",
        &[arg(endpoint.to_owned())],
        |row| {
            let (project, id) = (Project(row.must(1)), row.must::<String>(2));
            let limits =
                rate::Limit::of(project, &id, row.get(9).zip(row.get(10)), row.get(11).zip(row.get(12)));
            Some(Endpoint {
                project,
                preset: preset_of(&row.must::<String>(3), row.get::<String>(6).as_deref())?,
                tolerance_seconds: row.must(4),
                workflow: row.must(5),
                dedupe_window: row.must(7),
                keep: Keep::of(&row.must::<String>(8)).unwrap_or(Keep::Nothing),
                limits,
                secrets: Vec::new(),
                action: Action::of(&row.must::<String>(13))?,
                expressions: Expressions {
                    filter: row.get(14),
                    route: row.get(15),
                    business_key: row.get(16),
                    signal: row.get(17),
                },
                schema: row.get(18),
                respond_within: row.get(19),
                id,
            })
        },
    )??;
    endpoint.secrets = secrets(endpoint.project, &endpoint.id);
    Some(endpoint)
}

fn secrets(project: Project, endpoint: &str) -> Vec<Sealed> {
    spi::run(
        "SELECT secret_id, sealed, (extract(epoch FROM expires_at) * 1000000)::bigint FROM meshhook.endpoint_secret
         WHERE project_id = $1 AND endpoint_id = $2 ORDER BY created_at DESC",
        &[arg(project.0), arg(endpoint.to_owned())],
        |row| Sealed { id: row.must(1), sealed: row.must(2), expires: row.get(3) },
    )
}

/// How an endpoint's senders sign, by what its row says: a preset, or a scheme of its own.
fn preset_of(name: &str, scheme: Option<&str>) -> Option<Cow<'static, Preset>> {
    match scheme.and_then(|scheme| described(name, scheme)) {
        Some(described) => described.ok().map(Cow::Owned),
        None => Preset::by_name(name).map(Cow::Borrowed),
    }
}

/// The preset that a scheme describes; none where the name is that of a preset that has one already.
fn described(name: &str, scheme: &str) -> Option<Result<Preset, SchemeFault>> {
    match name {
        OWN_SCHEME => Some(Preset::own(scheme)),
        JWT => Some(Preset::jwt(scheme)),
        _ => None,
    }
}

/// Raises P0002 for an endpoint that the project does not have.
fn unknown(endpoint: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("endpoint \"{endpoint}\" does not exist")).raise()
}

/// Where an endpoint is on the server that senders reach.
fn path_of(endpoint: &str) -> String {
    format!("/hooks/{endpoint}")
}

/// What a secret's seal is bound to.
fn seal_place(project: Project, endpoint: &str, secret: pgrx::Uuid) -> String {
    format!("mh1|{}|{endpoint}|{secret}|verify", project.0)
}
