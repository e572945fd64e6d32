//! Gives jobs back that have not started.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Event;
use super::lease::Leases;
use crate::backoff::Backoff;
use crate::store::{JobRef, JobStore, StoreError, sleep_or_ready};

/// Jobs that others may have after `delay`.
pub struct Gift {
    /// For how long they are of no use to anybody.
    pub delay: Duration,
    /// The jobs, still held: their leases are renewed until the database has them back.
    pub jobs: Vec<JobRef>,
}

/// Gives back what it is handed, one gift after the other.
pub struct Giver<S> {
    /// Where jobs go back to.
    pub store: Arc<S>,
    /// The leases of all jobs.
    pub leases: Arc<Leases>,
    /// Hears when they are ready again.
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl<S: JobStore> Giver<S> {
    /// See the type; ends when nobody can hand it anything any more. Cancelled before, it leaves leases to run out.
    pub async fn run(self, mut gifts: mpsc::UnboundedReceiver<Gift>) {
        while let Some(gift) = gifts.recv().await {
            self.give(gift).await;
        }
    }

    /// Gives, again and again while the database is away: a lease that runs out instead would cost the job an attempt.
    async fn give(&self, Gift { delay, mut jobs }: Gift) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut state = self.store.state();
        loop {
            jobs.retain(|job| self.leases.worth_reporting(job));
            if jobs.is_empty() {
                return;
            }
            match self.store.release(&jobs, delay).await {
                Ok(()) => break,
                Err(StoreError::Refused { code, message }) => {
                    tracing::warn!(
                        code,
                        message,
                        count = jobs.len(),
                        "could not give back jobs: their leases will run out"
                    );
                    return self.forget(&jobs);
                }
                Err(StoreError::Unavailable(reason)) => {
                    tracing::debug!(reason, count = jobs.len(), "cannot give back jobs now: trying again");
                    sleep_or_ready(backoff.next_wait(), &mut state).await;
                }
            }
        }
        self.forget(&jobs);
        metrics::counter!("meshhook_sidecar_outcomes_total", "kind" => "release", "outcome" => "accepted")
            .increment(jobs.len() as u64);
        tracing::debug!(count = jobs.len(), ?delay, "gave back jobs that had not started");
        // Fails only when the executor is gone.
        let _ = self.events.send(Event::Returned(Instant::now() + delay));
    }

    fn forget(&self, jobs: &[JobRef]) {
        for job in jobs {
            self.leases.remove(job);
        }
    }
}
