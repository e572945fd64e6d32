//! A client: starts runs under idempotency keys and repeats what it got no answer to; sends signals, pauses, resumes,
//! cancels, and lets runs go on after their end (`src/run/`: `start.rs`, `mod.rs`, `bulk.rs`).

use std::collections::VecDeque;
use std::sync::Arc;

use meshhook_engine::event::{RunPaused, RunRedriven, RunResumed, SignalReceived};
use meshhook_engine::fact::{Cancel, Fact, Start};
use meshhook_engine::json::Json;
use meshhook_engine::state::RunStatus;

use crate::database::{Message, Run, RunRow};
use crate::table::{Conflict, Tx};
use crate::workflow::PARENT;
use crate::world::{Bug, Progress, World};

/// Something that a client does to the run of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Starts it.
    Start(u8),
    /// Sends one of the signals that it waits for somewhere.
    Signal(u8, u8),
    /// Holds it.
    Pause(u8),
    /// Lets it go on.
    Resume(u8),
    /// Ends it.
    Cancel(u8),
    /// Lets it go on after its end.
    Redrive(u8),
}

impl Op {
    fn key(self) -> u8 {
        match self {
            Self::Start(key)
            | Self::Signal(key, _)
            | Self::Pause(key)
            | Self::Resume(key)
            | Self::Cancel(key)
            | Self::Redrive(key) => key,
        }
    }
}

/// A session of a client.
#[derive(Debug)]
pub struct Client {
    /// What it still has to do.
    pub script: VecDeque<Op>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Free,
    /// The key is taken, in a transaction that is not committed, for a run that is not there yet.
    Starting(Tx),
    /// The statements are done; with the answer there will be, where the transaction starts a run.
    Done(Tx, Option<Run>),
}

impl Client {
    /// One with things to do.
    pub fn new(script: impl IntoIterator<Item = Op>) -> Self {
        Self { script: script.into_iter().collect(), stage: Stage::Free }
    }

    /// Makes one step.
    pub fn step(&mut self, world: &mut World) -> Progress {
        let Some(op) = self.script.front().copied() else { return Progress::Idle };
        match self.stage.clone() {
            Stage::Free => self.begin(op, world),
            Stage::Starting(tx) => {
                let run = start(tx, op.key(), world);
                self.stage = Stage::Done(tx, Some(run));
                Progress::Made
            }
            Stage::Done(tx, answer) => {
                self.stage = Stage::Free;
                self.script.pop_front();
                if let Some(run) = answer {
                    world.started.entry(op.key()).or_default().push(run);
                }
                world.commit(tx, "what it asked for")
            }
        }
    }

    /// Leaves out what it wanted to do and has not begun, but for its starts.
    pub fn settle(&mut self) {
        let begun = usize::from(!matches!(self.stage, Stage::Free));
        let rest = self.script.split_off(begun.min(self.script.len()));
        self.script.extend(rest.into_iter().filter(|op| matches!(op, Op::Start(_))));
    }

    /// Commits and never hears of it, so it asks again. False where there is nothing to commit.
    pub fn lose_answer(&mut self, world: &mut World) -> bool {
        let Stage::Done(tx, _) = self.stage else { return false };
        self.stage = Stage::Free;
        world.commit(tx, "what it asked for, without hearing of it");
        true
    }

    /// Its connection is gone, and with it the transaction under way: it asks again.
    pub fn disconnect(&mut self, world: &mut World) {
        if let Stage::Starting(tx) | Stage::Done(tx, _) = std::mem::replace(&mut self.stage, Stage::Free) {
            world.db.abort(tx);
        }
    }

    /// The first statement of what is to be done.
    fn begin(&mut self, op: Op, world: &mut World) -> Progress {
        let tx = world.db.begin();
        if let Op::Start(key) = op {
            return self.claim_key(tx, key, world);
        }
        let run = world.started.get(&op.key()).and_then(|runs| runs.first()).cloned();
        let Some((run, fact)) = run.and_then(|run| Some((Arc::clone(&run), asked(tx, op, &run, world)?)))
        else {
            // There is no such run yet, or it is over.
            world.db.abort(tx);
            self.script.pop_front();
            return Progress::Made;
        };
        world.say(|| format!("send {} to {run}", fact.to_parts().0));
        match op {
            Op::Cancel(_) => drop(world.canceled.insert(Arc::clone(&run))),
            Op::Redrive(_) => drop(world.redriven.insert(Arc::clone(&run))),
            _ => {}
        }
        world.db.post(tx, &run, Message::Fact(fact));
        self.stage = Stage::Done(tx, None);
        Progress::Made
    }

    /// `INSERT … ON CONFLICT DO NOTHING`, and where that did nothing a look at who has the key.
    fn claim_key(&mut self, tx: Tx, key: u8, world: &mut World) -> Progress {
        if world.has(Bug::StartWithoutKey) {
            self.stage = Stage::Starting(tx);
            return Progress::Made;
        }
        match world.db.keys.insert(tx, key, Arc::from("")) {
            Ok(()) => {
                world.say(|| format!("take key {key}"));
                self.stage = Stage::Starting(tx);
            }
            Err(Conflict::Taken) => {
                let run = world.db.keys.get(tx, &key).cloned();
                world.say(|| format!("find key {key} taken by {run:?}"));
                self.stage = Stage::Done(tx, run);
            }
            Err(Conflict::Held) => {
                world.db.abort(tx);
                return Progress::Waits;
            }
        }
        Progress::Made
    }
}

/// Inserts a run, its key's run and its start.
fn start(tx: Tx, key: u8, world: &mut World) -> Run {
    let run: Run = Arc::from(format!("run{}", world.db.number()));
    world.say(|| format!("start {run}"));
    if !world.has(Bug::StartWithoutKey) {
        world.db.keys.update(tx, key, Arc::clone(&run));
    }
    let row = RunRow { workflow: Arc::from(PARENT), status: RunStatus::Queued, position: 0 };
    world.db.runs.update(tx, Arc::clone(&run), row);
    let start = Start {
        workflow: Arc::from(PARENT),
        version: 1,
        input: Json::object([("n", Json::from(world.input))]),
        seed: 0,
        trigger: Json::Null,
        idempotency_key: Some(Arc::from(key.to_string())),
        deadline: None,
        parent: None,
    };
    world.db.post(tx, &run, Message::Fact(Fact::Start(start)));
    run
}

/// What is told a run, where it is in a state to be told.
fn asked(tx: Tx, op: Op, run: &Run, world: &World) -> Option<Fact> {
    let status = world.status(tx, run)?;
    let is_wanted = match op {
        Op::Redrive(_) => matches!(status, RunStatus::Failed | RunStatus::Canceled),
        _ => !status.is_terminal(),
    };
    let fact = match op {
        Op::Start(_) => return None,
        Op::Signal(_, pick) => Fact::Signal(signal(&world.workflows.signals, pick)?),
        Op::Pause(_) => Fact::Pause(RunPaused::default()),
        Op::Resume(_) => Fact::Resume(RunResumed {}),
        Op::Cancel(_) => Fact::Cancel(Cancel::default()),
        Op::Redrive(_) => Fact::Redrive(RunRedriven::default()),
    };
    is_wanted.then_some(fact)
}

/// A signal with its sender's id, so that one sent again counts once.
fn signal(names: &[String], pick: u8) -> Option<SignalReceived> {
    let name = names.get(usize::from(pick) % names.len().max(1))?;
    let (name, id) = (Arc::from(&**name), Some(Arc::from(&**name)));
    Some(SignalReceived { name, payload: Json::from(1), id, node: None })
}
