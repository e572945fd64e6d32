//! Proof that a log and the rules agree: the log is walked, every fact in it is decided again, and what
//! was decided then is compared with what is decided now.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::decide::{is_quarantine, step};
use crate::definition::Workflow;
use crate::error::ErrorInfo;
use crate::event::{Event, Recorded};
use crate::fact::{Cancel, ChildEnded, Fact, JobCompleted, JobFailed, Quarantine, TimerDue};
use crate::json::Json;
use crate::state::{NodeState, NodeStatus, RunState, RunStatus};
use crate::to_json;

/// The first place where a log and the rules part.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Position of the event.
    pub position: u64,
    /// JSON pointer within `{"type":…,"data":…}` of the event, or within the state compared.
    pub path: String,
    /// What the rules say; absent where they say nothing.
    pub expected: Option<Json>,
    /// What stands there; absent where nothing does.
    pub found: Option<Json>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |value: &Option<Json>| value.as_ref().map_or_else(|| "nothing".to_owned(), Json::to_string);
        let (expected, found) = (show(&self.expected), show(&self.found));
        write!(f, "position {}, {}: expected {expected}, found {found}", self.position, self.path)
    }
}

/// Replays a whole log against the definition and returns the state it leads to.
///
/// # Errors
/// The first difference, boxed because it carries two documents.
pub fn verify(workflow: &Workflow, run: &str, log: &[Recorded]) -> Result<RunState, Box<Difference>> {
    let mut state = RunState::default();
    verify_rest(workflow, run, &mut state, log, || true)?;
    Ok(state)
}

/// Brings a state that a turn left behind up to the end of the log, deciding again what follows it in the log for as
/// long as `go_on` says, which is asked after each fact.
///
/// # Errors
/// The first difference; the state is then of no use.
pub fn verify_rest(
    workflow: &Workflow,
    run: &str,
    state: &mut RunState,
    rest: &[Recorded],
    mut go_on: impl FnMut() -> bool,
) -> Result<(), Box<Difference>> {
    walk(workflow, run, state, rest, |_| go_on())
}

/// Where a copy of a run begins to go its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// The last position that is copied; 0 for an empty log.
    pub position: u64,
    /// The run whose events these are: the one that is copied, or the one that it was copied from itself.
    pub run: &'a str,
}

/// Where a copy of a run may begin to go its own way: the last position up to `until` between two facts, at least
/// that after the first. Without a bound the last one at which the run had not ended and was not being undone.
///
/// # Errors
/// The log differs from the rules before that.
pub fn boundary<'a>(
    workflow: &Workflow,
    run: &'a str,
    log: &'a [Recorded],
    until: Option<u64>,
) -> Result<Cut<'a>, Box<Difference>> {
    let mut found = 0;
    walk(workflow, run, &mut RunState::default(), log, |state| {
        let is_beyond = match until {
            Some(until) => state.position > until,
            None => state.status.is_terminal() || state.unwinding.is_some(),
        };
        if !is_beyond || found == 0 {
            found = state.position;
        }
        // A run that ended may have gone on since.
        until.is_none() || !is_beyond
    })?;
    Ok(Cut { position: found, run: Forks::of(log).decider(found).unwrap_or(run) })
}

/// The forks in a log. What was copied from another run was decided under that run's id.
struct Forks<'a>(Vec<(u64, &'a str)>);

impl<'a> Forks<'a> {
    fn of(log: &'a [Recorded]) -> Self {
        let forks = log.iter().filter_map(|recorded| match &recorded.event {
            Event::RunForked(forked) => Some((recorded.position, &*forked.run)),
            _ => None,
        });
        Self(forks.collect())
    }

    /// The other run that decided the event at a position.
    fn decider(&self, position: u64) -> Option<&'a str> {
        self.0.iter().find(|(fork, _)| *fork > position).map(|(_, run)| *run)
    }
}

