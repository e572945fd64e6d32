//! An orchestrator: turns, statement by statement, with what it remembers between them (`src/run/turn/`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use meshhook_engine::decide::step;
use meshhook_engine::error::ErrorInfo;
use meshhook_engine::fact::{Fact, JobCompleted, JobFailed, TimerDue};
use meshhook_engine::json::Json;
use meshhook_engine::state::{JobOrigin, NodeStatus, RunState};
use meshhook_engine::time::Timestamp;
use meshhook_engine::to_json;

use crate::batch::Batch;
use crate::database::{Message, Path, Run, RunRow};
use crate::table::{Table, Tx};
use crate::workflow::Outcome;
use crate::world::{Bug, Progress, World};
use crate::write::{self, STATEMENTS};

/// Rows of the inbox that a turn looks at when it chooses its runs.
const BATCH: usize = 3;

/// A process that takes turns.
#[derive(Debug, Default)]
pub struct Orchestrator {
    /// What it remembers of runs.
    pub cache: BTreeMap<Run, RunState>,
    staged: Vec<(Run, Option<RunState>)>,
    /// Runs in which a user's function is due: each has a turn alone.
    solo: VecDeque<Run>,
    /// Runs something of which another session holds.
    held: BTreeSet<Run>,
    turn: Option<Turn>,
    /// Jobs that are written too late.
    late: Option<Batch>,
}

/// A turn under way.
#[derive(Debug)]
struct Turn {
    tx: Tx,
    now: Timestamp,
    stage: Stage,
    /// Runs that others hold: left out of the next look at the inbox.
    refused: Vec<Run>,
    /// The runs of this turn.
    current: Vec<Run>,
    work: Vec<Work>,
    batch: Batch,
    /// Whether anything was done.
    is_busy: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    Timers,
    Leases,
    Pick,
    Lock(Vec<Run>),
    Facts,
    Decide,
    Write(usize),
    Commit,
}

/// A locked run with what was read of it.
#[derive(Debug)]
struct Work {
    run: Run,
    row: RunRow,
    /// Of a run that has ended: whether somebody holds a job or timer that is left.
    is_left: bool,
    facts: Vec<(u64, Message)>,
}

impl Work {
    fn is_redriven(&self) -> bool {
        self.facts.iter().any(|(_, message)| matches!(message, Message::Fact(Fact::Redrive(_))))
    }

    /// Drops what facts say of work from before a redrive; leaves a redrive that others go before to the next turn.
    fn sort_out(&mut self) {
        let is_redrive = |(_, message): &(u64, Message)| matches!(message, Message::Fact(Fact::Redrive(_)));
        let Some(place) = self.facts.iter().position(is_redrive) else { return };
        if self.row.status.is_terminal() {
            self.facts.iter_mut().for_each(|(_, message)| forget_work(message));
        } else if place > 0 {
            self.facts.truncate(place);
        }
    }

    /// Whether the run is over and stays so.
    fn is_over(&self) -> bool {
        self.row.status.is_terminal() && !self.is_redriven()
    }
}

impl Orchestrator {
    /// Makes one step.
    pub fn step(&mut self, world: &mut World) -> Progress {
        if let Some(late) = self.late.take() {
            return write_late(&late, world);
        }
        let Some(mut turn) = self.turn.take().or_else(|| self.begin(world)) else { return Progress::Idle };
        let next = match turn.stage.clone() {
            Stage::Timers => turn.fire_timers(world),
            Stage::Leases => {
                turn.fire_leases(world);
                match self.solo.front() {
                    Some(run) => Stage::Lock(vec![Arc::clone(run)]),
                    None => Stage::Pick,
                }
            }
            Stage::Pick => turn.pick(&self.held, world),
            Stage::Lock(runs) => self.lock(&mut turn, runs, world),
            Stage::Facts => turn.read_facts(world),
            Stage::Decide => self.decide(&mut turn, world),
            Stage::Write(i) => turn.write(i, world),
            Stage::Commit => return self.commit(turn, world),
        };
        turn.stage = next;
        self.turn = Some(turn);
        Progress::Made
    }

