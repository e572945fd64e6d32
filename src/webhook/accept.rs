//! From a delivery whose sender is known to one run, however often it comes.

use std::borrow::Cow;

use meshhook_engine::body::{self, BodyFault, Document};
use meshhook_engine::definition::flow::Keys;
use meshhook_engine::json::{Json, MAX_DOCUMENT_DEPTH};
use meshhook_engine::selection::{Selected, Selection, SelectionFault};
use meshhook_engine::signature::Headers;
use serde_json::{Value, json};

use super::answer::Answer;
use super::record::storable;
use super::{Came, Endpoint};
use crate::owner::Role;
use crate::run::start::{Options, Start, nesting, new_run, start};
use crate::spi::{self, RawJsonb, arg};
use crate::workflow::{self, Pause, Version};
use crate::{fault, flow};

/// Longest part of a header kept with the run.
const MAX_HEADER_BYTES: usize = 256;

/// What was delivered by a sender that is known.
pub(super) struct Delivery<'a> {
    pub(super) came: &'a Came<'a>,
    /// What it is recognised by when it comes again; `None` starts a run whatever was delivered before.
    pub(super) dedupe_key: Option<String>,
    /// The sender's id of it.
    pub(super) sender_id: Option<String>,
}

/// The body becomes the input of one run, however often it comes.
pub(super) fn accept(endpoint: &Endpoint, delivery: &Delivery<'_>, caller: Role) -> Answer {
    let document = match body::read(Headers::get(delivery.came.headers, "content-type"), delivery.came.body) {
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
    let workflow = match selected(endpoint, delivery.came, &document) {
        Ok(Selected::Ignored) => return Answer::new(204, Value::Null, "filtered out"),
        Ok(Selected::Default) => Cow::Borrowed(&*endpoint.workflow),
        Ok(Selected::Named(name)) => Cow::Owned(name),
        // The expression is the endpoint's affair; what it met stands in the record.
        Err(fault) => return Answer::error(422, "the event cannot be handled here", fault.to_string()),
    };
    let (run, now) = new_run();
    // Without a window nothing is recognised, not even what comes at the same moment.
    let key = delivery.dedupe_key.as_deref().filter(|_| endpoint.dedupe_window > 0);
    if let Some(earlier) = fault::around!("webhook.key", key.and_then(|key| note_key(endpoint, key, run))) {
        return Answer::duplicate(earlier);
    }
    let input = match &document {
        Document::Text(text) => RawJsonb::of_text(text),
        Document::Value(value) => RawJsonb::of(value),
    };
    let trigger = trigger(endpoint, delivery).to_string();
    let (version, keys) = match startable(endpoint, &workflow, input, run, &trigger) {
        Ok(found) => found,
        Err(answer) => {
            // It may come again once the workflow takes it.
            if let Some(key) = key {
                forget(endpoint, key);
            }
            return *answer;
        }
    };
    start(&Start {
        project: endpoint.project,
        run,
        now,
        version,
        workflow: &workflow,
        input,
        key: None,
        trigger,
        actor: Some(caller),
        parent: None,
        options: Options { keys, ..Options::default() },
    });
    Answer::new(202, json!({ "run_id": run.to_string() }), "accepted").of_run(run)
}

/// What is to become of a delivery, by the endpoint's expressions.
fn selected(
    endpoint: &Endpoint,
    came: &Came<'_>,
    document: &Document<'_>,
) -> Result<Selected, SelectionFault> {
    let selection = Selection::parse(endpoint.filter.as_deref(), endpoint.route.as_deref())?;
    if selection.is_trivial() {
        return Ok(Selected::Default);
    }
    let input = match document {
        // Checked when it was read.
        Document::Text(text) => Json::parse(text).unwrap_or(Json::Null),
        Document::Value(value) => value.clone(),
    };
    let query = came.query.filter(|_| !endpoint.preset.is_secret_in_query());
    let headers = Json::encode(&endpoint.preset.redacted(came.headers)).unwrap_or(Json::Null);
    selection.of(&Json::object([
        ("input", input),
        ("headers", headers),
        ("query", Json::from(query.unwrap_or_default())),
    ]))
}

/// The version that a delivery starts and what the start is counted under, or the answer to one that starts nothing.
fn startable(
    endpoint: &Endpoint,
    workflow: &str,
    input: RawJsonb,
    run: pgrx::Uuid,
    trigger: &str,
) -> Result<(Version, Keys), Box<Answer>> {
    let version = workflow::startable(endpoint.project, workflow, None).ok_or_else(|| {
        if workflow == endpoint.workflow {
            return Answer::error(410, "no new runs are taken here", "archived");
        }
        let reason = format!("route: no workflow \"{workflow}\" takes new runs");
        Answer::error(422, "the event cannot be handled here", reason)
    })?;
    if version.pause == Some(Pause::Reject) {
        return Err(Answer::later("paused").into());
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

/// Notes that `run` is made of a delivery, or tells of which run it was made within the endpoint's window. Waits for the
/// commit of whoever is making one.
fn note_key(endpoint: &Endpoint, key: &str, run: pgrx::Uuid) -> Option<pgrx::Uuid> {
    let (project, id, key) = (endpoint.project.0, || endpoint.id.clone(), || key.to_owned());
    loop {
        let inserted = spi::exec(
            "INSERT INTO meshhook.delivery_key (project_id, endpoint_id, dedupe_key, run_id) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[arg(project), arg(id()), arg(key()), arg(run)],
        );
        if inserted == 1 {
            return None;
        }
        // Somebody else's commit was waited for, so a new snapshot sees the run.
        let earlier = spi::run_one(
            "SELECT run_id, created_at < now() - $4 * interval '1 us' FROM meshhook.delivery_key
             WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3",
            &[arg(project), arg(id()), arg(key()), arg(endpoint.dedupe_window)],
            |row| (row.must::<pgrx::Uuid>(1), row.must::<bool>(2)),
        );
        // Retention may have taken a key away that is past its window, or another delivery may have taken it over:
        // then it is looked at anew.
        let Some((known, is_past)) = earlier else { continue };
        if !is_past {
            return Some(known);
        }
        let renewed = spi::exec(
            "UPDATE meshhook.delivery_key SET run_id = $4, created_at = now()
             WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3 AND run_id = $5",
            &[arg(project), arg(id()), arg(key()), arg(run), arg(known)],
        );
        if renewed == 1 {
            return None;
        }
    }
}

fn forget(endpoint: &Endpoint, dedupe_key: &str) {
    spi::exec(
        "DELETE FROM meshhook.delivery_key WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(dedupe_key.to_owned())],
    );
}

/// What the run learns of its delivery. Headers may carry credentials, so only named ones are kept.
fn trigger(endpoint: &Endpoint, delivery: &Delivery<'_>) -> Value {
    let kept = |name: &str| {
        Headers::get(delivery.came.headers, name).filter(|value| value.len() <= MAX_HEADER_BYTES)
    };
    let mut trigger = json!({ "type": "webhook", "endpoint": endpoint.id });
    let event = kept("x-github-event").or_else(|| kept("webhook-event"));
    let query = delivery.came.query.filter(|query| {
        !query.is_empty() && query.len() <= MAX_HEADER_BYTES && !endpoint.preset.is_secret_in_query()
    });
    for (name, value) in [("delivery", delivery.sender_id.as_deref()), ("event", event), ("query", query)] {
        if let Some(value) = value {
            trigger[name] = Value::from(storable(value));
        }
    }
    trigger
}
