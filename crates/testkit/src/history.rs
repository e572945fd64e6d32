//! What must hold of any run's log, whatever happened to the processes that wrote it.
//!
//! The rules are stated here a second time, independent of the engine, on purpose.

use crate::session::Session;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How many events are read at a time.
const PAGE: i32 = 1_000;

/// One event of a run, as `run_history` shows it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Place in the run, from 1.
    pub position: i64,
    /// Place in the order of everything.
    pub global_position: i64,
    /// Dotted name.
    pub kind: String,
    /// What happened.
    pub data: Value,
}

impl Event {
    /// The node the event is about.
    pub fn node(&self) -> Option<&str> {
        self.data.get("node").and_then(Value::as_str)
    }

    fn attempt(&self) -> Option<i64> {
        self.data.get("attempt").and_then(Value::as_i64)
    }

    /// Whether the run is over with this event.
    pub fn is_terminal(&self) -> bool {
        matches!(self.kind.as_str(), "run.succeeded" | "run.failed" | "run.canceled")
    }
}

/// The whole log of a run, read page by page.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn history(session: &mut Session, run: Uuid) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.position);
        let page = session.rows(
            "SELECT position, global_position, type, data FROM meshhook.run_history($1, $2, $3)",
            &[&run, &after, &PAGE],
        );
        events.extend(page.iter().map(|row| Event {
            position: row.get(0),
            global_position: row.get(1),
            kind: row.get(2),
            data: row.get(3),
        }));
        if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            return events;
        }
    }
}

/// Checks one run's log against the rules, and what is derived from it against the log.
///
/// # Panics
/// When a rule is broken; the message names all that are, and shows the log.
#[track_caller]
pub fn check_run(session: &mut Session, run: Uuid) {
    let events = history(session, run);
    let faults = run_faults(session, run, &events);
    if !faults.is_empty() {
        let log: Vec<String> = events
            .iter()
            .map(|event| format!("{:>4} {} {}", event.position, event.kind, event.data))
            .collect();
        panic!("run {run}:\n{}\nlog:\n{}", faults.join("\n"), log.join("\n"));
    }
}

/// What is wrong with one run whose log is `events`, in words; nothing for a sound one.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn run_faults(session: &mut Session, run: Uuid, events: &[Event]) -> Vec<String> {
    let mut faults = log_faults(events);
    let differences = session
        .rows("SELECT position, path, expected::text, found::text FROM meshhook.verify_run($1)", &[&run]);
    for row in differences {
        faults.push(format!(
            "verify_run: {:?} at {:?}: expected {:?}, found {:?}",
            row.get::<_, Option<i64>>(0),
            row.get::<_, Option<String>>(1),
            row.get::<_, Option<String>>(2),
            row.get::<_, Option<String>>(3),
        ));
    }
    let rows =
        session.rows("SELECT status::text, position::bigint FROM meshhook.runs WHERE run_id = $1", &[&run]);
    match rows.as_slice() {
        [row] => {
            let found: (String, i64) = (row.get(0), row.get(1));
            let expected = (status_of(events).to_owned(), events.last().map_or(0, |event| event.position));
            if found != expected {
                faults.push(format!("run row says {found:?}, the log {expected:?}"));
            }
        }
        rows => faults.push(format!("{} rows in meshhook.runs", rows.len())),
    }
    faults
}

/// Checks every run the session can see and returns how many those were.
///
/// # Panics
/// As [`check_run`].
#[track_caller]
pub fn check_all(session: &mut Session) -> usize {
    let runs: Vec<Uuid> = session.values("SELECT run_id FROM meshhook.runs ORDER BY run_id", &[]);
    for run in &runs {
        check_run(session, *run);
    }
    runs.len()
}

/// The run status a log amounts to.
fn status_of(events: &[Event]) -> &'static str {
    let mut pauses = events.iter().rev().filter(|event| matches!(&*event.kind, "run.paused" | "run.resumed"));
    let is_paused = pauses.next().is_some_and(|event| event.kind == "run.paused");
    match events.last().map(|event| event.kind.as_str()) {
        None => "queued",
        Some("run.succeeded") => "succeeded",
        Some("run.failed") => "failed",
        Some("run.canceled") => "canceled",
        Some(_) if is_paused => "paused",
        Some(_) => "running",
    }
}