    /// Begins a turn, unless there plainly is nothing to do.
    fn begin(&mut self, world: &mut World) -> Option<Turn> {
        let is_due = world.db.next_due().is_some_and(|due| due <= world.now);
        let has_facts = world.db.inbox.committed().next().is_some();
        if !is_due && !has_facts && self.solo.is_empty() {
            self.held.clear();
            return None;
        }
        Some(Turn {
            tx: world.db.begin(),
            now: world.now,
            stage: Stage::Timers,
            refused: Vec::new(),
            current: Vec::new(),
            work: Vec::new(),
            batch: Batch::default(),
            is_busy: false,
        })
    }

    /// The statement under way fails, and the transaction with it.
    pub fn fail(&mut self, world: &mut World) {
        let Some(turn) = self.turn.take() else { return };
        world.say(|| "the turn is rolled back".to_owned());
        world.db.abort(turn.tx);
        self.staged.clear();
        for run in &turn.current {
            self.cache.remove(run);
        }
    }

    /// The process ends.
    pub fn die(&mut self, world: &mut World) {
        if let Some(turn) = &self.turn {
            world.db.abort(turn.tx);
        }
        *self = Self::default();
    }

    fn lock(&mut self, turn: &mut Turn, runs: Vec<Run>, world: &mut World) -> Stage {
        let is_alone = self.solo.front().is_some_and(|solo| runs == [Arc::clone(solo)]);
        world.say(|| format!("lock runs {runs:?}"));
        for run in &runs {
            if world.db.runs.is_held_from(turn.tx, run) && !world.has(Bug::RunsUnlocked) {
                continue;
            }
            let Some(row) = world.db.runs.get(turn.tx, run).cloned() else { continue };
            if !world.has(Bug::RunsUnlocked) {
                world.db.runs.lock(turn.tx, run);
            }
            turn.work.push(Work { run: Arc::clone(run), row, is_left: false, facts: Vec::new() });
        }
        turn.current = turn.work.iter().map(|work| Arc::clone(&work.run)).collect();
        if !turn.work.is_empty() {
            return Stage::Facts;
        }
        if is_alone {
            // It comes back by the inbox if need be.
            self.solo.pop_front();
            turn.is_busy = true;
            return Stage::Commit;
        }
        turn.refused.extend(runs);
        Stage::Pick
    }

    /// Reads events that are not remembered, asks the engine, and gathers what follows.
    fn decide(&mut self, turn: &mut Turn, world: &mut World) -> Stage {
        let is_alone = turn.work.len() == 1;
        for mut work in std::mem::take(&mut turn.work) {
            if !world.has(Bug::LeftJobsStay) {
                if work.is_left && work.is_redriven() {
                    self.held.insert(work.run);
                    continue;
                }
                work.sort_out();
            }
            let state = self.state_of(turn.tx, &work, world);
            if !is_alone && !work.row.status.is_terminal() && leave_functions(&mut work, &state) {
                self.solo.push_back(Arc::clone(&work.run));
            }
            if !join_start(&mut work) {
                self.held.insert(work.run);
            } else if work.is_over() {
                turn.batch.consumed.extend(work.facts.iter().map(|(id, _)| *id));
            } else {
                self.move_run(turn, work, state, world);
            }
        }
        let count = turn.batch.events.len();
        world.say(|| format!("decide: {count} events for {:?}", turn.current));
        turn.next_write(0, world)
    }

    /// What is remembered of a run, with the events behind that.
    fn state_of(&mut self, tx: Tx, work: &Work, world: &mut World) -> RunState {
        let cached = self.cache.remove(&work.run);
        if world.has(Bug::MemoryUnchecked)
            && let Some(state) = cached
        {
            return state;
        }
        let cached = cached.filter(|state| state.position <= work.row.position);
        let mut state = cached.unwrap_or_default();
        if state.position < work.row.position && !work.is_over() {
            for event in world.db.events_after(tx, &work.run, state.position) {
                if let Err(message) = state.apply(&event) {
                    world.blame(|| format!("the log of run {} is broken: {message}", work.run));
                }
            }
            let (head, row) = (state.position, work.row.position);
            if head != row {
                world.blame(|| format!("the log of run {} ends at {head}, its row says {row}", work.run));
            }
        }
        state
    }

