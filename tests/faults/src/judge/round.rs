//! One round: programs are published, runs are started and lived through under faults, the faults end, everything must
//! end, and is judged.

use fastrand::Rng;
use meshhook_e2e::{APP, Database, EXECUTOR, Stop, publish};
use meshhook_testkit::{Cluster, Proxy, Session, history};
use postgres::Row;
use postgres::config::Config;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::caller::Caller;
use super::faults::{self, Injector};
use super::ledger::{self, Ledger};
use super::people::{Doors, Person, Plan};
use super::predict::{Ended, Library};
use super::program::{Program, alarm, program};
use super::services::{Executor, service};
use super::verdict::{self, Evidence, Fault, Found, Kind};

/// How long everything may take to end once the faults have.
const TAIL: Duration = Duration::from_secs(60);

/// How many runs of each program are started in a round.
const RUNS: usize = 5;

/// How many executors the judge has, and how many people.
const HANDS: usize = 3;

/// How often the database is looked at while a round goes on.
const LOOK: Duration = Duration::from_millis(400);

/// Work that is left over of runs that have ended; in no snapshot there is any.
const LEFT_OVER: &str = "SELECT r.run_id, coalesce(s.input ->> 'tag', s.input #>> '{input,tag}', '') \
    FROM meshhook.run r JOIN meshhook.runs s USING (run_id) WHERE r.finished_at IS NOT NULL \
    AND (EXISTS (SELECT FROM meshhook.job j WHERE j.run_id = r.run_id) \
      OR EXISTS (SELECT FROM meshhook.timer t WHERE t.run_id = r.run_id))";

/// What a round is made of.
#[derive(Clone, Debug)]
pub struct Round {
    pub number: u64,
    pub programs: Vec<Program>,
    pub plans: Vec<Plan>,
    pub schedule: Vec<faults::Fault>,
    pub span_ms: u64,
}

impl Round {
    /// Draws a round from the seed of all and its number.
    pub fn draw(seed: u64, number: u64, programs: usize, kinds: &[faults::Kind], span_ms: u64) -> Round {
        let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let programs: Vec<Program> =
            (0..programs).map(|index| program(rng.u64(..), &format!("p{index}"))).collect();
        let plans = Plan::round(&mut rng, &programs, RUNS, span_ms);
        let schedule = faults::schedule(&mut rng, kinds, span_ms);
        Round { number, programs, plans, schedule, span_ms }
    }

    /// The same round with the runs of one of its programs only.
    pub fn only(&self, program: usize) -> Round {
        let plans = self.plans.iter().filter(|plan| plan.program == program).cloned().collect();
        Round { plans, ..self.clone() }
    }

    /// The plan of a tag.
    pub fn plan(&self, tag: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.tag == tag)
    }
}

/// What came of a round, or of several.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub rounds: u64,
    /// How many of them went wrong.
    pub wrong: u64,
    pub programs: u64,
    pub runs: u64,
    pub canceled: u64,
    pub failed: u64,
    /// Attempts that had to be made again.
    pub again: u64,
    pub outside: u64,
    pub deliveries: u64,
    pub inside: u64,
    pub snapshots: u64,
    pub lost_answers: u64,
    pub injected: BTreeMap<faults::Kind, u64>,
    pub faults: Vec<Fault>,
    /// The longest time that everything took to end once the faults had.
    pub tail: Duration,
}

impl Outcome {
    /// Adds what another round came to.
    pub fn add(&mut self, other: Outcome) {
        self.rounds += other.rounds;
        self.wrong += u64::from(!other.faults.is_empty());
        self.programs += other.programs;
        self.runs += other.runs;
        self.canceled += other.canceled;
        self.failed += other.failed;
        self.again += other.again;
        self.outside += other.outside;
        self.deliveries += other.deliveries;
        self.inside += other.inside;
        self.snapshots += other.snapshots;
        self.lost_answers += other.lost_answers;
        for (kind, count) in other.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        self.faults.extend(other.faults);
        self.tail = self.tail.max(other.tail);
    }

    fn tally(&mut self, runs: &[Found]) {
        let count = |status: &str| runs.iter().filter(|run| run.ended.status == status).count() as u64;
        (self.runs, self.canceled, self.failed) = (runs.len() as u64, count("canceled"), count("failed"));
        let events = runs.iter().flat_map(|run| &run.log);
        self.again = events.filter(|event| event.kind == "node.retry_scheduled").count() as u64;
    }

    /// How many faults there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.faults.iter().filter(|fault| fault.kind == kind).count()
    }
}

/// Where rounds take place.
pub struct Court<'a> {
    pub cluster: &'a Cluster,
    pub data_files: &'a [(String, String)],
    /// Told now and then how far a round has come.
    pub progress: &'a dyn Fn(&BTreeMap<faults::Kind, u64>),
}

