//! Intake: from raw bytes to one run, or to a reason why not. Everything that is the sender's fault is an
//! answer, never an ERROR, so that the record of the delivery commits.

use meshhook_engine::body::{self, BodyFault, Document};
use meshhook_engine::definition::flow::Keys;
use meshhook_engine::json::MAX_DOCUMENT_DEPTH;
use meshhook_engine::signature::{Headers, Request, Verdict, verify};
use pgrx::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Endpoint, path_of, preset_of, seal_place};
use crate::error::required;
use crate::guc::{self, MAX_PAYLOAD_BYTES};
use crate::owner::{Role, as_owner};
use crate::project::Project;
use crate::run::start::{Options, Start, nesting, new_run, start};
use crate::secret;
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Pause, Version};
use crate::{fault, flow};
use crate::{installation, random};

/// Longest part of a header kept with the run.
const MAX_HEADER_BYTES: usize = 256;

/// What the sender is told, and what the record says.
struct Answer {
    status: i32,
    headers: Value,
    body: Value,
    reason: String,
    run: Option<pgrx::Uuid>,
    dedupe_key: Option<String>,
}

impl Answer {
    fn new(status: i32, body: Value, reason: impl Into<String>) -> Self {
        Self { status, headers: json!({}), body, reason: reason.into(), run: None, dedupe_key: None }
    }

    fn error(status: i32, message: &str, reason: impl Into<String>) -> Self {
        Self::new(status, json!({ "error": message }), reason)
    }
}

/// Takes a delivery in; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn receive_webhook(
    endpoint: Option<&str>,
    method: Option<&str>,
    headers: Option<RawJsonb>,
    query: Option<&str>,
    body: Option<&[u8]>,
) -> TableIterator<'static, (name!(status, i32), name!(headers, RawJsonb), name!(body, RawJsonb))> {
    let (endpoint, method) = (required("endpoint", endpoint), required("method", method));
    let body = required("body", body);
    let headers = match serde_json::from_str(&required("headers", headers).text()) {
        Ok(Value::Object(headers)) => headers,
        _ => Map::new(),
    };
    let answer = as_owner(|caller| match find(endpoint) {
        None => Answer::error(404, "unknown endpoint", "unknown_endpoint"),
        Some(endpoint) => {
            let answer = answer(&endpoint, method, &headers, query, body, caller);
            record(&endpoint, &answer, body);
            answer
        }
    });
    TableIterator::once((
        answer.status,
        RawJsonb::of_text(&answer.headers.to_string()),
        RawJsonb::of_text(&answer.body.to_string()),
    ))
}

fn find(endpoint: &str) -> Option<Endpoint> {
    spi::read_one(
        "SELECT e.project_id, e.endpoint_id, e.preset, extract(epoch FROM e.tolerance)::bigint, w.name,
                e.scheme::text
         FROM meshhook.endpoint e
         JOIN meshhook.workflow w ON w.project_id = e.project_id AND w.workflow_id = e.workflow_id
         WHERE e.endpoint_id = $1",
        &[arg(endpoint.to_owned())],
        |row| {
            Some(Endpoint {
                project: Project(row.must(1)),
                id: row.must(2),
                preset: preset_of(&row.must::<String>(3), row.get::<String>(6).as_deref())?,
                tolerance_seconds: row.must(4),
                workflow: row.must(5),
            })
        },
    )?
}

