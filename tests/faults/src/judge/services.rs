//! Who does the work: an HTTP service, and executors that die, come late and say things twice.

use fastrand::Rng;
use meshhook_e2e::Stop;
use meshhook_testkit::{Received, Reply, Stub};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

use super::caller::{Caller, words};
use super::ledger::{Ledger, Order, Spec};
use super::program::QUEUE;
use super::verdict::Kind;

/// How long an executor of the judge holds a job without a sign of life.
const LEASE: Duration = Duration::from_millis(1500);

/// Claims, and says of each job whether its run had ended before the claim was made.
const CLAIM: &str = "WITH c AS MATERIALIZED \
    (SELECT * FROM meshhook.claim_jobs($1, $2, 4, $3::float8 * interval '1 ms')) \
    SELECT c.job_id, c.token, c.run_id, c.node, c.payload, c.idempotency_key, judge.had_ended(c.run_id) FROM c";

/// Starts the service that `http` nodes call.
pub fn service(ledger: &Arc<Ledger>) -> Stub {
    let ledger = Arc::clone(ledger);
    Stub::answering(move |request| answer(&ledger, request))
}

fn answer(ledger: &Ledger, request: &Received) -> Reply {
    let Some(spec) = Spec::read(&request.json()) else {
        ledger.blame(
            Kind::Unexpected,
            "",
            format!("a call without a request for an effect: {}", request.json()),
        );
        return Reply::status(400);
    };
    let Some(key) = request.header("idempotency-key") else {
        ledger.blame(
            Kind::Unexpected,
            &spec.key,
            format!("a call for {} without an idempotency key", spec.key),
        );
        return Reply::status(400);
    };
    match ledger.enter(&spec, key) {
        Order::Refuse => Reply::json(422, &json!({"refused": spec.key})),
        Order::FailForNow => Reply::status(503),
        // Now and then what was done is not told: the first answer to some keys is cut.
        Order::Do if ledger.count(&spec.key) == 1 && spec.value % 13 == 0 => {
            Reply::json(200, &spec.result()).cut_after(1)
        }
        Order::Do => {
            Reply::json(200, &spec.result()).delay(Duration::from_millis(spec.value.unsigned_abs() % 40))
        }
    }
}

/// A job as claimed.
struct Job {
    id: String,
    token: i64,
    run: Uuid,
    node: String,
    payload: Value,
    key: String,
    had_ended: bool,
}

/// What an executor does with a job besides doing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    DiesBefore,
    DiesAfter,
    ComesLate,
    SaysTwice,
}

/// An executor of the judge: claims and reports until it is told to stop.
pub struct Executor<'a> {
    pub name: String,
    pub caller: Caller,
    pub ledger: &'a Ledger,
    pub rng: Rng,
    /// From now on nobody dies or comes late.
    pub honest: &'a AtomicBool,
}

impl Executor<'_> {
    pub fn work(mut self, stop: &Stop) {
        while !stop.is_set() {
            let jobs = self.claim();
            if jobs.is_empty() {
                std::thread::sleep(Duration::from_millis(25));
            }
            for job in jobs {
                self.serve(&job);
            }
        }
    }

    fn claim(&mut self) -> Vec<Job> {
        let (name, lease) = (self.name.clone(), LEASE.as_secs_f64() * 1000.0);
        let rows = self.caller.attempt(&mut |client| client.query(CLAIM, &[&QUEUE, &name, &lease]));
        // A claim that fails is a claim not made, or one whose leases will run out.
        let Ok(rows) = rows else {
            std::thread::sleep(Duration::from_millis(25));
            return Vec::new();
        };
        let job = |row: &postgres::Row| Job {
            id: row.get(0),
            token: row.get(1),
            run: row.get(2),
            node: row.get(3),
            payload: row.get(4),
            key: row.get(5),
            // Null: the statement began before there was the run.
            had_ended: row.get::<_, Option<bool>>(6).unwrap_or(false),
        };
        rows.iter().map(job).collect()
    }

    fn serve(&mut self, job: &Job) {
        let Some(spec) = Spec::read(&job.payload) else {
            let text = format!("a job without a request for an effect: {}", job.payload);
            return self.ledger.blame(Kind::Unexpected, "", text);
        };
        if job.had_ended {
            let text = format!("a job of {} was claimed after the end of run {}", job.node, job.run);
            self.ledger.blame(Kind::AfterEnd, &spec.key, text);
        }
        let manner = self.manner();
        if manner == Manner::DiesBefore {
            return;
        }
        let order = self.ledger.enter(&spec, &job.key);
        match manner {
            Manner::DiesAfter => return,
            Manner::ComesLate => std::thread::sleep(LEASE + Duration::from_millis(300)),
            _ => {}
        }
        let first = self.report(job, order, &spec);
        if manner == Manner::SaysTwice {
            let second = self.report(job, order, &spec);
            if (first.as_deref(), second.as_deref()) == (Some("accepted"), Some("accepted")) {
                let text = format!("two reports of one attempt of {} were accepted", spec.key);
                self.ledger.blame(Kind::Doubled, &spec.key, text);
            }
        }
    }

    fn manner(&mut self) -> Manner {
        if self.honest.load(Ordering::Relaxed) {
            return Manner::Honest;
        }
        match self.rng.u8(..100) {
            0..=5 => Manner::DiesBefore,
            6..=10 => Manner::DiesAfter,
            11..=14 => Manner::ComesLate,
            15..=24 => Manner::SaysTwice,
            _ => Manner::Honest,
        }
    }

    /// Reports until there is an answer, and returns it; `None` once the server refuses it.
    fn report(&mut self, job: &Job, order: Order, spec: &Spec) -> Option<String> {
        let (function, data) = match order {
            Order::Do => ("complete_job", spec.result()),
            Order::FailForNow => ("fail_job", json!({"class": "judge.busy", "message": "not now"})),
            Order::Refuse => {
                ("fail_job", json!({"class": "judge.refused", "message": "never", "retryable": false}))
            }
        };
        let sql = format!("SELECT meshhook.{function}($1, $2, $3)");
        let answer = self.caller.ask(|client| client.query_one(&sql, &[&job.id, &job.token, &data]));
        match answer {
            Ok(row) => Some(row.get(0)),
            Err(error) => {
                let text = format!("a report on {} was refused: {}", spec.key, words(&error));
                self.ledger.blame(Kind::Unexpected, &spec.key, text);
                None
            }
        }
    }
}
