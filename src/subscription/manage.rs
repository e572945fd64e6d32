//! Making, changing and dropping subscriptions.

use meshhook_engine::node::is_http_url;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use serde_json::json;

use super::publish::is_event_type;
use super::{delivery_workflow, hold, unknown};
use crate::error::{bad_parameter, refuse, required};
use crate::installation;
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::random;
use crate::secret::sent;
use crate::spi::{self, arg};

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 2_048;
/// Most patterns of one subscription.
const MAX_PATTERNS: usize = 100;
/// What `alter_subscription` can take away.
const CLEARED: [&str; 2] = ["secret", "disable_after"];

fn check_name(name: &str) {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        bad_parameter(format!(
            "a subscription's name has 1 to {MAX_NAME_BYTES} bytes, no control characters"
        ))
        .raise();
    }
}

fn check_url(url: &str) {
    if !is_http_url(url) || url.len() > MAX_URL_BYTES {
        bad_parameter(format!("\"{}\" is not a URL that can be called", url.escape_debug()))
            .hint(format!("It begins with http:// or https://, names a host and no user, and has at most {MAX_URL_BYTES} bytes."))
            .raise();
    }
}

/// Patterns as they are stored: sorted, each once. Raises 22023 for none, for too many and for what is no pattern.
fn patterns(given: Vec<Option<String>>) -> Vec<String> {
    let mut patterns: Vec<String> =
        given.into_iter().map(|pattern| required("a type of events", pattern)).collect();
    patterns.sort_unstable();
    patterns.dedup();
    if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
        bad_parameter(format!("a subscription has from 1 to {MAX_PATTERNS} types of events")).raise();
    }
    let is_pattern = |text: &String| text == "*" || is_event_type(text.strip_suffix(".*").unwrap_or(text));
    if let Some(wrong) = patterns.iter().find(|pattern| !is_pattern(pattern)) {
        bad_parameter(format!("\"{}\" is not a type of events", wrong.escape_debug()))
            .hint("Give types as invoice.paid, all that begin with one as invoice.*, or * for all.")
            .raise();
    }
    patterns
}

/// A time in microseconds; more than nothing.
fn patience(interval: Option<Interval>) -> Option<i64> {
    let micros = i64::try_from(interval?.as_micros()).unwrap_or(i64::MAX);
    if micros <= 0 {
        bad_parameter("disable_after must be more than nothing")
            .hint("Null lets a subscription fail for ever.")
            .raise();
    }
    Some(micros)
}

/// Raises 42704 for a secret that is not there.
fn check_secret(project: Project, secret: &str) {
    if !sent::exists(project, secret) {
        refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("there is no secret \"{secret}\""))
            .hint(format!("meshhook-sidecar secret set {secret} keeps one of the form whsec_…; deliveries are signed with it."))
            .raise();
    }
}

/// Says aloud that receivers cannot tell who sends.
fn warn_unsigned(name: &str) {
    pgrx::warning!(
        "deliveries of subscription \"{name}\" are not signed: receivers cannot tell who sends them"
    );
}

fn set_patterns(project: Project, subscription: pgrx::Uuid, patterns: Vec<String>) {
    spi::exec(
        "DELETE FROM meshhook.subscription_event WHERE project_id = $1 AND subscription_id = $2 AND pattern <> ALL ($3)",
        &[arg(project.0), arg(subscription), arg(patterns.clone())],
    );
    spi::exec(
        "INSERT INTO meshhook.subscription_event (project_id, subscription_id, pattern) SELECT $1, $2, unnest($3::text[])
         ON CONFLICT DO NOTHING",
        &[arg(project.0), arg(subscription), arg(patterns)],
    );
}

/// Makes a subscription; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_subscription(
    name: Option<&str>,
    url: Option<&str>,
    events: Vec<Option<String>>,
    secret: default!(Option<&str>, "NULL"),
    disable_after: default!(Option<Interval>, "'5 days'"),
) -> pgrx::Uuid {
    let (name, url) = (required("name", name), required("url", url));
    check_name(name);
    check_url(url);
    let (patterns, patience) = (patterns(events), patience(disable_after));
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        match secret {
            Some(secret) => check_secret(project, secret),
            None => warn_unsigned(name),
        }
        delivery_workflow(project);
        let (id, _) = random::uuid_v7();
        let made = spi::exec(
            "INSERT INTO meshhook.subscription (project_id, subscription_id, name, url, secret, disable_after, created_by)
             VALUES ($1, $2, $3, $4, $5, justify_hours($6 * interval '1 us'), $7::name) ON CONFLICT (project_id, name) DO NOTHING",
            &[
                arg(project.0),
                arg(id),
                arg(name.to_owned()),
                arg(url.to_owned()),
                arg(secret.map(str::to_owned)),
                arg(patience),
                arg(caller.name()),
            ],
        );
        if made == 0 {
            refuse(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                format!("subscription \"{name}\" exists already"),
            )
            .hint("SELECT meshhook.alter_subscription(…) changes it.")
            .raise();
        }
        set_patterns(project, id, patterns);
        project::audit(project, caller, "subscription.created", name, None);
        id
    })
}