fn answer(
    endpoint: &Endpoint,
    method: &str,
    headers: &Map<String, Value>,
    query: Option<&str>,
    body: &[u8],
    caller: Role,
) -> Answer {
    let challenge = endpoint.preset.challenge.as_ref();
    let token = challenge.filter(|_| method == "GET").and_then(|asked| asked.echo(query?, &endpoint.id));
    if let Some(token) = token {
        let mut answer = Answer::new(200, Value::String(token), "challenge");
        answer.headers = json!({ "content-type": "text/plain" });
        return answer;
    }
    if method != "POST" {
        let mut answer = Answer::error(405, "send a POST request", "method");
        answer.headers = json!({ "allow": "POST" });
        return answer;
    }
    if !installation::active() {
        let mut answer = Answer::error(503, "try again later", "dormant");
        answer.headers = json!({ "retry-after": "60" });
        return answer;
    }
    if body.len() > MAX_PAYLOAD_BYTES {
        return Answer::error(413, "the body is too large", "body_too_large");
    }
    let secrets = match secrets(endpoint) {
        Ok(secrets) => secrets,
        Err(error) => {
            pgrx::warning!("webhook endpoint {} cannot verify anything: {}", endpoint.id, error.0);
            let mut answer = Answer::error(503, "try again later", "no_key");
            answer.headers = json!({ "retry-after": "60" });
            return answer;
        }
    };
    let opened: Vec<&[u8]> = secrets.iter().map(|secret| &secret[..]).collect();
    let now = random::now_micros() / 1_000_000;
    let url = address(endpoint, query);
    let request = Request { headers, url: &url, body };
    match verify(&endpoint.preset, &opened, endpoint.tolerance_seconds, now, &request) {
        // One text whatever the reason: it must not help to guess.
        Verdict::Rejected(reason) => Answer::error(401, "invalid signature", reason.to_string()),
        Verdict::Accepted { dedupe_key, signed_id, unsigned_id, secret_index, .. } => {
            let secret = secret_index.and_then(|index| opened.get(index));
            if let Some(reply) = challenge.zip(secret).and_then(|(asked, secret)| asked.reply(body, secret)) {
                return Answer::new(200, reply, "challenge");
            }
            let delivery = signed_id.or(unsigned_id);
            accept(endpoint, headers, query, body, caller, dedupe_key, delivery)
        }
    }
}

/// The address as the sender has it. What the request says of its host is the sender's word and counts for nothing.
fn address(endpoint: &Endpoint, query: Option<&str>) -> String {
    let base = guc::public_url().unwrap_or_default();
    let path = path_of(&endpoint.id);
    match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    }
}

fn secrets(endpoint: &Endpoint) -> Result<Vec<Zeroizing<Vec<u8>>>, secret::SecretError> {
    let sealed = spi::read(
        "SELECT secret_id, sealed FROM meshhook.endpoint_secret
         WHERE project_id = $1 AND endpoint_id = $2 AND (expires_at IS NULL OR expires_at > clock_timestamp())
         ORDER BY created_at DESC",
        &[arg(endpoint.project.0), arg(endpoint.id.clone())],
        |row| (row.must::<pgrx::Uuid>(1), row.must::<Vec<u8>>(2)),
    );
    let open = |(id, sealed): (pgrx::Uuid, Vec<u8>)| {
        secret::open(&sealed, &seal_place(endpoint.project, &endpoint.id, id))
    };
    let (mut opened, mut last_error) = (Vec::new(), None);
    for result in sealed.into_iter().map(open) {
        match result {
            Ok(secret) => opened.push(secret),
            Err(error) => last_error = Some(error),
        }
    }
    // One that cannot be opened any more must not shut out those that can.
    match last_error {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
    }
}

/// A delivery whose sender is known: the body becomes the input of one run, however often it comes.
fn accept(
    endpoint: &Endpoint,
    headers: &Map<String, Value>,
    query: Option<&str>,
    body: &[u8],
    caller: Role,
    dedupe_key: String,
    delivery: Option<String>,
) -> Answer {
    let document = match body::read(Headers::get(headers, "content-type"), body) {
        Ok(document) => document,
        Err(BodyFault::ContentType(content_type)) => {
            return Answer::error(
                415,
                "send a body of another content type",
                format!("content type {content_type}"),
            );
        }
        Err(BodyFault::Malformed(what)) => return Answer::error(400, &what, what.clone()),
    };
    if matches!(document, Document::Text(text) if nesting(text) > MAX_DOCUMENT_DEPTH) {
        return Answer::error(400, "the body is nested too deep", "too_deep");
    }
    let (run, now) = new_run();
    let first = fault::around!("webhook.key", note_key(endpoint, &dedupe_key, run));
    let (status, run, reason) = if first == 1 {
        let input = match &document {
            Document::Text(text) => RawJsonb::of_text(text),
            Document::Value(value) => RawJsonb::of(value),
        };
        let trigger = trigger(endpoint, headers, query, delivery.as_deref()).to_string();
        let (version, keys) = match startable(endpoint, input, run, &trigger) {
            Ok(found) => found,
            Err(mut answer) => {
                // It may come again once the workflow takes it.
                forget(endpoint, &dedupe_key);
                answer.dedupe_key = Some(dedupe_key);
                return *answer;
            }
        };
        start(&Start {
            project: endpoint.project,
            run,
            now,
            version,
            workflow: &endpoint.workflow,
            input,
            key: None,
            trigger,
            actor: Some(caller),
            parent: None,
            options: Options { keys, ..Options::default() },
        });
        (202, run, "accepted")
    } else {
        // Somebody else's commit was waited for, so a new snapshot sees the run.
        let earlier = spi::run_one(
            "SELECT run_id FROM meshhook.delivery_key WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3",
            &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(dedupe_key.clone())],
            |row| row.must::<pgrx::Uuid>(1),
        );
        (200, earlier.unwrap_or(run), "duplicate")
    };
    let mut told = json!({ "run_id": run.to_string() });
    if status == 200 {
        told["duplicate"] = Value::Bool(true);
    }
    let mut answer = Answer::new(status, told, reason);
    answer.run = Some(run);
    answer.dedupe_key = Some(dedupe_key);
    answer
}

