//! An executor: claims jobs, calls the outside world, reports (`src/job/mod.rs`).

use std::sync::Arc;

use meshhook_engine::fact::{Fact, JobCompleted, JobFailed};
use meshhook_engine::json::Json;

use crate::database::{Job, Message, Path, Run};
use crate::table::Tx;
use crate::workflow::Outcome;
use crate::world::{Bug, Call, Progress, World};

/// How long a lease lasts, in milliseconds.
const LEASE_MS: u64 = 10_000;
/// Most jobs of a claim.
const BATCH: usize = 2;

/// A process that does jobs.
#[derive(Debug)]
pub struct Executor {
    number: usize,
    stage: Stage,
    /// What it has claimed and not reported.
    leases: Vec<Lease>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Between two transactions.
    Free,
    /// A claim is not committed.
    Claiming(Tx),
    /// The report on the first lease is not committed.
    Reporting(Tx),
    /// The leases are renewed, and that is not committed.
    Renewing(Tx),
    /// The jobs are given back, and that is not committed.
    GivingBack(Tx),
}

/// A job as a claim handed it out.
#[derive(Clone, Debug)]
struct Lease {
    run: Run,
    node: Path,
    attempt: u32,
    kind: Arc<str>,
    token: u64,
    /// What the outside world said: an output, or an error.
    answer: Option<Result<Json, Json>>,
}

impl Lease {
    fn key(&self) -> (Run, Path) {
        (Arc::clone(&self.run), Arc::clone(&self.node))
    }
}

impl Executor {
    /// One that has done nothing yet.
    pub fn new(number: usize) -> Self {
        Self { number, stage: Stage::Free, leases: Vec::new() }
    }

    /// Makes one step.
    pub fn step(&mut self, world: &mut World) -> Progress {
        match self.stage {
            Stage::Claiming(tx) => {
                self.stage = Stage::Free;
                world.commit(tx, "the claim")
            }
            Stage::Reporting(tx) => {
                self.stage = Stage::Free;
                self.leases.remove(0);
                world.commit(tx, "the report")
            }
            Stage::Renewing(tx) => {
                self.stage = Stage::Free;
                world.commit(tx, "the renewal")
            }
            Stage::GivingBack(tx) => {
                self.stage = Stage::Free;
                self.leases.clear();
                world.commit(tx, "the return")
            }
            Stage::Free if self.leases.is_empty() => self.claim(world),
            Stage::Free => match self.leases.iter_mut().find(|lease| lease.answer.is_none()) {
                Some(lease) => call(lease, world),
                None => self.report(world),
            },
        }
    }

    /// Commits and never hears of it: of a claim it knows nothing, a report it makes again. False where it has nothing
    /// to commit.
    pub fn lose_answer(&mut self, world: &mut World) -> bool {
        let stage = std::mem::replace(&mut self.stage, Stage::Free);
        match stage {
            Stage::Free => return false,
            Stage::Claiming(tx) => {
                self.leases.clear();
                world.commit(tx, "the claim, without hearing of it");
            }
            Stage::Reporting(tx) | Stage::Renewing(tx) | Stage::GivingBack(tx) => {
                world.commit(tx, "what it says, without hearing of it");
            }
        }
        true
    }

    /// Its connection is gone, and with it the transaction under way.
    pub fn disconnect(&mut self, world: &mut World) {
        match std::mem::replace(&mut self.stage, Stage::Free) {
            Stage::Free => {}
            Stage::Claiming(tx) => {
                self.leases.clear();
                world.db.abort(tx);
            }
            Stage::Reporting(tx) | Stage::Renewing(tx) | Stage::GivingBack(tx) => world.db.abort(tx),
        }
    }

    /// The process ends.
    pub fn die(&mut self, world: &mut World) {
        self.disconnect(world);
        self.leases.clear();
    }

    fn claim(&mut self, world: &mut World) -> Progress {
        let tx = world.db.begin();
        let ready = world
            .db
            .jobs
            .rows(tx)
            .filter(|(key, job)| job.executor.is_none() && !world.db.jobs.is_held_from(tx, key));
        let ready: Vec<_> = ready.take(BATCH).map(|(key, job)| (key.clone(), job.clone())).collect();
        if ready.is_empty() {
            world.db.abort(tx);
            return Progress::Idle;
        }
        let lease_expires_at = Some(world.now.plus_millis(LEASE_MS));
        for (key, job) in ready {
            let job = Job { executor: Some(self.number), token: job.token + 1, lease_expires_at, ..job };
            world.db.jobs.update(tx, key.clone(), job.clone());
            // A job given back while its run ended is nobody's any more; its lease runs out.
            let is_over = world.status(tx, &key.0).is_none_or(|status| status.is_terminal());
            if is_over && !world.has(Bug::EndedRunsServed) {
                continue;
            }
            world.say(|| format!("claim {}/{}, attempt {}, token {}", key.0, key.1, job.attempt, job.token));
            if world.has_ended(&key.0) {
                world.blame(|| format!("a job of run {} is handed out after its end", key.0));
            }
            let (run, node) = key;
            let (attempt, kind, token) = (job.attempt, job.kind, job.token);
            self.leases.push(Lease { run, node, attempt, kind, token, answer: None });
        }
        self.stage = Stage::Claiming(tx);
        Progress::Made
    }