impl Court<'_> {
    /// Runs a round in a database of its own, and judges it.
    pub fn hold(&self, round: &Round) -> Outcome {
        // In every other round turns begin behind snapshots.
        let events = if round.number.is_multiple_of(2) { "20" } else { "5000" };
        self.cluster.set("meshhook.snapshot_events", events);
        let db = Database::create(self.cluster, &format!("judge_{}", round.number));
        db.admin().exec(ledger::SCHEMA);
        let ledger = Arc::new(Ledger::default());
        let stub = service(&ledger);
        let mut library = Library::default();
        let mut app = db.app();
        library.add(&alarm());
        publish(&mut app, &alarm().json);
        for definition in round.programs.iter().flat_map(|program| &program.definitions) {
            library.add(definition);
            publish(&mut app, &definition.calling(&stub.url("")));
        }
        drop(app);
        let endpoints =
            round.programs.iter().map(|program| db.endpoint(program.name(), "standard")).collect();
        let doors = Doors::new(endpoints);
        let mut outcome = self.live(round, &db, &ledger, &doors);
        self.collect(round, &db, &ledger, &library, &mut outcome);
        outcome
    }

    /// Lets the runs live: under faults first, then without.
    fn live(&self, round: &Round, db: &Database, ledger: &Ledger, doors: &Doors) -> Outcome {
        let proxy = Proxy::start(self.cluster.port());
        let mut injector = Injector::new(
            self.cluster,
            &proxy,
            &db.name,
            self.data_files,
            doors,
            Rng::with_seed(round.number),
        );
        let (stop, honest) = (Stop::default(), AtomicBool::new(false));
        let begun = Instant::now();
        let until = begun + Duration::from_millis(round.span_ms) + TAIL;
        let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
        std::thread::scope(|scope| {
            let _end = stop.at_end();
            for number in 0..HANDS {
                let caller = Caller::new(through(&proxy, db, EXECUTOR));
                let rng = Rng::with_seed(round.number * 31 + number as u64);
                let executor =
                    Executor { name: format!("judge {number}"), caller, ledger, rng, honest: &honest };
                scope.spawn(|| executor.work(&stop));
            }
            let people = (0..HANDS).map(|number| {
                let caller = Caller::new(through(&proxy, db, APP));
                let (programs, plans) = (&*round.programs, &*round.plans);
                let person = Person { caller, ledger, programs, plans, doors, begun };
                let mine: Vec<usize> = (number..plans.len()).step_by(HANDS).collect();
                scope.spawn(move || person.follow(&mine, until))
            });
            let people: Vec<_> = people.collect();
            let mut watch =
                Watch { admin: Caller::new(db.cluster.config("postgres", &db.name)), looked: begun };
            self.afflict(round, begun, &mut injector, &mut watch, ledger);
            honest.store(true, Ordering::Relaxed);
            let healed = Instant::now();
            injector.heal().into_iter().for_each(|text| ledger.blame(Kind::Unexpected, "", text));
            while healed.elapsed() < TAIL
                && !(people.iter().all(|person| person.is_finished()) && watch.all_ended())
            {
                watch.look(ledger);
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome.tail = healed.elapsed();
        });
        outcome.injected = std::mem::take(&mut injector.done);
        outcome.lost_answers = proxy.lost_answers();
        outcome
    }

    /// Carries the schedule out.
    fn afflict(
        &self,
        round: &Round,
        begun: Instant,
        injector: &mut Injector,
        watch: &mut Watch,
        ledger: &Ledger,
    ) {
        let mut schedule = round.schedule.iter().peekable();
        let end = begun + Duration::from_millis(round.span_ms);
        while Instant::now() < end {
            let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(fault) = schedule.next_if(|fault| fault.at_ms <= elapsed_ms) {
                injector.strike(fault.kind);
            }
            injector.relieve(Instant::now());
            watch.look(ledger);
            (self.progress)(&injector.done);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads what became of everything, and judges it.
    fn collect(
        &self,
        round: &Round,
        db: &Database,
        ledger: &Ledger,
        library: &Library,
        outcome: &mut Outcome,
    ) {
        let mut admin = db.admin();
        let sees = "SELECT coalesce(bool_and(judge.had_ended(run_id)), true) FROM meshhook.run WHERE finished_at IS NOT NULL";
        assert!(admin.value::<bool>(sees, &[]), "claims are told what they came after");
        let runs = found(&mut admin, &mut outcome.faults);
        let (inside, outside) = (ledger::inside(&mut admin), ledger.deliveries());
        outcome.programs = round.programs.len() as u64;
        outcome.tally(&runs);
        outcome.snapshots = admin.value::<i64>("SELECT count(*) FROM meshhook.snapshot", &[]).unsigned_abs();
        outcome.inside = inside.values().sum();
        outcome.deliveries = outside.values().map(|deliveries| deliveries.len() as u64).sum();
        outcome.outside = outside.values().flatten().filter(|delivery| delivery.done).count() as u64;

        let mut evidence: BTreeMap<&str, Evidence> = BTreeMap::new();
        for run in &runs {
            evidence.entry(verdict::root(&run.tag)).or_default().runs.push(run);
        }
        for (key, count) in &inside {
            evidence.entry(verdict::root(key)).or_default().inside.insert(key, *count);
        }
        for (key, deliveries) in &outside {
            evidence.entry(verdict::root(key)).or_default().outside.insert(key, deliveries);
        }
        for plan in &round.plans {
            let mut forecast = library.forecast(&round.programs[plan.program], &plan.tag, &plan.input);
            if plan.cancel_ms.is_some() {
                forecast = forecast.canceled();
            }
            let evidence = evidence.remove(&*plan.tag).unwrap_or_default();
            outcome.faults.extend(verdict::judge(&plan.tag, &forecast, plan.cancel_ms.is_some(), &evidence));
        }
        let nobodys = evidence.into_keys();
        outcome.faults.extend(nobodys.map(|tag| {
            let text = format!("nobody planned \"{tag}\"");
            Fault { kind: Kind::Unexpected, tag: String::new(), text }
        }));
        for row in admin.rows(LEFT_OVER, &[]) {
            ledger.blame(Kind::AfterEnd, row.get(1), left_over(&row));
        }
        outcome.faults.extend(ledger.faults());
    }
}

/// Looks at the database while a round goes on.
struct Watch {
    admin: Caller,
    looked: Instant,
}

impl Watch {
    /// Blames work that is left over of ended runs, now and then.
    fn look(&mut self, ledger: &Ledger) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        // No answer is no finding: the server may be away.
        let left = self.admin.attempt(&mut |client| client.query(LEFT_OVER, &[]));
        for row in &left.unwrap_or_default() {
            ledger.blame(Kind::AfterEnd, row.get(1), left_over(row));
        }
    }

    fn all_ended(&mut self) -> bool {
        let sql = "SELECT NOT EXISTS (SELECT FROM meshhook.run WHERE finished_at IS NULL)";
        self.admin.attempt(&mut |client| client.query_one(sql, &[])).is_ok_and(|row| row.get(0))
    }
}

/// How to reach the database through the proxy.
fn through(proxy: &Proxy, db: &Database, user: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.port()).user(user).dbname(&db.name).application_name("judge");
    config.connect_timeout(Duration::from_secs(5));
    config
}

