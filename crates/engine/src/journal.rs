//! What an event says to people: one line of a run's log.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::event::{Event, NodeScheduled};
use crate::time::Timestamp;

/// How much a line matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The way of things.
    #[default]
    Info,
    /// Something went wrong and is being dealt with, or somebody interfered.
    Warning,
    /// Something failed for good.
    Error,
}

impl Level {
    /// Whether this is the level of most lines.
    #[must_use]
    pub fn is_info(&self) -> bool {
        *self == Self::Info
    }

    /// The word used in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// An event as a line. Inputs, outputs and payloads stay in the event.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The node it is about, if it is about one.
    pub node: Option<String>,
    /// The attempt it is about, if it is about one.
    pub attempt: Option<u32>,
    /// One sentence, without the node.
    pub message: String,
}

/// The line of an event.
#[must_use]
pub fn line(event: &Event) -> Line {
    let of_run = |level, message: String| Line { level, node: None, attempt: None, message };
    let (info, warning, error) = (Level::Info, Level::Warning, Level::Error);
    match event {
        Event::RunStarted(start) => {
            of_run(info, format!("run of {} v{} started", start.workflow, start.version))
        }
        Event::SignalReceived(signal) => of_run(info, format!("signal {} received", signal.name)),
        Event::FactDeferred(fact) => of_run(info, format!("put off until the pause is over: {}", fact.kind)),
        Event::RunPaused(pause) => of_run(warning, because("paused", pause.reason.as_deref())),
        Event::RunResumed(_) => of_run(info, "resumed".to_owned()),
        Event::RunCancelRequested(request) => {
            let what = if request.kill { "asked to end at once" } else { "asked to end" };
            of_run(warning, because(what, request.reason.as_deref()))
        }
        Event::RunUnwinding(end) => {
            of_run(warning, format!("going to be {}: undoing first", end.outcome.as_str()))
        }
        Event::RunHandlerStarted(handler) => of_run(
            warning,
            format!("run {} of {} looks after the failure", handler.child.run, handler.child.workflow),
        ),
        Event::RunRedriven(redriven) => {
            of_run(warning, because("goes on after its end", redriven.reason.as_deref()))
        }
        Event::RunEdited(edited) => {
            let outputs = edited.outputs.keys().map(|path| format!("the output of {path}"));
            let what: Vec<String> =
                edited.vars.iter().map(|_| "variables".to_owned()).chain(outputs).collect();
            of_run(warning, because(&format!("edited {}", what.join(", ")), edited.reason.as_deref()))
        }
        Event::RunForked(forked) => {
            let what = format!("goes its own way; what came before is of run {}", forked.run);
            of_run(warning, because(&what, forked.reason.as_deref()))
        }
        Event::RunSucceeded(_) => of_run(info, "succeeded".to_owned()),
        Event::RunFailed(failed) => of_run(error, format!("failed: {}", told(&failed.error))),
        Event::RunCanceled(end) => of_run(warning, because("canceled", end.reason.as_deref())),
        event => of_node(event),
    }
}

fn of_node(event: &Event) -> Line {
    let at = |node: &str, level, attempt, message: String| Line {
        level,
        node: Some(node.to_owned()),
        attempt,
        message,
    };
    let (info, warning, error) = (Level::Info, Level::Warning, Level::Error);
    match event {
        Event::NodeScheduled(new) => {
            let attempt = (new.queue.is_some() || new.child.is_some()).then_some(new.attempt);
            at(&new.node, info, attempt, scheduled(new))
        }
        Event::NodeEntered(new) => {
            let items = new.items.as_ref().and_then(|items| items.as_arr());
            let of_items = items.map_or_else(String::new, |items| format!(" over {} items", items.len()));
            at(&new.node, info, None, format!("{} begun{of_items}", new.kind))
        }
        Event::ItemStarted(item) => at(&item.node, info, None, format!("item {} begun", item.index)),
        Event::ItemSucceeded(item) => at(&item.node, info, None, format!("item {} succeeded", item.index)),
        Event::ItemFailed(item) => {
            at(&item.node, warning, None, format!("item {} failed: {}", item.index, told(&item.error)))
        }
        Event::NodeSucceeded(done) => {
            let port = done.port.as_ref().map_or_else(String::new, |port| format!(", port {port}"));
            at(&done.node, info, done.attempt, format!("succeeded{port}"))
        }
        Event::NodeRetryScheduled(retry) => {
            let message = format!("failed, tried again at {}: {}", retry.due_at, told(&retry.error));
            at(&retry.node, warning, Some(retry.attempt), message)
        }
        Event::NodeFailed(failed) => {
            let (level, port) = match &failed.port {
                Some(port) => (warning, format!(", port {port}")),
                None => (error, String::new()),
            };
            at(&failed.node, level, failed.attempt, format!("failed{port}: {}", told(&failed.error)))
        }
        Event::NodeSkipped(skipped) => at(&skipped.node, info, None, "skipped".to_owned()),
        Event::NodeOverridden(by_hand) => {
            let port = by_hand.port.as_ref().map_or_else(String::new, |port| format!(", port {port}"));
            let message = because(&format!("settled by hand{port}"), by_hand.reason.as_deref());
            at(&by_hand.node, warning, None, message)
        }
        Event::NodeLogged(said) => at(&said.node, said.level, Some(said.attempt), said.message.to_string()),
        Event::ApprovalGiven(given) => {
            let what = if given.approved { "approved" } else { "rejected" };
            at(&given.node, info, None, format!("{what} by {}", given.by))
        }
        Event::RunResponded(response) => {
            at(&response.node, info, None, format!("answered with status {}", response.status))
        }
        // Every other event is about the run.
        event => Line { level: info, node: None, attempt: None, message: event.type_name().to_owned() },
    }
}

