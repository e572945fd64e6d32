//! What a turn is going to write, column by column, as the statements take it.

use meshhook_engine::blob::{Blob, references_in};
use meshhook_engine::decide::Dropped;
use meshhook_engine::event::{Child, Event, Recorded};
use meshhook_engine::snapshot::{Growth, Snapshot};
use meshhook_engine::state::{NodeState, NodeStatus, RunState};
use meshhook_engine::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;

use super::RunKey;
use crate::blob::Uses;
use crate::guc;
use crate::random::timestamptz;
use crate::run::snapshot;
use crate::shmem::{self, News};

/// A fencing token is the position of the attempt's event, and in these low bits the number of the claim:
/// no two claims of a run ever share one.
const TOKEN_BITS: u32 = 16;

/// Columns that say which run a row is of.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub project: Vec<i32>,
    pub run: Vec<pgrx::Uuid>,
}

impl Keys {
    pub fn push(&mut self, key: &RunKey) {
        self.project.push(key.project);
        self.run.push(key.run);
    }

    fn truncate(&mut self, len: usize) {
        self.project.truncate(len);
        self.run.truncate(len);
    }

    fn remove(&mut self, i: usize) {
        self.project.remove(i);
        self.run.remove(i);
    }

    /// Where the row of a run's node stands. The rows of the run being moved are the last ones.
    fn place(&self, key: &RunKey, nodes: &[String], node: &str) -> Option<usize> {
        let of_run = (0..self.run.len())
            .rev()
            .take_while(|i| self.run.get(*i) == Some(&key.run) && self.project.get(*i) == Some(&key.project));
        of_run.into_iter().find(|i| nodes.get(*i).is_some_and(|other| other == node))
    }
}

#[derive(Debug, Default)]
pub(super) struct Events {
    pub keys: Keys,
    pub position: Vec<i64>,
    pub kind: Vec<&'static str>,
    pub data: Vec<String>,
    pub metadata: Vec<Option<String>>,
    pub at: Vec<TimestampWithTimeZone>,
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    pub keys: Keys,
    pub node: Vec<String>,
    pub attempt: Vec<i32>,
    pub kind: Vec<String>,
    pub queue: Vec<String>,
    pub input_position: Vec<i64>,
    pub timeout_ms: Vec<Option<i64>>,
    /// Where the fencing tokens of this attempt begin.
    pub token: Vec<i64>,
    pub at: Vec<TimestampWithTimeZone>,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    pub keys: Keys,
    pub node: Vec<String>,
    pub due: Vec<TimestampWithTimeZone>,
    /// The earliest of them, in microseconds since 1970.
    pub earliest: Option<i64>,
}

impl Jobs {
    fn remove(&mut self, i: usize) {
        self.keys.remove(i);
        self.node.remove(i);
        self.attempt.remove(i);
        self.kind.remove(i);
        self.queue.remove(i);
        self.input_position.remove(i);
        self.timeout_ms.remove(i);
        self.token.remove(i);
        self.at.remove(i);
    }
}

impl Timers {
    fn remove(&mut self, i: usize) {
        self.keys.remove(i);
        self.node.remove(i);
        self.due.remove(i);
    }
}

impl Database {
    fn remove(&mut self, i: usize) {
        self.keys.remove(i);
        self.node.remove(i);
        self.attempt.remove(i);
    }
}

#[derive(Debug, Default)]
pub(super) struct Updates {
    pub keys: Keys,
    pub status: Vec<&'static str>,
    pub position: Vec<i64>,
    pub started: Vec<Option<TimestampWithTimeZone>>,
    pub finished: Vec<Option<TimestampWithTimeZone>>,
    pub last: Vec<TimestampWithTimeZone>,
}

/// Work that the database does itself, in a later turn.
#[derive(Debug, Default)]
pub(super) struct Database {
    pub keys: Keys,
    pub node: Vec<String>,
    pub attempt: Vec<i32>,
}

