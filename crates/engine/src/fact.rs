//! What can happen to a run from outside. Every fact is one inbox row; the engine turns it into events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::json::Json;

/// One thing that happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// `run.start`: somebody asked for the run.
    Start(Start),
    /// `job.completed`: an executor finished an attempt and brought a result.
    JobCompleted(JobCompleted),
    /// `job.failed`: an attempt failed, or its lease ran out.
    JobFailed(JobFailed),
    /// `timer.due`: the time a node waits for has come.
    TimerDue(TimerDue),
    /// `run.cancel`: somebody asked for the run to end.
    Cancel(Cancel),
    /// `run.quarantine`: the run cannot be carried on; it ends with the error instead of hurting others.
    Quarantine(Quarantine),
}

/// The data a run starts from: all it will ever know of the world that is not an event of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The published version the run stays on.
    pub version: u32,
    /// The run's input.
    pub input: Json,
    /// Seed of every random draw of the run.
    pub seed: u64,
    /// Who or what started it, for example `{"type":"webhook","endpoint":"…"}`.
    pub trigger: Json,
    /// The caller's idempotency key, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Arc<str>>,
}

/// An executor finished an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobCompleted {
    /// The node whose job it was.
    pub node: Arc<str>,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// What the executor brought; the node decides whether that is a success.
    pub output: Json,
}

/// An attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobFailed {
    /// The node whose job it was.
    pub node: Arc<str>,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// Why: an [`ErrorInfo`], or whatever the executor reported instead.
    pub error: Json,
}

/// The time a node waits for has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimerDue {
    /// The waiting node.
    pub node: Arc<str>,
}

/// Somebody asked for the run to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// The start that still waited: the run is recorded and ends without a node having run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// The run cannot be carried on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantine {
    /// What went wrong.
    pub error: ErrorInfo,
    /// The start that was never turned, so that the input is not lost with the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl Fact {
    /// Reads an inbox row: its kind and the text of its data.
    ///
    /// # Errors
    /// The kind is unknown to this release, or the data does not fit it.
    pub fn from_parts(kind: &str, data: &str) -> Result<Self, String> {
        fn read<'a, T: Deserialize<'a>>(kind: &str, data: &'a str) -> Result<T, String> {
            serde_json::from_str(data)
                .map_err(|error| format!("inbox row of kind {kind} cannot be read: {error}"))
        }
        match kind {
            "run.start" => read(kind, data).map(Self::Start),
            "job.completed" => read(kind, data).map(Self::JobCompleted),
            "job.failed" => read(kind, data).map(Self::JobFailed),
            "timer.due" => read(kind, data).map(Self::TimerDue),
            "run.cancel" => read(kind, data).map(Self::Cancel),
            "run.quarantine" => read(kind, data).map(Self::Quarantine),
            _ => Err(format!("inbox row of unknown kind {kind}")),
        }
    }
}
