//! The events of a run: the public, append-only contract that state is folded from.
//!
//! `docs/events.md` is the catalogue. An event type is never changed in place: fields may be added as
//! optional ones, anything else is a new type.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::fact::Start;
use crate::journal::Level;
use crate::json::Json;
use crate::state::RunStatus;
use crate::time::Timestamp;

fn is_false(value: &bool) -> bool {
    !value
}

/// Work of a node begins: a job, work in the database, a child run, or a wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeScheduled {
    /// The node.
    pub node: Arc<str>,
    /// Its kind: `http`, `task`, `delay`, …
    pub kind: Arc<str>,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// The queue its job waits in; absent for nodes that only wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Arc<str>>,
    /// The rendered input. Only the first attempt carries it: every attempt gets the same.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub input: Option<Json>,
    /// How long one attempt may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When a waiting node goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// When the node has taken too long in all, over its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The signal it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Arc<str>>,
    /// Whether it waits for people to approve or reject.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approval: bool,
    /// The run it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<Child>,
}

/// A run that a run starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Its id, a UUIDv7 that follows from the parent, the node and the attempt.
    pub run: Arc<str>,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The version; absent for the one that was the newest when the parent was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Whether it is the newest version at the time of the start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub newest: bool,
    /// Whether nobody waits for its end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detached: bool,
    /// How many runs stand above it.
    pub depth: u32,
}

/// A map or a repeat begins; what follows happens inside its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeEntered {
    /// The node.
    pub node: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// The items of a map.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub items: Option<Json>,
    /// When the node has taken too long in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// The body begins for one item, or once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemStarted {
    /// The map or repeat.
    pub node: Arc<str>,
    /// The item, or the iteration, counted from 0.
    pub index: u32,
}

/// The body is done for one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemSucceeded {
    /// The map or repeat.
    pub node: Arc<str>,
    /// The item, or the iteration, counted from 0.
    pub index: u32,
    /// The body's output.
    pub output: Json,
}

/// The body failed for one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemFailed {
    /// The map or repeat.
    pub node: Arc<str>,
    /// The item, or the iteration, counted from 0.
    pub index: u32,
    /// Why.
    pub error: ErrorInfo,
}

/// A signal came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalReceived {
    /// Its name.
    pub name: Arc<str>,
    /// What it brings.
    pub payload: Json,
    /// The sender's id for it: a second one with the same id is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Arc<str>>,
    /// The only node it is for; absent where it is for whoever waits for its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
}

/// An executor said something about the attempt it is making.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLogged {
    /// The node.
    pub node: Arc<str>,
    /// The attempt.
    pub attempt: u32,
    /// How much it matters.
    #[serde(default, skip_serializing_if = "Level::is_info")]
    pub level: Level,
    /// What it said.
    pub message: Arc<str>,
    /// What it gave along.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub data: Option<Json>,
}

/// Somebody approved or rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalGiven {
    /// The node that waits.
    pub node: Arc<str>,
    /// Whether it was approved.
    pub approved: bool,
    /// Who said so; one voice each.
    pub by: Arc<str>,
    /// What they said with it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Json>,
}

/// The run answers whoever started it; only the first answer counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResponded {
    /// The node.
    pub node: Arc<str>,
    /// HTTP status.
    pub status: u16,
    /// HTTP headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Json>,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub body: Option<Json>,
}

/// The run is going to end, and what it did is undone first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunUnwinding {
    /// How it will end.
    pub outcome: RunStatus,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Why it is canceled, if a reason was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// What a `terminate` node gave along, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// Nodes whose attempt under way is waited for: what it did must be known before it can be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<Arc<str>>,
}

/// A run that looks after this one's failure was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHandlerStarted {
    /// The handler's run.
    pub child: Child,
    /// Its input.
    pub input: Json,
}

/// Somebody asked for a pause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunPaused {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// The pause is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResumed {}

