//! The rules: which events follow from a fact.
//!
//! [`step`] depends on the definition, the state folded from the log, the fact and its time; on nothing
//! else. `docs/semantics` of ports, joins, skipping and failure are these functions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::definition::{ERROR_PORT, Join, TIMEOUT_PORT, Workflow};
use crate::error::ErrorInfo;
use crate::event::{
    Event, NodeFailed, NodeRetryScheduled, NodeScheduled, NodeSkipped, NodeSucceeded, RunCancelRequested,
    RunCanceled, RunFailed, RunSucceeded,
};
use crate::fact::{Cancel, Fact, Quarantine, Start};
use crate::json::{Json, MAX_DOCUMENT_DEPTH};
use crate::node::{self, Action, Context};
use crate::state::{NodeStatus, OUT, RunState, RunStatus};
use crate::time::Timestamp;

/// Error class of a run that the engine gave up on; see [`Fact::Quarantine`].
pub const QUARANTINED: &str = "quarantined";

/// Turns a fact into the events that record it and follow from it, and applies them to `state`.
///
/// No event means that the fact changes nothing: the run is over, or the attempt it speaks of is not
/// the one under way. `at` must not lie before the last event's time.
pub fn step(workflow: &Workflow, run: &str, state: &mut RunState, fact: &Fact, at: Timestamp) -> Vec<Event> {
    if state.status.is_terminal() {
        return Vec::new();
    }
    let mut turn =
        Turn { workflow, run, state, at, events: Vec::new(), candidates: BTreeSet::new(), outputs: None };
    match fact {
        Fact::Start(start) => turn.start(start),
        Fact::JobCompleted(done) => turn.job_completed(&done.node, done.attempt, &done.output),
        Fact::JobFailed(failed) => {
            let error = ErrorInfo::from_report(&failed.error);
            turn.job_failed(&failed.node, failed.attempt, error);
        }
        Fact::TimerDue(timer) => turn.timer_due(&timer.node),
        Fact::Cancel(cancel) => turn.cancel(cancel),
        Fact::Quarantine(quarantine) => turn.quarantine(quarantine),
    }
    turn.events
}

/// What a node's incoming edges say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Wait,
    Fire,
    Skip,
}

struct Turn<'a> {
    workflow: &'a Workflow,
    run: &'a str,
    state: &'a mut RunState,
    at: Timestamp,
    events: Vec<Event>,
    /// Nodes whose incoming edges changed, by (rank, index): the order of firing is the definition's.
    candidates: BTreeSet<(usize, usize)>,
    /// `.nodes` of expressions, made when first needed.
    outputs: Option<Arc<BTreeMap<Arc<str>, Json>>>,
}

