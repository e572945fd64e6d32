//! One performance of a scenario, with or without a crash, and what is demanded of its end.

use super::client::Client;
use super::points::Crash;
use super::stage::{DATABASE, Scenario, Stage, points};
use meshhook_e2e::{APP, EXECUTOR};
use meshhook_testkit::{Cluster, history, request};
use postgres::types::ToSql;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long anything may take before it counts as stuck: a recovery, a lease, a few retries, on a busy machine.
const LIMIT: Duration = Duration::from_secs(25);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something that was there, or should be, is not.
    Lost,
    /// Something happened twice.
    Doubled,
    /// Something does not come to its end.
    Stuck,
    /// All went well, but the point was not reached this time: a lease that is renewed only when the machine is slow.
    Unreached,
}

/// One thing that went wrong.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub kind: Kind,
    pub what: String,
}

impl Trouble {
    pub fn new(kind: Kind, what: impl Into<String>) -> Trouble {
        Trouble { kind, what: what.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", format!("{:?}", self.kind).to_lowercase(), self.what)
    }
}

/// What a play left behind, without what differs from play to play.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traces {
    /// Status and output of the runs that were started, in their order.
    ends: Vec<(String, Value)>,
    /// Runs in all, children and forks among them.
    runs: i64,
    /// The nodes that called the outside world, by run: each has one idempotency key.
    calls: BTreeSet<String>,
    /// What was entered into the ledger, and the messages that were appended: how often each.
    effects: BTreeMap<String, i64>,
}

/// A performance under way.
pub struct Play<'a> {
    pub stage: &'a Stage,
    pub app: Client<'a>,
    pub admin: Client<'a>,
    executor: Client<'a>,
    /// Its name: in keys, in inputs, in the ledger.
    pub name: String,
    pub number: u32,
    runs: Vec<Uuid>,
    /// Runs that the scenario has looked after itself.
    left_out: i64,
}

/// A job as claimed.
#[derive(Clone, Debug)]
pub struct Job {
    id: String,
    token: i64,
}

