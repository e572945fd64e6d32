//! A turn: the facts of up to N runs become events, jobs and timers, all in one transaction.
//!
//! `Turns::turn` reads the inbox, locks the runs, asks the engine, writes everything with one statement a
//! table. The caller owns the transaction: the orchestrator commits once per turn (see
//! `worker::orchestrator`), `tick()` leaves it to the session. Nothing here may wait.

mod batch;
mod children;
mod database;
pub use database::calling;
mod divergence;
mod limits;
mod load;
mod redrive;
pub use load::{columns, events_after, recorded};
mod submit;
pub use submit::{offer, submit};
pub mod tick;
mod unbegun;
mod write;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use lru::LruCache;
use meshhook_engine::decide::{Step, step};
use meshhook_engine::definition::Workflow;
use meshhook_engine::error::ErrorInfo;
use meshhook_engine::event::Recorded;
use meshhook_engine::fact::{Fact, Quarantine};
use meshhook_engine::snapshot::Growth;
use meshhook_engine::state::RunState;
use meshhook_engine::time::Timestamp;

use crate::operations::bulk;
use crate::project::Project;
use crate::random;
use crate::{fault, flow, schedule, workflow};

use batch::{Batch, Mark};
use load::Held;

/// Most bytes of run states kept between turns.
const CACHE_BYTES: usize = 64 << 20;
/// How often due timers and leases are looked for while there is work, in microseconds.
const DUE_CHECK_MICROS: i64 = 100_000;

/// How often a run fails alone before it is ended: more than once, so that a cancel aimed at the worker or
/// a passing trouble of the server ends none.
const MAX_STRIKES: u32 = 3;

/// A run's place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunKey {
    /// The project.
    pub project: i32,
    /// The run.
    pub run: pgrx::Uuid,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnReport {
    /// Runs that were moved, or started by schedules.
    pub runs: usize,
    /// Runs that are left alone, for their log is not what the engine decides.
    pub stopped: usize,
    /// Whether another turn at once makes sense.
    pub more: bool,
}

/// A run's row, locked for this turn.
#[derive(Debug)]
pub struct LockedRun {
    key: RunKey,
    version_id: i64,
    position: u64,
    finished: bool,
    /// Whether this transaction has decided its log again already: that of a fork, under the other run's id.
    is_verified: bool,
}

/// Turns of one process, with what they remember between transactions.
#[derive(Debug)]
pub struct Turns {
    /// Which project is served; `None` is all.
    scope: Option<i32>,
    cache: LruCache<RunKey, Held>,
    cache_bytes: usize,
    /// States of the transaction under way; they count once it has committed.
    staged: Vec<(RunKey, Option<Held>)>,
    /// The runs of the turn under way.
    current: Vec<RunKey>,
    /// Runs in which a user's function is due: each has a turn alone.
    solo: VecDeque<RunKey>,
    /// Runs of a batch that failed, to be taken one by one.
    suspects: VecDeque<RunKey>,
    /// Runs that failed alone, with the error that ends them.
    condemned: VecDeque<(RunKey, String)>,
    /// Runs that could not even be ended; left alone until the process restarts.
    given_up: HashSet<RunKey>,
    /// Runs whose log is not what the engine decides; left alone until somebody kills them, or the process restarts.
    diverging: HashSet<RunKey>,
    /// Those that the turn under way found, and whether they were killed in vain.
    stopped: Vec<(RunKey, bool)>,
    /// Whether any run is named in `run_divergence`; looked up again now and then, for other sessions' turns name runs
    /// too.
    any_named: Option<bool>,
    next_due_check: i64,
    /// Whether starts that wait may have got room.
    slots_freed: bool,
    /// Which workflow's starts were looked at last.
    cursor: flow::Cursor,
    /// Whether the last look at the inbox met a run that another session holds.
    passed_over: bool,
    /// Runs something of which another session holds; left alone until there is nothing else to do.
    held: HashSet<RunKey>,
    /// How often a run failed alone.
    strikes: HashMap<RunKey, u32>,
}

impl Turns {
    /// Turns for every project.
    pub fn new() -> Self {
        Self::of(None)
    }

    /// Turns for one project, or for all.
    pub fn of(scope: Option<i32>) -> Self {
        Self {
            scope,
            cache: LruCache::unbounded(),
            cache_bytes: 0,
            staged: Vec::new(),
            current: Vec::new(),
            solo: VecDeque::new(),
            suspects: VecDeque::new(),
            condemned: VecDeque::new(),
            given_up: HashSet::new(),
            diverging: HashSet::new(),
            stopped: Vec::new(),
            any_named: None,
            next_due_check: 0,
            slots_freed: false,
            cursor: flow::Cursor::default(),
            passed_over: false,
            held: HashSet::new(),
            strikes: HashMap::new(),
        }
    }