    fn move_run(&mut self, turn: &mut Turn, work: Work, mut state: RunState, world: &mut World) {
        let (run, before) = (work.run, state.position);
        let workflow = Arc::clone(&work.row.workflow);
        let mut mover = Mover { turn, run: &run, workflow: &workflow, world };
        let mut any_held = false;
        for (id, message) in work.facts {
            let fact = match message {
                Message::Fact(fact) => Some(fact),
                Message::WorkDue { node, attempt } => match mover.perform(&state, &node, attempt) {
                    Performed::Fact(fact) => Some(fact),
                    Performed::Obsolete => None,
                    Performed::Held => {
                        any_held = true;
                        continue;
                    }
                },
            };
            mover.turn.batch.consumed.push(id);
            if let Some(fact) = fact {
                mover.record(&mut state, &fact);
            }
        }
        if any_held {
            self.held.insert(Arc::clone(&run));
        }
        if state.position > before {
            turn.batch.updates.push((Arc::clone(&run), state.clone()));
        }
        let has_ended = state.status.is_terminal();
        if has_ended {
            turn.batch.drop_work_of(&run);
        }
        self.staged.push((run, (!has_ended).then_some(state)));
    }

    fn commit(&mut self, turn: Turn, world: &mut World) -> Progress {
        world.commit(turn.tx, "the turn");
        if let (Some(solo), Some(run)) = (self.solo.front(), turn.current.first())
            && solo == run
        {
            self.solo.pop_front();
        }
        for (run, state) in self.staged.drain(..) {
            if let Some(state) = state {
                self.cache.insert(run, state);
            }
        }
        if world.has(Bug::JobsApart) && !turn.batch.jobs.is_empty() {
            self.late = Some(turn.batch);
            return Progress::Made;
        }
        if turn.current.is_empty() && !turn.is_busy {
            self.held.clear();
            return Progress::Idle;
        }
        Progress::Made
    }
}

impl Turn {
    fn fire_timers(&mut self, world: &mut World) -> Stage {
        let due = world.db.timers.rows(self.tx).filter(|(_, due)| **due <= self.now);
        let due: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        for key in due.into_iter().filter(|key| !key.0.is_empty()) {
            if world.db.timers.is_held_from(self.tx, &key) {
                continue;
            }
            world.say(|| format!("fire the timer of {}/{}", key.0, key.1));
            world.db.timers.delete(self.tx, &key);
            let fact = Fact::TimerDue(TimerDue { node: Arc::clone(&key.1) });
            world.db.post(self.tx, &key.0, Message::Fact(fact));
            self.is_busy = true;
        }
        Stage::Leases
    }

    fn fire_leases(&mut self, world: &mut World) {
        let is_over = |at: Option<Timestamp>| at.is_some_and(|at| at <= self.now);
        let due = world.db.jobs.rows(self.tx).filter(|(_, job)| is_over(job.lease_expires_at));
        let due: Vec<_> = due.map(|(key, job)| (key.clone(), job.attempt)).collect();
        for (key, attempt) in due {
            if world.db.jobs.is_held_from(self.tx, &key) {
                continue;
            }
            world.say(|| format!("end the lease of {}/{}, attempt {attempt}", key.0, key.1));
            world.db.jobs.delete(self.tx, &key);
            let error =
                to_json(&ErrorInfo::new("lease_expired", "the executor neither reported nor renewed"));
            let fact = Fact::JobFailed(JobFailed { node: Arc::clone(&key.1), attempt, error });
            world.db.post(self.tx, &key.0, Message::Fact(fact));
            self.is_busy = true;
        }
    }

    fn pick(&mut self, held: &BTreeSet<Run>, world: &mut World) -> Stage {
        let is_free = |run: &Run| !held.contains(run) && !self.refused.contains(run);
        let mut runs: Vec<Run> = Vec::new();
        for (_, (run, _)) in world.db.inbox.rows(self.tx).filter(|(_, (run, _))| is_free(run)).take(BATCH) {
            if !runs.contains(run) {
                runs.push(Arc::clone(run));
            }
        }
        world.say(|| format!("pick runs {runs:?}"));
        if runs.is_empty() { Stage::Commit } else { Stage::Lock(runs) }
    }

