//! The state of a run: a fold of its events and of nothing else.
//!
//! [`RunState::apply`] must give the same state on every later release for every event ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::event::{
    ApprovalGiven, Child, Event, FactDeferred, NodeEntered, NodeOverridden, NodeScheduled, NodeSucceeded,
    Recorded, RunForked, RunRedriven, RunResponded, RunUnwinding, SignalReceived,
};
use crate::fact::Parent;
use crate::json::Json;
use crate::path;
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
    /// Held by somebody: what happens meanwhile is recorded and counts later.
    Paused,
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
            Self::Paused => "paused",
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
    /// Its work is ready or being done.
    Scheduled,
    /// It waits for a time, a signal or people.
    Waiting,
    /// Its body or its child run is under way.
    Running,
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
    /// What its work is made of: enough to make it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobOrigin>,
    /// When a waiting or retrying node goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// When it has taken too long in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The signal it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Arc<str>>,
    /// What people said, where it waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Vec<ApprovalGiven>>,
    /// The run it started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<Child>,
    /// How far its body has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// When it was first scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// When it was settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// How far the body of a map or repeat has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// The items of a map; absent for a repeat.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub items: Option<Json>,
    /// The index after the highest one begun.
    pub next: u32,
    /// Indexes below `next` that have to be begun again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub again: BTreeSet<u32>,
    /// Indexes under way.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub running: BTreeSet<u32>,
    /// What came out: of every item that is done, or of a repeat's last iteration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub results: BTreeMap<u32, ItemResult>,
    /// How many of the results are failures.
    #[serde(default)]
    pub failed: u32,
}

impl Scope {
    /// How many items there are; 0 for a repeat.
    #[must_use]
    pub fn count(&self) -> u32 {
        let items = self.items.as_ref().and_then(Json::as_arr).map_or(0, <[Json]>::len);
        u32::try_from(items).unwrap_or(u32::MAX)
    }

    /// What `.item` is for an index: the item, or what came out of the iteration before.
    #[must_use]
    pub fn item(&self, index: u32) -> Json {
        let found = match &self.items {
            Some(items) => items.as_arr().and_then(|items| items.get(index as usize)),
            None => index.checked_sub(1).and_then(|before| self.results.get(&before)?.output()),
        };
        found.cloned().unwrap_or(Json::Null)
    }

    fn finish(&mut self, index: u32, result: ItemResult) {
        self.running.remove(&index);
        if self.items.is_none() {
            self.results.clear();
        }
        self.failed += u32::from(matches!(result, ItemResult::Failed(_)));
        self.results.insert(index, result);
    }

    /// Makes what failed or was under way pending again.
    fn redrive(&mut self) {
        self.again.append(&mut self.running);
        let failed = self.results.iter().filter(|(_, result)| matches!(result, ItemResult::Failed(_)));
        self.again.extend(failed.map(|(index, _)| *index));
        self.results.retain(|_, result| matches!(result, ItemResult::Succeeded(_)));
        self.failed = 0;
    }
}

/// What came out of the body for one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemResult {
    /// The body's output.
    Succeeded(Json),
    /// Why it failed.
    Failed(ErrorInfo),
}

impl ItemResult {
    /// The output of a success.
    #[must_use]
    pub fn output(&self) -> Option<&Json> {
        match self {
            Self::Succeeded(output) => Some(output),
            Self::Failed(_) => None,
        }
    }
}

/// A signal that no node has consumed yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptSignal {
    /// Position of its event.
    pub position: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What it brings.
    pub payload: Json,
    /// The only node that may consume it, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
}

/// Where the work of a node comes from; its input stays in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOrigin {
    /// The node's kind.
    pub kind: Arc<str>,
    /// The queue of a job; absent for work in the database and for child runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Arc<str>>,
    /// How long one attempt may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Position of the event that holds the input.
    pub input_position: u64,
}