    /// Takes a turn for up to `batch` runs. Called inside a transaction, as the owner role.
    pub fn turn(&mut self, batch: usize) -> TurnReport {
        self.current.clear();
        self.stopped.clear();
        #[cfg(feature = "faults")]
        fault::bugs::catch_up();
        let now = random::now_micros();
        let mut more = false;
        // A check that lies further ahead than the period was set by a clock that was set back since.
        if now >= self.next_due_check || self.next_due_check - now > DUE_CHECK_MICROS {
            more = load::fire_due(self.scope, now);
            bulk::step(self.scope);
            self.slots_freed = true;
            self.any_named = None;
            let fired = schedule::fire_due(self.scope, now);
            self.next_due_check = now + DUE_CHECK_MICROS;
            if fired.runs > 0 {
                fault::at_commit!("turn.commit");
                // They are moved by the next turn: one that fails then must not take its start along.
                return TurnReport { runs: fired.runs, stopped: 0, more: true };
            }
            if fired.more {
                (self.next_due_check, more) = (now, true);
            }
        }
        if std::mem::take(&mut self.slots_freed) {
            more |= flow::admit(self.scope, now, &mut self.cursor);
        }
        let locked = self.choose(batch);
        self.current = locked.iter().map(|run| run.key).collect();
        if more || !locked.is_empty() {
            fault::at_commit!("turn.commit");
        }
        if locked.is_empty() {
            // A suspect that somebody else holds, or that is done with, comes back by the inbox if need be.
            let was_single = self.condemned.pop_front().is_some()
                || self.suspects.pop_front().is_some()
                || self.solo.pop_front().is_some();
            return TurnReport { runs: 0, stopped: 0, more: more || was_single };
        }
        // Before the facts are read: whoever holds something may still report.
        let still_held = redrive::take_back_left(&locked);
        let facts = load::facts(&self.current);
        let mut out = Batch::default();
        let alone = self.current.len() == 1;
        let works = load::with_states(locked, facts, &mut self.cache, &mut self.cache_bytes);
        self.name_divergences(&works);
        let mut passed_by = 0;
        for mut work in works {
            if work.is_stopped() {
                continue;
            }
            work.keep_kill();
            if still_held.contains(&work.run.key) && work.is_redriven() {
                self.held.insert(work.run.key);
                passed_by += 1;
                continue;
            }
            let had_ended = work.run.finished;
            redrive::sort_out(&mut work, had_ended, false);
            if self.condemned.front().is_some_and(|(key, _)| *key == work.run.key) {
                self.condemn(&mut work);
            } else if !alone {
                self.leave_functions(&mut work);
            }
            if unbegun::join_start(&mut work) {
                self.move_run(work, now, &mut out);
            } else {
                self.held.insert(work.run.key);
                passed_by += 1;
            }
        }
        write::all(&mut out);
        self.slots_freed |= !out.slots.run.is_empty();
        out.tell_waiters();
        let stopped = self.stopped.len();
        TurnReport { runs: self.current.len() - stopped - passed_by, stopped, more: true }
    }

    /// Names the runs that are left alone for their log is not what the engine decides, and no longer those that go on.
    fn name_divergences(&mut self, works: &[load::Work]) {
        let any_named = *self.any_named.get_or_insert_with(divergence::any);
        if any_named {
            divergence::forget(works.iter().filter(|work| !work.is_stopped()).map(|work| work.run.key));
        }
        for work in works.iter().filter(|work| work.is_stopped()) {
            work.divergence.iter().for_each(|difference| divergence::name(work.run.key, difference));
            self.any_named = Some(true);
            self.stopped.push((work.run.key, work.is_killed()));
        }
    }

    /// The runs of this turn, locked: one that must be ended, one that is suspected, or the next of the inbox.
    fn choose(&mut self, batch: usize) -> Vec<LockedRun> {
        if let Some((key, _)) = self.condemned.front() {
            return load::lock(&[*key]);
        }
        if let Some(key) = self.suspects.front().or(self.solo.front()) {
            return load::lock(&[*key]);
        }
        for key in divergence::killed(&self.diverging) {
            self.diverging.remove(&key);
        }
        let left_alone = self.given_up.iter().chain(&self.diverging).chain(&self.held);
        let (locked, passed_over) = load::pick(self.scope, batch, left_alone);
        self.passed_over = passed_over;
        locked
    }

    /// Replaces what a run was told by its end.
    fn condemn(&self, work: &mut load::Work) {
        let error = self.condemned.front().map_or("", |(_, error)| error);
        work.held.get_or_insert_default();
        let error = ErrorInfo::new("quarantined", error).retryable(false);
        let start = work.facts.iter().find_map(|fact| match &fact.fact {
            Ok(Fact::Start(start)) => Some(start.clone()),
            _ => None,
        });
        work.facts.iter_mut().for_each(|fact| (fact.fact, fact.due) = (Err(String::new()), None));
        if let Some(first) = work.facts.first_mut() {
            first.fact = Ok(Fact::Quarantine(Quarantine { error, start }));
        }
    }