fn left_over(row: &Row) -> String {
    format!("run {} has ended, and there is work left of it", row.get::<_, Uuid>(0))
}

/// The runs in the database; what their logs break is added to the faults.
fn found(admin: &mut Session, faults: &mut Vec<Fault>) -> Vec<Found> {
    let sql = "SELECT run_id, status::text, input, output, error FROM meshhook.runs ORDER BY run_id";
    let rows = admin.rows(sql, &[]);
    let waits = admin.rows("SELECT run_id, concat_ws(', ', reason, hint) FROM meshhook.stuck_runs", &[]);
    let waits: BTreeMap<Uuid, String> = waits.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut runs = Vec::new();
    for row in &rows {
        let id: Uuid = row.get(0);
        let tag = row.get::<_, Option<Value>>(2).as_ref().map(verdict::tag_of).unwrap_or_default();
        let log = history::history(admin, id);
        for text in history::run_faults(admin, id, &log) {
            let tag = verdict::root(&tag).to_owned();
            faults.push(Fault { kind: Kind::Broken, tag, text: format!("run {id}: {text}") });
        }
        let error = row.get::<_, Option<Value>>(4).map(|error| {
            let text = |name: &str| error[name].as_str().map(str::to_owned);
            (text("class").unwrap_or_default(), text("node"))
        });
        let ended = Ended { status: row.get(1), output: row.get(3), error, nodes: nodes(admin, id) };
        let why = waits.get(&id).cloned().unwrap_or_default();
        runs.push(Found { id, tag, ended, log, why });
    }
    runs
}

/// Status and port of each node that a run knows.
fn nodes(admin: &mut Session, run: Uuid) -> BTreeMap<String, (String, Option<String>)> {
    let state: Value = admin.value("SELECT meshhook.run_state($1)", &[&run]);
    let nodes = state["nodes"].as_object().cloned().unwrap_or_default();
    let text = |node: &Value, name: &str| node[name].as_str().map(str::to_owned);
    nodes
        .into_iter()
        .map(|(path, node)| (path, (text(&node, "status").unwrap_or_default(), text(&node, "port"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_a_function_of_seed_and_number() {
        let kinds = faults::KINDS.map(|(kind, ..)| kind);
        let text = |seed, number| format!("{:?}", Round::draw(seed, number, 3, &kinds, 20_000));
        assert_eq!(text(1, 1), text(1, 1));
        assert_ne!(text(1, 1), text(2, 1));
        assert_ne!(text(1, 1), text(1, 2));
        let round = Round::draw(1, 1, 3, &kinds, 20_000);
        let alone = round.only(2);
        assert_eq!((alone.plans.len(), round.plans.len()), (RUNS, 3 * RUNS));
        assert_eq!(alone.schedule, round.schedule);
    }
}
