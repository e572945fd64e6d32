//! What the workflow that delivers asks before an attempt and tells after it, in the transaction of its turn. A turn waits
//! for nobody: where somebody holds the subscription's row the call fails with 55P03 and is tried again by the node.

use meshhook_engine::json::Json;
use pgrx::prelude::*;
use uuid::Uuid;

use super::of_the_turn;
use crate::error::bad_parameter;
use crate::owner::{OWNER, Role};
use crate::project::{self, Project};
use crate::spi::{self, RawJsonb, arg};

/// The status by which a receiver says that it wants no more.
const GONE: i64 = 410;

/// The subscription that an argument names.
fn subscription(argument: &Json) -> pgrx::Uuid {
    let named = argument.get("subscription").and_then(Json::as_str);
    let id = named.and_then(|text| Uuid::parse_str(text).ok());
    let id = id.unwrap_or_else(|| bad_parameter("the argument names no subscription").raise());
    pgrx::Uuid::from_bytes(id.into_bytes())
}

fn read(argument: RawJsonb) -> Json {
    Json::parse(&argument.text()).unwrap_or(Json::Null)
}

fn answer(fields: impl IntoIterator<Item = (&'static str, Json)>) -> RawJsonb {
    RawJsonb::of_text(&Json::object(fields).to_string())
}

/// Where an attempt goes; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delivery_target(argument: RawJsonb) -> RawJsonb {
    let found = spi::run_one(
        "SELECT url, secret, disabled_reason FROM meshhook.subscription WHERE project_id = $1 AND subscription_id = $2",
        &[arg(of_the_turn().0), arg(subscription(&read(argument)))],
        |row| (row.must::<String>(1), row.get::<String>(2), row.get::<String>(3)),
    );
    match found {
        Some((url, secret, None)) => {
            answer([("url", Json::from(url)), ("secret", secret.map_or(Json::Null, Json::from))])
        }
        Some((.., Some(reason))) => {
            answer([("reason", Json::from(format!("the subscription is disabled: {reason}")))])
        }
        None => answer([("reason", Json::from("the subscription was dropped"))]),
    }
}

/// Notes that the receiver has what it was sent; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delivery_succeeded(argument: RawJsonb) -> RawJsonb {
    let (project, id) = (of_the_turn(), subscription(&read(argument)));
    let is_failing = spi::run_one(
        "SELECT true FROM meshhook.subscription
         WHERE project_id = $1 AND subscription_id = $2 AND failing_since IS NOT NULL",
        &[arg(project.0), arg(id)],
        |row| row.must::<bool>(1),
    );
    if is_failing.is_some() {
        lock(project, id);
        spi::exec(
            "UPDATE meshhook.subscription SET failing_since = NULL WHERE project_id = $1 AND subscription_id = $2",
            &[arg(project.0), arg(id)],
        );
    }
    answer([("delivered", Json::Bool(true))])
}

/// Notes that an attempt failed, and disables a subscription that is gone or has failed for too long; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delivery_failed(argument: RawJsonb) -> RawJsonb {
    let argument = read(argument);
    let (project, id) = (of_the_turn(), subscription(&argument));
    let is_gone = argument.get("status").and_then(Json::as_i64) == Some(GONE);
    let notable = spi::run_one(
        "SELECT true FROM meshhook.subscription
         WHERE project_id = $1 AND subscription_id = $2 AND disabled_at IS NULL
           AND ($3 OR failing_since IS NULL OR failing_since + disable_after <= clock_timestamp())",
        &[arg(project.0), arg(id), arg(is_gone)],
        |row| row.must::<bool>(1),
    );
    if notable.is_none() {
        return answer([]);
    }
    lock(project, id);
    // Looked at once more under the lock: another run may have noted the same, or a success, a moment ago.
    let disabled = spi::run_one(
        "UPDATE meshhook.subscription SET disabled_at = clock_timestamp(), disabled_reason = CASE
             WHEN $3 THEN 'the receiver answered 410 Gone'
             ELSE 'every attempt has failed since ' || to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') END
         WHERE project_id = $1 AND subscription_id = $2 AND disabled_at IS NULL
           AND ($3 OR failing_since + disable_after <= clock_timestamp())
         RETURNING name, disabled_reason",
        &[arg(project.0), arg(id), arg(is_gone)],
        |row| (row.must::<String>(1), row.must::<String>(2)),
    );
    let Some((name, reason)) = disabled else {
        spi::exec(
            "UPDATE meshhook.subscription SET failing_since = clock_timestamp()
             WHERE project_id = $1 AND subscription_id = $2 AND failing_since IS NULL",
            &[arg(project.0), arg(id)],
        );
        return answer([]);
    };
    if let Some(owner) = Role::named(OWNER) {
        let details = Json::object([("reason", Json::from(reason.as_str()))]).to_string();
        project::audit(project, owner, "subscription.disabled", &name, Some(details));
    }
    answer([("disabled", Json::from(reason))])
}

/// Locks the row, or raises 55P03.
fn lock(project: Project, id: pgrx::Uuid) {
    spi::exec(
        "SELECT FROM meshhook.subscription WHERE project_id = $1 AND subscription_id = $2 FOR NO KEY UPDATE NOWAIT",
        &[arg(project.0), arg(id)],
    );
}