/// Runs to start.
#[derive(Debug, Default)]
pub(super) struct Children {
    pub keys: Keys,
    /// The node that starts it; none for the handler of a failure.
    pub node: Vec<Option<String>>,
    pub run: Vec<String>,
    pub workflow: Vec<String>,
    pub version: Vec<Option<i32>>,
    pub newest: Vec<bool>,
    pub detached: Vec<bool>,
    pub depth: Vec<i32>,
    /// Position of the parent's event that holds the input.
    pub input_position: Vec<i64>,
    pub seed: Vec<i64>,
}

/// Ends of runs that a node of another run waits for.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// The run that ended.
    pub keys: Keys,
    pub status: Vec<&'static str>,
    /// Position of its last event.
    pub position: Vec<i64>,
    pub parent: Vec<String>,
    pub node: Vec<String>,
}

/// All writes of a turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Inbox rows that are dealt with.
    pub consumed: Vec<i64>,
    pub events: Events,
    pub jobs: Jobs,
    pub timers: Timers,
    pub database: Database,
    pub children: Children,
    pub returns: Returns,
    pub updates: Updates,
    /// Runs and nodes whose job and timer have to go.
    pub dropped: Keys,
    pub dropped_nodes: Vec<String>,
    /// Runs to cancel.
    pub canceled: Keys,
    pub canceled_runs: Vec<String>,
    /// Runs that ended while something of theirs was open.
    pub closed: Keys,
    /// Runs that ended.
    pub ended: Vec<pgrx::Uuid>,
    /// Runs that ended and may have held a slot of their workflow.
    pub slots: Keys,
    /// States to be stored.
    pub snapshots: Vec<(RunKey, Snapshot)>,
    /// What events refer to, by the project.
    pub blobs: Vec<(i32, Blob)>,
    /// Which runs refer to it, and to what there is already.
    pub uses: Uses,
}

/// How many events, jobs and timers a batch held at some point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    events: usize,
    jobs: usize,
    timers: usize,
    database: usize,
}

impl Batch {
    /// At commit, wakes who waits for these runs to move, or to end.
    pub fn tell_waiters(&self) {
        self.updates.keys.run.iter().for_each(|run| shmem::notify_run_on_commit(run.as_bytes(), News::Moved));
        self.ended.iter().for_each(|run| shmem::notify_run_on_commit(run.as_bytes(), News::Ended));
    }

    /// Where the batch stands now.
    pub fn mark(&self) -> Mark {
        Mark {
            events: self.events.data.len(),
            jobs: self.jobs.node.len(),
            timers: self.timers.node.len(),
            database: self.database.node.len(),
        }
    }

    /// How many events were added since, and how many bytes of data they have.
    pub fn events_since(&self, mark: Mark) -> (usize, usize) {
        let added = self.events.data.get(mark.events..).unwrap_or_default();
        (added.len(), added.iter().map(String::len).sum())
    }

    /// Adds a snapshot of the state that the run is in after the turn, if it is time for one.
    pub fn snapshot_if_due(&mut self, key: &RunKey, state: &RunState, growth: &mut Growth) {
        if !growth.is_due(guc::snapshot_cadence()) {
            return;
        }
        #[cfg(feature = "faults")]
        let state = &crate::fault::bugs::snapshot_by_clock(state);
        match snapshot::of(state) {
            Ok(snapshot) => {
                *growth = Growth::behind(snapshot.bytes.len());
                self.snapshots.push((*key, snapshot));
            }
            Err(size) => {
                // Not asked again before the log has grown by as much.
                *growth = Growth::behind(size);
                pgrx::warning!(
                    "the state of run {} is too large for a snapshot: about {size} bytes",
                    key.run
                );
            }
        }
    }

    /// Drops the jobs and timers added since: their run ended in the same turn.
    pub fn drop_work_since(&mut self, mark: Mark) {
        let jobs = &mut self.jobs;
        jobs.keys.truncate(mark.jobs);
        jobs.node.truncate(mark.jobs);
        jobs.attempt.truncate(mark.jobs);
        jobs.kind.truncate(mark.jobs);
        jobs.queue.truncate(mark.jobs);
        jobs.input_position.truncate(mark.jobs);
        jobs.timeout_ms.truncate(mark.jobs);
        jobs.token.truncate(mark.jobs);
        jobs.at.truncate(mark.jobs);
        let timers = &mut self.timers;
        timers.keys.truncate(mark.timers);
        timers.node.truncate(mark.timers);
        timers.due.truncate(mark.timers);
        let database = &mut self.database;
        database.keys.truncate(mark.database);
        database.node.truncate(mark.database);
        database.attempt.truncate(mark.database);
    }