/// Something happened while the run was paused; it counts once the run goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactDeferred {
    /// The kind of the fact.
    pub kind: Arc<str>,
    /// Its data.
    pub data: Json,
}

/// The run goes on after its end: what failed is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRedriven {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// When the run has taken too long, counted from now; the engine says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// A node outside of bodies that is done again with all that follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
    /// That node and those that follow from it, in path order; the engine says so.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub again: BTreeSet<Arc<str>>,
    /// `.vars` from now on, where somebody has changed them.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub vars: Option<Json>,
    /// Outputs given by hand, by path: their nodes count as succeeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<Arc<str>, Json>,
}

/// Somebody changed what the rest of the run goes by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunEdited {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// All of `.vars` from now on. In the fact: those that change.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub vars: Option<Json>,
    /// Outputs from now on, by the path of a node that has succeeded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<Arc<str>, Json>,
}

/// Somebody settled an open node in place of whoever was to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeOverridden {
    /// The node.
    pub node: Arc<str>,
    /// The port taken; absent means `out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Arc<str>>,
    /// What `.nodes.<id>.output` is from now on.
    pub output: Json,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
}

/// The run goes its own way from here: the events before are a copy of another run's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunForked {
    /// The run whose events they are.
    pub run: Arc<str>,
    /// The input from now on, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub input: Option<Json>,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// When the run has taken too long, counted from now; the engine says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// A node has its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSucceeded {
    /// The node.
    pub node: Arc<str>,
    /// The attempt that succeeded; absent for nodes that need no executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The port taken; absent means `out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Arc<str>>,
    /// What `.nodes.<id>.output` is from now on.
    pub output: Json,
    /// Position of the signal it consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u64>,
    /// Whether it has to be undone if the run fails or is canceled.
    #[serde(default, skip_serializing_if = "is_false")]
    pub compensate: bool,
}

/// An attempt failed and another one will follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRetryScheduled {
    /// The node.
    pub node: Arc<str>,
    /// The attempt that failed.
    pub attempt: u32,
    /// Why.
    pub error: ErrorInfo,
    /// When the next attempt becomes a job.
    pub due_at: Timestamp,
}

/// A node failed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeFailed {
    /// The node.
    pub node: Arc<str>,
    /// The last attempt; absent for nodes that need no executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Why.
    pub error: ErrorInfo,
    /// The port that handles it, `error` or `timeout`; absent where none does and the run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Arc<str>>,
}

/// No path leads to the node any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSkipped {
    /// The node.
    pub node: Arc<str>,
}

/// Somebody asked for the run to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunCancelRequested {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// Whether it ends at once, with nothing undone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub kill: bool,
}

/// The run ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSucceeded {
    /// Its output.
    pub output: Json,
}

/// The run ended with an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFailed {
    /// Why.
    pub error: ErrorInfo,
    /// What a `terminate` node gave along, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// Nodes that could not be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncompensated: Vec<Arc<str>>,
}

/// The run ended because somebody, or a `terminate` node, said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunCanceled {
    /// Why, if a reason was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// What a `terminate` node gave along, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// Nodes that could not be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncompensated: Vec<Arc<str>>,
}

macro_rules! events {
    ($($variant:ident($data:ty) = $name:literal: $meaning:literal),+ $(,)?) => {
        /// One event of a run.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $(#[doc = concat!("`", $name, "`: ", $meaning)] $variant($data),)+
        }

        /// Every event type with its meaning, in the order of the catalogue.
        pub const EVENT_TYPES: &[(&str, &str)] = &[$(($name, $meaning)),+];

        impl Event {
            /// The dotted name stored in the log.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }

            /// The event's data as JSON text.
            #[must_use]
            pub fn data(&self) -> String {
                let text = match self { $(Self::$variant(data) => serde_json::to_string(data),)+ };
                // Plain structs of strings, numbers and `Json` always serialise.
                text.unwrap_or_else(|error| unreachable!("event data does not serialise: {error}"))
            }

            /// Reads an event back from its name and the text of its data.
            ///
            /// # Errors
            /// The type is unknown to this release, or the data does not fit it.
            pub fn from_parts(type_name: &str, data: &str) -> Result<Self, String> {
                match type_name {
                    $($name => serde_json::from_str(data)
                        .map(Self::$variant)
                        .map_err(|error| format!("event {type_name} cannot be read: {error}")),)+
                    _ => Err(format!("event of unknown type {type_name}; it was written by a newer release")),
                }
            }
        }
    };
}

