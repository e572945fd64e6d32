//! The leases we hold: renewed while the job is in flight, given up when the database says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::store::{JobRef, JobStore, Renewal, sleep_or_ready};

/// Every job between its claim and the acknowledgement of its outcome.
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    held: Mutex<HashMap<Arc<str>, Held>>,
}

#[derive(Debug)]
struct Held {
    token: i64,
    phase: Phase,
    /// By our monotonic clock, counted from before the claim or renewal was sent: never later than
    /// the database's own idea, whatever the clocks say.
    valid_until: Instant,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    Running(AbortHandle),
    /// The outcome waits to be written, or is being written.
    Reporting,
}

impl Leases {
    /// For leases of this length.
    pub fn new(lease: Duration) -> Self {
        Self { lease, held: Mutex::new(HashMap::new()) }
    }

    /// The length of a lease.
    pub fn length(&self) -> Duration {
        self.lease
    }

    /// Notes a claim. If we still held an older lease of that job, that one is lost.
    pub fn claimed(&self, job: &JobRef, valid_until: Instant) {
        let held = Held { token: job.token, phase: Phase::Waiting, valid_until };
        let older = self.held().insert(job.id.clone(), held);
        if let Some(older) = older {
            older.give_up();
        }
    }

    /// May this job start? False once its lease is lost or may have run out; it is forgotten then.
    pub fn may_start(&self, job: &JobRef) -> bool {
        let mut held = self.held();
        match held.get(&job.id) {
            Some(entry) if entry.token != job.token => false,
            Some(entry) if entry.valid_until <= Instant::now() => {
                held.remove(&job.id);
                count_lost("expired");
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Notes how to stop a job that has just started.
    pub fn started(&self, job: &JobRef, abort: AbortHandle) {
        match self.held().get_mut(&job.id) {
            // It may have ended already.
            Some(entry) if entry.token == job.token => {
                if matches!(entry.phase, Phase::Waiting) {
                    entry.phase = Phase::Running(abort);
                }
            }
            _ => abort.abort(),
        }
    }

    /// The call ended; true if its outcome is still worth reporting.
    pub fn reporting(&self, job: &JobRef) -> bool {
        match self.held().get_mut(&job.id) {
            Some(entry) if entry.token == job.token => {
                entry.phase = Phase::Reporting;
                true
            }
            _ => false,
        }
    }

    /// False once the database has said that the lease is lost, or has given us a newer one. Time alone
    /// ends nothing here: while the database is away nobody else can take the job, and the token keeps a
    /// late report harmless. So a result is kept until the database takes or refuses it.
    pub fn worth_reporting(&self, job: &JobRef) -> bool {
        self.held().get(&job.id).is_some_and(|entry| entry.token == job.token)
    }

    /// Forgets a job: acknowledged, given back, or given up.
    pub fn remove(&self, job: &JobRef) {
        let mut held = self.held();
        if held.get(&job.id).is_some_and(|entry| entry.token == job.token) {
            held.remove(&job.id);
        }
    }

    /// Stops every call that still runs; returns them.
    pub fn stop_running(&self) -> Vec<(Arc<str>, i64)> {
        let mut stopped = Vec::new();
        for (id, entry) in self.held().iter_mut() {
            if let Phase::Running(abort) = &entry.phase {
                abort.abort();
                entry.phase = Phase::Reporting;
                stopped.push((id.clone(), entry.token));
            }
        }
        stopped
    }

    /// True if an outcome waits to be written.
    pub fn has_results(&self) -> bool {
        self.held().values().any(|entry| matches!(entry.phase, Phase::Reporting))
    }

    /// Jobs held.
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// True if no job is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn all(&self) -> Vec<JobRef> {
        self.held().iter().map(|(id, entry)| JobRef { id: id.clone(), token: entry.token }).collect()
    }

    /// Takes in the answer to a heartbeat over `asked_for` that was sent at `asked`.
    fn renewed(&self, asked_for: &[JobRef], renewals: &[Renewal], asked: Instant) {
        let renewals: HashMap<&str, Option<Duration>> =
            renewals.iter().map(|renewal| (renewal.id.as_str(), renewal.lease_left)).collect();
        let mut held = self.held();
        for job in asked_for {
            let Some(entry) = held.get_mut(&job.id) else {
                continue;
            };
            if entry.token != job.token {
                continue;
            }
            match renewals.get(&*job.id) {
                Some(Some(left)) => {
                    entry.valid_until = entry.valid_until.max(asked + *left);
                    continue;
                }
                Some(None) => {}
                None => continue,
            }
            // A job whose outcome was accepted meanwhile looks lost, too: its report will tell.
            if !matches!(entry.phase, Phase::Reporting) {
                tracing::warn!(job = %job.id, "lease lost: call stopped, result dropped");
                count_lost("taken");
                if let Some(entry) = held.remove(&job.id) {
                    entry.give_up();
                }
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, Held>> {
        // Every change is a single insert, remove or assignment: a panic leaves nothing half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn give_up(self) {
        if let Phase::Running(abort) = self.phase {
            abort.abort();
        }
    }
}

fn count_lost(why: &'static str) {
    metrics::counter!("meshhook_sidecar_leases_lost_total", "reason" => why).increment(1);
}

/// Renews all leases held, every third of their length, in one statement. Never returns.
pub async fn keep_renewing<S: JobStore>(store: Arc<S>, leases: Arc<Leases>) {
    let period = leases.length() / 3;
    let mut wait = period;
    let mut state = store.state();
    loop {
        // After an outage at once: leases that ran out but were not taken yet come alive again.
        sleep_or_ready(wait, &mut state).await;
        let jobs = leases.all();
        wait = period;
        if jobs.is_empty() {
            continue;
        }
        let asked = Instant::now();
        match store.heartbeat(&jobs, leases.length()).await {
            Ok(renewals) => leases.renewed(&jobs, &renewals, asked),
            Err(error) => {
                tracing::debug!(%error, "could not renew leases");
                // There is time for several more tries before any of them runs out.
                wait = (period / 5).min(Duration::from_secs(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, token: i64) -> JobRef {
        JobRef { id: id.into(), token }
    }

    fn renewal(id: &str, seconds: Option<u64>) -> Renewal {
        Renewal { id: id.to_owned(), lease_left: seconds.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_may_have_run_out_starts_nothing() {
        let leases = Leases::new(Duration::from_secs(30));
        let a = job("a", 1);
        leases.claimed(&a, Instant::now() + leases.length());
        assert!(leases.may_start(&a));
        tokio::time::advance(Duration::from_secs(29)).await;
        let renewal = renewal("a", Some(30));
        leases.renewed(std::slice::from_ref(&a), &[renewal], Instant::now());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(leases.may_start(&a));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!leases.may_start(&a));
        assert!(leases.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_outlives_its_lease() {
        let leases = Leases::new(Duration::from_secs(30));
        let a = job("a", 1);
        leases.claimed(&a, Instant::now() + leases.length());
        assert!(!leases.has_results());
        assert!(leases.reporting(&a) && leases.has_results());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(leases.worth_reporting(&a));
        leases.claimed(&job("a", 2), Instant::now() + leases.length());
        assert!(!leases.worth_reporting(&a));
    }

    #[tokio::test]
    async fn losing_a_lease_stops_the_call_but_not_a_report() {
        let leases = Leases::new(Duration::from_secs(30));
        let (a, b) = (job("a", 1), job("b", 1));
        for job in [&a, &b] {
            leases.claimed(job, Instant::now() + leases.length());
        }
        let call = tokio::spawn(std::future::pending::<()>());
        leases.started(&a, call.abort_handle());
        assert!(leases.reporting(&b));
        let both = [a.clone(), b.clone()];
        let lost = [renewal("a", None), renewal("b", None)];
        leases.renewed(&both, &lost, Instant::now());
        assert!(call.await.unwrap_err().is_cancelled());
        assert!(!leases.reporting(&a));
        assert!(leases.worth_reporting(&b));
    }

    #[tokio::test]
    async fn a_new_lease_of_the_same_job_replaces_the_old_one() {
        let leases = Leases::new(Duration::from_secs(30));
        let (old, new) = (job("a", 1), job("a", 2));
        leases.claimed(&old, Instant::now() + leases.length());
        let call = tokio::spawn(std::future::pending::<()>());
        leases.started(&old, call.abort_handle());
        leases.claimed(&new, Instant::now() + leases.length());
        assert!(call.await.unwrap_err().is_cancelled());
        assert!(!leases.may_start(&old) && leases.may_start(&new));
        leases.remove(&old);
        assert_eq!(leases.len(), 1);
    }
}
