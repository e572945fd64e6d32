//! The node types. Each is one file with its definition, its checks and its decision; this file lists
//! them and says what they may use.

use std::fmt;
use std::sync::Arc;

use crate::blob::Blob;
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::{Expr, ExprError, RootPath};
use crate::json::Json;
use crate::resume::Placeholders;
use crate::state::{OUT, RunStatus};
use crate::time::Timestamp;

mod branch;
mod delay;
mod emit;
mod field;
mod http;
pub(crate) mod map;
mod repeat;
mod respond;
mod sql;
mod task;
pub(crate) mod terminate;
mod transform;
pub(crate) mod wait;
mod workflow;

pub use http::is_http_url;

/// Every node type there is. A new one is a file beside this one and a line here.
pub static NODE_TYPES: &[&NodeType] = &[
    &http::TYPE,
    &transform::TYPE,
    &branch::TYPE,
    &delay::TYPE,
    &wait::TYPE,
    &map::TYPE,
    &repeat::TYPE,
    &workflow::TYPE,
    &sql::TYPE,
    &task::TYPE,
    &emit::TYPE,
    &respond::TYPE,
    &terminate::TYPE,
];

/// The node type of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static NodeType> {
    NODE_TYPES.iter().find(|kind| kind.name == name).copied()
}

/// Who does the work of a node, and with it what can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nobody: the outcome follows at once from what is known.
    Inline,
    /// A clock.
    Timer,
    /// People, or another system, by a signal.
    Wait,
    /// An executor: attempts, retries, a time limit for each attempt.
    Job,
    /// The database, in a turn: attempts, retries, a time limit for each attempt.
    Database,
    /// A run of another workflow.
    Child,
    /// The nodes of its body.
    Body,
}

impl Work {
    /// Whether an attempt of it can be repeated.
    #[must_use]
    pub fn is_retried(self) -> bool {
        matches!(self, Self::Job | Self::Database | Self::Child)
    }

    /// Whether it consists of attempts with a time limit each.
    #[must_use]
    pub fn has_attempt_timeout(self) -> bool {
        matches!(self, Self::Job | Self::Database)
    }

    /// Whether it can take too long as a whole.
    #[must_use]
    pub fn can_be_late(self) -> bool {
        !matches!(self, Self::Inline | Self::Timer)
    }

    /// Whether it may undo another node: it does something outside, and ends by itself.
    #[must_use]
    pub fn can_compensate(self) -> bool {
        self.has_attempt_timeout()
    }
}

/// A node type: who works, and how its `with` is read.
pub struct NodeType {
    /// The word in the definition's `type`.
    pub name: &'static str,
    /// Who does the work.
    pub work: Work,
    /// The JSON Schema of `with`, without what holds of every one: that it is an object of known members. It refuses
    /// nothing that `compile` takes. It may refer to the `$defs` of [`crate::definition::schema`].
    pub schema: &'static str,
    /// Reads `with`; notes every fault and returns `None` if there is one.
    pub compile: fn(&mut Fields, &mut Problems) -> Option<Box<dyn Node>>,
}

impl fmt::Debug for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a node sees when it fires.
#[derive(Debug)]
pub struct Context<'a> {
    /// The root of expressions: `.input`, `.nodes`, `.run`, `.vars`, `.item`, `.index`, `.error`, `.now`.
    pub root: &'a Json,
    /// The time of the decision.
    pub at: Timestamp,
    /// How long one attempt may take, in milliseconds, if the definition says so.
    pub timeout_ms: Option<u64>,
    /// What stands for the resume URLs of the nodes beside it.
    pub placeholders: Placeholders<'a>,
}

/// What a node wants to happen when it fires.
#[derive(Debug)]
pub enum Action {
    /// It has its output already.
    Succeed {
        /// The port taken.
        port: Arc<str>,
        /// The output.
        output: Json,
    },
    /// An executor has to do something.
    Job {
        /// The queue the job waits in.
        queue: Arc<str>,
        /// The rendered input.
        input: Json,
        /// How long one attempt may take by the database's clock, in milliseconds; `None` where the
        /// executor keeps the time itself.
        timeout_ms: Option<u64>,
        /// What the input refers to.
        blobs: Vec<Blob>,
    },
    /// The database has to do something, in a turn of this run.
    Database {
        /// The rendered input.
        input: Json,
        /// How long one attempt may take, in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// It goes on at this time.
    WaitUntil(Timestamp),
    /// It goes on with the next signal of this name.
    WaitForSignal(Arc<str>),
    /// It goes on once enough people have approved, or one has rejected.
    WaitForApproval,
    /// Its body begins.
    Enter {
        /// The items of a map, an array; `None` for a repeat.
        items: Option<Json>,
    },
    /// Another run begins.
    Start {
        /// The workflow's name.
        workflow: Arc<str>,
        /// The version, if not the one of the time of publishing.
        version: ChildVersion,
        /// Its input.
        input: Json,
        /// Whether nobody waits for its end.
        detached: bool,
    },
    /// It answers whoever started the run.
    Respond {
        /// HTTP status.
        status: u16,
        /// HTTP headers.
        headers: Option<Json>,
        /// The body.
        body: Option<Json>,
    },
    /// The run ends here.
    End {
        /// How.
        status: RunStatus,
        /// The run's output, if it gives one.
        output: Option<Json>,
        /// Why, in the definition's words.
        reason: Option<Arc<str>>,
    },
}

/// The version a child run starts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildVersion {
    /// The one that was the newest when the parent's version was published.
    Published,
    /// The newest at the time of the start.
    Newest,
    /// This one.
    Number(u32),
}

