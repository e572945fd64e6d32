//! The rules: which events follow from a fact.
//!
//! [`step`] depends on the definition, the state folded from the log, the fact and its time; on nothing
//! else. `docs/semantics.md` says in words what these functions do: [`flow`] fires nodes and settles them,
//! [`body`] runs maps and repeats, [`outside`] takes in what comes from outside, [`intervene`] what people
//! change by hand, [`ending`] ends runs, [`view`] is what expressions see.

mod body;
mod ending;
mod flow;
mod intervene;
mod outside;
mod view;

pub use intervene::refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::blob::Blob;
use crate::contract::input_fault;
use crate::definition::Workflow;
use crate::event::{Event, FactDeferred};
use crate::fact::{Fact, Start};
use crate::json::Json;
use crate::state::{NodeStatus, RunState, RunStatus};
use crate::time::Timestamp;

/// Error class of a run that the engine gave up on; see [`Fact::Quarantine`].
pub const QUARANTINED: &str = "quarantined";
/// Error class of a run whose log has grown to its limit; the fact behind it is a [`Fact::Quarantine`] too.
pub const LIMIT_EVENTS: &str = "limit.events";

/// Whether an error of this class ended a run from outside, by a [`Fact::Quarantine`].
pub(crate) fn is_quarantine(class: &str) -> bool {
    matches!(class, QUARANTINED | LIMIT_EVENTS)
}

/// How many runs may stand above a run.
pub const MAX_RUN_DEPTH: u32 = 16;
/// After so many events a map or repeat lets other runs have their turn before it goes on.
const MAX_STEP_EVENTS: usize = 1_000;

/// What follows from a fact.
#[derive(Debug, Default)]
pub struct Step {
    /// The events, in order. None means that the fact changes nothing: the run is over, or the attempt it
    /// speaks of is not the one under way.
    pub events: Vec<Event>,
    /// Nodes whose job and timer, as far as there are any, must not be left behind.
    pub dropped: Vec<Dropped>,
    /// What the events refer to and has to be kept beside them.
    pub blobs: Vec<Blob>,
}

/// Work that nobody has to do any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The node's path.
    pub node: Arc<str>,
    /// The run it started, to be canceled.
    pub child: Option<Arc<str>>,
}

/// Turns a fact into the events that record it and follow from it, and applies them to `state`.
///
/// `at` must not lie before the last event's time.
pub fn step(workflow: &Workflow, run: &str, state: &mut RunState, fact: &Fact, at: Timestamp) -> Step {
    let mut turn = Turn {
        workflow,
        run,
        state,
        at,
        step: Step::default(),
        candidates: BTreeSet::new(),
        touched: BTreeSet::new(),
        outputs: None,
    };
    turn.take(fact);
    turn.step
}

struct Turn<'a> {
    workflow: &'a Workflow,
    run: &'a str,
    state: &'a mut RunState,
    at: Timestamp,
    step: Step,
    /// Nodes whose incoming edges changed, by (prefix, rank, index): the order of firing is the definition's.
    candidates: BTreeSet<(Arc<str>, usize, usize)>,
    /// Prefixes of graphs in which something was settled: they may be done.
    touched: BTreeSet<Arc<str>>,
    /// The outermost `.nodes` of expressions, made when first needed.
    outputs: Option<Arc<BTreeMap<Arc<str>, Json>>>,
}