    fn read_facts(&mut self, world: &mut World) -> Stage {
        // Before the facts, so that none of a job that is gone comes later.
        if !world.has(Bug::LeftJobsStay) {
            for work in self.work.iter_mut().filter(|work| work.row.status.is_terminal()) {
                let db = &mut world.db;
                let jobs_gone = clear_way(self.tx, &work.run, &mut db.jobs);
                let timers_gone = clear_way(self.tx, &work.run, &mut db.timers);
                work.is_left = !(jobs_gone && timers_gone);
            }
        }
        for (id, (run, message)) in world.db.inbox.rows(self.tx) {
            if let Some(work) = self.work.iter_mut().find(|work| work.run == *run) {
                work.facts.push((*id, message.clone()));
            }
        }
        world.say(|| {
            let ids: Vec<u64> = self.work.iter().flat_map(|work| &work.facts).map(|(id, _)| *id).collect();
            format!("read facts {ids:?}")
        });
        Stage::Decide
    }

    /// The first statement from a place on that has something to do.
    fn next_write(&self, from: usize, world: &World) -> Stage {
        let is_sent = |name: &str| !(name == "insert jobs" && world.has(Bug::JobsApart));
        let rest = STATEMENTS.iter().enumerate().skip(from);
        let mut rest =
            rest.filter(|(_, statement)| (statement.is_needed)(&self.batch) && is_sent(statement.name));
        rest.next().map_or(Stage::Commit, |(i, _)| Stage::Write(i))
    }

    fn write(&mut self, i: usize, world: &mut World) -> Stage {
        let statement = &STATEMENTS[i];
        world.say(|| statement.name.to_owned());
        if world.has(Bug::InboxEmptied) && statement.name == "delete inbox rows" {
            write::empty_inboxes(&self.current, &mut world.db, self.tx);
        } else if let Err(broken) = (statement.run)(&self.batch, &mut world.db, self.tx) {
            world.blame(|| format!("a turn cannot {}: {broken:?}", statement.name));
        }
        self.next_write(i + 1, world)
    }
}

/// Takes away what was left when the run ended, for somebody held it; false where somebody still does.
fn clear_way<V: Clone>(tx: Tx, run: &Run, table: &mut Table<(Run, Path), V>) -> bool {
    let left: Vec<_> = table.rows(tx).map(|(key, _)| key.clone()).filter(|(of, _)| of == run).collect();
    let (held, free): (Vec<_>, Vec<_>) = left.iter().partition(|key| table.is_held_from(tx, key));
    free.iter().for_each(|key| table.delete(tx, key));
    held.is_empty()
}

/// Attempts are counted anew after a redrive: what is said of one from before is not to be taken for its namesake.
fn forget_work(message: &mut Message) {
    let is_of_work = matches!(
        message,
        Message::WorkDue { .. }
            | Message::Fact(Fact::JobCompleted(_) | Fact::JobFailed(_) | Fact::TimerDue(_))
    );
    if is_of_work {
        *message = Message::WorkDue { node: Arc::from(""), attempt: 0 };
    }
}

fn write_late(late: &Batch, world: &mut World) -> Progress {
    let tx = world.db.begin();
    world.say(|| "insert jobs, too late".to_owned());
    if let Err(broken) = write::jobs(late, &mut world.db, tx) {
        world.blame(|| format!("jobs cannot be written: {broken:?}"));
    }
    world.commit(tx, "the jobs")
}

/// A run that is being moved.
struct Mover<'a> {
    turn: &'a mut Turn,
    run: &'a Run,
    workflow: &'a str,
    world: &'a mut World,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are facts")]
enum Performed {
    Fact(Fact),
    Obsolete,
    Held,
}

