//! A run in memory, with outcomes that are given and a clock that jumps: how people try and test their workflows.
//!
//! It is the engine and nothing else: whatever a simulation does, a run does with the same outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decide::step;
use crate::definition::Workflow;
use crate::error::ErrorInfo;
use crate::event::{ApprovalGiven, Recorded, SignalReceived};
use crate::fact::{ChildEnded, Fact, JobCompleted, JobFailed, Start, TimerDue};
use crate::json::Json;
use crate::state::{NodeState, NodeStatus, RunState, RunStatus};
use crate::time::{Timestamp, parse_duration_ms};

/// Most facts one simulation takes in.
pub const MAX_FACTS: usize = 10_000;

/// The id that the run of a simulation sees as its own.
const RUN: &str = "00000000-0000-7000-8000-000000000000";

/// What a simulation came to.
#[derive(Debug)]
pub struct Simulation {
    /// The log.
    pub log: Vec<Recorded>,
    /// The state it leads to.
    pub state: RunState,
    /// Where the run has not ended: the nodes that wait for an outcome nobody gave.
    pub waits_for: Vec<Arc<str>>,
    /// Whether it was stopped after [`MAX_FACTS`].
    pub is_cut: bool,
}

/// An outcome given for a node.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Output(Json),
    Error(Json),
    Approval { approved: bool, by: Arc<str> },
}

/// An outcome, and how long after the start of its attempt it comes, in milliseconds.
type Timed = (Outcome, u64);

/// The outcomes given, by path, by path with `*` for indexes, or by id. A list has one for each attempt; the last one
/// counts for all further ones.
#[derive(Debug)]
pub struct Mocks(BTreeMap<Arc<str>, Vec<Timed>>);

impl Mocks {
    /// Reads `{"charge":{"output":…},"call":[{"error":{"class":"timeout"}},{"output":…,"after":"2s"}],"ok":{"approved":true}}`.
    ///
    /// # Errors
    /// What is wrong with them, with a JSON pointer.
    pub fn read(mocks: &Json) -> Result<Self, String> {
        let entries = mocks.as_obj().ok_or("the mocks must be an object of outcomes by node")?;
        let mut read = BTreeMap::new();
        for (node, given) in entries {
            let list = given.as_arr().unwrap_or(std::slice::from_ref(given));
            if list.is_empty() {
                return Err(format!("/{node}: the list of outcomes is empty"));
            }
            let outcomes: Result<Vec<Timed>, String> = list.iter().map(read_outcome).collect();
            read.insert(Arc::clone(node), outcomes.map_err(|message| format!("/{node}: {message}"))?);
        }
        Ok(Self(read))
    }

    /// The outcome of an attempt.
    fn of(&self, path: &str, attempt: u32) -> Option<&Timed> {
        let any_index = |token: &str| {
            if token.bytes().all(|b| b.is_ascii_digit()) { "*".to_owned() } else { token.to_owned() }
        };
        let pattern = path.split('/').map(any_index).collect::<Vec<_>>().join("/");
        let names = path.rsplit_once('/').map_or(path, |(_, id)| id);
        let list = [path, &pattern, names].into_iter().find_map(|key| self.0.get(key))?;
        let place = (attempt.max(1) as usize - 1).min(list.len().saturating_sub(1));
        list.get(place)
    }
}

fn read_outcome(given: &Json) -> Result<Timed, String> {
    let fields =
        given.as_obj().ok_or("an outcome is an object with \"output\", \"error\" or \"approved\"")?;
    let after = match fields.get("after") {
        None => 0,
        Some(after) => parse_duration_ms(after.as_str().unwrap_or_default())?,
    };
    let unknown =
        fields.keys().find(|key| !["output", "error", "approved", "by", "after"].contains(&&***key));
    if let Some(key) = unknown {
        return Err(format!("\"{key}\" is not known in an outcome"));
    }
    let outcome = match (fields.get("output"), fields.get("error"), fields.get("approved").map(Json::as_bool))
    {
        (Some(output), None, None) => Outcome::Output(output.clone()),
        (None, Some(error), None) => Outcome::Error(error.clone()),
        (None, None, Some(Some(approved))) => {
            let by = fields.get("by").and_then(Json::as_str).unwrap_or("somebody");
            Outcome::Approval { approved, by: Arc::from(by) }
        }
        _ => return Err("an outcome has exactly one of \"output\", \"error\" and \"approved\"".to_owned()),
    };
    Ok((outcome, after))
}

