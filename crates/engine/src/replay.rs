//! Proof that a log and the rules agree: the log is walked, every fact in it is decided again, and what
//! was decided then is compared with what is decided now.

use std::collections::BTreeSet;
use std::fmt;

use crate::decide::{QUARANTINED, step};
use crate::definition::Workflow;
use crate::event::{Event, Recorded};
use crate::fact::{Cancel, Fact, JobCompleted, JobFailed, Quarantine, TimerDue};
use crate::json::Json;
use crate::state::{NodeStatus, RunState};
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
    let mut rest = log;
    while let Some(first) = rest.first() {
        if first.position != state.position + 1 {
            let path = "/position".to_owned();
            let found = Some(Json::from(i64::try_from(first.position).unwrap_or(i64::MAX)));
            let expected = Some(Json::from(i64::try_from(state.position + 1).unwrap_or(i64::MAX)));
            return Err(Box::new(Difference { position: state.position + 1, path, expected, found }));
        }
        let position = first.position;
        let fact = fact_behind(&state, &first.event, rest.get(1).map(|next| &next.event));
        let decided = fact.map(|fact| step(workflow, run, &mut state, &fact, first.at)).unwrap_or_default();
        if decided.is_empty() {
            let found = Some(document(&first.event));
            return Err(Box::new(Difference { position, path: String::new(), expected: None, found }));
        }
        for (i, expected) in decided.iter().enumerate() {
            let position = position + i as u64;
            let expected = document(expected);
            let Some(found) = rest.get(i).map(|found| document(&found.event)) else {
                let expected = Some(expected);
                return Err(Box::new(Difference { position, path: String::new(), expected, found: None }));
            };
            if let Some((path, expected, found)) = first_difference(&expected, &found) {
                return Err(Box::new(Difference { position, path, expected, found }));
            }
        }
        rest = &rest[decided.len()..];
    }
    Ok(state)
}

/// The fact that an event records, given the state before it; `None` for a pure decision. The event after it
/// tells a start that was quarantined from one that was turned.
fn fact_behind(state: &RunState, event: &Event, next: Option<&Event>) -> Option<Fact> {
    let status = |id: &str| state.nodes.get(id).map(|node| node.status);
    match event {
        Event::RunStarted(start) => Some(match next {
            Some(Event::RunFailed(failed)) if &*failed.error.class == QUARANTINED => {
                Fact::Quarantine(Quarantine { error: failed.error.clone(), start: Some(start.clone()) })
            }
            // A workflow has a first node, so a start of its own is followed by that.
            Some(Event::RunCancelRequested(request)) => {
                Fact::Cancel(Cancel { reason: request.reason.clone(), start: Some(start.clone()) })
            }
            _ => Fact::Start(start.clone()),
        }),
        Event::NodeSucceeded(done) => match (done.attempt, status(&done.node)) {
            (Some(attempt), _) => {
                let (node, output) = (done.node.clone(), done.output.clone());
                Some(Fact::JobCompleted(JobCompleted { node, attempt, output }))
            }
            (None, Some(NodeStatus::Waiting)) => Some(Fact::TimerDue(TimerDue { node: done.node.clone() })),
            _ => None,
        },
        Event::NodeScheduled(again) if status(&again.node) == Some(NodeStatus::Retrying) => {
            Some(Fact::TimerDue(TimerDue { node: again.node.clone() }))
        }
        Event::NodeRetryScheduled(retry) => Some(Fact::JobFailed(JobFailed {
            node: retry.node.clone(),
            attempt: retry.attempt,
            error: to_json(&retry.error),
        })),
        Event::NodeFailed(failed) => failed.attempt.map(|attempt| {
            Fact::JobFailed(JobFailed { node: failed.node.clone(), attempt, error: to_json(&failed.error) })
        }),
        Event::RunCancelRequested(request) => {
            Some(Fact::Cancel(Cancel { reason: request.reason.clone(), start: None }))
        }
        Event::RunFailed(failed) if &*failed.error.class == QUARANTINED => {
            Some(Fact::Quarantine(Quarantine { error: failed.error.clone(), start: None }))
        }
        _ => None,
    }
}

/// An event as the document that differences point into.
fn document(event: &Event) -> Json {
    // What `data` writes is JSON by construction.
    let data = Json::parse(&event.data()).unwrap_or(Json::Null);
    Json::object([("type", Json::from(event.type_name())), ("data", data)])
}

/// Where two documents first differ, in key order: the pointer and both values there.
#[must_use]
pub fn first_difference(expected: &Json, found: &Json) -> Option<(String, Option<Json>, Option<Json>)> {
    if expected == found {
        return None;
    }
    match (expected, found) {
        (Json::Obj(a), Json::Obj(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| differ_at(key, a.get(key), b.get(key)))
        }
        (Json::Arr(a), Json::Arr(b)) => {
            (0..a.len().max(b.len())).find_map(|i| differ_at(&i.to_string(), a.get(i), b.get(i)))
        }
        _ => Some((String::new(), Some(expected.clone()), Some(found.clone()))),
    }
}

fn differ_at(
    key: &str,
    expected: Option<&Json>,
    found: Option<&Json>,
) -> Option<(String, Option<Json>, Option<Json>)> {
    match (expected, found) {
        (Some(expected), Some(found)) => {
            let (below, expected, found) = first_difference(expected, found)?;
            Some((format!("{}{below}", crate::definition::pointer("", key)), expected, found))
        }
        _ => Some((crate::definition::pointer("", key), expected.cloned(), found.cloned())),
    }
}
