//! What can happen to a run from outside. Every fact is one inbox row; the engine turns it into events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ErrorInfo;
use crate::event::{
    ApprovalGiven, NodeLogged, NodeOverridden, RunEdited, RunForked, RunPaused, RunRedriven, RunResumed,
    SignalReceived,
};
use crate::json::Json;
use crate::state::RunStatus;
use crate::time::Timestamp;

/// One thing that happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// `run.start`: somebody asked for the run.
    Start(Start),
    /// `job.completed`: an executor finished an attempt and brought a result.
    JobCompleted(JobCompleted),
    /// `job.failed`: an attempt failed, or its lease ran out.
    JobFailed(JobFailed),
    /// `job.logged`: an executor said something about the attempt it is making.
    JobLogged(NodeLogged),
    /// `timer.due`: the time a node waits for has come.
    TimerDue(TimerDue),
    /// `child.ended`: a run that this one started and waits for is over.
    ChildEnded(ChildEnded),
    /// `run.signal`: somebody sent a signal.
    Signal(SignalReceived),
    /// `run.approval`: somebody approved or rejected.
    Approval(ApprovalGiven),
    /// `run.cancel`: somebody asked for the run to end.
    Cancel(Cancel),
    /// `run.pause`: somebody asked for a pause.
    Pause(RunPaused),
    /// `run.resume`: the pause is over.
    Resume(RunResumed),
    /// `run.redrive`: the run goes on after its end.
    Redrive(RunRedriven),
    /// `run.edit`: somebody changes variables or outputs.
    Edit(RunEdited),
    /// `node.override`: somebody settles a node.
    Override(NodeOverridden),
    /// `run.fork`: the run goes on by itself from the events it has got from another.
    Fork(RunForked),
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
    /// When the run has taken too long; the engine says so as it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The run that started this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// The run above a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub run: Arc<str>,
    /// Its node that started the child; absent for the handler of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Whether nobody waits for the child's end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// How many runs stand above the child.
    pub depth: u32,
}

/// A run that this one started and waits for is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildEnded {
    /// The node that started it.
    pub node: Arc<str>,
    /// The child.
    pub run: Arc<str>,
    /// How it ended.
    pub status: RunStatus,
    /// Its output, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub output: Option<Json>,
    /// Its error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
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
    /// The waiting node; empty for the run's own deadline.
    pub node: Arc<str>,
}

/// Somebody asked for the run to end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// Whether it ends at once, with nothing undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill: bool,
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

macro_rules! facts {
    ($($variant:ident = $kind:literal),+ $(,)?) => {
        impl Fact {
            /// Reads an inbox row: its kind and the text of its data.
            ///
            /// # Errors
            /// The kind is unknown to this release, or the data does not fit it.
            pub fn from_parts(kind: &str, data: &str) -> Result<Self, String> {
                match kind {
                    $($kind => serde_json::from_str(data)
                        .map(Self::$variant)
                        .map_err(|error| format!("inbox row of kind {kind} cannot be read: {error}")),)+
                    _ => Err(format!("inbox row of unknown kind {kind}")),
                }
            }

            /// The kind and the data of its inbox row.
            #[must_use]
            pub fn to_parts(&self) -> (&'static str, Json) {
                match self {
                    $(Self::$variant(data) => ($kind, crate::to_json(data)),)+
                }
            }
        }
    };
}

facts! {
    Start = "run.start",
    JobCompleted = "job.completed",
    JobFailed = "job.failed",
    JobLogged = "job.logged",
    TimerDue = "timer.due",
    ChildEnded = "child.ended",
    Signal = "run.signal",
    Approval = "run.approval",
    Cancel = "run.cancel",
    Pause = "run.pause",
    Resume = "run.resume",
    Redrive = "run.redrive",
    Edit = "run.edit",
    Override = "node.override",
    Fork = "run.fork",
    Quarantine = "run.quarantine",
}
