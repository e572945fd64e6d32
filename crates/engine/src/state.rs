//! The state of a run: a fold of its events and of nothing else.
//!
//! [`RunState::apply`] must give the same state on every later release for every event ever written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::event::{Event, NodeScheduled, Recorded};
use crate::json::Json;
use crate::time::Timestamp;

/// The port of an ordinary success.
pub const OUT: &str = "out";

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Not begun: no event yet.
    #[default]
    Queued,
    /// Under way.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended on request.
    Canceled,
}

impl RunStatus {
    /// The name used in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether the run is over.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

/// Where a node stands. A node without any event yet is pending and has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its job is ready or with an executor.
    Scheduled,
    /// It waits for a time.
    Waiting,
    /// An attempt failed; the next one waits for its time.
    Retrying,
    /// It has an output.
    Succeeded,
    /// It failed for good.
    Failed,
    /// No path led to it.
    Skipped,
    /// The run ended while it was open.
    Canceled,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Where it stands.
    pub status: NodeStatus,
    /// The attempt under way, or the last one; 0 for nodes that need no executor.
    pub attempt: u32,
    /// The port taken; absent while open, when skipped, and after a failure nobody handles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Arc<str>>,
    /// Its output.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// The error of the last failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// What its job is made of: enough to make it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobOrigin>,
    /// When a waiting or retrying node goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// When it was first scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// When it was settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Where the job of a node comes from; its input stays in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOrigin {
    /// The node's kind.
    pub kind: Arc<str>,
    /// The queue.
    pub queue: Arc<str>,
    /// How long one attempt may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Position of the event that holds the input.
    pub input_position: u64,
}

impl NodeState {
    fn settled(status: NodeStatus, at: Timestamp) -> Self {
        Self {
            status,
            attempt: 0,
            port: None,
            output: None,
            error: None,
            job: None,
            due_at: None,
            scheduled_at: None,
            finished_at: Some(at),
        }
    }

    /// Whether something outside must still happen to the node.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.status, NodeStatus::Scheduled | NodeStatus::Waiting | NodeStatus::Retrying)
    }
}

/// The state of a run after its first `position` events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Position of the last event applied; 0 before the first.
    pub position: u64,
    /// Where the run stands.
    pub status: RunStatus,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The version it runs on.
    pub version: u32,
    /// Seed of its random draws.
    pub seed: u64,
    /// Its input.
    pub input: Json,
    /// Who or what started it.
    pub trigger: Json,
    /// The nodes that have an event, by id.
    pub nodes: BTreeMap<Arc<str>, NodeState>,
    /// Its output, once it ended with one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Why it was canceled, if a reason was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// Whether somebody asked for its end.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Time of the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Time of the terminal event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Time of the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
}

impl RunState {
    /// The state after these events, from nothing.
    ///
    /// # Errors
    /// A position is missing or out of order.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Result<Self, String> {
        let mut state = Self::default();
        for recorded in events {
            state.apply(recorded)?;
        }
        Ok(state)
    }

    /// Takes one event in.
    ///
    /// # Errors
    /// Its position is not the next one.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), String> {
        if recorded.position != self.position + 1 {
            return Err(format!(
                "event at position {} follows position {}",
                recorded.position, self.position
            ));
        }
        self.take(&recorded.event, recorded.at);
        Ok(())
    }

    /// Takes in the event that comes next in the log.
    pub(crate) fn take(&mut self, event: &Event, at: Timestamp) {
        self.position += 1;
        self.last_at = Some(at);
        match event {
            Event::RunStarted(start) => {
                self.status = RunStatus::Running;
                self.workflow = Arc::clone(&start.workflow);
                self.version = start.version;
                self.seed = start.seed;
                self.input = start.input.clone();
                self.trigger = start.trigger.clone();
                self.started_at = Some(at);
            }
            Event::NodeScheduled(scheduled) => self.schedule(scheduled, at),
            Event::NodeSucceeded(done) => {
                let node = self.settle(&done.node, NodeStatus::Succeeded, at);
                node.port = Some(done.port.clone().unwrap_or_else(|| Arc::from(OUT)));
                node.output = Some(done.output.clone());
                node.error = None;
            }
            Event::NodeRetryScheduled(retry) => {
                let node = self.node(&retry.node, at);
                node.status = NodeStatus::Retrying;
                node.error = Some(retry.error.clone());
                node.due_at = Some(retry.due_at);
            }
            Event::NodeFailed(failed) => {
                let node = self.settle(&failed.node, NodeStatus::Failed, at);
                node.port.clone_from(&failed.port);
                node.error = Some(failed.error.clone());
            }
            Event::NodeSkipped(skipped) => {
                self.settle(&skipped.node, NodeStatus::Skipped, at);
            }
            Event::RunCancelRequested(request) => {
                self.cancel_requested = true;
                self.reason.clone_from(&request.reason);
            }
            Event::RunSucceeded(end) => {
                self.output = Some(end.output.clone());
                self.end(RunStatus::Succeeded, at);
            }
            Event::RunFailed(end) => {
                self.error = Some(end.error.clone());
                self.output.clone_from(&end.output);
                self.end(RunStatus::Failed, at);
            }
            Event::RunCanceled(end) => {
                self.reason.clone_from(&end.reason);
                self.output.clone_from(&end.output);
                self.end(RunStatus::Canceled, at);
            }
        }
    }

    fn schedule(&mut self, scheduled: &NodeScheduled, at: Timestamp) {
        let position = self.position;
        let node = self.node(&scheduled.node, at);
        node.attempt = scheduled.attempt;
        node.due_at = scheduled.due_at;
        node.scheduled_at.get_or_insert(at);
        node.finished_at = None;
        node.status = if scheduled.queue.is_some() { NodeStatus::Scheduled } else { NodeStatus::Waiting };
        if let (Some(queue), Some(_)) = (&scheduled.queue, &scheduled.input) {
            node.job = Some(JobOrigin {
                kind: Arc::clone(&scheduled.kind),
                queue: Arc::clone(queue),
                timeout_ms: scheduled.timeout_ms,
                input_position: position,
            });
        }
    }

    fn node(&mut self, id: &Arc<str>, at: Timestamp) -> &mut NodeState {
        self.nodes.entry(Arc::clone(id)).or_insert_with(|| NodeState::settled(NodeStatus::Scheduled, at))
    }

    fn settle(&mut self, id: &Arc<str>, status: NodeStatus, at: Timestamp) -> &mut NodeState {
        let node = self.node(id, at);
        node.status = status;
        node.due_at = None;
        node.finished_at = Some(at);
        node
    }

    fn end(&mut self, status: RunStatus, at: Timestamp) {
        self.status = status;
        self.finished_at = Some(at);
        for node in self.nodes.values_mut().filter(|node| node.is_open()) {
            node.status = NodeStatus::Canceled;
            node.due_at = None;
            node.finished_at = Some(at);
        }
    }

    /// The jobs and timers that must exist for this state, in node order.
    pub fn open_work(&self) -> impl Iterator<Item = (&Arc<str>, &NodeState)> {
        self.nodes.iter().filter(|(_, node)| node.is_open())
    }

    /// A rough size in bytes, for bounding caches.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        let outputs: usize =
            self.nodes.values().filter_map(|node| node.output.as_ref()).map(Json::byte_size).sum();
        512 + self.input.byte_size() + outputs + self.nodes.len() * 256
    }
}