/// The rules a log breaks, in words; empty for a sound one.
pub fn log_faults(events: &[Event]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut scheduled: BTreeSet<(&str, i64)> = BTreeSet::new();
    let mut answered: BTreeSet<(&str, i64)> = BTreeSet::new();
    let mut settled: BTreeMap<&str, i64> = BTreeMap::new();
    let mut ended = None;
    for (index, event) in events.iter().enumerate() {
        let at = event.position;
        let mut fault = |text: String| faults.push(format!("position {at}: {text}"));
        if at != i64::try_from(index).unwrap_or(i64::MAX) + 1 {
            fault(format!("stands in place {}", index + 1));
        }
        if index > 0 && event.global_position <= events[index - 1].global_position {
            fault("global position does not grow".into());
        }
        if (event.kind == "run.started") != (index == 0) {
            fault(format!("{} where run.started is not, or the other way round", event.kind));
        }
        if event.kind == "run.redriven" {
            if ended.take().is_none() {
                fault("a run goes on that has not ended".into());
            }
            // Nodes that failed or were canceled are done again; the replay knows which.
            (scheduled, answered, settled) = Default::default();
            continue;
        }
        if let Some(end) = ended {
            fault(format!("{} after the end at {end}", event.kind));
        }
        if event.is_terminal() {
            ended = Some(at);
        }
        let Some(node) = event.node().filter(|_| event.kind.starts_with("node.")) else {
            continue;
        };
        if let Some(before) = settled.get(node) {
            fault(format!("{} of {node}, which was settled at {before}", event.kind));
        }
        let attempt = event.attempt();
        if event.kind == "node.logged" {
            // Said while the attempt is being made, and never of any other.
            let said_of = (node, attempt.unwrap_or(0));
            if !scheduled.contains(&said_of) || answered.contains(&said_of) {
                fault(format!("something is said of {node} that is not under way"));
            }
            continue;
        }
        let is_body = matches!(event.data.get("kind").and_then(Value::as_str), Some("map" | "repeat"));
        if event.kind == "node.entered" || is_body {
            // It begins, or is put off: the items between say how far it has come.
            continue;
        }
        if event.kind == "node.scheduled" {
            let attempt = attempt.unwrap_or(1);
            if attempt > 1 && !answered.contains(&(node, attempt - 1)) {
                fault(format!("attempt {attempt} of {node} without an end of the one before"));
            }
            if !scheduled.insert((node, attempt)) {
                fault(format!("attempt {attempt} of {node} scheduled twice"));
            }
            continue;
        }
        if let Some(attempt) = attempt {
            if !scheduled.contains(&(node, attempt)) {
                fault(format!("attempt {attempt} of {node} ends without having been scheduled"));
            }
            if !answered.insert((node, attempt)) {
                fault(format!("attempt {attempt} of {node} ends twice"));
            }
        }
        if event.kind != "node.retry_scheduled" {
            settled.insert(node, at);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(entries: &[(&str, Value)]) -> Vec<Event> {
        let numbered = entries.iter().zip(1..);
        numbered
            .map(|((kind, data), position)| Event {
                position,
                global_position: position * 10,
                kind: (*kind).into(),
                data: data.clone(),
            })
            .collect()
    }

    fn sound() -> Vec<Event> {
        log(&[
            ("run.started", json!({})),
            ("node.scheduled", json!({"node": "a", "attempt": 1})),
            ("node.retry_scheduled", json!({"node": "a", "attempt": 1})),
            ("node.scheduled", json!({"node": "a", "attempt": 2})),
            ("node.succeeded", json!({"node": "a", "attempt": 2})),
            ("node.succeeded", json!({"node": "b"})),
            ("run.succeeded", json!({})),
        ])
    }

    #[test]
    fn a_sound_log_has_no_faults() {
        assert_eq!(log_faults(&sound()), Vec::<String>::new());
        assert_eq!(status_of(&sound()), "succeeded");
    }

    #[test]
    fn losses_and_doubles_are_faults() {
        let renumber = |mut events: Vec<Event>| {
            for (event, position) in events.iter_mut().zip(1..) {
                (event.position, event.global_position) = (position, position * 10);
            }
            events
        };
        for place in 0..sound().len() {
            let mut torn = sound();
            torn.remove(place);
            // Without the last event a log is still sound, only shorter.
            assert_eq!(log_faults(&torn).is_empty(), place == 6, "a gap at {place}");
            let mut doubled = sound();
            doubled.insert(place, doubled[place].clone());
            assert!(!log_faults(&renumber(doubled)).is_empty(), "a double at {place} goes unseen");
        }
        // What is missing shows even where the positions were closed up.
        for place in 0..4 {
            let mut torn = sound();
            torn.remove(place);
            assert!(!log_faults(&renumber(torn)).is_empty(), "a loss at {place} goes unseen");
        }
    }
}
