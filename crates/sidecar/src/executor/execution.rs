//! One job: its call, and what is reported of it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::blobs::Blobs;
use super::http::{Answer, CallError, Class, HostClass, HttpClient};
use super::lease::Leases;
use super::limits::{Sign, Slot};
use super::report::{Outcome, Report};
use super::{Event, Ready};
use crate::store::{ClaimedJob, JobRef, JobStore};

/// Frees a call's slot however its task ends, and its lease if no outcome was reported.
pub(super) struct Guard {
    pub(super) slot: Option<Slot>,
    pub(super) sign: Sign,
    pub(super) job: JobRef,
    pub(super) leases: Arc<Leases>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) reported: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.reported && std::thread::panicking() {
            // Nobody will report it, so nobody must renew it.
            self.leases.remove(&self.job);
        }
        self.free();
    }
}

impl Guard {
    /// Frees the slot: what is still to be done is the database's.
    fn free(&mut self) {
        if let Some(slot) = self.slot.take() {
            // Fails only when the executor is gone.
            let _ = self.events.send(Event::Ended(slot, self.sign));
        }
    }
}

/// Makes the call of a job, from its body to the report of what came of it.
pub(super) async fn execute<S: JobStore>(
    store: Arc<S>,
    client: HttpClient,
    ready: Ready,
    mut guard: Guard,
    reports: mpsc::UnboundedSender<Report>,
) {
    let Ready { claimed, mut prepared, since } = ready;
    metrics::histogram!("meshhook_sidecar_start_lag_seconds").record(since.elapsed());
    let leases = guard.leases.clone();
    let blobs = Blobs { store: &*store, leases: &leases, job: &claimed.job };
    let fetched = blobs.fetch(&mut prepared).await;
    let begun = Instant::now();
    let result = match fetched {
        Ok(()) => client.call(&claimed.project, prepared).await,
        Err(error) => Err(error),
    };
    let host = result.as_ref().map_or(HostClass::Unknown, |answer| answer.host);
    metrics::histogram!("meshhook_sidecar_http_call_seconds", "host" => host.name()).record(begun.elapsed());
    if claimed.attempt > 1 {
        metrics::counter!("meshhook_sidecar_http_retries_total").increment(1);
    }
    match &result {
        Ok(answer) => {
            count_call(status_class(answer.status));
            tracing::debug!(
                run = claimed.run_id,
                node = claimed.node,
                attempt = claimed.attempt,
                status = answer.status,
                "call answered"
            );
        }
        Err(error) => {
            count_call(error.class.name());
            log_failure(&claimed, error);
        }
    }
    guard.sign = sign(&result);
    // It has a result from now on, which whoever drains waits for.
    leases.reporting(&claimed.job);
    guard.free();
    let result = match result {
        Ok(answer) => blobs.keep(answer).await,
        Err(error) => Err(error),
    };
    guard.reported = true;
    report(&leases, &reports, claimed.job, result);
}

/// What an outcome says about the host.
fn sign(result: &Result<Answer, CallError>) -> Sign {
    match result {
        // Whatever it answers: what one of its services says of itself is no reason to leave the others alone.
        Ok(_) => Sign::Alive,
        Err(error) => match error.class {
            Class::Connect | Class::Tls | Class::Timeout | Class::Io => Sign::Trouble,
            Class::ResponseTooLarge | Class::Redirect | Class::Pages => Sign::Alive,
            // A name that does not resolve says more of our name server than of the host, and costs little.
            Class::Dns
            | Class::Forbidden
            | Class::Secret
            | Class::Auth
            | Class::Blob
            | Class::InvalidRequest => Sign::None,
        },
    }
}

/// Hands an outcome to the reporter, unless the lease is lost.
pub(super) fn report(
    leases: &Leases,
    reports: &mpsc::UnboundedSender<Report>,
    job: JobRef,
    result: Result<Answer, CallError>,
) {
    if !leases.reporting(&job) {
        return;
    }
    let (outcome, size) = match result {
        Ok(answer) => (Outcome::Complete(answer.output), answer.body_bytes + 1024),
        Err(error) => (Outcome::Fail(error.to_json()), 1024),
    };
    // Fails only when the reporter was given up at the end of the drain time.
    let _ = reports.send(Report { job, outcome, size });
}

pub(super) fn log_failure(claimed: &ClaimedJob, error: &CallError) {
    // The run's history has it for good; at info a broken peer would flood the log.
    tracing::debug!(
        run = claimed.run_id,
        node = claimed.node,
        attempt = claimed.attempt,
        class = error.class.name(),
        reason = error.message,
        "call brought no response"
    );
}

pub(super) fn count_call(result: &'static str) {
    metrics::counter!("meshhook_sidecar_http_calls_total", "result" => result).increment(1);
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}