    /// Leaves a user's function to a turn that the run has alone, for what it does is not undone for another run's
    /// sake.
    fn leave_functions(&mut self, work: &mut load::Work) {
        let Some(held) = work.held.as_ref().filter(|_| !work.run.finished) else { return };
        let is_users =
            |fact: &load::Incoming| fact.due.as_ref().is_some_and(|due| database::is_users(&held.state, due));
        if work.facts.iter().any(is_users) {
            self.solo.push_back(work.run.key);
            work.facts.retain(|fact| !is_users(fact));
        }
    }

    /// Decides what follows from a run's facts and adds it to the batch.
    fn move_run(&mut self, work: load::Work, now: i64, out: &mut Batch) {
        let is_redriven = work.is_redriven();
        let load::Work { run, held, facts, .. } = work;
        let Some(held) = held.filter(|_| !run.finished || is_redriven) else {
            return out.consumed.extend(facts.iter().map(|fact| fact.inbox_id));
        };
        let mut moved = Moved::new(&run, held, out);
        if moved.take(facts, now, out) {
            self.held.insert(run.key);
        }
        self.staged.push((run.key, moved.settle(out)));
    }

    /// Keeps what the transaction made: it has committed.
    pub fn committed(&mut self) {
        if let Some(key) = self.current.first() {
            if self.condemned.front().is_some_and(|(condemned, _)| condemned == key) {
                self.condemned.pop_front();
            } else if self.suspects.front() == Some(key) {
                self.suspects.pop_front();
            } else if self.solo.front() == Some(key) {
                self.solo.pop_front();
            }
            self.strikes.remove(key);
        }
        for (key, is_killed) in self.stopped.drain(..) {
            let among = if is_killed { &mut self.given_up } else { &mut self.diverging };
            among.insert(key);
        }
        for (key, held) in std::mem::take(&mut self.staged) {
            if let Some(held) = held {
                self.cache_bytes += held.state.byte_size();
                self.cache.put(key, held);
            }
        }
        while self.cache_bytes > CACHE_BYTES {
            let Some((_, oldest)) = self.cache.pop_lru() else { break };
            self.cache_bytes = self.cache_bytes.saturating_sub(oldest.state.byte_size());
        }
        self.current.clear();
    }

    /// Forgets what the transaction made: it was rolled back.
    pub fn rolled_back(&mut self) {
        self.staged.clear();
        self.stopped.clear();
        for key in self.current.clone() {
            self.forget(key);
        }
    }

    /// Learns that the turn was rolled back for an error that may be one run's fault (see
    /// `error::may_be_a_runs_fault`): the batch is taken apart, and a run that fails alone is ended with
    /// the error instead of holding up the others.
    pub fn failed(&mut self, message: &str) {
        let runs = std::mem::take(&mut self.current);
        match runs.as_slice() {
            [] => {}
            [key] if self.condemned.front().is_some_and(|(condemned, _)| condemned == key) => {
                pgrx::warning!(
                    "run {} of project {} cannot be ended and is left alone: {message}",
                    key.run,
                    key.project
                );
                self.condemned.pop_front();
                self.given_up.insert(*key);
            }
            [key] => {
                self.suspects.retain(|suspect| suspect != key);
                let strikes = self.strikes.entry(*key).or_default();
                *strikes += 1;
                if *strikes < MAX_STRIKES {
                    self.suspects.push_back(*key);
                } else {
                    self.condemned.push_back((*key, message.to_owned()));
                }
            }
            runs => self.suspects.extend(runs),
        }
    }

    /// Whether runs are still to be taken one by one: those of a failed batch, and those in which a user's function is
    /// due.
    pub fn is_taking_apart(&self) -> bool {
        !self.suspects.is_empty() || !self.condemned.is_empty() || !self.solo.is_empty()
    }

    /// When the next timer or schedule is due or the next lease runs out, in microseconds since 2000.
    ///
    /// Now, where a run with facts, or something of it, was held by another session: nothing tells when it lets go.
    pub fn next_due(&mut self) -> Option<i64> {
        let any_held = self.passed_over || !self.held.is_empty();
        self.held.clear();
        let held = any_held.then(random::now_micros);
        let bulk = bulk::is_under_way(self.scope).then_some(self.next_due_check);
        let due = load::next_due()
            .into_iter()
            .chain(schedule::next_due())
            .chain(flow::next_due())
            .chain(bulk)
            .chain(held)
            .min();
        self.next_due_check = due.map_or(0, |due| due.min(self.next_due_check));
        due.map(|due| due - random::PG_EPOCH_MICROS)
    }