/// Runs a workflow on an input, with the outcomes given, from a time on.
#[must_use]
pub fn simulate(workflow: &Workflow, input: Json, mocks: &Mocks, from: Timestamp) -> Simulation {
    let mut simulation =
        Simulation { log: Vec::new(), state: RunState::default(), waits_for: Vec::new(), is_cut: false };
    let start = Start {
        workflow: Arc::clone(&workflow.name),
        version: 1,
        input,
        seed: 0,
        trigger: Json::object([("type", Json::from("simulation"))]),
        idempotency_key: None,
        deadline: None,
        parent: None,
    };
    let mut next = Some((from, Fact::Start(start)));
    for _ in 0..MAX_FACTS {
        let Some((at, fact)) = next else {
            let leaves = simulation.state.open_work().filter(|(_, node)| node.scope.is_none());
            simulation.waits_for = leaves.map(|(path, _)| Arc::clone(path)).collect();
            return simulation;
        };
        simulation.take(workflow, &fact, at);
        next = simulation.next(mocks);
    }
    simulation.is_cut = true;
    simulation
}

impl Simulation {
    fn take(&mut self, workflow: &Workflow, fact: &Fact, at: Timestamp) {
        let first = self.state.position + 1;
        let events = step(workflow, RUN, &mut self.state, fact, at).events;
        self.log.extend((first..).zip(events).map(|(position, event)| Recorded { position, at, event }));
    }

    /// What happens next: the earliest of the outcomes given and of the timers; an outcome before a timer.
    fn next(&self, mocks: &Mocks) -> Option<(Timestamp, Fact)> {
        let now = self.state.last_at?;
        let due = |path: &Arc<str>, at: Timestamp| {
            (at.max(now), 1, Fact::TimerDue(TimerDue { node: Arc::clone(path) }))
        };
        let timers = self.state.open_work().filter_map(|(path, node)| Some(due(path, node.timer()?)));
        let deadline = self.state.deadline.filter(|_| !self.state.status.is_terminal());
        let own = deadline.map(|at| due(&Arc::from(""), at));
        let outcomes = self.state.open_work().filter_map(|(path, node)| self.outcome(mocks, path, node, now));
        let all = outcomes.chain(timers).chain(own);
        all.min_by_key(|(at, rank, _)| (*at, *rank)).map(|(at, _, fact)| (at, fact))
    }

