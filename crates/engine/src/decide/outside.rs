//! What comes from outside: results, timers, signals, approvals, ends of child runs, and the pause that holds
//! them all back.

use std::sync::Arc;

use super::{Turn, flow};
use crate::error::ErrorInfo;
use crate::event::{ApprovalGiven, Child, Event, NodeLogged, NodeScheduled, RunResumed, SignalReceived};
use crate::fact::{ChildEnded, Fact, JobFailed};
use crate::json::{Json, MAX_DOCUMENT_DEPTH};
use crate::node::wait::{APPROVED, REJECTED};
use crate::state::{NodeState, NodeStatus, OUT, RunStatus};

impl Turn<'_> {
    pub(super) fn job_completed(&mut self, path: &Arc<str>, attempt: u32, output: &Json) {
        if !self.is_under_way(path, attempt) {
            return;
        }
        if output.is_deeper_than(MAX_DOCUMENT_DEPTH) {
            let message = format!("the result is nested deeper than {MAX_DOCUMENT_DEPTH} levels");
            let error = ErrorInfo::new("output_unreadable", message).retryable(false);
            return self.attempt_failed(path, attempt, error);
        }
        let Some((_, node)) = self.workflow.locate(path) else { return };
        match node.node.judge(output) {
            Ok(()) => self.succeed(path, Some(attempt), Arc::from(OUT), output.clone(), None),
            Err(error) => self.attempt_failed(path, attempt, error),
        }
    }

    pub(super) fn job_failed(&mut self, failed: &JobFailed) {
        if self.is_under_way(&failed.node, failed.attempt) {
            self.attempt_failed(&failed.node, failed.attempt, ErrorInfo::from_report(&failed.error));
        }
    }

    pub(super) fn job_logged(&mut self, said: &NodeLogged) {
        if self.is_under_way(&said.node, said.attempt) {
            self.emit(Event::NodeLogged(said.clone()));
        }
    }

    /// Whether exactly this attempt of the node is being made.
    fn is_under_way(&self, path: &str, attempt: u32) -> bool {
        let node = self.state.nodes.get(path);
        node.is_some_and(|node| node.status == NodeStatus::Scheduled && node.attempt == attempt)
    }

    pub(super) fn child_ended(&mut self, ended: &ChildEnded) {
        let path = &ended.node;
        let Some(node) = self.state.nodes.get(path) else { return };
        let is_its = node.child.as_ref().is_some_and(|child| child.run == ended.run);
        if node.status != NodeStatus::Running || !is_its {
            return;
        }
        let attempt = node.attempt;
        match ended.status {
            RunStatus::Succeeded => {
                let output = ended.output.clone().unwrap_or(Json::Null);
                self.succeed(path, Some(attempt), Arc::from(OUT), output, None);
            }
            _ => self.attempt_failed(path, attempt, child_failure(ended)),
        }
    }

    pub(super) fn timer_due(&mut self, path: &Arc<str>) {
        if path.is_empty() {
            if self.state.deadline.is_some_and(|deadline| deadline <= self.at) {
                let message = "the run took longer than its \"timeout\"";
                self.run_failed(ErrorInfo::new("timeout", message).retryable(false));
            }
            return;
        }
        let Some(node) = self.state.nodes.get(path).filter(|node| node.is_open()) else { return };
        let is_late = node.deadline.is_some_and(|deadline| deadline <= self.at);
        if is_late {
            let message = "the node took longer in all than it may";
            return self.fail(path, None, ErrorInfo::new("timeout", message).retryable(false));
        }
        if node.due_at.is_none_or(|due| due > self.at) {
            return;
        }
        match (node.status, node.scope.is_some()) {
            (NodeStatus::Waiting, true) => self.take_up(path),
            (NodeStatus::Waiting, false) => self.succeed(path, None, Arc::from(OUT), Json::Null, None),
            (NodeStatus::Retrying, _) => {
                let node = node.clone();
                self.try_again(path, &node);
            }
            _ => {}
        }
    }

    fn try_again(&mut self, path: &Arc<str>, node: &NodeState) {
        self.schedule_attempt(path, node, node.attempt.saturating_add(1));
    }

    /// Schedules an attempt of a node; every attempt gets the same input.
    pub(super) fn schedule_attempt(&mut self, path: &Arc<str>, node: &NodeState, attempt: u32) {
        let Some(job) = &node.job else { return };
        // Each attempt is a run of its own.
        let child = node.child.clone().map(|child| Child { run: self.child_id(path, attempt), ..child });
        self.emit(Event::NodeScheduled(NodeScheduled {
            queue: job.queue.clone(),
            timeout_ms: job.timeout_ms,
            deadline: node.deadline,
            child,
            ..flow::scheduled(path, &job.kind, attempt)
        }));
    }

    pub(super) fn signal(&mut self, signal: &SignalReceived) {
        if signal.id.as_ref().is_some_and(|id| self.state.signal_ids.contains(id)) {
            return;
        }
        self.emit(Event::SignalReceived(signal.clone()));
        self.deliver(&signal.name);
    }

    /// Gives the oldest kept signal of a name to the node that has waited longest for it, of those it may be for.
    fn deliver(&mut self, name: &str) {
        let waiting = self
            .state
            .open_work()
            .filter(|(_, node)| node.status == NodeStatus::Waiting && node.signal.as_deref() == Some(name));
        let taken = waiting.filter_map(|(path, node)| {
            Some((node.scheduled_at, Arc::clone(path), self.kept_signal(name, path)?))
        });
        let first = taken.min_by(|(a, left, _), (b, right, _)| (a, left).cmp(&(b, right)));
        if let Some((_, path, (position, payload))) = first {
            self.succeed(&path, None, Arc::from(OUT), payload, Some(position));
        }
    }

    /// The oldest signal of a name that nobody has consumed and the node may.
    pub(super) fn kept_signal(&self, name: &str, path: &str) -> Option<(u64, Json)> {
        let is_for = |node: &Option<Arc<str>>| node.as_deref().is_none_or(|node| node == path);
        let kept = self.state.signals.iter().find(|signal| &*signal.name == name && is_for(&signal.node))?;
        Some((kept.position, kept.payload.clone()))
    }

    pub(super) fn approval(&mut self, given: &ApprovalGiven) {
        let Some(node) = self.state.nodes.get(&given.node) else { return };
        let Some(before) = node.approvals.as_ref().filter(|_| node.status == NodeStatus::Waiting) else {
            return;
        };
        if before.iter().any(|other| other.by == given.by) {
            return;
        }
        self.emit(Event::ApprovalGiven(given.clone()));
        let Some((_, definition)) = self.workflow.locate(&given.node) else { return };
        let all =
            self.state.nodes.get(&given.node).and_then(|node| node.approvals.clone()).unwrap_or_default();
        let port = match given.approved {
            true if all.len() >= definition.node.approvers() => APPROVED,
            true => return,
            false => REJECTED,
        };
        let voices = all.iter().map(|given| {
            Json::object([
                ("by", Json::from(&*given.by)),
                ("approved", Json::Bool(given.approved)),
                ("payload", given.payload.clone().unwrap_or(Json::Null)),
            ])
        });
        let output =
            Json::object([("approved", Json::Bool(given.approved)), ("voices", Json::array(voices))]);
        self.succeed(&given.node, None, Arc::from(port), output, None);
    }

    /// Ends a pause: what happened meanwhile counts now, in the order it did.
    pub(super) fn resume(&mut self) {
        let deferred = self.state.deferred.clone();
        self.emit(Event::RunResumed(RunResumed {}));
        for fact in deferred {
            // What came after the end of the run would have changed nothing then either.
            if self.state.status.is_terminal() {
                return;
            }
            // It was written by this engine or an older one, which knew no other kinds.
            if let Ok(fact) = Fact::from_parts(&fact.kind, &fact.data.to_string()) {
                self.happen(&fact);
                self.advance();
            }
        }
        self.reconsider();
    }
}

/// The error of a node whose child run did not end well.
fn child_failure(ended: &ChildEnded) -> ErrorInfo {
    let class = if ended.status == RunStatus::Canceled { "workflow.canceled" } else { "workflow.failed" };
    let message = ended.error.as_ref().map_or("the child run was canceled", |error| &error.message);
    let mut error = ErrorInfo::new(class, message);
    error.details = Some(Json::object([
        ("run", Json::from(&*ended.run)),
        ("error", ended.error.as_ref().map_or(Json::Null, crate::to_json)),
    ]));
    error
}
