//! How a run ends: at once, or after what it did has been undone.

use std::sync::Arc;

use super::{QUARANTINED, Turn, is_quarantine};
use crate::contract::output_fault;
use crate::error::ErrorInfo;
use crate::event::{
    Event, NodeSucceeded, RunCancelRequested, RunCanceled, RunFailed, RunHandlerStarted, RunSucceeded,
    RunUnwinding,
};
use crate::fact::{Cancel, Quarantine};
use crate::json::Json;
use crate::node::{ChildVersion, terminate};
use crate::path;
use crate::state::{NodeState, RunStatus};

/// An end of a kind, with nothing said of why.
fn ending(outcome: RunStatus) -> RunUnwinding {
    RunUnwinding { outcome, error: None, reason: None, output: None, awaited: Vec::new() }
}

impl Turn<'_> {
    pub(super) fn run_failed(&mut self, error: ErrorInfo) {
        self.end(RunUnwinding { error: Some(error), ..ending(RunStatus::Failed) });
    }

    /// The run has come to its end by itself, or a `terminate` node says so.
    pub(super) fn finish(&mut self, output: Json) {
        let error = output_fault(self.workflow, &output);
        let outcome = if error.is_some() { RunStatus::Failed } else { RunStatus::Succeeded };
        self.end(RunUnwinding { error, output: Some(output), ..ending(outcome) });
    }

    pub(super) fn cancel(&mut self, cancel: &Cancel) {
        let is_news = self.state.unwinding.is_none() || cancel.kill;
        if self.state.status.is_terminal() || !is_news {
            return;
        }
        if let Some(start) = cancel.start.as_ref().filter(|_| self.state.position == 0) {
            self.emit(Event::RunStarted(start.clone()));
        }
        let Cancel { reason, kill, .. } = cancel.clone();
        self.emit(Event::RunCancelRequested(RunCancelRequested { reason: reason.clone(), kill }));
        let ending = RunUnwinding { reason, ..ending(RunStatus::Canceled) };
        if kill { self.close(ending) } else { self.end(ending) }
    }

    pub(super) fn quarantine(&mut self, quarantine: &Quarantine) {
        if let Some(start) = quarantine.start.as_ref().filter(|_| self.state.position == 0) {
            self.emit(Event::RunStarted(start.clone()));
        }
        let mut error = quarantine.error.clone();
        if !is_quarantine(&error.class) {
            error.class = Arc::from(QUARANTINED);
        }
        self.drop_within("");
        self.emit(Event::RunFailed(RunFailed { error, output: None, uncompensated: self.not_undone() }));
    }

    pub(super) fn terminate(
        &mut self,
        path: &Arc<str>,
        outcome: RunStatus,
        output: Option<Json>,
        reason: Option<Arc<str>>,
    ) {
        self.emit(Event::NodeSucceeded(NodeSucceeded {
            node: Arc::clone(path),
            attempt: None,
            port: None,
            output: Json::Null,
            signal: None,
            compensate: false,
        }));
        if outcome == RunStatus::Succeeded {
            return self.finish(output.unwrap_or(Json::Null));
        }
        let error = (outcome == RunStatus::Failed)
            .then(|| terminate::failure(reason.as_deref(), output.as_ref()).at_node(path));
        self.end(RunUnwinding { error, reason, output, ..ending(outcome) });
    }

    /// Ends the run, or begins to undo what it did.
    fn end(&mut self, mut ending: RunUnwinding) {
        if self.state.unwinding.is_some() {
            return;
        }
        if ending.outcome == RunStatus::Succeeded {
            return self.close(ending);
        }
        let (awaited, dropped): (Vec<_>, Vec<_>) =
            self.state.open.iter().cloned().partition(|path| self.must_be_awaited(path));
        if awaited.is_empty() && self.state.undo.is_empty() {
            return self.close(ending);
        }
        dropped.iter().for_each(|path| self.drop_work(path));
        self.candidates.clear();
        self.touched.clear();
        ending.awaited = awaited;
        self.emit(Event::RunUnwinding(ending));
    }

    /// Whether an attempt is being made of something that has to be undone: whether it took effect must be
    /// known first.
    fn must_be_awaited(&self, path: &str) -> bool {
        let is_tried = self.state.nodes.get(path).is_some_and(NodeState::is_attempted);
        is_tried && self.workflow.locate(path).is_some_and(|(_, node)| node.compensate.is_some())
    }

    /// Undoes the last thing that is not undone yet; ends the run once there is none.
    pub(super) fn unwind(&mut self) {
        while self.state.open.is_empty() {
            let Some(path) = self.state.undo.last().cloned() else { break };
            let undo: Arc<str> = Arc::from(path::compensation(&path));
            let Some((_, node)) = self.workflow.locate(&undo) else { break };
            let error = self.state.unwinding.as_ref().and_then(|unwinding| unwinding.error.clone());
            let root = self.root(path::prefix(&path), error);
            self.begin(&undo, node, &root);
        }
        if let Some(ending) = self.state.unwinding.clone().filter(|_| self.state.open.is_empty()) {
            self.close(ending);
        }
    }

    fn close(&mut self, ending: RunUnwinding) {
        self.drop_within("");
        let uncompensated = self.not_undone();
        let RunUnwinding { outcome, error, reason, output, .. } = ending;
        if outcome == RunStatus::Failed {
            self.start_handler(error.as_ref());
        }
        self.emit(match outcome {
            RunStatus::Failed => {
                let error = error.unwrap_or_else(|| ErrorInfo::new("internal", "the run failed"));
                Event::RunFailed(RunFailed { error, output, uncompensated })
            }
            RunStatus::Canceled => Event::RunCanceled(RunCanceled { reason, output, uncompensated }),
            _ => Event::RunSucceeded(RunSucceeded { output: output.unwrap_or(Json::Null) }),
        });
    }

    /// What could not be undone, and what nobody has begun to undo.
    fn not_undone(&self) -> Vec<Arc<str>> {
        self.state.uncompensated.iter().chain(self.state.undo.iter().rev()).cloned().collect()
    }

    /// Starts the run that looks after a failure, unless this one is such a run itself.
    fn start_handler(&mut self, error: Option<&ErrorInfo>) {
        let is_handler = self.state.parent.as_ref().is_some_and(|parent| parent.node.is_none());
        let Some(workflow) = self.workflow.on_failure.clone().filter(|_| !is_handler) else { return };
        let Ok(child) = self.child("", workflow, ChildVersion::Newest, true) else { return };
        let input = Json::object([
            ("run", Json::from(self.run)),
            ("workflow", Json::from(&*self.state.workflow)),
            ("version", Json::from(i64::from(self.state.version))),
            ("input", self.state.input.clone()),
            ("error", error.map_or(Json::Null, crate::to_json)),
        ]);
        self.emit(Event::RunHandlerStarted(RunHandlerStarted { child, input }));
    }
}
