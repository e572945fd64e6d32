//! Who starts runs, sends signals, approves, pauses, resumes and cancels.

use fastrand::Rng;
use meshhook_testkit::{request, sign};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::caller::{Caller, code, words};
use super::ledger::Ledger;
use super::program::Program;
use super::verdict::Kind;

/// How long a webhook is delivered again and again.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is said of a run that has ended.
const ENDED: &str = "55000";

/// What is said of a run that does not exist.
const UNKNOWN: &str = "P0002";

/// One run that shall be started, and what is done to it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which of the round's programs.
    pub program: usize,
    pub tag: String,
    pub input: Value,
    /// Whether it is started by a webhook, through a sidecar.
    pub by_webhook: bool,
    /// After the round's beginning; the other times count from here.
    pub start_ms: u64,
    pub cancel_ms: Option<u64>,
    /// When it is paused and for how long.
    pub pause_ms: Option<(u64, u64)>,
    /// When each of the program's signals is sent.
    pub signals_ms: Vec<u64>,
}

impl Plan {
    /// Plans the runs of a round: so many of each program, spread over `span_ms`.
    pub fn round(rng: &mut Rng, programs: &[Program], runs: usize, span_ms: u64) -> Vec<Plan> {
        let one = |program: usize, number: usize, rng: &mut Rng| {
            let tag = format!("{}r{number}", programs[program].name());
            let input = json!({"tag": tag, "n": rng.i64(0..1000)});
            let fate = rng.u8(..100);
            Plan {
                program,
                tag,
                input,
                by_webhook: rng.u8(..4) == 0,
                start_ms: rng.u64(..span_ms),
                cancel_ms: (fate < 10).then(|| rng.u64(..4_000)),
                pause_ms: (10..22).contains(&fate).then(|| (rng.u64(..2_000), rng.u64(300..3_000))),
                signals_ms: programs[program].signals.iter().map(|_| rng.u64(..4_000)).collect(),
            }
        };
        let pairs = (0..programs.len()).flat_map(|program| (0..runs).map(move |number| (program, number)));
        pairs.map(|(program, number)| one(program, number, rng)).collect()
    }
}

/// Something to be done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Start,
    Cancel,
    Pause,
    Resume,
    Signal(usize),
    /// Looks whether an approval is asked for, and gives it.
    Approve(usize),
}

/// Where webhooks are delivered.
#[derive(Debug)]
pub struct Doors {
    /// Path and secret of each program's endpoint.
    endpoints: Vec<(String, String)>,
    /// Where sidecars listen now.
    sidecars: Mutex<Vec<SocketAddr>>,
}

impl Doors {
    /// Endpoints, each a path and a secret, at sidecars that are still to come.
    pub fn new(endpoints: Vec<(String, String)>) -> Self {
        Self { endpoints, sidecars: Mutex::default() }
    }

    /// Says where sidecars listen from now on.
    pub fn move_to(&self, addresses: Vec<SocketAddr>) {
        *self.sidecars.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn address(&self, turn: usize) -> SocketAddr {
        let addresses = self.sidecars.lock().unwrap_or_else(PoisonError::into_inner);
        addresses[turn % addresses.len()]
    }
}

/// Somebody who follows plans.
pub struct Person<'a> {
    pub caller: Caller,
    pub ledger: &'a Ledger,
    pub programs: &'a [Program],
    pub plans: &'a [Plan],
    pub doors: &'a Doors,
    pub begun: Instant,
}