impl Turn<'_> {
    fn take(&mut self, fact: &Fact) {
        match (self.state.status, fact) {
            (_, Fact::Redrive(_) | Fact::Edit(_) | Fact::Override(_) | Fact::Fork(_)) => {
                if refusal(self.workflow, self.state, fact).is_some() {
                    return;
                }
                self.intervene(fact);
                // A pause holds back what follows.
                if self.state.status == RunStatus::Paused {
                    return;
                }
            }
            (status, _) if status.is_terminal() => return,
            // Whoever is at work goes on speaking during a pause.
            (_, Fact::JobLogged(said)) => return self.job_logged(said),
            (RunStatus::Queued, Fact::Start(start)) => self.start(start),
            (RunStatus::Queued, Fact::Quarantine(quarantine)) => self.quarantine(quarantine),
            // It waited for its start until somebody ended it.
            (RunStatus::Queued, Fact::Cancel(cancel)) if cancel.start.is_some() => self.cancel(cancel),
            // Nothing can happen to a run that has not begun.
            (RunStatus::Queued, _) | (_, Fact::Start(_)) => return,
            (RunStatus::Paused, Fact::Resume(_)) => self.resume(),
            (RunStatus::Paused, Fact::Cancel(cancel)) => {
                self.resume();
                self.advance();
                self.cancel(cancel);
            }
            (RunStatus::Paused, Fact::Quarantine(quarantine)) => self.quarantine(quarantine),
            (RunStatus::Paused, Fact::Pause(_)) => return,
            (RunStatus::Paused, fact) => {
                let (kind, data) = fact.to_parts();
                return self.emit(Event::FactDeferred(FactDeferred { kind: Arc::from(kind), data }));
            }
            (_, Fact::Pause(pause)) => return self.emit(Event::RunPaused(pause.clone())),
            (_, Fact::Resume(_)) => return,
            (_, fact) => self.happen(fact),
        }
        self.advance();
    }

    fn happen(&mut self, fact: &Fact) {
        match fact {
            Fact::JobCompleted(done) => self.job_completed(&done.node, done.attempt, &done.output),
            Fact::JobFailed(failed) => self.job_failed(failed),
            Fact::TimerDue(timer) => self.timer_due(&timer.node),
            Fact::ChildEnded(ended) => self.child_ended(ended),
            Fact::Signal(signal) => self.signal(signal),
            Fact::Approval(given) => self.approval(given),
            Fact::Cancel(cancel) => self.cancel(cancel),
            Fact::Quarantine(quarantine) => self.quarantine(quarantine),
            Fact::Start(_) | Fact::Pause(_) | Fact::Resume(_) | Fact::JobLogged(_) => {}
            Fact::Redrive(_) | Fact::Edit(_) | Fact::Override(_) | Fact::Fork(_) => {}
        }
    }

    fn start(&mut self, start: &Start) {
        let deadline = self.deadline_from_now();
        self.emit(Event::RunStarted(Start { deadline, ..start.clone() }));
        match input_fault(self.workflow, &start.input) {
            None => self.begin_graph(""),
            Some(error) => self.run_failed(error),
        }
    }

    /// When a run that begins now, or goes on now after its end, has taken too long.
    fn deadline_from_now(&self) -> Option<Timestamp> {
        self.workflow.timeout_ms.map(|millis| self.at.plus_millis(millis))
    }

    /// Applies an event and adds it to the log.
    fn emit(&mut self, event: Event) {
        self.state.take(&event, self.at);
        self.note_output(&event);
        self.step.events.push(event);
    }

    /// Takes back what is outstanding for a node.
    fn drop_work(&mut self, path: &Arc<str>) {
        let Some(node) = self.state.nodes.get(path).filter(|node| node.is_open()) else { return };
        let child = node.child.as_ref().map(|child| Arc::clone(&child.run));
        if child.is_none() && node.status != NodeStatus::Scheduled && node.timer().is_none() {
            return;
        }
        self.step.dropped.push(Dropped { node: Arc::clone(path), child });
    }

    /// Takes back what is outstanding for the nodes whose paths begin so.
    fn drop_within(&mut self, prefix: &str) {
        let open: Vec<Arc<str>> = self.state.open_within(prefix).cloned().collect();
        open.iter().for_each(|path| self.drop_work(path));
        self.candidates.retain(|(graph, ..)| !graph.starts_with(prefix));
        self.touched.retain(|graph| !graph.starts_with(prefix));
    }
}
