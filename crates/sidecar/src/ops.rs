//! Health, readiness, metrics and the log.

use std::sync::Arc;

use anyhow::Context;
use axum::extract::State;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::intake::json_response;
use crate::shutdown::Shutdown;
use crate::store::DatabaseState;

/// Upper bounds of the latency histograms, in seconds.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// What the operations endpoints look at.
pub struct Ops {
    /// State of the database.
    pub database: watch::Receiver<DatabaseState>,
    /// Whether we drain.
    pub shutdown: Shutdown,
    /// The metrics, if they are collected.
    pub metrics: Option<PrometheusHandle>,
}

/// `GET /healthz`: 200 as long as the process answers at all.
pub async fn healthz() -> Response {
    json_response(StatusCode::OK, &json!({"ok": true}))
}

/// `GET /readyz`: 200 if webhooks and jobs can be served, else 503 with the reason.
pub async fn readyz(State(ops): State<Arc<Ops>>) -> Response {
    let reason = if ops.shutdown.is_draining() {
        Some("draining".to_owned())
    } else {
        match &*ops.database.borrow() {
            DatabaseState::Ready => None,
            DatabaseState::Unreachable => Some("the database cannot be reached".to_owned()),
            DatabaseState::Incompatible(problem) => Some(problem.clone()),
        }
    };
    match reason {
        None => json_response(StatusCode::OK, &json!({"ready": true})),
        Some(reason) => {
            json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "reason": reason}))
        }
    }
}

/// `GET /metrics` in Prometheus text format.
pub async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    let ready = *ops.database.borrow() == DatabaseState::Ready && !ops.shutdown.is_draining();
    metrics::gauge!("meshhook_sidecar_ready").set(if ready { 1.0 } else { 0.0 });
    let text = ops.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    let mut response = Response::new(text.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Starts collecting metrics for the process; can be done once.
///
/// # Errors
/// When something else in the process collects metrics already.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .context("setting up metrics")?
        .install_recorder()
        .context("setting up metrics")?;
    describe();
    Ok(handle)
}

/// Says what each metric means.
fn describe() {
    let counters = [
        ("claims_total", "Claims answered, empty ones included"),
        ("claim_errors_total", "Claims that failed"),
        ("jobs_claimed_total", "Jobs leased to this executor"),
        ("http_calls_total", "Calls ended, by result: status class, or class of the error"),
        ("http_retries_total", "Calls that were not the first attempt of their node"),
        (
            "jobs_given_back_total",
            "Jobs given back unstarted because their host is slow or away, or at its rate",
        ),
        ("outcomes_total", "Outcomes reported, by kind and by what the database did with them"),
        ("leases_lost_total", "Leases that were lost before the call ended"),
        ("webhook_responses_total", "Webhooks answered, by status"),
        ("db_connects_total", "Database connections opened, by purpose"),
        ("db_disconnects_total", "Database connections lost, by purpose"),
        ("db_connect_errors_total", "Attempts to connect to the database that failed, by purpose"),
        ("db_pool_timeouts_total", "Webhooks that found no free database connection within a second"),
    ];
    for (name, text) in counters {
        describe_counter!(format!("meshhook_sidecar_{name}"), text);
    }
    let gauges = [
        ("jobs", "Jobs held: running, or waiting for a slot of their host"),
        ("hosts_left_alone", "Hosts of a project whose calls wait because the host does not answer"),
        ("executors", "Sidecars that had work when this one last had some, itself included"),
        ("db_pool_connections", "Database connections for webhooks: in use or idle"),
        ("ready", "1 if the database is usable and we are not draining"),
    ];
    for (name, text) in gauges {
        describe_gauge!(format!("meshhook_sidecar_{name}"), text);
    }
    let histograms = [
        (
            "http_call_seconds",
            "From dialling to the last byte of the response, by kind of host: public, private, or unknown where nobody answered or only a proxy knows",
        ),
        ("start_lag_seconds", "From asking for a job to its call"),
        ("report_seconds", "Writing a batch of outcomes to the database"),
        ("webhook_seconds", "From a webhook's header to its answer, commit included"),
    ];
    for (name, text) in histograms {
        describe_histogram!(format!("meshhook_sidecar_{name}"), Unit::Seconds, text);
    }
}

/// Starts the log on standard error; can be done once.
///
/// # Errors
/// When the filter cannot be read.
pub fn install_log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("reading log filter {filter:?}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    let installed = match format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Text => log.try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("setting up the log: {error}"))
}
