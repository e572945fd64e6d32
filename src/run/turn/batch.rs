//! What a turn is going to write, column by column, as the statements take it.

use meshhook_engine::event::{Event, Recorded};
use meshhook_engine::state::{NodeStatus, RunState};
use meshhook_engine::time::Timestamp;
use pgrx::datum::TimestampWithTimeZone;

use super::RunKey;
use crate::random::timestamptz;

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

#[derive(Debug, Default)]
pub(super) struct Updates {
    pub keys: Keys,
    pub status: Vec<&'static str>,
    pub position: Vec<i64>,
    pub started: Vec<Option<TimestampWithTimeZone>>,
    pub finished: Vec<Option<TimestampWithTimeZone>>,
    pub last: Vec<TimestampWithTimeZone>,
}

/// All writes of a turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Inbox rows that are dealt with.
    pub consumed: Vec<i64>,
    pub events: Events,
    pub jobs: Jobs,
    pub timers: Timers,
    pub updates: Updates,
    /// Runs that ended while something of theirs was open.
    pub closed: Keys,
    /// Runs that ended.
    pub ended: Vec<pgrx::Uuid>,
    /// Runs that ended and may have held a slot of their workflow.
    pub slots: Keys,
}

/// How many jobs and timers a batch held at some point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    jobs: usize,
    timers: usize,
}

impl Batch {
    /// Where the batch stands now.
    pub fn mark(&self) -> Mark {
        Mark { jobs: self.jobs.node.len(), timers: self.timers.node.len() }
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
    }

    /// Adds an event with what it causes. `state` is the state after the whole step.
    pub fn add(&mut self, key: &RunKey, recorded: &Recorded, state: &RunState, metadata: Option<&str>) {
        let at = pg_time(recorded.at);
        match &recorded.event {
            Event::NodeScheduled(scheduled) => {
                let job = state.nodes.get(&scheduled.node).and_then(|node| node.job.as_ref());
                if let Some(due) = scheduled.due_at {
                    self.add_timer(key, &scheduled.node, due);
                } else if let Some(job) = job {
                    self.jobs.keys.push(key);
                    self.jobs.node.push(scheduled.node.to_string());
                    self.jobs.attempt.push(scheduled.attempt.cast_signed());
                    self.jobs.kind.push(job.kind.to_string());
                    self.jobs.queue.push(job.queue.to_string());
                    self.jobs.input_position.push(job.input_position.cast_signed());
                    self.jobs.timeout_ms.push(job.timeout_ms.map(u64::cast_signed));
                    self.jobs.token.push(recorded.position.cast_signed() << TOKEN_BITS);
                    self.jobs.at.push(at);
                }
            }
            Event::NodeRetryScheduled(retry) => self.add_timer(key, &retry.node, retry.due_at),
            event if event.is_terminal() => {
                self.ended.push(key.run);
                if state.nodes.values().any(|node| node.status == NodeStatus::Canceled) {
                    self.closed.push(key);
                }
            }
            _ => {}
        }
        self.events.keys.push(key);
        self.events.position.push(recorded.position.cast_signed());
        self.events.kind.push(recorded.event.type_name());
        self.events.data.push(recorded.event.data());
        self.events.metadata.push(metadata.map(str::to_owned));
        self.events.at.push(at);
    }

    fn add_timer(&mut self, key: &RunKey, node: &str, due: Timestamp) {
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