impl Turn<'_> {
    fn start(&mut self, start: &Start) {
        if self.state.position > 0 {
            return;
        }
        self.emit(Event::RunStarted(start.clone()));
        for (index, node) in self.workflow.nodes.iter().enumerate() {
            if node.incoming.is_empty() {
                self.candidates.insert((node.rank, index));
            }
        }
        self.advance();
    }

    fn job_completed(&mut self, id: &Arc<str>, attempt: u32, output: &Json) {
        let Some(index) = self.attempt_under_way(id, attempt) else { return };
        if output.is_deeper_than(MAX_DOCUMENT_DEPTH) {
            let message = format!("the result is nested deeper than {MAX_DOCUMENT_DEPTH} levels");
            let error = ErrorInfo::new("output_unreadable", message).retryable(false);
            return self.attempt_failed(index, attempt, error);
        }
        match self.workflow.nodes[index].node.judge(output) {
            Ok(()) => {
                self.succeed(index, Some(attempt), Arc::from(OUT), output.clone());
                self.advance();
            }
            Err(error) => self.attempt_failed(index, attempt, error),
        }
    }

    fn job_failed(&mut self, id: &Arc<str>, attempt: u32, error: ErrorInfo) {
        if let Some(index) = self.attempt_under_way(id, attempt) {
            self.attempt_failed(index, attempt, error);
        }
    }

    /// The node's index if exactly this attempt of it is with an executor.
    fn attempt_under_way(&self, id: &str, attempt: u32) -> Option<usize> {
        let node = self.state.nodes.get(id)?;
        (node.status == NodeStatus::Scheduled && node.attempt == attempt).then(|| self.workflow.index(id))?
    }

    fn attempt_failed(&mut self, index: usize, attempt: u32, error: ErrorInfo) {
        let node = &self.workflow.nodes[index];
        let delay = match error.retryable {
            Some(false) => None,
            _ => node.retry.delay_ms(attempt, error.retry_after_ms, self.state.seed, &node.id),
        };
        match delay {
            Some(millis) => self.emit(Event::NodeRetryScheduled(NodeRetryScheduled {
                node: Arc::clone(&node.id),
                attempt,
                error,
                due_at: self.at.plus_millis(millis),
            })),
            None => {
                self.fail(index, Some(attempt), error);
                self.advance();
            }
        }
    }

    fn timer_due(&mut self, id: &Arc<str>) {
        let Some(index) = self.workflow.index(id) else { return };
        let Some(node) = self.state.nodes.get(id) else { return };
        match (node.status, &node.job) {
            (NodeStatus::Waiting, _) => {
                self.succeed(index, None, Arc::from(OUT), Json::Null);
                self.advance();
            }
            (NodeStatus::Retrying, Some(job)) => {
                let event = NodeScheduled {
                    node: Arc::clone(id),
                    kind: Arc::clone(&job.kind),
                    attempt: node.attempt.saturating_add(1),
                    queue: Some(Arc::clone(&job.queue)),
                    input: None,
                    timeout_ms: job.timeout_ms,
                    due_at: None,
                };
                self.emit(Event::NodeScheduled(event));
            }
            _ => {}
        }
    }

    fn cancel(&mut self, cancel: &Cancel) {
        if let Some(start) = cancel.start.as_ref().filter(|_| self.state.position == 0) {
            self.emit(Event::RunStarted(start.clone()));
        }
        let reason = cancel.reason.clone();
        self.emit(Event::RunCancelRequested(RunCancelRequested { reason: reason.clone() }));
        self.emit(Event::RunCanceled(RunCanceled { reason, output: None }));
    }

    fn quarantine(&mut self, quarantine: &Quarantine) {
        if let Some(start) = quarantine.start.as_ref().filter(|_| self.state.position == 0) {
            self.emit(Event::RunStarted(start.clone()));
        }
        let mut error = quarantine.error.clone();
        error.class = Arc::from(QUARANTINED);
        self.emit(Event::RunFailed(RunFailed { error, output: None }));
    }

    /// Fires and skips nodes until nothing more follows; ends the run if nothing is left to wait for.
    fn advance(&mut self) {
        while let Some((_, index)) = self.candidates.pop_first() {
            if self.state.status.is_terminal() {
                return;
            }
            let id = &self.workflow.nodes[index].id;
            if self.state.nodes.contains_key(id) {
                continue;
            }
            match self.readiness(index) {
                Readiness::Wait => {}
                Readiness::Fire => self.fire(index),
                Readiness::Skip => {
                    self.emit(Event::NodeSkipped(NodeSkipped { node: Arc::clone(id) }));
                    self.touch_successors(index);
                }
            }
        }
        if !self.state.status.is_terminal() && self.state.open_work().next().is_none() {
            self.finish();
        }
    }

    fn readiness(&self, index: usize) -> Readiness {
        let node = &self.workflow.nodes[index];
        let (mut taken, mut pending) = (node.incoming.is_empty(), false);
        for edge in &node.incoming {
            let edge = &self.workflow.edges[*edge];
            match self.state.nodes.get(&self.workflow.nodes[edge.from].id) {
                Some(source) if !source.is_open() => taken |= source.port.as_deref() == Some(&*edge.port),
                _ => pending = true,
            }
        }
        match node.join {
            Join::Any if taken => Readiness::Fire,
            _ if pending => Readiness::Wait,
            _ if taken => Readiness::Fire,
            _ => Readiness::Skip,
        }
    }

    fn fire(&mut self, index: usize) {
        let node = &self.workflow.nodes[index];
        let root = self.root(index);
        let context = Context { root: &root, at: self.at, timeout_ms: node.timeout_ms };
        let action = node.node.fire(&context);
        drop(root);
        let scheduled = NodeScheduled {
            node: Arc::clone(&node.id),
            kind: Arc::from(node.kind.name),
            attempt: 1,
            queue: None,
            input: None,
            timeout_ms: None,
            due_at: None,
        };
        match action {
            Ok(Action::Succeed { port, output }) => self.succeed(index, None, port, output),
            Ok(Action::Job { queue, input, timeout_ms }) => {
                let event = NodeScheduled { queue: Some(queue), input: Some(input), timeout_ms, ..scheduled };
                self.emit(Event::NodeScheduled(event));
            }
            Ok(Action::WaitUntil(due)) => {
                self.emit(Event::NodeScheduled(NodeScheduled { due_at: Some(due), ..scheduled }));
            }
            Ok(Action::End { status, output, reason }) => self.terminate(index, status, output, reason),
            Err(error) => self.fail(index, None, error),
        }
    }

    fn terminate(&mut self, index: usize, status: RunStatus, output: Option<Json>, reason: Option<Arc<str>>) {
        let id = &self.workflow.nodes[index].id;
        self.emit(Event::NodeSucceeded(NodeSucceeded {
            node: Arc::clone(id),
            attempt: None,
            port: None,
            output: Json::Null,
        }));
        self.emit(match status {
            RunStatus::Failed => {
                let error = node::terminate::failure(reason.as_deref(), output.as_ref()).at_node(id);
                Event::RunFailed(RunFailed { error, output })
            }
            RunStatus::Canceled => Event::RunCanceled(RunCanceled { reason, output }),
            _ => Event::RunSucceeded(RunSucceeded { output: output.unwrap_or(Json::Null) }),
        });
    }

    fn succeed(&mut self, index: usize, attempt: Option<u32>, port: Arc<str>, output: Json) {
        let node = Arc::clone(&self.workflow.nodes[index].id);
        let port = (&*port != OUT).then_some(port);
        self.emit(Event::NodeSucceeded(NodeSucceeded { node, attempt, port, output }));
        self.touch_successors(index);
    }

    /// Settles a node as failed: on the edge that handles it, or the run fails with it.
    fn fail(&mut self, index: usize, attempt: Option<u32>, error: ErrorInfo) {
        let id = &self.workflow.nodes[index].id;
        let port = [TIMEOUT_PORT, ERROR_PORT].into_iter().find(|port| {
            (*port == ERROR_PORT || &*error.class == "timeout") && self.workflow.has_edge(index, port)
        });
        let run_error = port.is_none().then(|| error.clone().at_node(id));
        let node = Arc::clone(id);
        self.emit(Event::NodeFailed(NodeFailed { node, attempt, error, port: port.map(Arc::from) }));
        match run_error {
            Some(error) => self.emit(Event::RunFailed(RunFailed { error, output: None })),
            None => self.touch_successors(index),
        }
    }

    fn touch_successors(&mut self, index: usize) {
        for edge in &self.workflow.nodes[index].outgoing {
            let to = self.workflow.edges[*edge].to;
            self.candidates.insert((self.workflow.nodes[to].rank, to));
        }
    }

    fn finish(&mut self) {
        // In a graph without cycles every node is settled once nothing is open; this is the proof's guard.
        if let Some(pending) =
            self.workflow.nodes.iter().find(|node| !self.state.nodes.contains_key(&node.id))
        {
            let message = format!("node \"{}\" waits for nothing that can still happen", pending.id);
            self.emit(Event::RunFailed(RunFailed {
                error: ErrorInfo::new("internal", message),
                output: None,
            }));
            return;
        }
        let output = |id: &Arc<str>| self.state.nodes.get(id).and_then(|node| node.output.clone());
        let mut leaves = self.workflow.leaves();
        let output = match (leaves.next(), leaves.next()) {
            (Some(only), None) => output(&only.id).unwrap_or(Json::Null),
            _ => {
                let outputs =
                    self.workflow.leaves().filter_map(|leaf| Some((Arc::clone(&leaf.id), output(&leaf.id)?)));
                Json::Obj(Arc::new(outputs.collect()))
            }
        };
        self.emit(Event::RunSucceeded(RunSucceeded { output }));
    }

    fn emit(&mut self, event: Event) {
        self.state.take(&event, self.at);
        if let (Some(outputs), Event::NodeSucceeded(_) | Event::NodeFailed(_)) = (&mut self.outputs, &event)
            && let Event::NodeSucceeded(NodeSucceeded { node, .. })
            | Event::NodeFailed(NodeFailed { node, .. }) = &event
            && let Some(view) = node_view(self.state, node)
        {
            Arc::make_mut(outputs).insert(Arc::clone(node), view);
        }
        self.events.push(event);
    }

    /// The root that the expressions of a node are evaluated against.
    fn root(&mut self, index: usize) -> Json {
        let error = self.handled_error(index).map_or(Json::Null, error_view);
        let state = &*self.state;
        let outputs = self.outputs.get_or_insert_with(|| {
            let views = state.nodes.keys().filter_map(|id| Some((Arc::clone(id), node_view(state, id)?)));
            Arc::new(views.collect())
        });
        let started_at = state.started_at.map_or(Json::Null, |at| Json::from(at.to_string()));
        let run = Json::object([
            ("id", Json::from(self.run)),
            ("workflow", Json::from(&*state.workflow)),
            ("version", Json::from(i64::from(state.version))),
            ("started_at", started_at),
            ("trigger", state.trigger.clone()),
        ]);
        Json::object([
            ("input", state.input.clone()),
            ("nodes", Json::Obj(Arc::clone(outputs))),
            ("run", run),
            ("vars", self.workflow.vars.clone()),
            ("error", error),
            ("now", Json::from(self.at.to_string())),
        ])
    }

    /// The error a node was reached by: that of the first taken edge on an `error` or `timeout` port.
    fn handled_error(&self, index: usize) -> Option<&ErrorInfo> {
        self.workflow.nodes[index].incoming.iter().find_map(|edge| {
            let edge = &self.workflow.edges[*edge];
            let source = self.state.nodes.get(&self.workflow.nodes[edge.from].id)?;
            let taken =
                matches!(&*edge.port, ERROR_PORT | TIMEOUT_PORT) && source.port.as_ref() == Some(&edge.port);
            if taken { source.error.as_ref() } else { None }
        })
    }
}

/// What expressions see of a settled node: its output, or its error.
fn node_view(state: &RunState, id: &str) -> Option<Json> {
    let node = state.nodes.get(id)?;
    match (node.status, &node.output, &node.error) {
        (NodeStatus::Succeeded, Some(output), _) => Some(Json::object([("output", output.clone())])),
        (NodeStatus::Failed, _, Some(error)) => Some(Json::object([("error", error_view(error))])),
        _ => None,
    }
}

fn error_view(error: &ErrorInfo) -> Json {
    let status = error.status.map_or(Json::Null, |status| Json::from(i64::from(status)));
    Json::object([
        ("class", Json::from(&*error.class)),
        ("message", Json::from(&*error.message)),
        ("status", status),
        ("details", error.details.clone().unwrap_or(Json::Null)),
    ])
}