/// What a body is run for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BodyRule {
    /// Once for each item.
    Map {
        /// Most items under way at a time.
        concurrency: u32,
        /// How many items may fail, if any.
        tolerance: Option<Tolerance>,
    },
    /// Until a condition holds.
    Repeat {
        /// Most iterations.
        max_iterations: u32,
    },
}

/// How many items of a map may fail before it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percentage(f64),
}

impl Tolerance {
    /// Whether `failed` of `count` are too many.
    #[must_use]
    pub fn is_exceeded(self, failed: u32, count: u32) -> bool {
        match self {
            Self::Count(limit) => failed > limit,
            Self::Percentage(limit) => f64::from(failed) * 100.0 > limit * f64::from(count),
        }
    }
}

/// What follows an iteration of a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iteration {
    /// The condition holds.
    Done,
    /// Another one, so many milliseconds later.
    Again(u64),
}

/// A compiled node.
pub trait Node: fmt::Debug + Send + Sync {
    /// The ports of success.
    fn ports(&self) -> Vec<Arc<str>> {
        vec![Arc::from(OUT)]
    }

    /// The paths its expressions read.
    fn references(&self) -> Vec<Reference>;

    /// The nodes whose resume URLs it sends, each with the JSON pointer of the string, below the node's `with`.
    fn resumes(&self) -> Vec<(String, &str)> {
        Vec::new()
    }

    /// Decides what happens when the node's turn has come.
    ///
    /// # Errors
    /// Why it cannot go on; the node fails with it.
    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo>;

    /// How its body is run, where it has one.
    fn body_rule(&self) -> Option<BodyRule> {
        None
    }

    /// Decides after an iteration whether another one follows. The root is the body's.
    ///
    /// # Errors
    /// Why it cannot be decided; the node fails with it.
    fn after_iteration(&self, _context: &Context) -> Result<Iteration, ErrorInfo> {
        Ok(Iteration::Done)
    }

    /// The longest a definition may let one attempt take, in milliseconds; 0 where it cannot say.
    fn longest_attempt_ms(&self) -> Option<u64> {
        None
    }

    /// How many people have to approve, where it waits for them.
    fn approvers(&self) -> usize {
        1
    }

    /// The signal it waits for, where it waits for one.
    fn signal(&self) -> Option<&str> {
        None
    }

    /// The workflows it starts, for the versions to be fixed at publish.
    fn starts(&self) -> Option<(&str, ChildVersion)> {
        None
    }

    /// What has to be true in the database for it to be published.
    fn database_function(&self) -> Option<(&str, Option<&str>)> {
        None
    }

    /// The secrets it sends, each with where below `with`, for publishing to see that they are there.
    fn secrets(&self) -> Vec<(String, &str)> {
        Vec::new()
    }

    /// Judges what an executor brought.
    ///
    /// # Errors
    /// Why it counts as a failed attempt.
    fn judge(&self, _output: &Json) -> Result<(), ErrorInfo> {
        Ok(())
    }
}

/// Stands where a definition has a fault; a workflow with one is never returned.
#[derive(Debug)]
pub(crate) struct Broken;

impl Node for Broken {
    fn ports(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn fire(&self, _: &Context) -> Result<Action, ErrorInfo> {
        Err(ErrorInfo::new("internal", "a faulty definition cannot run"))
    }
}

/// An expression error with the place of the expression.
fn located(error: &ExprError, place: &str) -> ErrorInfo {
    ErrorInfo::new(error.code.as_str(), format!("{error} (at {place})")).retryable(false)
}

/// A path that an expression reads.
#[derive(Clone, Debug)]
pub struct Reference {
    /// JSON pointer of the expression, below the node's `with`.
    pub pointer: String,
    /// The keys from the root on, for example `nodes`, `charge`.
    pub keys: Vec<Arc<str>>,
    /// Whether it is evaluated among the nodes of the node's own body.
    pub in_body: bool,
}

/// The references of an expression at a pointer below `with`.
fn references(pointer: &str, expr: &Expr) -> Vec<Reference> {
    let of =
        |path: &RootPath| Reference { pointer: pointer.to_owned(), keys: path.keys.clone(), in_body: false };
    expr.paths().iter().map(of).collect()
}