/// Decides a log, or what of it comes after a state, again fact by fact, and shows the state after each as long as that
/// is wanted.
fn walk(
    workflow: &Workflow,
    run: &str,
    state: &mut RunState,
    log: &[Recorded],
    mut after_fact: impl FnMut(&RunState) -> bool,
) -> Result<(), Box<Difference>> {
    let mut rest = log;
    let forks = Forks::of(log);
    while let Some(first) = rest.first() {
        if first.position != state.position + 1 {
            let path = "/position".to_owned();
            let found = Some(Json::from(i64::try_from(first.position).unwrap_or(i64::MAX)));
            let expected = Some(Json::from(i64::try_from(state.position + 1).unwrap_or(i64::MAX)));
            return Err(Box::new(Difference { position: state.position + 1, path, expected, found }));
        }
        let run = forks.decider(first.position).unwrap_or(run);
        let decided = match fact_behind(state, &first.event, rest.get(1).map(|next| &next.event)) {
            Some(fact) => step(workflow, run, state, &fact, first.at).events,
            None => Vec::new(),
        };
        compare(&decided, rest)?;
        rest = &rest[decided.len()..];
        if !after_fact(state) {
            break;
        }
    }
    Ok(())
}

/// Compares what is decided now with what stands at the beginning of the rest of a log.
fn compare(decided: &[Event], rest: &[Recorded]) -> Result<(), Box<Difference>> {
    let position = rest.first().map_or(0, |first| first.position);
    let at = |i: usize| rest.get(i).map(|found| document(&found.event));
    if decided.is_empty() {
        return Err(Box::new(Difference { position, path: String::new(), expected: None, found: at(0) }));
    }
    for (i, expected) in decided.iter().enumerate() {
        if rest.get(i).is_some_and(|found| found.event == *expected) {
            continue;
        }
        let position = position + i as u64;
        let expected = document(expected);
        let Some(found) = at(i) else {
            let expected = Some(expected);
            return Err(Box::new(Difference { position, path: String::new(), expected, found: None }));
        };
        if let Some((path, expected, found)) = first_difference(&expected, &found) {
            return Err(Box::new(Difference { position, path, expected, found }));
        }
    }
    Ok(())
}

/// The fact that an event records, given the state before it; `None` for a pure decision. The event after it
/// tells a start that was quarantined from one that was turned.
fn fact_behind(state: &RunState, event: &Event, next: Option<&Event>) -> Option<Fact> {
    let node = |path: &str| state.nodes.get(path);
    let due = |path: &Arc<str>| Some(Fact::TimerDue(TimerDue { node: Arc::clone(path) }));
    match event {
        Event::RunStarted(start) => Some(match next {
            Some(Event::RunFailed(failed)) if is_quarantine(&failed.error.class) => {
                Fact::Quarantine(Quarantine { error: failed.error.clone(), start: Some(start.clone()) })
            }
            // A workflow has a first node, so a start of its own is followed by that.
            Some(Event::RunCancelRequested(request)) => {
                let (reason, kill) = (request.reason.clone(), request.kill);
                Fact::Cancel(Cancel { reason, kill, start: Some(start.clone()) })
            }
            _ => Fact::Start(start.clone()),
        }),
        Event::NodeSucceeded(done) => match (done.attempt, node(&done.node)?) {
            (Some(_), NodeState { child: Some(child), .. }) => Some(Fact::ChildEnded(ChildEnded {
                node: Arc::clone(&done.node),
                run: Arc::clone(&child.run),
                status: RunStatus::Succeeded,
                output: Some(done.output.clone()),
                error: None,
            })),
            (Some(attempt), _) => {
                let (node, output) = (done.node.clone(), done.output.clone());
                Some(Fact::JobCompleted(JobCompleted { node, attempt, output }))
            }
            (None, NodeState { status: NodeStatus::Waiting, .. }) => due(&done.node),
            _ => None,
        },
        Event::NodeScheduled(again) if node(&again.node)?.status == NodeStatus::Retrying => due(&again.node),
        Event::ItemStarted(item) if node(&item.node)?.status == NodeStatus::Waiting => due(&item.node),
        Event::NodeRetryScheduled(retry) => {
            attempt_failed(node(&retry.node)?, &retry.node, retry.attempt, &retry.error)
        }
        Event::NodeFailed(failed) => match failed.attempt {
            Some(attempt) => attempt_failed(node(&failed.node)?, &failed.node, attempt, &failed.error),
            None if node(&failed.node)?.is_open() => due(&failed.node),
            None => None,
        },
        Event::NodeLogged(said) => Some(Fact::JobLogged(said.clone())),
        Event::SignalReceived(signal) => Some(Fact::Signal(signal.clone())),
        Event::ApprovalGiven(given) => Some(Fact::Approval(given.clone())),
        Event::FactDeferred(fact) => Fact::from_parts(&fact.kind, &fact.data.to_string()).ok(),
        Event::RunPaused(pause) => Some(Fact::Pause(pause.clone())),
        Event::RunResumed(resume) => Some(Fact::Resume(resume.clone())),
        Event::RunRedriven(redrive) => Some(Fact::Redrive(redrive.clone())),
        Event::RunEdited(edited) => Some(Fact::Edit(edited.clone())),
        Event::NodeOverridden(by_hand) => Some(Fact::Override(by_hand.clone())),
        Event::RunForked(forked) => Some(Fact::Fork(forked.clone())),
        Event::RunCancelRequested(request) => {
            Some(Fact::Cancel(Cancel { reason: request.reason.clone(), kill: request.kill, start: None }))
        }
        Event::RunFailed(failed) if is_quarantine(&failed.error.class) => {
            Some(Fact::Quarantine(Quarantine { error: failed.error.clone(), start: None }))
        }
        // A run ends by itself in one way only: its deadline.
        Event::RunUnwinding(_) | Event::RunHandlerStarted(_) | Event::RunFailed(_) => due(&Arc::from("")),
        _ => None,
    }
}

