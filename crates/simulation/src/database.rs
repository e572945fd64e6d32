//! The database: the tables of a run as far as turns, executors and clients use them.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshhook_engine::event::Recorded;
use meshhook_engine::fact::Fact;
use meshhook_engine::state::RunStatus;
use meshhook_engine::time::Timestamp;

use crate::table::{Table, Tx};

/// A run's id.
pub type Run = Arc<str>;
/// A node's path.
pub type Path = Arc<str>;

/// `meshhook.run`.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// The workflow; there is one version of each.
    pub workflow: Arc<str>,
    /// Where it stands.
    pub status: RunStatus,
    /// The position of its last event.
    pub position: u64,
}

/// What a row of `meshhook.inbox` tells.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are facts")]
pub enum Message {
    /// A fact, ready for the engine.
    Fact(Fact),
    /// `work.due`: an attempt that the database makes itself.
    WorkDue {
        /// The node.
        node: Path,
        /// The attempt.
        attempt: u32,
    },
}

/// `meshhook.job`.
#[derive(Clone, Debug)]
pub struct Job {
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The node's kind.
    pub kind: Arc<str>,
    /// The fencing token.
    pub token: u64,
    /// Who has it.
    pub executor: Option<usize>,
    /// Until when.
    pub lease_expires_at: Option<Timestamp>,
}

/// What the database did itself: a row that the function of an `sql` node wrote, or a message.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The run.
    pub run: Run,
    /// The node.
    pub node: Path,
}

/// The tables, with everything that is not committed in them.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// `meshhook.run`.
    pub runs: Table<Run, RunRow>,
    /// `meshhook.run_key`.
    pub keys: Table<u8, Run>,
    /// `meshhook.run_event`, by run and position.
    pub events: Table<(Run, u64), Recorded>,
    /// `meshhook.inbox`, by `inbox_id`.
    pub inbox: Table<u64, (Run, Message)>,
    /// `meshhook.job`.
    pub jobs: Table<(Run, Path), Job>,
    /// `meshhook.timer`; the empty path is the run's own.
    pub timers: Table<(Run, Path), Timestamp>,
    /// What functions wrote, and `meshhook.message`.
    pub effects: Table<u64, Effect>,
    /// Who holds the one stream that messages are appended to.
    stream: Option<Tx>,
    open: BTreeSet<Tx>,
    last_tx: Tx,
    /// The sequences: nothing gives a number back.
    last_number: u64,
}

impl Database {
    /// A transaction that is in no hurry.
    pub fn begin(&mut self) -> Tx {
        self.last_tx += 1;
        self.open.insert(self.last_tx);
        self.last_tx
    }

    /// Makes what a transaction did visible to all.
    pub fn commit(&mut self, tx: Tx) {
        self.end(tx, true);
    }

    /// Undoes what a transaction did.
    pub fn abort(&mut self, tx: Tx) {
        self.end(tx, false);
    }

    fn end(&mut self, tx: Tx, commits: bool) {
        self.open.remove(&tx);
        self.runs.end(tx, commits);
        self.keys.end(tx, commits);
        self.events.end(tx, commits);
        self.inbox.end(tx, commits);
        self.jobs.end(tx, commits);
        self.timers.end(tx, commits);
        self.effects.end(tx, commits);
        self.stream = self.stream.filter(|by| *by != tx);
    }

    /// The server dies, and every open transaction with it.
    pub fn crash(&mut self) {
        for tx in std::mem::take(&mut self.open) {
            self.abort(tx);
        }
    }

    /// The next number of a sequence.
    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Puts something into a run's inbox.
    pub fn post(&mut self, tx: Tx, run: &Run, message: Message) {
        let id = self.number();
        self.inbox.update(tx, id, (Arc::clone(run), message));
    }

    /// Writes down what the database does for a node.
    pub fn affect(&mut self, tx: Tx, run: &Run, node: &Path) {
        let id = self.number();
        self.effects.update(tx, id, Effect { run: Arc::clone(run), node: Arc::clone(node) });
    }

    /// Takes the stream's lock until the end of the transaction, unless another one has it.
    pub fn try_lock_stream(&mut self, tx: Tx) -> bool {
        *self.stream.get_or_insert(tx) == tx
    }

    /// The events of a run after a position, as a transaction sees them.
    pub fn events_after(&self, tx: Tx, run: &Run, position: u64) -> Vec<Recorded> {
        let rows = self.events.rows_from(tx, (Arc::clone(run), position + 1));
        rows.take_while(|((of, _), _)| of == run).map(|(_, event)| event.clone()).collect()
    }

    /// The earliest timer or lease.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timers = self.timers.committed().map(|(_, due)| *due);
        let leases = self.jobs.committed().filter_map(|(_, job)| job.lease_expires_at);
        timers.chain(leases).min()
    }
}