events! {
    RunStarted(Start) = "run.started": "the run begins, with its input, version and seed",
    NodeScheduled(NodeScheduled) = "node.scheduled": "work of a node begins: a job, work in the database, a child run, or a wait",
    NodeEntered(NodeEntered) = "node.entered": "a map or a repeat begins",
    ItemStarted(ItemStarted) = "item.started": "the body begins for one item, or once more",
    ItemSucceeded(ItemSucceeded) = "item.succeeded": "the body is done for one item",
    ItemFailed(ItemFailed) = "item.failed": "the body failed for one item",
    NodeSucceeded(NodeSucceeded) = "node.succeeded": "a node has its output and took a port",
    NodeRetryScheduled(NodeRetryScheduled) = "node.retry_scheduled": "an attempt failed, another one follows at the time given",
    NodeFailed(NodeFailed) = "node.failed": "a node failed for good",
    NodeSkipped(NodeSkipped) = "node.skipped": "no path leads to the node any more",
    NodeLogged(NodeLogged) = "node.logged": "an executor said something about the attempt it is making",
    SignalReceived(SignalReceived) = "signal.received": "a signal came in",
    ApprovalGiven(ApprovalGiven) = "approval.given": "somebody approved or rejected",
    FactDeferred(FactDeferred) = "fact.deferred": "something happened while the run was paused",
    RunPaused(RunPaused) = "run.paused": "somebody asked for a pause",
    RunResumed(RunResumed) = "run.resumed": "the pause is over",
    RunResponded(RunResponded) = "run.responded": "the run answers whoever started it",
    RunCancelRequested(RunCancelRequested) = "run.cancel_requested": "somebody asked for the run to end",
    RunUnwinding(RunUnwinding) = "run.unwinding": "the run is going to end, and what it did is undone first",
    RunHandlerStarted(RunHandlerStarted) = "run.handler_started": "a run that looks after this one's failure was started",
    RunRedriven(RunRedriven) = "run.redriven": "the run goes on after its end: what failed is tried again",
    RunEdited(RunEdited) = "run.edited": "somebody changed variables or outputs",
    NodeOverridden(NodeOverridden) = "node.overridden": "somebody settled a node in place of whoever was to",
    RunForked(RunForked) = "run.forked": "the run goes on by itself from a copy of another run's events",
    RunSucceeded(RunSucceeded) = "run.succeeded": "the run ended well",
    RunFailed(RunFailed) = "run.failed": "the run ended with an error",
    RunCanceled(RunCanceled) = "run.canceled": "the run was ended on request",
}

/// Where a run stands after an event of this type; `None` where it stands as before.
#[must_use]
pub fn status_after(type_name: &str) -> Option<RunStatus> {
    match type_name {
        "run.started" | "run.resumed" | "run.redriven" => Some(RunStatus::Running),
        "run.paused" => Some(RunStatus::Paused),
        "run.succeeded" => Some(RunStatus::Succeeded),
        "run.failed" => Some(RunStatus::Failed),
        "run.canceled" => Some(RunStatus::Canceled),
        _ => None,
    }
}

impl Event {
    /// Whether the run is over with this event.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::RunSucceeded(_) | Self::RunFailed(_) | Self::RunCanceled(_))
    }
}

/// An event where it stands in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its place in the run, gapless from 1.
    pub position: u64,
    /// When it was decided; never decreases within a run.
    pub at: Timestamp,
    /// The event.
    pub event: Event,
}
