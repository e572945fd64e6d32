//! How many deliveries are taken in a period: of an endpoint, and of a project's endpoints together.
//!
//! Paid by whoever has proved who it is, so that nobody else can use up a sender's rate.

use pgrx::datum::Interval;
use pgrx::prelude::*;
use serde_json::{Map, Value, json};

use meshhook_engine::rate::Rate;

use super::{DAY, Endpoint, SECOND, micros, unknown};
use crate::error::{bad_parameter, required};
use crate::installation;
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::shmem::buckets::{self, Key};
use crate::spi::{self, arg};

/// Most deliveries a period can have.
const MAX_DELIVERIES: i32 = 1_000_000;

/// A rate that the deliveries to an endpoint pay.
#[derive(Debug)]
pub(super) struct Limit {
    scope: &'static str,
    key: Key,
    rate: Rate,
}

impl Limit {
    /// The limits of an endpoint, by the limits and periods in milliseconds of itself and of its project.
    pub(super) fn of(
        project: Project,
        endpoint: &str,
        own: Option<(i32, i64)>,
        shared: Option<(i32, i64)>,
    ) -> Vec<Self> {
        let limit = |scope, name: &str, (limit, period): (i32, i64)| Self {
            scope,
            key: Key::of((project.0, name)),
            rate: Rate::new(i64::from(limit), period * 1_000),
        };
        let own = own.map(|rate| limit("endpoint", endpoint, rate));
        own.into_iter().chain(shared.map(|rate| limit("project", "", rate))).collect()
    }

    fn policy(&self) -> String {
        format!("\"{}\";q={};w={}", self.scope, self.rate.limit(), seconds(self.rate.period()))
    }
}

/// What a delivery that is one too many is told.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Whose rate it was.
    pub scope: &'static str,
    /// With `retry-after`.
    pub headers: Map<String, Value>,
}

/// Takes one delivery from each rate of an endpoint, or from none. What is left goes into headers as
/// draft-ietf-httpapi-ratelimit-headers-10 has them; none where there are no rates.
pub(super) fn pay(endpoint: &Endpoint, now: i64) -> Result<Map<String, Value>, Refusal> {
    let limits = &endpoint.limits;
    let mut left = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        match buckets::take(limit.key, limit.rate, now) {
            Ok(paid) => left.push(item(limit, limit.rate.level(paid, now).tokens, paid - now)),
            Err(at) => {
                for paid in &limits[..index] {
                    buckets::put_back(paid.key, paid.rate, now);
                }
                let mut headers = told(limits, vec![item(limit, 0, at - now)]);
                headers.insert("retry-after".to_owned(), Value::String(seconds(at - now).to_string()));
                return Err(Refusal { scope: limit.scope, headers });
            }
        }
    }
    Ok(told(limits, left))
}

/// How many are left, and in how many seconds there are more; all of them, where any are left.
fn item(limit: &Limit, left: i64, wait: i64) -> String {
    format!("\"{}\";r={left};t={}", limit.scope, seconds(wait))
}

fn told(limits: &[Limit], left: Vec<String>) -> Map<String, Value> {
    if limits.is_empty() {
        return Map::new();
    }
    let policies: Vec<String> = limits.iter().map(Limit::policy).collect();
    Map::from_iter([
        ("ratelimit-policy".to_owned(), Value::String(policies.join(", "))),
        ("ratelimit".to_owned(), Value::String(left.join(", "))),
    ])
}

/// Whole seconds, rounded up: whoever waits that long has waited long enough.
fn seconds(micros: i64) -> i64 {
    (micros + SECOND - 1) / SECOND
}

/// The period in milliseconds. Raises 22023 for a rate that is none.
fn checked(deliveries: Option<i32>, per: Interval) -> Option<(i32, i64)> {
    let deliveries = deliveries?;
    if !(1..=MAX_DELIVERIES).contains(&deliveries) {
        bad_parameter(format!("deliveries must be from 1 to {MAX_DELIVERIES}, or null for no limit")).raise();
    }
    let per = micros(&per);
    if !(SECOND..=DAY).contains(&per) {
        bad_parameter("per must be from 1 second to 1 day").raise();
    }
    Some((deliveries, per / 1_000))
}

fn details(rate: Option<(i32, i64)>) -> String {
    json!({ "deliveries": rate.map(|rate| rate.0), "per_ms": rate.map(|rate| rate.1) }).to_string()
}

/// Limits the deliveries to an endpoint; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_endpoint_rate(endpoint: Option<&str>, deliveries: Option<i32>, per: default!(Interval, "'1 minute'")) {
    let endpoint = required("endpoint", endpoint);
    let rate = checked(deliveries, per);
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        let changed = spi::exec(
            "UPDATE meshhook.endpoint SET rate_limit = $3, rate_ms = $4
             WHERE project_id = $1 AND endpoint_id = $2 AND dropped_at IS NULL",
            &[
                arg(project.0),
                arg(endpoint.to_owned()),
                arg(rate.map(|rate| rate.0)),
                arg(rate.map(|rate| rate.1)),
            ],
        );
        if changed == 0 {
            unknown(endpoint);
        }
        project::audit(project, caller, "endpoint.rate_set", endpoint, Some(details(rate)));
    });
}

/// Limits the deliveries to all endpoints of a project; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_project_webhook_rate(
    project: Option<&str>,
    deliveries: Option<i32>,
    per: default!(Interval, "'1 minute'"),
) {
    let slug = required("project", project);
    let rate = checked(deliveries, per);
    as_owner(|caller| {
        installation::ensure();
        let project = project::named(slug);
        match rate {
            Some((deliveries, per)) => spi::exec(
                "INSERT INTO meshhook.webhook_rate (project_id, rate_limit, rate_ms) VALUES ($1, $2, $3)
                 ON CONFLICT (project_id) DO UPDATE SET rate_limit = excluded.rate_limit, rate_ms = excluded.rate_ms",
                &[arg(project.0), arg(deliveries), arg(per)],
            ),
            None => spi::exec("DELETE FROM meshhook.webhook_rate WHERE project_id = $1", &[arg(project.0)]),
        };
        project::audit(project, caller, "project.webhook_rate_set", slug, Some(details(rate)));
    });
}
