//! From a delivery whose sender is known to one run, or one signal, however often it comes.

use meshhook_engine::body::{self, BodyFault, Document};
use meshhook_engine::json::{Json, MAX_DOCUMENT_DEPTH};
use meshhook_engine::selection::{Selection, SelectionFault, Target};
use meshhook_engine::signature::Headers;
use serde_json::{Value, json};

use super::action::Act;
use super::answer::Answer;
use super::record::storable;
use super::{Action, Came, Endpoint, schema};
use crate::fault;
use crate::owner::Role;
use crate::run::start::{nesting, new_run};
use crate::spi::{self, RawJsonb, arg};

/// Longest part of a header kept with the run.
const MAX_HEADER_BYTES: usize = 256;

/// What was delivered by a sender that is known.
pub(super) struct Delivery<'a> {
    pub(super) came: &'a Came<'a>,
    /// What it is recognised by when it comes again; `None` takes it whatever was delivered before.
    pub(super) dedupe_key: Option<String>,
    /// The sender's id of it.
    pub(super) sender_id: Option<String>,
}

/// The body becomes the input of one run, or one signal, however often it comes.
pub(super) fn accept(endpoint: &Endpoint, delivery: &Delivery<'_>, caller: Role) -> Answer {
    let read =
        read(delivery.came).and_then(|document| Ok((target(endpoint, delivery.came, &document)?, document)));
    let (target, document) = match read {
        Ok(read) => read,
        Err(answer) => return *answer,
    };
    let (run, now) = new_run();
    // Without a window nothing is recognised, not even what comes at the same moment.
    let key = delivery.dedupe_key.as_deref().filter(|_| endpoint.dedupe_window > 0);
    if let Some(earlier) = fault::around!("webhook.key", key.and_then(|key| note_key(endpoint, key, run))) {
        return Answer::duplicate(earlier).waiting(starts_its_own(endpoint));
    }
    let input = match &document {
        Document::Text(text) => RawJsonb::of_text(text),
        Document::Value(value) => RawJsonb::of(value),
    };
    let act = Act {
        endpoint,
        workflow: target.workflow.as_deref().unwrap_or(&endpoint.workflow),
        input,
        trigger: trigger(endpoint, delivery).to_string(),
        run,
        now,
        caller,
    };
    let answer = act.done(&target);
    if let Some(key) = key {
        match answer.run {
            Some(made) if made == run => {}
            Some(found) => fault::around!("webhook.key_run", set_run(endpoint, key, found)),
            // It may come again once there is somebody to take it.
            None => forget(endpoint, key),
        }
    }
    answer
}

/// Whether every run that the endpoint's deliveries lead to is one that they started: what it answers is for their senders.
fn starts_its_own(endpoint: &Endpoint) -> bool {
    endpoint.action == Action::Start && endpoint.expressions.business_key.is_none()
}

/// The body as a document, or the answer to one that is none.
fn read<'b>(came: &Came<'b>) -> Result<Document<'b>, Box<Answer>> {
    let document =
        body::read(Headers::get(came.headers, "content-type"), came.body).map_err(|fault| match fault {
            BodyFault::ContentType(content_type) => Answer::error(
                415,
                "send a body of another content type",
                format!("content type {content_type}"),
            ),
            BodyFault::Malformed(what) => Answer::error(400, &what, what.clone()),
        })?;
    match document {
        Document::Text(text) if nesting(text) > MAX_DOCUMENT_DEPTH => {
            Err(Answer::error(400, "the body is nested too deep", "too_deep").into())
        }
        document => Ok(document),
    }
}

/// Whom a delivery is for, or the answer to one that is for nobody.
fn target(endpoint: &Endpoint, came: &Came<'_>, document: &Document<'_>) -> Result<Target, Box<Answer>> {
    // The expressions are the endpoint's affair; what they met stands in the record.
    let unhandled = |fault: SelectionFault| {
        Box::new(Answer::error(422, "the event cannot be handled here", fault.to_string()))
    };
    let selection = Selection::parse(&endpoint.expressions).map_err(unhandled)?;
    if selection.is_trivial() && endpoint.schema.is_none() {
        return Ok(Target::default());
    }
    let input = match document {
        // Checked when it was read.
        Document::Text(text) => Json::parse(text).unwrap_or(Json::Null),
        Document::Value(value) => value.clone(),
    };
    let query = came.query.filter(|_| !endpoint.preset.is_secret_in_query());
    let headers = Json::encode(&endpoint.preset.redacted(came.headers)).unwrap_or(Json::Null);
    let event = Json::object([
        ("input", input.clone()),
        ("headers", headers),
        ("query", Json::from(query.unwrap_or_default())),
    ]);
    if !selection.wants(&event).map_err(unhandled)? {
        return Err(Answer::new(204, Value::Null, "filtered out").into());
    }
    // It was sound when it was set; where this release takes less, nothing is taken unseen.
    let contract = endpoint.schema.as_deref().map(schema::compiled).transpose();
    let contract = contract.map_err(|_| Answer::later("the endpoint's schema cannot be read"))?;
    let violations = contract.as_deref().and_then(Option::as_ref).map(|contract| contract.violations(&input));
    if let Some(violations) = violations.filter(|violations| !violations.is_empty()) {
        return Err(Answer::violations("schema", &violations).into());
    }
    selection.target(&event).map_err(unhandled)
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

/// Says which run a delivery reached that started none.
fn set_run(endpoint: &Endpoint, dedupe_key: &str, run: pgrx::Uuid) {
    spi::exec(
        "UPDATE meshhook.delivery_key SET run_id = $4
         WHERE project_id = $1 AND endpoint_id = $2 AND dedupe_key = $3",
        &[arg(endpoint.project.0), arg(endpoint.id.clone()), arg(dedupe_key.to_owned()), arg(run)],
    );
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