/// The report behind a failed attempt: an executor's, or the end of a child run.
fn attempt_failed(node: &NodeState, path: &Arc<str>, attempt: u32, error: &ErrorInfo) -> Option<Fact> {
    let Some(child) = &node.child else {
        let (node, error) = (Arc::clone(path), to_json(error));
        return Some(Fact::JobFailed(JobFailed { node, attempt, error }));
    };
    let status = if &*error.class == "workflow.canceled" { RunStatus::Canceled } else { RunStatus::Failed };
    let of_child =
        error.details.as_ref().and_then(|details| details.get("error")).filter(|error| !error.is_null());
    let (node, run) = (Arc::clone(path), Arc::clone(&child.run));
    let error = of_child.and_then(|error| serde_json::from_str(&error.to_string()).ok());
    Some(Fact::ChildEnded(ChildEnded { node, run, status, output: None, error }))
}

/// An event as the document that differences point into.
fn document(event: &Event) -> Json {
    // What `data` writes is JSON by construction.
    let data = Json::parse(&event.data()).unwrap_or(Json::Null);
    Json::object([("type", Json::from(event.type_name())), ("data", data)])
}

/// One place where two documents differ: the pointer and both values there.
pub type Place = (String, Option<Json>, Option<Json>);

/// Where two documents first differ, in key order.
#[must_use]
pub fn first_difference(expected: &Json, found: &Json) -> Option<Place> {
    differences_up_to(expected, found, 1).pop()
}

/// Everything in which two documents differ, in key order, as deep as both have the same kind of container.
#[must_use]
pub fn differences(before: &Json, after: &Json) -> Vec<Place> {
    differences_up_to(before, after, usize::MAX)
}

fn differences_up_to(a: &Json, b: &Json, most: usize) -> Vec<Place> {
    let mut places = Vec::new();
    differ(String::new(), Some(a), Some(b), &mut places, most);
    places
}

fn differ(pointer: String, a: Option<&Json>, b: Option<&Json>, places: &mut Vec<Place>, most: usize) {
    if a == b || places.len() >= most {
        return;
    }
    let below = |key: &str| crate::definition::pointer(&pointer, key);
    match (a, b) {
        (Some(Json::Obj(a)), Some(Json::Obj(b))) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().for_each(|key| differ(below(key), a.get(key), b.get(key), places, most));
        }
        (Some(Json::Arr(a)), Some(Json::Arr(b))) => {
            (0..a.len().max(b.len()))
                .for_each(|i| differ(below(&i.to_string()), a.get(i), b.get(i), places, most));
        }
        _ => places.push((pointer, a.cloned(), b.cloned())),
    }
}