fn scheduled(new: &NodeScheduled) -> String {
    let mut text = match (&new.child, &new.queue, &new.signal) {
        (Some(child), ..) => format!("run {} of {} started", child.run, child.workflow),
        (None, Some(queue), _) => format!("ready in queue {queue}"),
        (None, None, Some(signal)) => format!("waits for signal {signal}"),
        (None, None, None) if new.approval => "waits for people".to_owned(),
        (None, None, None) if new.input.is_some() => "to be done by the database".to_owned(),
        (None, None, None) => "waits".to_owned(),
    };
    if let Some(until) = new.due_at.or(new.deadline).filter(|_| new.queue.is_none()) {
        until_time(&mut text, until);
    }
    text
}

fn until_time(text: &mut String, until: Timestamp) {
    // Writing to a string cannot fail.
    let _ = write!(text, ", until {until} at the latest");
}

fn because(what: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"))
}

fn told(error: &ErrorInfo) -> String {
    format!("{}: {}", error.class, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EVENT_TYPES;

    #[test]
    fn a_line_says_what_happened_to_what() {
        let cases = [
            ("run.paused", r#"{"reason":"lunch"}"#, Level::Warning, None, "paused: lunch"),
            (
                "node.scheduled",
                r#"{"node":"a","kind":"http","attempt":2,"queue":"http","input":1}"#,
                Level::Info,
                Some("a"),
                "ready in queue http",
            ),
            (
                "node.scheduled",
                r#"{"node":"w","kind":"wait","attempt":1,"signal":"go","deadline":"2026-01-01T00:00:00Z"}"#,
                Level::Info,
                Some("w"),
                "waits for signal go, until 2026-01-01T00:00:00.000000Z at the latest",
            ),
            (
                "node.failed",
                r#"{"node":"a","attempt":3,"error":{"class":"timeout","message":"slow"}}"#,
                Level::Error,
                Some("a"),
                "failed: timeout: slow",
            ),
            (
                "node.failed",
                r#"{"node":"a","error":{"class":"timeout","message":"slow"},"port":"error"}"#,
                Level::Warning,
                Some("a"),
                "failed, port error: timeout: slow",
            ),
        ];
        for (kind, data, level, node, message) in cases {
            let line = line(&Event::from_parts(kind, data).unwrap());
            assert_eq!((line.level, line.node.as_deref(), &*line.message), (level, node, message), "{kind}");
        }
    }

    #[test]
    fn no_event_is_told_by_its_type_alone() {
        // Data that fits every type.
        let data = r#"{"workflow":"w","version":1,"input":1,"seed":1,"trigger":{},"node":"n","kind":"task","attempt":1,
            "index":0,"output":1,"error":{},"due_at":"2026-01-01T00:00:00Z","name":"s","payload":1,"approved":true,
            "message":"hello","by":"ann","data":{},"status":200,"run":"r","outcome":"failed","child":{"run":"r","workflow":"w","depth":1}}"#;
        for (kind, _) in EVENT_TYPES {
            let event = Event::from_parts(kind, data).unwrap();
            assert_ne!(line(&event).message, *kind);
        }
    }
}