/// The version that a delivery starts and what the start is counted under, or the answer to one that starts nothing.
fn startable(
    endpoint: &Endpoint,
    input: RawJsonb,
    run: pgrx::Uuid,
    trigger: &str,
) -> Result<(Version, Keys), Box<Answer>> {
    let version = workflow::startable(endpoint.project, &endpoint.workflow, None)
        .ok_or_else(|| Answer::error(410, "no new runs are taken here", "archived"))?;
    if version.pause == Some(Pause::Reject) {
        let mut answer = Answer::error(503, "try again later", "paused");
        answer.headers = json!({ "retry-after": "60" });
        return Err(answer.into());
    }
    let violations = workflow::input_violations(endpoint.project, version, input);
    if !violations.is_empty() {
        let told = json!({ "error": "the body breaks the input schema", "violations": violations });
        return Err(Answer::new(422, told, "input_schema").into());
    }
    let keys = flow::keys(endpoint.project, &version, input, run, trigger)
        .map_err(|error| Answer::error(400, "the body lacks what the workflow counts by", error))?;
    Ok((version, keys))
}

/// Notes that a run was made of a delivery; 0 where there is one already, whose commit is waited for.
fn note_key(endpoint: &Endpoint, dedupe_key: &str, run: pgrx::Uuid) -> u64 {
    spi::exec(
        "INSERT INTO meshhook.delivery_key (project_id, endpoint_id, dedupe_key, run_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(dedupe_key.to_owned()), arg(run)],
    )
}

fn forget(endpoint: &Endpoint, dedupe_key: &str) {
    spi::exec(
        "DELETE FROM meshhook.delivery_key WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(dedupe_key.to_owned())],
    );
}

/// What the run learns of its delivery. Headers may carry credentials, so only named ones are kept.
fn trigger(
    endpoint: &Endpoint,
    headers: &Map<String, Value>,
    query: Option<&str>,
    delivery: Option<&str>,
) -> Value {
    let kept = |name: &str| Headers::get(headers, name).filter(|value| value.len() <= MAX_HEADER_BYTES);
    let mut trigger = json!({ "type": "webhook", "endpoint": endpoint.id });
    let event = kept("x-github-event").or_else(|| kept("webhook-event"));
    let query = query.filter(|query| {
        !query.is_empty() && query.len() <= MAX_HEADER_BYTES && !endpoint.preset.is_secret_in_query()
    });
    for (name, value) in [("delivery", delivery), ("event", event), ("query", query)] {
        if let Some(value) = value {
            trigger[name] = Value::from(value.replace('\0', "\u{fffd}"));
        }
    }
    trigger
}

fn record(endpoint: &Endpoint, answer: &Answer, body: &[u8]) {
    fault::around!("webhook.record");
    fault::at_commit!("webhook.commit");
    spi::exec(
        "INSERT INTO meshhook.delivery (project_id, endpoint_id, status, reason, run_id, dedupe_key, body_sha256, body_bytes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            arg(endpoint.project.0),
            arg(endpoint.id.clone()),
            arg(answer.status),
            arg(answer.reason.replace('\0', "\u{fffd}")),
            arg(answer.run),
            arg(answer.dedupe_key.clone()),
            arg(Sha256::digest(body).to_vec()),
            arg(i32::try_from(body.len()).unwrap_or(i32::MAX)),
        ],
    );
}