impl NodeState {
    /// As JSON. The output, which may be large, is shared with the state rather than written out and read again.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let Some(output) = &self.output else { return crate::to_json(self) };
        let mut document = crate::to_json(&Self { output: None, ..self.clone() });
        if let Json::Obj(members) = &mut document {
            Arc::make_mut(members).insert("output".into(), output.clone());
        }
        document
    }

    fn settled(status: NodeStatus, at: Timestamp) -> Self {
        Self {
            status,
            attempt: 0,
            port: None,
            output: None,
            error: None,
            job: None,
            due_at: None,
            deadline: None,
            signal: None,
            approvals: None,
            child: None,
            scope: None,
            scheduled_at: None,
            finished_at: Some(at),
        }
    }

    /// Whether something outside must still happen to the node.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(
            self.status,
            NodeStatus::Scheduled | NodeStatus::Waiting | NodeStatus::Retrying | NodeStatus::Running
        )
    }

    /// Whether an attempt is being made, by an executor, the database or a child run.
    #[must_use]
    pub fn is_attempted(&self) -> bool {
        self.status == NodeStatus::Scheduled || (self.status == NodeStatus::Running && self.child.is_some())
    }

    /// When the node's timer must fire, if it needs one.
    #[must_use]
    pub fn timer(&self) -> Option<Timestamp> {
        self.due_at.into_iter().chain(self.deadline).min().filter(|_| self.is_open())
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
    /// The run that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The run that its first events were copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<Arc<str>>,
    /// `.vars`, where somebody has changed them; else they are the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub vars: Option<Json>,
    /// The nodes that have an event, by path: the id, and inside bodies `<map>/<index>/<id>`. What a body did
    /// for an item is forgotten with the item's end.
    pub nodes: BTreeMap<Arc<str>, NodeState>,
    /// The paths of the nodes that are open.
    pub open: BTreeSet<Arc<str>>,
    /// Nodes that have to be undone if the run fails or is canceled, in the order they succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Arc<str>>,
    /// How the run is going to end, once everything is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwinding: Option<RunUnwinding>,
    /// Nodes that could not be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncompensated: Vec<Arc<str>>,
    /// Signals that no node has consumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<KeptSignal>,
    /// The senders' ids of all signals that had one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub signal_ids: BTreeSet<Arc<str>>,
    /// What happened during a pause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deferred: Vec<FactDeferred>,
    /// The answer to whoever started the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<RunResponded>,
    /// Whether it was ended with nothing undone; it cannot go on after that.
    #[serde(default)]
    pub killed: bool,
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
    /// When the run has taken too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
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
                self.parent.clone_from(&start.parent);
                self.deadline = start.deadline;
                self.started_at = Some(at);
            }
            Event::NodeScheduled(scheduled) => self.schedule(scheduled, at),
            Event::NodeEntered(entered) => self.enter(entered, at),
            Event::ItemStarted(item) => {
                if let Some(scope) = self.scope(&item.node) {
                    scope.again.remove(&item.index);
                    scope.running.insert(item.index);
                    scope.next = scope.next.max(item.index.saturating_add(1));
                }
                if let Some(node) = self.nodes.get_mut(&item.node) {
                    node.due_at = None;
                }
                self.set_status(&item.node, NodeStatus::Running);
            }
            Event::ItemSucceeded(item) => {
                self.finish_item(&item.node, item.index, ItemResult::Succeeded(item.output.clone()), at);
            }
            Event::ItemFailed(item) => {
                self.finish_item(&item.node, item.index, ItemResult::Failed(item.error.clone()), at);
            }
            Event::NodeSucceeded(done) => self.succeed(done, at),
            Event::NodeRetryScheduled(retry) => {
                let node = self.node(&retry.node, at);
                node.error = Some(retry.error.clone());
                node.due_at = Some(retry.due_at);
                self.set_status(&retry.node, NodeStatus::Retrying);
            }
            Event::NodeFailed(failed) => {
                let node = self.settle(&failed.node, NodeStatus::Failed, at);
                node.port.clone_from(&failed.port);
                node.error = Some(failed.error.clone());
                self.cancel_within(&format!("{}/", failed.node), at);
                if let Some(undone) = path::compensated(&failed.node) {
                    self.undo.retain(|path| **path != *undone);
                    self.uncompensated.push(Arc::from(undone));
                }
            }
            Event::NodeSkipped(skipped) => {
                self.settle(&skipped.node, NodeStatus::Skipped, at);
            }
            Event::SignalReceived(signal) => {
                self.signal_ids.extend(signal.id.clone());
                let SignalReceived { name, payload, node, .. } = signal.clone();
                self.signals.push(KeptSignal { position: self.position, name, payload, node });
            }
            Event::ApprovalGiven(given) => {
                self.node(&given.node, at).approvals.get_or_insert_default().push(given.clone());
            }
            Event::FactDeferred(fact) => self.deferred.push(fact.clone()),
            Event::RunPaused(_) => self.status = RunStatus::Paused,
            Event::RunResumed(_) => {
                self.status = RunStatus::Running;
                self.deferred.clear();
            }
            Event::RunResponded(response) => self.response = Some(response.clone()),
            Event::RunCancelRequested(request) => {
                self.cancel_requested = true;
                self.killed = request.kill;
                self.reason.clone_from(&request.reason);
            }
            Event::RunUnwinding(unwinding) => {
                self.cancel_open(|path| !unwinding.awaited.contains(path), at);
                self.unwinding = Some(unwinding.clone());
            }
            Event::RunHandlerStarted(_) | Event::NodeLogged(_) => {}
            Event::RunRedriven(redriven) => self.redrive(redriven, at),
            Event::RunEdited(edited) => self.edit(edited.vars.as_ref(), &edited.outputs, at),
            Event::NodeOverridden(by_hand) => self.override_node(by_hand, at),
            Event::RunForked(forked) => self.fork(forked, at),
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
        node.deadline = scheduled.deadline;
        node.signal.clone_from(&scheduled.signal);
        node.child.clone_from(&scheduled.child);
        if scheduled.approval {
            node.approvals.get_or_insert_default();
        }
        node.scheduled_at.get_or_insert(at);
        node.finished_at = None;
        if scheduled.input.is_some() {
            node.job = Some(JobOrigin {
                kind: Arc::clone(&scheduled.kind),
                queue: scheduled.queue.clone(),
                timeout_ms: scheduled.timeout_ms,
                input_position: position,
            });
        }
        let status = match (&node.child, &node.job) {
            (Some(_), _) => NodeStatus::Running,
            (None, Some(_)) => NodeStatus::Scheduled,
            (None, None) => NodeStatus::Waiting,
        };
        self.set_status(&scheduled.node, status);
    }

    fn enter(&mut self, entered: &NodeEntered, at: Timestamp) {
        let node = self.node(&entered.node, at);
        node.deadline = entered.deadline;
        node.scheduled_at = Some(at);
        node.finished_at = None;
        node.scope = Some(Scope { items: entered.items.clone(), ..Scope::default() });
        self.set_status(&entered.node, NodeStatus::Running);
    }

    fn succeed(&mut self, done: &NodeSucceeded, at: Timestamp) {
        let node = self.settle(&done.node, NodeStatus::Succeeded, at);
        node.port = Some(done.port.clone().unwrap_or_else(|| Arc::from(OUT)));
        node.output = Some(done.output.clone());
        node.error = None;
        if done.compensate {
            self.undo.push(Arc::clone(&done.node));
        }
        if let Some(position) = done.signal {
            self.signals.retain(|signal| signal.position != position);
        }
        if let Some(undone) = path::compensated(&done.node) {
            self.undo.retain(|path| **path != *undone);
        }
        if !self.undo.iter().any(|path| path::is_within(path, &done.node))
            && let Some(node) = self.nodes.get_mut(&done.node)
        {
            node.scope = None;
        }
    }

    fn finish_item(&mut self, id: &Arc<str>, index: u32, result: ItemResult, at: Timestamp) {
        let prefix = path::item(id, index);
        self.cancel_within(&prefix, at);
        // What has to be undone is looked at again when it is.
        if !self.undo.iter().any(|path| path.starts_with(&prefix)) {
            self.forget_within(&prefix);
        }
        if let Some(scope) = self.scope(id) {
            scope.finish(index, result);
        }
    }

    /// Takes over variables and outputs given by hand; a node that has one counts as succeeded.
    fn edit(&mut self, vars: Option<&Json>, outputs: &BTreeMap<Arc<str>, Json>, at: Timestamp) {
        if let Some(vars) = vars {
            self.vars = Some(vars.clone());
        }
        for (path, output) in outputs {
            if self.nodes.get(path).is_some_and(|node| node.status != NodeStatus::Succeeded) {
                let node = self.settle(path, NodeStatus::Succeeded, at);
                (node.port, node.error, node.scope) = (Some(Arc::from(OUT)), None, None);
            }
            if let Some(node) = self.nodes.get_mut(path) {
                node.output = Some(output.clone());
            }
        }
    }

    fn override_node(&mut self, by_hand: &NodeOverridden, at: Timestamp) {
        self.cancel_within(&format!("{}/", by_hand.node), at);
        let NodeOverridden { node, port, output, .. } = by_hand.clone();
        let done = NodeSucceeded { node, attempt: None, port, output, signal: None, compensate: false };
        self.succeed(&done, at);
    }

    fn fork(&mut self, forked: &RunForked, at: Timestamp) {
        self.forked_from = Some(Arc::clone(&forked.run));
        self.started_at = Some(at);
        self.deadline = forked.deadline;
        if let Some(input) = &forked.input {
            self.input = input.clone();
        }
        // What was reported to the other run, and its timers, are not this one's: it makes its own attempts.
        self.deferred.retain(|fact| {
            !matches!(&*fact.kind, "job.completed" | "job.failed" | "child.ended" | "timer.due")
        });
        // Whoever started the other run waits for that one.
        if let Some(parent) = &mut self.parent {
            parent.detached = true;
        }
    }

    fn redrive(&mut self, redriven: &RunRedriven, at: Timestamp) {
        self.deadline = redriven.deadline;
        self.edit(redriven.vars.as_ref(), &redriven.outputs, at);
        self.status = RunStatus::Running;
        (self.finished_at, self.error, self.output, self.reason) = (None, None, None, None);
        self.cancel_requested = false;
        for path in self.broken() {
            match self.nodes.get_mut(&path) {
                Some(NodeState { scope: Some(scope), status, error, finished_at, .. }) => {
                    scope.redrive();
                    (*status, *error, *finished_at) = (NodeStatus::Running, None, None);
                    let prefixes: Vec<String> =
                        scope.again.iter().map(|index| path::item(&path, *index)).collect();
                    prefixes.iter().for_each(|prefix| self.forget_within(prefix));
                    self.open.insert(path);
                }
                Some(_) => {
                    self.nodes.remove(&path);
                }
                None => {}
            }
        }
        for path in redriven.again.iter().filter(|path| !redriven.outputs.contains_key(*path)) {
            self.nodes.remove(path);
            self.open.remove(path);
            self.forget_within(&format!("{path}/"));
            self.undo.retain(|undo| undo != path && !path::is_within(undo, path));
        }
    }

    fn scope(&mut self, id: &str) -> Option<&mut Scope> {
        self.nodes.get_mut(id)?.scope.as_mut()
    }

    fn node(&mut self, id: &Arc<str>, at: Timestamp) -> &mut NodeState {
        self.nodes.entry(Arc::clone(id)).or_insert_with(|| NodeState::settled(NodeStatus::Scheduled, at))
    }

    fn settle(&mut self, id: &Arc<str>, status: NodeStatus, at: Timestamp) -> &mut NodeState {
        self.open.remove(id);
        let node = self.node(id, at);
        node.status = status;
        node.due_at = None;
        node.deadline = None;
        node.finished_at = Some(at);
        node
    }

    fn set_status(&mut self, id: &Arc<str>, status: NodeStatus) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.status = status;
            if node.is_open() {
                self.open.insert(Arc::clone(id));
            } else {
                self.open.remove(id);
            }
        }
    }

    fn cancel_open(&mut self, which: impl Fn(&Arc<str>) -> bool, at: Timestamp) {
        let open: Vec<Arc<str>> = self.open.iter().filter(|path| which(path)).cloned().collect();
        for path in open {
            self.settle(&path, NodeStatus::Canceled, at);
        }
    }

    fn cancel_within(&mut self, prefix: &str, at: Timestamp) {
        let open: Vec<Arc<str>> = self.open_within(prefix).cloned().collect();
        for path in open {
            self.settle(&path, NodeStatus::Canceled, at);
        }
    }

    fn forget_within(&mut self, prefix: &str) {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let within = self.nodes.range::<str, _>(from).map(|(path, _)| path);
        let gone: Vec<Arc<str>> = within.take_while(|path| path.starts_with(prefix)).cloned().collect();
        for path in gone {
            self.nodes.remove(&path);
            self.open.remove(&path);
        }
    }

    fn end(&mut self, status: RunStatus, at: Timestamp) {
        self.status = status;
        self.finished_at = Some(at);
        self.deferred.clear();
        self.cancel_open(|_| true, at);
    }

    /// The nodes to be done again if the run goes on after its end, in path order: those canceled, and those
    /// whose failure nobody handled. What a body left behind is none of them once its map or repeat is settled.
    #[must_use]
    pub fn broken(&self) -> Vec<Arc<str>> {
        let is_broken = |path: &str| {
            self.nodes.get(path).is_some_and(|node| match node.status {
                NodeStatus::Canceled => true,
                NodeStatus::Failed => node.port.is_none(),
                _ => false,
            })
        };
        let paths = self.nodes.keys();
        paths.filter(|path| is_broken(path) && path::around(path).all(is_broken)).cloned().collect()
    }

    /// The paths of the open nodes that begin with `prefix`.
    pub fn open_within<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        self.open.range::<str, _>(from).take_while(move |path| path.starts_with(prefix))
    }

    /// The nodes that something must still happen to, in path order.
    pub fn open_work(&self) -> impl Iterator<Item = (&Arc<str>, &NodeState)> {
        self.open.iter().filter_map(|path| self.nodes.get_key_value(path))
    }

    /// A rough size in bytes, for bounding caches.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        let node = |node: &NodeState| {
            let results = node.scope.iter().flat_map(|scope| scope.results.values());
            let results: usize = results.filter_map(ItemResult::output).map(Json::byte_size).sum();
            let items = node.scope.as_ref().and_then(|scope| scope.items.as_ref()).map_or(0, Json::byte_size);
            256 + node.output.as_ref().map_or(0, Json::byte_size) + results + items
        };
        let signals: usize = self.signals.iter().map(|signal| 128 + signal.payload.byte_size()).sum();
        let deferred: usize = self.deferred.iter().map(|fact| 128 + fact.data.byte_size()).sum();
        let kept = self.output.iter().chain(&self.vars).map(Json::byte_size).sum::<usize>();
        let ids = 64 * self.signal_ids.len();
        512 + self.input.byte_size()
            + self.nodes.values().map(node).sum::<usize>()
            + signals
            + deferred
            + kept
            + ids
    }
}