impl Mover<'_> {
    fn record(&mut self, state: &mut RunState, fact: &Fact) {
        let at = state.last_at.map_or(self.turn.now, |last| last.max(self.turn.now));
        let first = state.position + 1;
        let workflow = self.world.workflows.named(self.workflow);
        let step = step(workflow, self.run, state, fact, at);
        let (batch, has_same_tokens) = (&mut self.turn.batch, self.world.bug == Some(Bug::TokensAgain));
        step.dropped.iter().for_each(|dropped| batch.drop_work(self.run, dropped));
        // One that came before its time is put back.
        if let (Fact::TimerDue(early), true) = (fact, step.events.is_empty()) {
            batch.restore_timer(self.run, &early.node, state);
        }
        for (position, event) in (first..).zip(step.events) {
            batch.add(
                self.run,
                meshhook_engine::event::Recorded { position, at, event },
                state,
                has_same_tokens,
            );
        }
    }

    /// Does what the database does itself (`src/run/turn/database.rs`). A function that fails leaves nothing behind.
    fn perform(&mut self, state: &RunState, node: &Path, attempt: u32) -> Performed {
        let Some(job) = origin(state, node, attempt) else { return Performed::Obsolete };
        let is_emit = &*job.kind == "emit";
        if is_emit && !self.world.db.try_lock_stream(self.turn.tx) {
            return Performed::Held;
        }
        let node = Arc::clone(node);
        if self.world.workflows.outcome(&node, attempt) != Outcome::Done {
            let error = to_json(&ErrorInfo::new("sql.p0001", "no"));
            return Performed::Fact(Fact::JobFailed(JobFailed { node, attempt, error }));
        }
        let world = &mut *self.world;
        world.say(|| format!("do {} of {}/{node}, attempt {attempt}", job.kind, self.run));
        if world.has(Bug::EffectsApart) {
            let tx = world.db.begin();
            world.db.affect(tx, self.run, &node);
            world.db.commit(tx);
        } else {
            world.db.affect(self.turn.tx, self.run, &node);
        }
        let output = if is_emit {
            Json::object([("stream", Json::from("s-1")), ("position", Json::from(0))])
        } else {
            Json::object([("n", Json::from(7))])
        };
        Performed::Fact(Fact::JobCompleted(JobCompleted { node, attempt, output }))
    }
}

/// What the work is made of, if exactly this attempt is still wanted.
fn origin<'a>(state: &'a RunState, node: &Path, attempt: u32) -> Option<&'a JobOrigin> {
    let node = state.nodes.get(node)?;
    node.job.as_ref().filter(|_| node.status == NodeStatus::Scheduled && node.attempt == attempt)
}

/// Leaves a user's function to a turn that the run has alone; true if there is one.
fn leave_functions(work: &mut Work, state: &RunState) -> bool {
    let is_users = |message: &Message| match message {
        Message::WorkDue { node, attempt } => {
            origin(state, node, *attempt).is_some_and(|job| &*job.kind == "sql")
        }
        Message::Fact(_) => false,
    };
    let before = work.facts.len();
    work.facts.retain(|(_, message)| !is_users(message));
    work.facts.len() < before
}

/// Gives a cancel that comes before the start what the run would have started from (`src/run/turn/unbegun.rs`); false
/// where the start is still on its way.
fn join_start(work: &mut Work) -> bool {
    if work.row.position > 0 || work.row.status.is_terminal() {
        return true;
    }
    let is_start = |message: &Message| matches!(message, Message::Fact(Fact::Start(_)));
    let is_cancel =
        |message: &Message| matches!(message, Message::Fact(Fact::Cancel(cancel)) if cancel.start.is_none());
    let first = work.facts.iter().position(|(_, message)| is_start(message) || is_cancel(message));
    let Some(first) = first.filter(|first| is_cancel(&work.facts[*first].1)) else { return true };
    let Some(behind) = work.facts.iter().position(|(_, message)| is_start(message)) else { return false };
    let told = Message::WorkDue { node: Arc::from(""), attempt: 0 };
    let start = std::mem::replace(&mut work.facts[behind].1, told);
    if let (Message::Fact(Fact::Start(start)), Message::Fact(Fact::Cancel(cancel))) =
        (start, &mut work.facts[first].1)
    {
        cancel.start = Some(start);
    }
    true
}
