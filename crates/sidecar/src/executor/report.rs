//! Writes outcomes back, in batches, until the database has taken or refused them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::lease::Leases;
use crate::backoff::Backoff;
use crate::store::{JobRef, JobStore, StoreError, Verdict, sleep_or_ready};

/// How long an outcome may wait for company while other calls are in flight.
const LINGER: Duration = Duration::from_millis(2);
/// A statement carries about this many bytes of outcomes at most.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// Its output.
    Complete(Value),
    /// Its error.
    Fail(Value),
}

/// An outcome on its way to the database.
#[derive(Debug)]
pub struct Report {
    /// Whose.
    pub job: JobRef,
    /// What.
    pub outcome: Outcome,
    /// Roughly how large, in bytes.
    pub size: usize,
}

/// The two functions an outcome can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Complete,
    Fail,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Fail => "fail",
        }
    }
}

/// Takes reports until their senders are gone, and returns when the last is written.
pub struct Reporter<S> {
    /// Where to.
    pub store: Arc<S>,
    /// Who still holds what.
    pub leases: Arc<Leases>,
    /// Most outcomes in one statement.
    pub batch: usize,
}

type Rows = Vec<(JobRef, Value)>;

impl<S: JobStore> Reporter<S> {
    /// See the type. Cancelling it loses what is not yet written: its leases run out.
    pub async fn run(self, mut reports: mpsc::UnboundedReceiver<Report>) {
        while let Some(first) = reports.recv().await {
            let (mut complete, mut fail) = self.gather(first, &mut reports).await;
            tokio::join!(self.write(Kind::Complete, &mut complete), self.write(Kind::Fail, &mut fail));
        }
    }

    /// Collects a batch: what is there, and what comes within [`LINGER`] if anything can come.
    async fn gather(&self, first: Report, reports: &mut mpsc::UnboundedReceiver<Report>) -> (Rows, Rows) {
        let (mut complete, mut fail) = (Rows::new(), Rows::new());
        let (mut count, mut bytes) = (0, 0);
        let deadline = tokio::time::sleep(LINGER);
        tokio::pin!(deadline);
        let mut next = Some(first);
        loop {
            if let Some(report) = next.take() {
                count += 1;
                bytes += report.size;
                match report.outcome {
                    Outcome::Complete(value) => complete.push((report.job, value)),
                    Outcome::Fail(value) => fail.push((report.job, value)),
                }
            }
            if count >= self.batch || bytes >= MAX_BATCH_BYTES {
                break;
            }
            next = match reports.try_recv() {
                Ok(report) => Some(report),
                // Nobody is left who could join: the last outcome never waits.
                Err(_) if self.leases.len() <= count => break,
                Err(_) => tokio::select! {
                    report = reports.recv() => report,
                    () = &mut deadline => None,
                },
            };
            if next.is_none() {
                break;
            }
        }
        (complete, fail)
    }

    /// Writes one batch, again and again while the database is away.
    async fn write(&self, kind: Kind, rows: &mut Rows) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut told = false;
        let mut state = self.store.state();
        loop {
            self.drop_the_hopeless(kind, rows);
            if rows.is_empty() {
                return;
            }
            match self.send(kind, rows).await {
                Ok(verdicts) => {
                    if told {
                        tracing::info!(count = rows.len(), "outcomes written after all");
                    }
                    self.settle(kind, rows, &verdicts);
                    return;
                }
                Err(StoreError::Refused { .. }) if rows.len() > 1 => {
                    return self.write_one_by_one(kind, rows).await;
                }
                Err(StoreError::Refused { code, message }) => {
                    return self.refused(kind, rows, &code, &message).await;
                }
                Err(StoreError::Unavailable(reason)) => {
                    if !told {
                        tracing::warn!(
                            reason,
                            count = rows.len(),
                            "cannot write outcomes now: keeping them and trying again"
                        );
                        told = true;
                    }
                    sleep_or_ready(backoff.next_wait(), &mut state).await;
                }
            }
        }
    }

    /// One row of the batch was refused: find it, so that the others do not suffer.
    async fn write_one_by_one(&self, kind: Kind, rows: &mut Rows) {
        tracing::warn!(
            kind = kind.name(),
            count = rows.len(),
            "the database refused a batch of outcomes: writing one by one"
        );
        for row in rows.drain(..) {
            Box::pin(self.write(kind, &mut vec![row])).await;
        }
    }

    /// The database will never take this outcome: a failure that says so takes its place.
    async fn refused(&self, kind: Kind, rows: &mut Rows, code: &str, message: &str) {
        count(kind.name(), "refused", rows.len());
        for (job, _) in rows.drain(..) {
            tracing::error!(job = %job.id, code, message, kind = kind.name(), "the database refused an outcome");
            if kind == Kind::Fail {
                // Even the failure is refused: nothing left but to let the lease run out.
                self.leases.remove(&job);
                continue;
            }
            let error = json!({
                "class": "response_rejected",
                "message": format!("the database cannot store the response: {message} (SQLSTATE {code})"),
                "retryable": false,
            });
            Box::pin(self.write(Kind::Fail, &mut vec![(job, error)])).await;
        }
    }

    async fn send(&self, kind: Kind, rows: &Rows) -> Result<Vec<(String, Verdict)>, StoreError> {
        let begun = std::time::Instant::now();
        let result = match kind {
            Kind::Complete => self.store.complete(rows).await,
            Kind::Fail => self.store.fail(rows).await,
        };
        metrics::histogram!("meshhook_sidecar_report_seconds").record(begun.elapsed());
        result
    }

    fn settle(&self, kind: Kind, rows: &mut Rows, verdicts: &[(String, Verdict)]) {
        let accepted: std::collections::HashSet<&str> = verdicts
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Accepted)
            .map(|(id, _)| id.as_str())
            .collect();
        let (mut taken, mut stale) = (0, 0);
        for (job, _) in rows.drain(..) {
            if accepted.contains(&*job.id) {
                taken += 1;
            } else {
                stale += 1;
                tracing::warn!(job = %job.id, kind = kind.name(), "outcome not taken: someone else had the lease, or an earlier try had arrived");
            }
            self.leases.remove(&job);
        }
        count(kind.name(), "accepted", taken);
        count(kind.name(), "stale", stale);
    }

    fn drop_the_hopeless(&self, kind: Kind, rows: &mut Rows) {
        rows.retain(|(job, _)| {
            let keep = self.leases.worth_reporting(job);
            if !keep {
                tracing::warn!(job = %job.id, kind = kind.name(), "outcome dropped: the lease is lost");
                count(kind.name(), "lease_lost", 1);
                self.leases.remove(job);
            }
            keep
        });
    }
}

fn count(kind: &'static str, outcome: &'static str, number: usize) {
    if number > 0 {
        metrics::counter!("meshhook_sidecar_outcomes_total", "kind" => kind, "outcome" => outcome)
            .increment(number as u64);
    }
}