    /// Reports on the first lease.
    fn report(&mut self, world: &mut World) -> Progress {
        let Some(lease) = self.leases.first() else { return Progress::Idle };
        let (tx, key) = (world.db.begin(), lease.key());
        if world.db.jobs.is_held_from(tx, &key) {
            world.db.abort(tx);
            return Progress::Waits;
        }
        let is_his = |job: &&Job| {
            job.executor.is_some() && (job.token == lease.token || world.has(Bug::CompletionWithoutFencing))
        };
        // The attempt is the row's.
        match world.db.jobs.get(tx, &key).filter(is_his).map(|job| job.attempt) {
            None => world.say(|| format!("report {}/{}, token {}: stale", key.0, key.1, lease.token)),
            Some(attempt) => {
                world.say(|| format!("report {}/{}, token {}: accepted", key.0, key.1, lease.token));
                world.db.jobs.delete(tx, &key);
                let tx = if world.has(Bug::ReportApart) {
                    world.db.commit(tx);
                    world.db.begin()
                } else {
                    tx
                };
                world.db.post(tx, &key.0, Message::Fact(fact(lease, attempt)));
                self.stage = Stage::Reporting(tx);
                return Progress::Made;
            }
        }
        self.stage = Stage::Reporting(tx);
        Progress::Made
    }

    /// Renews all leases.
    pub fn renew(&mut self, world: &mut World) -> Progress {
        self.update_leases(world, "renew", Stage::Renewing, |job, world| {
            job.lease_expires_at = Some(world.now.plus_millis(LEASE_MS));
        })
    }

    /// Gives all jobs back that it has, and forgets them with the commit.
    pub fn give_back(&mut self, world: &mut World) -> Progress {
        self.update_leases(world, "give back", Stage::GivingBack, |job, _| {
            (job.executor, job.lease_expires_at) = (None, None);
        })
    }

    fn update_leases(
        &mut self,
        world: &mut World,
        what: &str,
        stage: fn(Tx) -> Stage,
        change: fn(&mut Job, &World),
    ) -> Progress {
        if self.leases.is_empty() || !matches!(self.stage, Stage::Free) {
            return Progress::Idle;
        }
        let tx = world.db.begin();
        if self.leases.iter().any(|lease| world.db.jobs.is_held_from(tx, &lease.key())) {
            world.db.abort(tx);
            return Progress::Waits;
        }
        for lease in &self.leases {
            let key = lease.key();
            let his =
                world.db.jobs.get(tx, &key).filter(|job| job.token == lease.token && job.executor.is_some());
            if let Some(mut job) = his.cloned() {
                world.say(|| format!("{what} {}/{}, token {}", key.0, key.1, lease.token));
                change(&mut job, world);
                world.db.jobs.update(tx, key, job);
            }
        }
        self.stage = stage(tx);
        Progress::Made
    }
}

/// Calls the outside world, which does what it is told whenever it is told, and says which call that was.
fn call(lease: &mut Lease, world: &mut World) -> Progress {
    let (run, node, attempt) = (Arc::clone(&lease.run), Arc::clone(&lease.node), lease.attempt);
    let number = i64::try_from(world.calls.len()).unwrap_or(i64::MAX);
    world.say(|| format!("call {number} for {run}/{node}, attempt {attempt}"));
    world.calls.push(Call { key: format!("{run}/{node}"), run, node, attempt });
    let outcome = world.workflows.outcome(&lease.node, attempt);
    let number = ("call", Json::from(number));
    let error = |retryable: bool| {
        let message = Json::from(format!("call {}", number.1));
        Json::object([
            ("class", Json::from("task")),
            ("message", message),
            ("retryable", Json::from(retryable)),
        ])
    };
    lease.answer = Some(match (&*lease.kind, outcome) {
        ("http", _) => {
            let status = match outcome {
                Outcome::Done => 200,
                Outcome::Failed => 503,
                Outcome::Refused => 404,
            };
            Ok(Json::object([("status", Json::from(status)), number]))
        }
        (_, Outcome::Done) => Ok(Json::object([("n", Json::from(7)), number])),
        (_, outcome) => Err(error(outcome == Outcome::Failed)),
    });
    Progress::Made
}

fn fact(lease: &Lease, attempt: u32) -> Fact {
    let node = Arc::clone(&lease.node);
    match lease.answer.clone() {
        Some(Ok(output)) => Fact::JobCompleted(JobCompleted { node, attempt, output }),
        Some(Err(error)) => Fact::JobFailed(JobFailed { node, attempt, error }),
        None => Fact::JobFailed(JobFailed { node, attempt, error: Json::Null }),
    }
}