impl Person<'_> {
    /// Does what the plans numbered `mine` say; returns the ids of the runs by tag. Gives up at `until`.
    pub fn follow(mut self, mine: &[usize], until: Instant) -> BTreeMap<String, Uuid> {
        let mut agenda: BinaryHeap<Reverse<(u64, usize, Act)>> = BinaryHeap::new();
        let mut runs: BTreeMap<String, Uuid> = BTreeMap::new();
        for index in mine {
            agenda.push(Reverse((self.plans[*index].start_ms, *index, Act::Start)));
        }
        while let Some(Reverse((at, index, act))) = agenda.pop() {
            let due = self.begun + Duration::from_millis(at);
            if due.max(Instant::now()) > until {
                let text = format!("{act:?} found no answer in time");
                self.ledger.blame(Kind::Stuck, &self.plans[index].tag, text);
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let plan = &self.plans[index];
            if act == Act::Start {
                if let Some(run) = self.start(plan) {
                    runs.insert(plan.tag.clone(), run);
                    agenda.extend(self.follow_up(index).into_iter().map(Reverse));
                }
            } else if let Some(again_ms) = self.act(plan, runs[&plan.tag], act) {
                let at = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX) + again_ms;
                agenda.push(Reverse((at, index, act)));
            }
        }
        runs
    }

    fn follow_up(&self, index: usize) -> Vec<(u64, usize, Act)> {
        let plan = &self.plans[index];
        let mut acts: Vec<(u64, Act)> = plan.cancel_ms.iter().map(|at| (*at, Act::Cancel)).collect();
        if let Some((at, length)) = plan.pause_ms {
            acts.extend([(at, Act::Pause), (at + length, Act::Resume)]);
        }
        acts.extend(plan.signals_ms.iter().enumerate().map(|(number, at)| (*at, Act::Signal(number))));
        acts.extend(
            (0..self.programs[plan.program].approvals.len()).map(|number| (300, Act::Approve(number))),
        );
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        acts.into_iter().map(|(at, act)| (now + at, index, act)).collect()
    }

    /// Starts a run, twice: the key makes it one.
    fn start(&mut self, plan: &Plan) -> Option<Uuid> {
        let runs = [(); 2].map(|()| {
            let run = if plan.by_webhook { self.deliver(plan) } else { self.start_once(plan) };
            let blame =
                |text| self.ledger.blame(Kind::Unexpected, &plan.tag, format!("it was not started: {text}"));
            run.map_err(blame).ok()
        });
        if runs[0] != runs[1] {
            self.ledger.blame(Kind::Doubled, &plan.tag, format!("one key gave two runs: {runs:?}"));
        }
        runs[0]
    }

    fn start_once(&mut self, plan: &Plan) -> Result<Uuid, String> {
        let workflow = self.programs[plan.program].name().to_owned();
        let sql = "SELECT meshhook.start_run($1, $2, idempotency_key => $3)";
        let row = self.caller.ask(|client| client.query_one(sql, &[&workflow, &plan.input, &plan.tag]));
        row.map(|row| row.get(0)).map_err(|error| words(&error))
    }

    /// Delivers a webhook to one sidecar after the other, until one takes it.
    fn deliver(&mut self, plan: &Plan) -> Result<Uuid, String> {
        let (path, secret) = &self.doors.endpoints[plan.program];
        let body = plan.input.to_string();
        let asked = Instant::now();
        for turn in 0.. {
            let headers = sign::standard(secret, &plan.tag, sign::unix_now(), body.as_bytes());
            let answer = request(self.doors.address(turn), "POST", path, &headers, body.as_bytes());
            match answer {
                Ok(answer) if matches!(answer.status, 200 | 202) => {
                    let run = answer.json()["run_id"].as_str().and_then(|id| id.parse().ok());
                    return run.ok_or_else(|| format!("no run in {}", answer.text()));
                }
                Ok(answer) if answer.status != 503 => {
                    return Err(format!("{}: {}", answer.status, answer.text()));
                }
                _ if asked.elapsed() > PATIENCE => return Err("no sidecar takes it".to_owned()),
                // It is gone, or has no connection.
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        Err("no sidecar takes it".to_owned())
    }

    /// Does something to a run; returns in how many milliseconds it is to be done again, if it is.
    fn act(&mut self, plan: &Plan, run: Uuid, act: Act) -> Option<u64> {
        let program = &self.programs[plan.program];
        let done = match act {
            Act::Start => return None,
            Act::Cancel => self.tell("SELECT meshhook.cancel_run($1)", run),
            Act::Pause => self.tell("SELECT meshhook.pause_run($1)", run),
            Act::Resume => self.tell("SELECT meshhook.resume_run($1)", run),
            Act::Signal(number) => {
                let signal = &program.signals[number];
                let sql = "SELECT meshhook.signal_run($1, $2, $3, $4)";
                self.caller
                    .ask(|client| client.query(sql, &[&run, &signal.name, &signal.payload, &signal.name]))
                    .map(|_| ())
            }
            Act::Approve(number) => return self.approve(plan, run, number),
        };
        self.heed(plan, done);
        None
    }

    fn tell(&mut self, sql: &str, run: Uuid) -> Result<(), postgres::Error> {
        self.caller.ask(|client| client.query(sql, &[&run])).map(|_| ())
    }

    /// A run may have ended by then; everything else that is refused is a fault.
    fn heed(&mut self, plan: &Plan, done: Result<(), postgres::Error>) {
        if let Err(error) = done
            && code(&error) != ENDED
        {
            // A run that was acknowledged and is not there is the worst that can be.
            let kind = if code(&error) == UNKNOWN { Kind::Lost } else { Kind::Unexpected };
            self.ledger.blame(kind, &plan.tag, words(&error));
        }
    }

    fn approve(&mut self, plan: &Plan, run: Uuid, number: usize) -> Option<u64> {
        let approval = &self.programs[plan.program].approvals[number];
        let sql = "SELECT (SELECT finished_at IS NOT NULL FROM meshhook.runs WHERE run_id = $1), \
                   (SELECT status FROM meshhook.run_steps WHERE run_id = $1 AND node = $2)";
        let row = match self.caller.ask(|client| client.query_one(sql, &[&run, &approval.node])) {
            Ok(row) => row,
            Err(error) => {
                self.heed(plan, Err(error));
                return None;
            }
        };
        match row.get::<_, Option<bool>>(0) {
            Some(false) => {}
            Some(true) => return None,
            None => {
                self.ledger.blame(Kind::Lost, &plan.tag, format!("run {run} is not there any more"));
                return None;
            }
        }
        match row.get::<_, Option<&str>>(1) {
            None => return Some(300),
            Some("waiting") => {}
            Some(_) => return None,
        }
        let sql = "SELECT meshhook.decide_approval($1, $2, $3, decided_by => $4)";
        for voice in 0..approval.voices {
            let by = format!("voice {voice}");
            let said =
                self.caller.ask(|client| client.query(sql, &[&run, &approval.node, &approval.approved, &by]));
            self.heed(plan, said.map(|_| ()));
        }
        // Until the run shows that it has counted.
        Some(300)
    }
}