/// Changes a subscription; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn alter_subscription(
    name: Option<&str>,
    url: default!(Option<&str>, "NULL"),
    events: default!(Option<Vec<Option<String>>>, "NULL"),
    secret: default!(Option<&str>, "NULL"),
    disable_after: default!(Option<Interval>, "NULL"),
    clear: default!(Vec<Option<String>>, "'{}'"),
) {
    let name = required("name", name);
    url.inspect(|url| check_url(url));
    let (patterns, patience) = (events.map(patterns), patience(disable_after));
    let clear: Vec<String> = clear.into_iter().map(|field| required("clear", field)).collect();
    for field in &clear {
        if !CLEARED.contains(&field.as_str()) {
            bad_parameter(format!("\"{}\" cannot be cleared", field.escape_debug()))
                .hint("Of a subscription secret and disable_after can.")
                .raise();
        }
        if (field == "secret" && secret.is_some()) || (field == "disable_after" && patience.is_some()) {
            bad_parameter(format!("{field} is given and in clear")).hint("Leave one of them out.").raise();
        }
    }
    let mut changed = serde_json::Map::new();
    changed.extend(url.map(|url| ("url".to_owned(), json!(url))));
    changed.extend(patterns.as_ref().map(|patterns| ("events".to_owned(), json!(patterns))));
    changed.extend(secret.map(|secret| ("secret".to_owned(), json!(secret))));
    changed.extend(
        patience.map(|micros| ("disable_after_seconds".to_owned(), json!(micros as f64 / 1_000_000.0))),
    );
    if changed.is_empty() && clear.is_empty() {
        bad_parameter("nothing is given that could be changed")
            .hint("Name what changes: url => 'https://…'; or what goes: clear => '{secret}'.")
            .raise();
    }
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let id = hold(project, name).id;
        secret.inspect(|secret| check_secret(project, secret));
        let cleared = |field: &str| clear.iter().any(|named| named == field);
        if cleared("secret") {
            warn_unsigned(name);
        }
        spi::exec(
            "UPDATE meshhook.subscription SET secret = CASE WHEN $4 THEN NULL ELSE coalesce($3, secret) END,
                 disable_after = CASE WHEN $6 THEN NULL
                     ELSE coalesce(justify_hours($5 * interval '1 us'), disable_after) END
             WHERE project_id = $1 AND subscription_id = $2",
            &[
                arg(project.0),
                arg(id),
                arg(secret.map(str::to_owned)),
                arg(cleared("secret")),
                arg(patience),
                arg(cleared("disable_after")),
            ],
        );
        if let Some(url) = url {
            // Another receiver: what the one before did is not its fault.
            spi::exec(
                "UPDATE meshhook.subscription SET url = $3, revision = revision + 1,
                     failing_since = NULL, failed_at = NULL, silence = '0'
                 WHERE project_id = $1 AND subscription_id = $2 AND url <> $3",
                &[arg(project.0), arg(id), arg(url.to_owned())],
            );
        }
        if let Some(patterns) = patterns {
            set_patterns(project, id, patterns);
        }
        let details = json!({ "changed": changed, "cleared": clear });
        project::audit(project, caller, "subscription.altered", name, Some(details.to_string()));
    });
}

/// Lets a subscription have deliveries again; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_subscription(name: Option<&str>) -> bool {
    let name = required("name", name);
    as_owner(|caller| {
        let project = project::current(caller);
        let held = hold(project, name);
        spi::exec(
            "UPDATE meshhook.subscription SET disabled_at = NULL, disabled_reason = NULL, revision = revision + 1,
                 failing_since = NULL, failed_at = NULL, silence = '0'
             WHERE project_id = $1 AND subscription_id = $2",
            &[arg(project.0), arg(held.id)],
        );
        if held.is_disabled {
            project::audit(project, caller, "subscription.enabled", name, None);
        }
        held.is_disabled
    })
}

/// Keeps deliveries from a subscription; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_subscription(name: Option<&str>, reason: default!(Option<&str>, "NULL")) -> bool {
    let name = required("name", name);
    as_owner(|caller| {
        let project = project::current(caller);
        let held = hold(project, name);
        if held.is_disabled {
            return false;
        }
        spi::exec(
            "UPDATE meshhook.subscription SET disabled_at = clock_timestamp(), disabled_reason = coalesce($3, 'by hand')
             WHERE project_id = $1 AND subscription_id = $2",
            &[arg(project.0), arg(held.id), arg(reason.map(str::to_owned))],
        );
        let details = reason.map(|reason| json!({ "reason": reason }).to_string());
        project::audit(project, caller, "subscription.disabled", name, details);
        true
    })
}

/// Takes a subscription away; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_subscription(name: Option<&str>) {
    let name = required("name", name);
    as_owner(|caller| {
        let project = project::current(caller);
        let dropped = spi::exec(
            "DELETE FROM meshhook.subscription WHERE project_id = $1 AND name = $2",
            &[arg(project.0), arg(name.to_owned())],
        );
        if dropped == 0 {
            unknown(name);
        }
        project::audit(project, caller, "subscription.dropped", name, None);
    });
}
