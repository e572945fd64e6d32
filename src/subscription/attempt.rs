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
/// The classes of errors in which a receiver fails without an answer. All others are ours: a secret that is missing, an
/// address that no rule permits, a sidecar that dies.
const NO_ANSWER: [&str; 7] = ["dns", "connect", "tls", "timeout", "io", "response_too_large", "redirect"];

/// What an attempt says of itself.
struct Attempt {
    project: Project,
    subscription: pgrx::Uuid,
    /// The subscription's revision when it began; a definition that does not tell it counts for the present one.
    revision: Option<i32>,
    status: Option<i64>,
    class: Option<String>,
}

impl Attempt {
    fn of(argument: RawJsonb) -> Self {
        let project = of_the_turn();
        let argument = Json::parse(&argument.text()).unwrap_or(Json::Null);
        let named = argument.get("subscription").and_then(Json::as_str);
        let id = named.and_then(|text| Uuid::parse_str(text).ok());
        let id = id.unwrap_or_else(|| bad_parameter("the argument names no subscription").raise());
        let number = |field: &str| argument.get(field).and_then(Json::as_i64);
        Self {
            project,
            subscription: pgrx::Uuid::from_bytes(id.into_bytes()),
            revision: number("revision").and_then(|revision| i32::try_from(revision).ok()),
            status: number("status"),
            class: argument.get("class").and_then(Json::as_str).map(str::to_owned),
        }
    }

    fn is_gone(&self) -> bool {
        self.status == Some(GONE)
    }

    /// Whether it failed for want of something here: no word about the receiver.
    fn is_our_fault(&self) -> bool {
        let class = self.class.as_deref();
        self.status.is_none() && class.is_some_and(|class| !NO_ANSWER.contains(&class))
    }

    /// Locks the subscription's row, or raises 55P03.
    fn lock(&self) {
        spi::exec(
            "SELECT FROM meshhook.subscription WHERE project_id = $1 AND subscription_id = $2 FOR NO KEY UPDATE NOWAIT",
            &[arg(self.project.0), arg(self.subscription)],
        );
    }
}

fn answer(fields: impl IntoIterator<Item = (&'static str, Json)>) -> RawJsonb {
    RawJsonb::of_text(&Json::object(fields).to_string())
}

/// Where an attempt goes; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delivery_target(argument: RawJsonb) -> RawJsonb {
    let attempt = Attempt::of(argument);
    let found = spi::run_one(
        "SELECT url, secret, revision, disabled_reason FROM meshhook.subscription
         WHERE project_id = $1 AND subscription_id = $2",
        &[arg(attempt.project.0), arg(attempt.subscription)],
        |row| (row.must::<String>(1), row.get::<String>(2), row.must::<i32>(3), row.get::<String>(4)),
    );
    match found {
        Some((url, secret, revision, None)) => answer([
            ("url", Json::from(url)),
            ("secret", secret.map_or(Json::Null, Json::from)),
            ("revision", Json::from(i64::from(revision))),
        ]),
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
    let attempt = Attempt::of(argument);
    let is_failing = spi::run_one(
        "SELECT true FROM meshhook.subscription
         WHERE project_id = $1 AND subscription_id = $2 AND revision = coalesce($3, revision) AND failing_since IS NOT NULL",
        &[arg(attempt.project.0), arg(attempt.subscription), arg(attempt.revision)],
        |row| row.must::<bool>(1),
    );
    if is_failing.is_some() {
        attempt.lock();
        spi::exec(
            "UPDATE meshhook.subscription SET failing_since = NULL, failed_at = NULL, silence = '0'
             WHERE project_id = $1 AND subscription_id = $2 AND revision = coalesce($3, revision)",
            &[arg(attempt.project.0), arg(attempt.subscription), arg(attempt.revision)],
        );
    }
    answer([("delivered", Json::Bool(true))])
}

/// Notes that an attempt failed, and disables a subscription that is gone or has failed for too long; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delivery_failed(argument: RawJsonb) -> RawJsonb {
    let attempt = Attempt::of(argument);
    if attempt.is_our_fault() {
        return answer([]);
    }
    // Failures are noted once an hour: those in between change nothing, unless they are one too many.
    let notable = spi::run_one(
        "SELECT true FROM meshhook.subscription
         WHERE project_id = $1 AND subscription_id = $2 AND revision = coalesce($3, revision) AND disabled_at IS NULL
           AND ($4 OR failed_at IS NULL OR failed_at + interval '1 hour' <= clock_timestamp()
                OR failing_since + silence + disable_after <= clock_timestamp())",
        &[arg(attempt.project.0), arg(attempt.subscription), arg(attempt.revision), arg(attempt.is_gone())],
        |row| row.must::<bool>(1),
    );
    if notable.is_none() {
        return answer([]);
    }
    attempt.lock();
    // The next attempt of a delivery comes within 25 hours. Where none came for much longer nothing was being delivered, and
    // how the receiver did meanwhile nobody knows.
    spi::exec(
        "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
         UPDATE meshhook.subscription SET failing_since = coalesce(failing_since, now), failed_at = now,
             silence = silence + CASE WHEN now - failed_at > interval '36 hours' THEN now - failed_at ELSE '0' END
         FROM clock
         WHERE project_id = $1 AND subscription_id = $2 AND revision = coalesce($3, revision) AND disabled_at IS NULL",
        &[arg(attempt.project.0), arg(attempt.subscription), arg(attempt.revision)],
    );
    let disabled = spi::run_one(
        "UPDATE meshhook.subscription SET disabled_at = clock_timestamp(), disabled_reason = CASE
             WHEN $4 THEN 'the receiver answered 410 Gone'
             ELSE 'every attempt has failed since ' || to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') END
         WHERE project_id = $1 AND subscription_id = $2 AND revision = coalesce($3, revision) AND disabled_at IS NULL
           AND ($4 OR failing_since + silence + disable_after <= failed_at)
         RETURNING name, disabled_reason",
        &[arg(attempt.project.0), arg(attempt.subscription), arg(attempt.revision), arg(attempt.is_gone())],
        |row| (row.must::<String>(1), row.must::<String>(2)),
    );
    let Some((name, reason)) = disabled else { return answer([]) };
    if let Some(owner) = Role::named(OWNER) {
        let details = Json::object([("reason", Json::from(reason.as_str()))]).to_string();
        project::audit(attempt.project, owner, "subscription.disabled", &name, Some(details));
    }
    answer([("disabled", Json::from(reason))])
}
