//! `meshhook-sidecar`: the thin process beside PostgreSQL that makes the HTTP calls of meshhook
//! workflows and takes in their webhooks and the answers to their resume URLs.
//!
//! It decides nothing and keeps nothing: what to call comes from the database as leased jobs
//! ([`executor`]), what came of it goes back, and webhooks are passed to the database as they are
//! ([`intake`]), as are answers ([`resume`]). A lease whose sidecar died runs out, and another makes the call again.

pub mod backoff;
pub mod check;
pub mod config;
pub mod egress;
pub mod executor;
pub mod intake;
pub mod ops;
pub mod outcomes;
pub mod resume;
pub mod secrets;
pub mod server;
pub mod shutdown;
pub mod store;
pub mod version;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::executor::http::HttpClient;
use crate::intake::Intake;
use crate::ops::Ops;
use crate::secrets::ring::Keys;
use crate::shutdown::Shutdown;
use crate::store::{JobStore, PgStore, ResumeStore, WebhookStore};

/// Requests in progress when the executor has drained get at least this long to end.
const SERVER_GRACE: Duration = Duration::from_secs(2);

/// Runs the sidecar against the database it is configured for, until it has drained.
///
/// # Errors
/// When the address cannot be listened on, or TLS cannot be set up. A database that is away is no
/// error: the sidecar waits for it.
pub async fn run(config: Config, metrics: PrometheusHandle, shutdown: Shutdown) -> anyhow::Result<()> {
    let database = config.database()?;
    config.log(&database);
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listening on {}", config.listen))?;
    let store = Arc::new(PgStore::start(&database, config.db_pool)?);
    let upkeep = tokio::spawn(keep_metrics(metrics.clone()));
    let result = serve(store, &config, listener, Some(metrics), shutdown).await;
    upkeep.abort();
    result
}

/// Runs executor and intake over any store, until drained.
///
/// # Errors
/// When TLS for outgoing calls cannot be set up.
pub async fn serve<S: JobStore + WebhookStore + ResumeStore>(
    store: Arc<S>,
    config: &Config,
    listener: TcpListener,
    metrics: Option<PrometheusHandle>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let client = HttpClient::new(config.calls(), config.egress()?)?;
    let keys = Keys::of(config.secret_keys.as_deref())?;
    let hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let reloading = tokio::spawn(reload(hangup, client.clone(), keys.clone(), config.clone()));
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    let ops = Ops { database: store.state(), shutdown: shutdown.clone(), metrics };
    let intake = Intake::new(store.clone(), config.max_webhooks, config.max_webhook_bytes, shutdown.clone());
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(server::serve(listener, router(intake, ops), stopped, SERVER_GRACE));
    let settings = executor::Settings {
        queue: config.queue.clone(),
        executor: config.executor_name(),
        concurrency: config.concurrency,
        per_host: config.per_host,
        batch: config.batch,
        lease: config.lease,
        poll: config.poll,
        drain: config.drain,
    };
    // Webhooks are served until the executor has drained: the load balancer sees /readyz meanwhile.
    executor::run(store, settings, client, keys, shutdown).await;
    reloading.abort();
    drop(stop);
    server.await.context("the HTTP server failed")
}

/// Reads policy and keys again whenever SIGHUP asks for it.
async fn reload(mut hangup: Signal, client: HttpClient, keys: Keys, config: Config) {
    while hangup.recv().await.is_some() {
        match config.egress() {
            Ok(policy) => {
                tracing::info!(projects = policy.projects.len(), "read the rules for calls again");
                client.set_policy(policy);
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the rules for calls stay as they were");
            }
        }
        match keys.read_again(config.secret_keys.as_deref()) {
            Ok(()) => tracing::info!(keys = keys.ring().len(), "read the keys of secrets again"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the keys of secrets stay as they were");
            }
        }
    }
}

/// All routes of the listener.
fn router<S: WebhookStore + ResumeStore>(intake: Intake<S>, ops: Ops) -> Router {
    let incoming = Router::new()
        .route("/hooks/{endpoint}", any(intake::receive::<S>))
        .route("/outcomes/{token}", any(outcomes::handle::<S>))
        .route("/resume/{token}", any(resume::handle::<S>))
        .with_state(Arc::new(intake));
    Router::new()
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .with_state(Arc::new(ops))
        .merge(incoming)
}

/// Folds recorded samples into the histograms, so that they do not pile up between scrapes.
async fn keep_metrics(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}