    fn outcome(
        &self,
        mocks: &Mocks,
        path: &Arc<str>,
        node: &NodeState,
        now: Timestamp,
    ) -> Option<(Timestamp, u8, Fact)> {
        let waits = node.status == NodeStatus::Waiting;
        let (outcome, after) = mocks.of(path, node.attempt)?.clone();
        let begun = node.scheduled_at.unwrap_or(now);
        let at = if node.attempt > 1 { now } else { begun }.plus_millis(after).max(now);
        let path = Arc::clone(path);
        let attempt = node.attempt;
        let fact = match (outcome, &node.child, &node.signal, &node.approvals) {
            (Outcome::Output(payload), _, Some(name), _) if waits => {
                Fact::Signal(SignalReceived { name: Arc::clone(name), payload, id: None, node: None })
            }
            (Outcome::Approval { approved, by }, _, _, Some(before)) if waits => {
                // A voice that counts once is not heard again.
                let by = if before.iter().any(|given| given.by == by) {
                    Arc::from(format!("{by} {}", before.len() + 1))
                } else {
                    by
                };
                Fact::Approval(ApprovalGiven { node: path, approved, by, payload: None })
            }
            (Outcome::Output(output), Some(child), ..) if node.status == NodeStatus::Running => {
                let (run, status) = (Arc::clone(&child.run), RunStatus::Succeeded);
                Fact::ChildEnded(ChildEnded { node: path, run, status, output: Some(output), error: None })
            }
            (Outcome::Error(error), Some(child), ..) if node.status == NodeStatus::Running => {
                let (run, status) = (Arc::clone(&child.run), RunStatus::Failed);
                let error = Some(ErrorInfo::from_report(&error));
                Fact::ChildEnded(ChildEnded { node: path, run, status, output: None, error })
            }
            (Outcome::Output(output), ..) if node.status == NodeStatus::Scheduled => {
                Fact::JobCompleted(JobCompleted { node: path, attempt, output })
            }
            (Outcome::Error(error), ..) if node.status == NodeStatus::Scheduled => {
                Fact::JobFailed(JobFailed { node: path, attempt, error })
            }
            _ => return None,
        };
        Some((at, 0, fact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(definition: &str, input: &str, mocks: &str) -> Simulation {
        let parse = |text: &str| Json::parse(text).unwrap();
        let workflow = Workflow::compile(&parse(definition)).unwrap();
        let mocks = Mocks::read(&parse(mocks)).unwrap();
        simulate(&workflow, parse(input), &mocks, Timestamp::parse("2026-01-01T00:00:00Z").unwrap())
    }

    const REMINDER: &str = r#"{"name":"w","nodes":[
        {"id":"call","type":"http","with":{"url":"http://x/"},"retry":{"initial":"1m","jitter":"none"}},
        {"id":"wait","type":"delay","with":{"duration":"30d"}},
        {"id":"ok","type":"wait","with":{"approval":{"approvers":2}},"timeout":"1d"},
        {"id":"each","type":"map","with":{"items":[1,2],"body":{"nodes":[{"id":"one","type":"task"}]}}}],
        "edges":[{"from":"call","to":"wait"},{"from":"wait","to":"ok"},{"from":"ok","port":"approved","to":"each"}]}"#;

    #[test]
    fn a_month_passes_in_no_time() {
        let mocks = r#"{"call":[{"error":{"class":"timeout"}},{"output":{"status":200},"after":"2s"}],"ok":{"approved":true,"after":"1h"},
            "each/1/one":{"output":20},"one":{"output":10}}"#;
        let simulation = run(REMINDER, "{}", mocks);
        let state = &simulation.state;
        assert_eq!(
            (state.status, state.output.as_ref().unwrap().to_string()),
            (RunStatus::Succeeded, "[10,20]".into())
        );
        assert_eq!(state.finished_at.unwrap().to_string(), "2026-01-31T01:01:02.000000Z");
    }

    #[test]
    fn what_nobody_gave_is_named() {
        let simulation = run(REMINDER, "{}", "{}");
        assert_eq!(
            (simulation.state.status, simulation.waits_for),
            (RunStatus::Running, vec!["call".into()])
        );
    }

    #[test]
    fn time_limits_pass_where_no_outcome_comes() {
        let mocks = r#"{"call":{"output":{"status":200}}}"#;
        let simulation = run(REMINDER, "{}", mocks);
        assert_eq!(&*simulation.state.error.unwrap().class, "timeout");
    }

    #[test]
    fn faulty_mocks_are_refused() {
        for mocks in [
            "[]",
            r#"{"a":[]}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"output":1,"error":2}}"#,
            r#"{"a":{"output":1,"afer":"1s"}}"#,
            r#"{"a":{"output":1,"after":"soon"}}"#,
        ] {
            assert!(Mocks::read(&Json::parse(mocks).unwrap()).is_err(), "{mocks}");
        }
    }
}