    fn forget(&mut self, key: RunKey) {
        if let Some(held) = self.cache.pop(&key) {
            self.cache_bytes = self.cache_bytes.saturating_sub(held.state.byte_size());
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// A run that is being moved.
struct Moved<'a> {
    run: &'a LockedRun,
    /// Its id as expressions see it.
    id: String,
    workflow: Rc<Workflow>,
    state: RunState,
    growth: Growth,
    /// Where the run and the batch stood before.
    before: u64,
    mark: Mark,
}

impl<'a> Moved<'a> {
    fn new(run: &'a LockedRun, held: Held, out: &Batch) -> Self {
        let Held { state, growth } = held;
        #[cfg(feature = "faults")]
        fault::bugs::note_before(&state);
        Moved {
            run,
            id: run.key.run.to_string(),
            workflow: workflow::compiled(Project(run.key.project), run.version_id),
            before: state.position,
            mark: out.mark(),
            state,
            growth,
        }
    }

    /// Takes in facts of the inbox, one after the other; true if one was held by another session and stays.
    fn take(&mut self, facts: Vec<load::Incoming>, now: i64, out: &mut Batch) -> bool {
        let mut any_held = false;
        for incoming in facts {
            // Only now, for the facts before may have taken the work back.
            let outcome = incoming.due.as_ref().map(|due| database::perform(self.run, &self.state, due));
            let known = match outcome {
                Some(database::Outcome::Held) => {
                    any_held = true;
                    continue;
                }
                Some(database::Outcome::Fact(fact)) => Ok(*fact),
                Some(database::Outcome::Obsolete) | None => incoming.fact,
            };
            out.consumed.push(incoming.inbox_id);
            let fact = match known {
                Ok(fact) => fact,
                Err(message) if message.is_empty() => continue,
                Err(message) => {
                    Fact::Quarantine(Quarantine { error: ErrorInfo::new("internal", message), start: None })
                }
            };
            self.record(&fact, now, incoming.metadata.as_deref(), out);
        }
        any_held
    }

    /// Decides what follows from a fact and adds it to the batch.
    fn record(&mut self, fact: &Fact, now: i64, metadata: Option<&str>, out: &mut Batch) {
        self.step(fact, now, metadata, out);
        if let Some(fact) = limits::too_many_events(&self.state) {
            self.step(&fact, now, None, out);
        }
    }

    fn step(&mut self, fact: &Fact, now: i64, metadata: Option<&str>, out: &mut Batch) {
        let at = Timestamp::from_micros(now.max(self.state.last_at.map_or(0, Timestamp::as_micros)));
        let first = self.state.position + 1;
        let step = decide(&self.workflow, &self.id, &mut self.state, fact, at);
        step.dropped.iter().for_each(|dropped| out.drop_work(&self.run.key, dropped));
        out.blobs.extend(step.blobs.into_iter().map(|blob| (self.run.key.project, blob)));
        // One that came before its time, for the clock stepped back or somebody moved it, is put back.
        if let (Fact::TimerDue(early), true) = (fact, step.events.is_empty()) {
            out.restore_timer(&self.run.key, &early.node, &self.state);
        }
        for (offset, event) in (0u64..).zip(step.events) {
            let metadata = metadata.filter(|_| offset == 0);
            out.add(&self.run.key, &Recorded { position: first + offset, at, event }, &self.state, metadata);
        }
    }

    /// Adds where the run stands now; what is remembered of it, unless it is over.
    fn settle(mut self, out: &mut Batch) -> Option<Held> {
        let key = &self.run.key;
        if self.state.position > self.before {
            out.update(key, &self.state);
            let (events, bytes) = out.events_since(self.mark);
            self.growth.add(events, bytes);
            out.snapshot_if_due(key, &self.state, &mut self.growth);
        }
        let ended = self.state.status.is_terminal();
        if ended {
            out.drop_work_since(self.mark);
            if self.workflow.flow.concurrency.is_some() {
                out.slots.push(key);
            }
        }
        (!ended).then_some(Held { state: self.state, growth: self.growth })
    }
}

/// Asks the engine. A panic of it ends the run instead of the batch: the events decided so far in this
/// step are dropped and the state is made again from those that count.
fn decide(workflow: &Rc<Workflow>, run: &str, state: &mut RunState, fact: &Fact, at: Timestamp) -> Step {
    let before = state.clone();
    match catch_unwind(AssertUnwindSafe(|| step(workflow, run, state, fact, at))) {
        Ok(step) => step,
        Err(_) => {
            *state = before;
            let start = if let Fact::Start(start) = fact { Some(start.clone()) } else { None };
            let error =
                ErrorInfo::new("internal", "the engine gave up on this run; the server log has the details");
            step(workflow, run, state, &Fact::Quarantine(Quarantine { error, start }), at)
        }
    }
}