    /// Takes back what is outstanding for a node, also what this turn has added.
    pub fn drop_work(&mut self, key: &RunKey, dropped: &Dropped) {
        let node = &*dropped.node;
        while let Some(i) = self.jobs.keys.place(key, &self.jobs.node, node) {
            self.jobs.remove(i);
        }
        while let Some(i) = self.timers.keys.place(key, &self.timers.node, node) {
            self.timers.remove(i);
        }
        while let Some(i) = self.database.keys.place(key, &self.database.node, node) {
            self.database.remove(i);
        }
        self.dropped.push(key);
        self.dropped_nodes.push(node.to_owned());
        if let Some(child) = &dropped.child {
            self.canceled.push(key);
            self.canceled_runs.push(child.to_string());
        }
    }

    /// Adds an event with what it causes. `state` is the state after the whole step.
    pub fn add(&mut self, key: &RunKey, recorded: &Recorded, state: &RunState, metadata: Option<&str>) {
        let at = pg_time(recorded.at);
        let open = |path: &str| state.nodes.get(path).filter(|node| node.is_open());
        match &recorded.event {
            Event::RunStarted(_) | Event::RunRedriven(_) => self.add_deadline(key, state),
            Event::RunForked(_) => {
                self.add_deadline(key, state);
                for (path, node) in state.open_work() {
                    node.timer().into_iter().for_each(|due| self.add_timer(key, path, due));
                }
            }
            Event::NodeScheduled(scheduled) => {
                if let Some(child) = scheduled.child.as_ref() {
                    let input = open(&scheduled.node)
                        .and_then(|node| node.job.as_ref())
                        .map(|job| job.input_position);
                    let input = input.unwrap_or(recorded.position);
                    self.add_child(key, Some(&scheduled.node), child, input);
                }
                if let Some(node) = open(&scheduled.node).filter(|node| node.attempt == scheduled.attempt) {
                    self.add_work(key, &scheduled.node, node, recorded.position, &at);
                }
            }
            Event::NodeEntered(entered) => {
                if let Some(due) = open(&entered.node).and_then(NodeState::timer) {
                    self.add_timer(key, &entered.node, due);
                }
            }
            Event::NodeRetryScheduled(retry) => {
                if let Some(due) = open(&retry.node).and_then(NodeState::timer) {
                    self.add_timer(key, &retry.node, due);
                }
            }
            Event::RunHandlerStarted(handler) => self.add_child(key, None, &handler.child, recorded.position),
            event if event.is_terminal() => {
                self.ended.push(key.run);
                let left = state.nodes.values().any(|node| node.status == NodeStatus::Canceled);
                if left || state.deadline.is_some() {
                    self.closed.push(key);
                }
                self.add_return(key, recorded.position, state);
            }
            _ => {}
        }
        let data = recorded.event.data();
        for sha256 in references_in(&data) {
            self.uses.add(key.project, key.run, &sha256);
            let child = match &recorded.event {
                Event::NodeScheduled(scheduled) => scheduled.child.as_ref(),
                Event::RunHandlerStarted(handler) => Some(&handler.child),
                _ => None,
            };
            // It may be kept longer than the one that starts it.
            if let Some(child) = child.and_then(|child| uuid::Uuid::parse_str(&child.run).ok()) {
                self.uses.add(key.project, pgrx::Uuid::from_bytes(*child.as_bytes()), &sha256);
            }
        }
        self.events.keys.push(key);
        self.events.position.push(recorded.position.cast_signed());
        self.events.kind.push(recorded.event.type_name());
        self.events.data.push(data);
        self.events.metadata.push(metadata.map(str::to_owned));
        self.events.at.push(at);
    }

