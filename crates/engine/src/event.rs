//! The events of a run: the public, append-only contract that state is folded from.
//!
//! `docs/events.md` is the catalogue. An event type is never changed in place: fields may be added as
//! optional ones, anything else is a new type.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::fact::Start;
use crate::json::Json;
use crate::time::Timestamp;

/// A job or timer of a node begins.
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
    NodeScheduled(NodeScheduled) = "node.scheduled": "a job waits for an executor, or a node waits for a time",
    NodeSucceeded(NodeSucceeded) = "node.succeeded": "a node has its output and took a port",
    NodeRetryScheduled(NodeRetryScheduled) = "node.retry_scheduled": "an attempt failed, another one follows at the time given",
    NodeFailed(NodeFailed) = "node.failed": "a node failed for good",
    NodeSkipped(NodeSkipped) = "node.skipped": "no path leads to the node any more",
    RunCancelRequested(RunCancelRequested) = "run.cancel_requested": "somebody asked for the run to end",
    RunSucceeded(RunSucceeded) = "run.succeeded": "the run ended well",
    RunFailed(RunFailed) = "run.failed": "the run ended with an error",
    RunCanceled(RunCanceled) = "run.canceled": "the run was ended on request",
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