impl Play<'_> {
    /// Starts a run, under a key of its own.
    pub fn start(&mut self, workflow: &str, input: &Value) -> Uuid {
        let key = format!("{}/{}", self.name, self.runs.len());
        let sql = "SELECT meshhook.start_run($1, $2, idempotency_key => $3)";
        let run = self.app.value(sql, &[&workflow, input, &key]);
        self.runs.push(run);
        run
    }

    /// Counts a run that was not started here among those of the play.
    pub fn adopt(&mut self, run: Uuid) {
        self.runs.push(run);
    }

    /// Takes runs out of the comparison whose number is different each time.
    pub fn leave_out(&mut self, runs: i64) {
        self.left_out += runs;
    }

    /// Delivers a webhook until it is taken: the run that it starts or signals.
    pub fn deliver(
        &mut self,
        path: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Uuid, Trouble> {
        let address = self.stage.sidecar().address();
        let answer = until("a delivery to be taken", || {
            let answer = request(address, "POST", path, headers, body).ok()?;
            matches!(answer.status, 200 | 202).then_some(answer)
        })?;
        let run = meshhook_e2e::run_id(&answer);
        if !self.runs.contains(&run) {
            self.runs.push(run);
        }
        Ok(run)
    }

    /// Waits until a query about a run gives true.
    pub fn wait(&mut self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<(), Trouble> {
        until(what, || self.app.value::<bool>(sql, params).then_some(()))
    }

    /// Waits until a node waits.
    pub fn wait_waiting(&mut self, run: Uuid, node: &str) -> Result<(), Trouble> {
        let sql = "SELECT EXISTS (SELECT FROM meshhook.run_steps WHERE run_id = $1 AND node = $2 AND status = 'waiting')";
        self.wait(&format!("{node} to wait"), sql, &[&run, &node])
    }

    /// Waits for the end of a run.
    pub fn wait_ended(&mut self, run: Uuid) -> Result<(), Trouble> {
        let sql = "SELECT status IN ('succeeded', 'failed', 'canceled') FROM meshhook.runs WHERE run_id = $1";
        self.wait(&format!("run {run} to end"), sql, &[&run])
    }

    /// Whether a run is over.
    pub fn has_ended(&mut self, run: Uuid) -> bool {
        self.app.value("SELECT finished_at IS NOT NULL FROM meshhook.runs WHERE run_id = $1", &[&run])
    }

    /// Does something that is refused once it has counted; a refusal after a lost answer is no trouble.
    pub fn act(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) {
        match self.app.ask(sql, params) {
            Err(refusal) if refusal.code().code() != "55000" => panic!("{refusal}\n{sql}"),
            _ => {}
        }
    }

    /// Sends a signal, under an id of its own.
    pub fn signal(&mut self, run: Uuid, name: &str) {
        let (id, payload) = (format!("{}/{name}", self.name), json!({"by": "card"}));
        self.act("SELECT meshhook.signal_run($1, $2, $3, $4)", &[&run, &name, &payload, &id]);
    }

    /// Claims a job as soon as there is one.
    pub fn claim(&mut self, queue: &str, lease: &str) -> Result<Job, Trouble> {
        until("a job", || self.claim_ready(queue, lease))
    }

    /// Claims a job if there is one.
    pub fn claim_ready(&mut self, queue: &str, lease: &str) -> Option<Job> {
        let sql = "SELECT job_id, token FROM meshhook.claim_jobs($1, 'player', 1, $2::text::interval)";
        let rows = self.executor.rows(sql, &[&queue, &lease]);
        rows.first().map(|row| Job { id: row.get(0), token: row.get(1) })
    }

    /// Reports on a job: `accepted` or `stale`.
    pub fn report(&mut self, function: &str, job: &Job, data: &Value) -> String {
        let sql = format!("SELECT meshhook.{function}($1, $2, $3)");
        self.executor.value(&sql, &[&job.id, &job.token, data])
    }

    /// Adds a line about a job to its run's log.
    pub fn say(&mut self, job: &Job, message: &str) {
        self.executor
            .value::<String>("SELECT meshhook.log_job($1, $2, $3)", &[&job.id, &job.token, &message]);
    }

    /// Renews the lease of a job, or gives the job back.
    pub fn hold(&mut self, sql: &str, job: &Job) {
        self.executor.rows(sql, &[&vec![job.id.clone()], &vec![job.token]]);
    }

    /// Waits until nothing is left to be done for anybody.
    pub fn wait_settled(&mut self) -> Result<(), Trouble> {
        let left = "SELECT concat_ws(', ',
                (SELECT 'open runs: ' || string_agg(run_id::text, ' ') FROM meshhook.run WHERE finished_at IS NULL),
                (SELECT 'facts: ' || nullif(count(*), 0) FROM meshhook.inbox),
                (SELECT 'jobs: ' || nullif(count(*), 0) FROM meshhook.job),
                (SELECT 'timers: ' || nullif(count(*), 0) FROM meshhook.timer),
                (SELECT 'starts: ' || nullif(count(*), 0) FROM meshhook.run_queue))";
        let mut last = String::new();
        let settled = until("everything to be done", || {
            last = self.admin.value(left, &[]);
            last.is_empty().then_some(())
        });
        settled.map_err(|_| Trouble::new(Kind::Stuck, last))
    }

    /// Checks every log, and reads what the play has left behind.
    fn traces(&mut self, runs_before: i64, calls_before: usize) -> Result<Traces, Trouble> {
        let new = "SELECT run_id FROM meshhook.run ORDER BY created_at DESC, run_id DESC LIMIT $1";
        let runs = self.admin.value::<i64>("SELECT count(*) FROM meshhook.run", &[]) - runs_before;
        for row in self.admin.rows(new, &[&runs]) {
            self.check(row.get(0))?;
        }
        let mut traces = Traces { runs: runs - self.left_out, ..Traces::default() };
        for run in self.runs.clone() {
            let sql = "SELECT status::text, coalesce(output, 'null') FROM meshhook.runs WHERE run_id = $1";
            let row = &self.admin.rows(sql, &[&run])[0];
            traces.ends.push((row.get(0), self.anonymous(row.get(1))));
        }
        for call in self.stage.stub.received().into_iter().skip(calls_before) {
            let (run, node) = call.idempotency_key().split_once('/').unwrap_or_default();
            let place = self.runs.iter().position(|mine| mine.to_string() == run);
            let Some(place) = place else {
                return Err(Trouble::new(Kind::Doubled, format!("a call of another run: {call:?}")));
            };
            traces.calls.insert(format!("{place}/{node}"));
        }
        let effects = "SELECT what, count(*) FROM ledger.entry WHERE play = $1 GROUP BY what
             UNION ALL SELECT 'message ' || type, count(*) FROM meshhook.read_stream($2) GROUP BY type";
        let stream = format!("lead-{}", self.number);
        for row in self.admin.rows(effects, &[&self.name, &stream]) {
            traces.effects.insert(row.get(0), row.get(1));
        }
        Ok(traces)
    }

    /// Checks the log of a run: again if the server went away meanwhile, which it does where a point is behind the last
    /// commit of a play.
    fn check(&mut self, run: Uuid) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            let session = self.admin.session();
            match catch_unwind(AssertUnwindSafe(|| history::check_run(session, run))) {
                Ok(()) => return Ok(()),
                Err(_) if !self.admin.is_alive() && begun.elapsed() < LIMIT => {}
                Err(panic) => return Err(Trouble::new(Kind::Lost, message(&*panic))),
            }
        }
    }

    /// An output without the play's own names and times.
    fn anonymous(&self, mut output: Value) -> Value {
        if let Some(output) = output.as_object_mut() {
            output.remove("day");
        }
        let text = output.to_string().replace(&self.name, "play");
        serde_json::from_str(&text).unwrap_or(output)
    }
}

