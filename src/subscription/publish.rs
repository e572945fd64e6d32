//! Publishing an event: a run for each subscription that wants it, in the caller's transaction.

use meshhook_engine::expr::Budget;
use meshhook_engine::json::{Json, MAX_DOCUMENT_DEPTH};
use meshhook_engine::selection::MAX_KEY_BYTES;
use meshhook_engine::time::Timestamp;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

use super::{Delivery, delivery_workflow};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::random;
use crate::run::start::{OWN_KEYS, check_document, warn_if_unserved};
use crate::spi::{self, RawJsonb, arg};

/// Longest type of an event, in bytes.
const MAX_TYPE_BYTES: usize = 128;

/// Whether this is a type of events: names of letters, digits, `_` and `-` with full stops in between.
pub(super) fn is_event_type(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    text.len() <= MAX_TYPE_BYTES && text.split('.').all(is_name)
}

/// Every pattern that matches a type: itself, each prefix, and all.
fn patterns(event_type: &str) -> Vec<String> {
    let prefixes = event_type.match_indices('.').map(|(at, _)| format!("{}.*", &event_type[..at]));
    prefixes.chain([event_type.to_owned(), "*".to_owned()]).collect()
}

/// An event somebody publishes.
struct Event {
    event_type: String,
    /// What goes over the wire.
    body: String,
    key: Option<String>,
}

impl Event {
    /// Raises 22023 for what is no event type or no key, 54000 for what could not be delivered.
    fn of(event_type: &str, data: RawJsonb, key: Option<&str>) -> Self {
        if !is_event_type(event_type) {
            bad_parameter(format!("\"{}\" is not a type of events", event_type.escape_debug()))
                .hint("A type is names of letters, digits, _ and - with full stops in between, as invoice.paid: at most 128 bytes.")
                .raise();
        }
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            bad_parameter(format!("an idempotency key has 1 to {MAX_KEY_BYTES} bytes")).raise();
        }
        check_document("payload", data);
        let at = Timestamp::from_micros(random::now_micros()).to_string();
        let body = format!(
            r#"{{"type": {}, "timestamp": "{at}", "data": {}}}"#,
            Json::from(event_type),
            data.text()
        );
        check_body(&body);
        Self { event_type: event_type.to_owned(), body, key: key.map(str::to_owned) }
    }

    /// What receivers know the event by: under the same key the same, whoever asks when.
    fn id(&self, project: Project) -> String {
        let unique = match &self.key {
            Some(key) => {
                let hash = Sha256::new().chain_update(project.0.to_be_bytes()).chain_update(key).finalize();
                hex::encode(&hash[..16])
            }
            None => hex::encode(random::uuid_v7().0.as_bytes()),
        };
        format!("msg_{unique}")
    }

    /// Starts its deliveries: subscriptions and runs. Called as the owner role.
    fn publish(&self, project: Project, caller: Role) -> Vec<(String, pgrx::Uuid)> {
        let wanted_by = spi::run(
            "SELECT s.subscription_id, s.name FROM meshhook.subscription s
             WHERE s.project_id = $1 AND s.disabled_at IS NULL AND s.subscription_id IN (
                 SELECT e.subscription_id FROM meshhook.subscription_event e
                 WHERE e.project_id = $1 AND e.pattern = ANY ($2))
             ORDER BY s.name",
            &[arg(project.0), arg(patterns(&self.event_type))],
            |row| (row.must::<pgrx::Uuid>(1), row.must::<String>(2)),
        );
        if wanted_by.is_empty() {
            return Vec::new();
        }
        let version = delivery_workflow(project);
        warn_if_unserved();
        let id = self.id(project);
        let event = &self.body;
        let start = |(subscription, name): (pgrx::Uuid, String)| {
            let input = format!(r#"{{"subscription": "{subscription}", "id": "{id}", "event": {event}}}"#);
            let key = self.key.as_ref().map(|key| format!("{OWN_KEYS}event:{subscription}:{key}"));
            let delivery = Delivery {
                project,
                version,
                subscription,
                input: RawJsonb::of_text(&input),
                key: key.as_deref(),
                replay_of: None,
                actor: caller,
            };
            (name, delivery.start())
        };
        wanted_by.into_iter().map(start).collect()
    }
}

/// Refuses what the node that delivers would: 54000. Nobody would learn of it there but the one who looks for what was
/// given up.
fn check_body(body: &str) {
    let too_much = |message: &str| refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message);
    let limit = Budget::node().max_output;
    let body = Json::parse(body)
        .unwrap_or_else(|error| too_much("the event cannot be sent").detail(error.to_string()).raise());
    let size = body.byte_size();
    if size > limit {
        too_much("the event is too large")
            .detail(format!("With its type and time it has {size} bytes; the limit is {limit}."))
            .hint("Keep large data in a table or an object store and send a reference.")
            .raise();
    }
    if body.is_deeper_than(MAX_DOCUMENT_DEPTH) {
        too_much("the event is nested too deep")
            .detail(format!("With what is around the payload the limit is {MAX_DOCUMENT_DEPTH} levels."))
            .raise();
    }
}

/// Publishes an event; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn publish_event(
    event_type: Option<&str>,
    payload: Option<RawJsonb>,
    idempotency_key: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(subscription, String), name!(run_id, pgrx::Uuid))> {
    let event = Event::of(required("event_type", event_type), required("payload", payload), idempotency_key);
    TableIterator::new(as_owner(|caller| event.publish(project::current(caller), caller)))
}

/// Publishes the event that an `sql` node gives; see the COMMENT.
#[pg_extern(name = "publish_event")]
#[search_path(pg_catalog, pg_temp)]
fn publish_event_document(event: Option<RawJsonb>) -> RawJsonb {
    let document = Json::parse(&required("event", event).text()).unwrap_or(Json::Null);
    let known = ["type", "data", "idempotency_key"];
    let unknown = document.as_obj().map(|fields| fields.keys().find(|name| !known.contains(&&***name)));
    match unknown {
        Some(None) => {}
        Some(Some(name)) => bad_parameter(format!("an event has no field \"{}\"", name.escape_debug()))
            .hint("It has type, data and, if you like, idempotency_key.")
            .raise(),
        None => {
            bad_parameter("an event is an object of type, data and, if you like, idempotency_key").raise()
        }
    }
    let text = |name: &str| match document.get(name) {
        None | Some(Json::Null) => None,
        Some(Json::Str(text)) => Some(text.to_string()),
        Some(_) => bad_parameter(format!("\"{name}\" of an event must be a string")).raise(),
    };
    let event_type = required("type", text("type"));
    let key = text("idempotency_key");
    let data = RawJsonb::of(&required("data", document.get("data").cloned()));
    let event = Event::of(&event_type, data, key.as_deref());
    let started = as_owner(|caller| event.publish(project::current(caller), caller));
    let runs = started.into_iter().map(|(name, run)| {
        Json::object([("subscription", Json::from(name)), ("run_id", Json::from(run.to_string()))])
    });
    RawJsonb::of_text(&Json::object([("deliveries", Json::array(runs))]).to_string())
}
