//! What a turn is going to write (`src/run/turn/batch.rs`).

use std::sync::Arc;

use meshhook_engine::decide::Dropped;
use meshhook_engine::event::{Child, Event, Recorded};
use meshhook_engine::state::{NodeState, NodeStatus, RunState};
use meshhook_engine::time::Timestamp;

use crate::database::{Job, Path, Run};

/// The low bits of a fencing token count the claims of its attempt.
const TOKEN_BITS: u32 = 16;

/// A run to start.
#[derive(Clone, Debug)]
pub struct NewChild {
    /// The run that starts it.
    pub parent: Run,
    /// The node that does.
    pub node: Path,
    /// What is known of the child.
    pub child: Child,
    /// Position of the parent's event that holds the input.
    pub input_position: u64,
}

/// The end of a run that a node of another waits for.
#[derive(Clone, Debug)]
pub struct Return {
    /// The run that ended.
    pub run: Run,
    /// Position of its last event.
    pub position: u64,
    /// The run that waits.
    pub parent: Run,
    /// Its node.
    pub node: Path,
}

/// All writes of a turn.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Inbox rows that are dealt with.
    pub consumed: Vec<u64>,
    /// Events.
    pub events: Vec<(Run, Recorded)>,
    /// Jobs.
    pub jobs: Vec<((Run, Path), Job)>,
    /// Timers.
    pub timers: Vec<((Run, Path), Timestamp)>,
    /// Work that the database does itself, in a later turn.
    pub database: Vec<((Run, Path), u32)>,
    /// Runs to start.
    pub children: Vec<NewChild>,
    /// Ends that other runs wait for.
    pub returns: Vec<Return>,
    /// Where runs stand.
    pub updates: Vec<(Run, RunState)>,
    /// Nodes whose job and timer have to go.
    pub dropped: Vec<(Run, Path)>,
    /// Runs to cancel.
    pub canceled: Vec<Run>,
    /// Runs that ended while something of theirs was open.
    pub closed: Vec<Run>,
}

impl Batch {
    /// Takes back what is outstanding for a node, also what this turn has added.
    pub fn drop_work(&mut self, run: &Run, dropped: &Dropped) {
        let key = (Arc::clone(run), Arc::clone(&dropped.node));
        self.jobs.retain(|(other, _)| *other != key);
        self.timers.retain(|(other, _)| *other != key);
        self.database.retain(|(other, _)| *other != key);
        self.dropped.push(key);
        self.canceled.extend(dropped.child.clone());
    }

    /// Drops what this turn added for a run that has ended in it.
    pub fn drop_work_of(&mut self, run: &Run) {
        self.jobs.retain(|((of, _), _)| of != run);
        self.timers.retain(|((of, _), _)| of != run);
        self.database.retain(|((of, _), _)| of != run);
    }

    /// Adds an event with what it causes. `state` is the state after the whole step.
    pub fn add(&mut self, run: &Run, recorded: Recorded, state: &RunState, has_same_tokens: bool) {
        let open = |path: &str| state.nodes.get(path).filter(|node| node.is_open());
        match &recorded.event {
            Event::NodeScheduled(scheduled) => {
                if let Some(child) = scheduled.child.as_ref() {
                    let input = open(&scheduled.node)
                        .and_then(|node| node.job.as_ref())
                        .map(|job| job.input_position);
                    self.children.push(NewChild {
                        parent: Arc::clone(run),
                        node: Arc::clone(&scheduled.node),
                        child: child.clone(),
                        input_position: input.unwrap_or(recorded.position),
                    });
                }
                if let Some(node) = open(&scheduled.node).filter(|node| node.attempt == scheduled.attempt) {
                    let first_token = if has_same_tokens { 0 } else { recorded.position << TOKEN_BITS };
                    self.add_work(run, &scheduled.node, node, first_token);
                }
            }
            Event::NodeRetryScheduled(retry) => {
                if let Some(due) = open(&retry.node).and_then(NodeState::timer) {
                    self.add_timer(run, &retry.node, due);
                }
            }
            event if event.is_terminal() => self.add_end(run, recorded.position, state),
            _ => {}
        }
        self.events.push((Arc::clone(run), recorded));
    }

    fn add_work(&mut self, run: &Run, path: &Path, node: &NodeState, token: u64) {
        if let Some(due) = node.timer() {
            self.add_timer(run, path, due);
        }
        let Some(job) = node.job.as_ref().filter(|_| node.status == NodeStatus::Scheduled) else { return };
        let key = (Arc::clone(run), Arc::clone(path));
        if job.queue.is_none() {
            return self.database.push((key, node.attempt));
        }
        let (attempt, kind) = (node.attempt, Arc::clone(&job.kind));
        self.jobs.push((key, Job { attempt, kind, token, executor: None, lease_expires_at: None }));
    }

    fn add_end(&mut self, run: &Run, position: u64, state: &RunState) {
        if state.nodes.values().any(|node| node.status == NodeStatus::Canceled) {
            self.closed.push(Arc::clone(run));
        }
        let Some(parent) = &state.parent else { return };
        if let Some(node) = &parent.node {
            let (run, parent, node) = (Arc::clone(run), Arc::clone(&parent.run), Arc::clone(node));
            self.returns.push(Return { run, position, parent, node });
        }
    }

    /// Puts back the timer of a node that still waits for its time.
    pub fn restore_timer(&mut self, run: &Run, path: &Path, state: &RunState) {
        let due = state.nodes.get(path).and_then(NodeState::timer);
        due.filter(|_| !state.status.is_terminal())
            .into_iter()
            .for_each(|due| self.add_timer(run, path, due));
    }

    /// One timer a node: a later one takes its place.
    fn add_timer(&mut self, run: &Run, path: &Path, due: Timestamp) {
        let key = (Arc::clone(run), Arc::clone(path));
        self.timers.retain(|(other, _)| *other != key);
        self.timers.push((key, due));
    }
}