/// Plays a scenario; armed before it begins. Compares what it leaves behind with what it left without a crash.
pub fn perform(
    cluster: &Cluster,
    stage: &Stage,
    scenario: &Scenario,
    crash: Option<&Crash>,
    expected: Option<&Traces>,
) -> Result<Traces, Trouble> {
    let number = stage.next();
    let points = points(cluster);
    let mut play = Play {
        stage,
        app: Client::new(cluster, APP, DATABASE),
        admin: Client::new(cluster, "postgres", DATABASE),
        executor: Client::new(cluster, EXECUTOR, DATABASE),
        name: format!("play-{number}"),
        number,
        runs: Vec::new(),
        left_out: 0,
    };
    let before: i64 = play.admin.value("SELECT count(*) FROM meshhook.run", &[]);
    let calls = stage.stub.received().len();
    if let Some(crash) = crash {
        points.arm(crash);
    }
    let played = catch_unwind(AssertUnwindSafe(|| {
        (scenario.drive)(&mut play)?;
        play.wait_settled()
    }));
    let has_crashed = crash.is_some() && points.has_crashed();
    played.unwrap_or_else(|panic| Err(Trouble::new(Kind::Stuck, message(&*panic))))?;
    let traces = catch_unwind(AssertUnwindSafe(|| play.traces(before, calls)))
        .unwrap_or_else(|panic| Err(Trouble::new(Kind::Lost, message(&*panic))))?;
    if let Some(expected) = expected {
        compare(expected, &traces)?;
    }
    if crash.is_some() && !has_crashed {
        return Err(Trouble::new(Kind::Unreached, "the point was not reached"));
    }
    Ok(traces)
}

fn compare(expected: &Traces, found: &Traces) -> Result<(), Trouble> {
    let is_more = found.runs > expected.runs
        || found.effects.iter().any(|(what, times)| expected.effects.get(what).is_none_or(|e| times > e));
    let kind = if is_more { Kind::Doubled } else { Kind::Lost };
    if expected == found {
        return Ok(());
    }
    Err(Trouble::new(kind, format!("without a crash {expected:?}\nwith one {found:?}")))
}

/// Waits until there is something.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T, Trouble> {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if begun.elapsed() > LIMIT {
            return Err(Trouble::new(Kind::Stuck, format!("waited {LIMIT:?} for {what}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a panic says.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
