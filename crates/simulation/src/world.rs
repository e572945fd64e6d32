//! What all actors share: the database, the clock, the world outside, and what went wrong.

use std::collections::{BTreeMap, BTreeSet};

use meshhook_engine::state::RunStatus;
use meshhook_engine::time::Timestamp;

use crate::database::{Database, Path, Run};
use crate::schedule::Actor;
use crate::table::Tx;
use crate::workflow::{BEGIN, Workflows};

/// Something done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A report takes the job away whatever its token.
    CompletionWithoutFencing,
    /// A turn's jobs are written in a transaction of their own, behind its commit.
    JobsApart,
    /// A turn empties the inbox of its runs instead of deleting what it has read.
    InboxEmptied,
    /// Every attempt's fencing tokens begin with the same number.
    TokensAgain,
    /// What is remembered of a run is taken for where it stands.
    MemoryUnchecked,
    /// A start takes no key.
    StartWithoutKey,
    /// A turn does not lock its runs.
    RunsUnlocked,
    /// What the database does for a node commits by itself.
    EffectsApart,
    /// The report and the inbox row are two transactions.
    ReportApart,
    /// Jobs of runs that are over are handed out.
    EndedRunsServed,
    /// A run goes on after its end although jobs were left then, for an executor held them: they stand in the way of
    /// new ones, and what becomes of them is taken for the result of new attempts, which are counted from 1 again.
    LeftJobsStay,
}

/// A call of the outside world.
#[derive(Clone, Debug)]
pub struct Call {
    /// The run.
    pub run: Run,
    /// The node.
    pub node: Path,
    /// The attempt.
    pub attempt: u32,
    /// The idempotency key that went along.
    pub key: String,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done.
    Made,
    /// There is nothing to do.
    Idle,
    /// Another transaction holds what the statement needs; it waits.
    Waits,
}

/// Everything but the actors.
#[derive(Debug)]
pub struct World {
    /// The database.
    pub db: Database,
    /// The time.
    pub now: Timestamp,
    /// The workflows there are.
    pub workflows: Workflows,
    /// The input of every run that a client starts.
    pub input: i64,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
    /// What was called outside, in order.
    pub calls: Vec<Call>,
    /// What clients were told they started, by key.
    pub started: BTreeMap<u8, Vec<Run>>,
    /// Runs that somebody wanted to end.
    pub canceled: BTreeSet<Run>,
    /// Runs that somebody wanted to go on after their end: nobody can say how they end.
    pub redriven: BTreeSet<Run>,
    /// The first thing that must not be.
    pub fault: Option<String>,
    /// What happened, if somebody is going to read it.
    pub trace: Option<Vec<String>>,
    /// Whose step it is.
    pub actor: Actor,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(workflows: Workflows, input: i64, bug: Option<Bug>, traced: bool) -> Self {
        Self {
            db: Database::default(),
            now: Timestamp::from_micros(BEGIN),
            workflows,
            input,
            bug,
            calls: Vec::new(),
            started: BTreeMap::new(),
            canceled: BTreeSet::new(),
            redriven: BTreeSet::new(),
            fault: None,
            trace: traced.then(Vec::new),
            actor: Actor::Client(0),
        }
    }

    /// Whether this is done wrong.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Tells what the actor whose step it is does.
    pub fn say(&mut self, what: impl FnOnce() -> String) {
        let actor = self.actor;
        self.note(|| format!("{actor}: {}", what()));
    }

    /// Tells what happens to everybody.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        let seconds = (self.now.as_micros() - BEGIN) / 1_000_000;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("t={seconds} {}", what()));
        }
    }

    /// Notes what must not be; only the first counts.
    pub fn blame(&mut self, what: impl FnOnce() -> String) {
        if self.fault.is_none() {
            self.fault = Some(what());
        }
    }

    /// Commits.
    pub fn commit(&mut self, tx: Tx, what: &str) -> Progress {
        self.say(|| format!("commit {what}"));
        self.db.commit(tx);
        Progress::Made
    }

    /// Whether a run has ended, as far as that is committed.
    pub fn has_ended(&self, run: &Run) -> bool {
        self.db.runs.committed_row(run).is_some_and(|row| row.status.is_terminal())
    }

    /// Where a run stands for a transaction.
    pub fn status(&self, tx: Tx, run: &Run) -> Option<RunStatus> {
        self.db.runs.get(tx, run).map(|row| row.status)
    }
}