    /// The job, the timer and the work in the database of a node that was just scheduled.
    fn add_work(
        &mut self,
        key: &RunKey,
        path: &str,
        node: &NodeState,
        position: u64,
        at: &TimestampWithTimeZone,
    ) {
        if let Some(due) = node.timer() {
            self.add_timer(key, path, due);
        }
        let Some(job) = node.job.as_ref().filter(|_| node.status == NodeStatus::Scheduled) else { return };
        let Some(queue) = &job.queue else {
            self.database.keys.push(key);
            self.database.node.push(path.to_owned());
            self.database.attempt.push(node.attempt.cast_signed());
            return;
        };
        self.jobs.keys.push(key);
        self.jobs.node.push(path.to_owned());
        self.jobs.attempt.push(node.attempt.cast_signed());
        self.jobs.kind.push(job.kind.to_string());
        self.jobs.queue.push(queue.to_string());
        self.jobs.input_position.push(job.input_position.cast_signed());
        self.jobs.timeout_ms.push(job.timeout_ms.map(u64::cast_signed));
        self.jobs.token.push(position.cast_signed() << TOKEN_BITS);
        self.jobs.at.push(*at);
    }

    fn add_child(&mut self, key: &RunKey, node: Option<&str>, child: &Child, input_position: u64) {
        let children = &mut self.children;
        children.keys.push(key);
        children.node.push(node.map(str::to_owned));
        children.run.push(child.run.to_string());
        children.workflow.push(child.workflow.to_string());
        children.version.push(child.version.map(u32::cast_signed));
        children.newest.push(child.newest);
        children.detached.push(child.detached);
        children.depth.push(child.depth.cast_signed());
        children.input_position.push(input_position.cast_signed());
        children.seed.push(crate::random::seed());
    }

    /// Tells the run that waits for this one.
    fn add_return(&mut self, key: &RunKey, position: u64, state: &RunState) {
        let Some(parent) = state.parent.as_ref().filter(|parent| !parent.detached) else { return };
        let Some(node) = &parent.node else { return };
        let returns = &mut self.returns;
        returns.keys.push(key);
        returns.status.push(state.status.as_str());
        returns.position.push(position.cast_signed());
        returns.parent.push(parent.run.to_string());
        returns.node.push(node.to_string());
    }

    /// Puts back the timer of a node, or with an empty path the run's own, that still waits for its time.
    pub fn restore_timer(&mut self, key: &RunKey, path: &str, state: &RunState) {
        if state.status.is_terminal() {
            return;
        }
        let due = match path {
            "" => state.deadline,
            path => state.nodes.get(path).and_then(NodeState::timer),
        };
        due.into_iter().for_each(|due| self.add_timer(key, path, due));
    }

    fn add_deadline(&mut self, key: &RunKey, state: &RunState) {
        if let Some(deadline) = state.deadline {
            self.add_timer(key, "", deadline);
        }
    }

    /// One timer a node: a later one takes its place.
    fn add_timer(&mut self, key: &RunKey, node: &str, due: Timestamp) {
        while let Some(i) = self.timers.keys.place(key, &self.timers.node, node) {
            self.timers.remove(i);
        }
        self.timers.keys.push(key);
        self.timers.node.push(node.to_owned());
        self.timers.due.push(pg_time(due));
        let micros = due.as_micros();
        self.timers.earliest = Some(self.timers.earliest.map_or(micros, |earliest| earliest.min(micros)));
    }

    /// Notes where a run stands after the turn.
    pub fn update(&mut self, key: &RunKey, state: &RunState) {
        let updates = &mut self.updates;
        updates.keys.push(key);
        updates.status.push(state.status.as_str());
        updates.position.push(state.position.cast_signed());
        updates.started.push(state.started_at.map(pg_time));
        updates.finished.push(state.finished_at.map(pg_time));
        updates.last.push(pg_time(state.last_at.unwrap_or_default()));
    }
}

fn pg_time(at: Timestamp) -> TimestampWithTimeZone {
    timestamptz(at.as_micros())
}
