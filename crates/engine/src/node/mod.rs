//! The node types. Each is one file with its definition, its checks and its decision; this file lists
//! them and says what they may use.

use std::fmt;
use std::sync::Arc;

use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::{Budget, Expr, ExprError, RootPath};
use crate::json::{Json, MAX_DOCUMENT_DEPTH};
use crate::state::{OUT, RunStatus};
use crate::template::Template;
use crate::time::Timestamp;

mod branch;
mod delay;
mod http;
mod task;
pub(crate) mod terminate;
mod transform;

/// Every node type there is. A new one is a file beside this one and a line here.
pub static NODE_TYPES: &[&NodeType] =
    &[&http::TYPE, &transform::TYPE, &branch::TYPE, &delay::TYPE, &task::TYPE, &terminate::TYPE];

/// The node type of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static NodeType> {
    NODE_TYPES.iter().find(|kind| kind.name == name).copied()
}

/// A node type: how its `with` is read.
pub struct NodeType {
    /// The word in the definition's `type`.
    pub name: &'static str,
    /// Whether an executor does the work: then it has attempts, retries, a timeout and a `timeout` port.
    pub is_job: bool,
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
    /// The root of expressions: `.input`, `.nodes`, `.run`, `.vars`, `.error`, `.now`.
    pub root: &'a Json,
    /// The time of the decision.
    pub at: Timestamp,
    /// How long one attempt may take, in milliseconds, if the definition says so.
    pub timeout_ms: Option<u64>,
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
    },
    /// It goes on at this time.
    WaitUntil(Timestamp),
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

/// A compiled node.
pub trait Node: fmt::Debug + Send + Sync {
    /// The ports of success.
    fn ports(&self) -> Vec<Arc<str>> {
        vec![Arc::from(OUT)]
    }

    /// The paths its expressions read.
    fn references(&self) -> Vec<Reference>;

    /// Decides what happens when the node's turn has come.
    ///
    /// # Errors
    /// Why it cannot go on; the node fails with it.
    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo>;

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

/// Renders a template of the node's field `name`.
fn render(
    template: &Template,
    name: &str,
    context: &Context,
    budget: &mut Budget,
) -> Result<Json, ErrorInfo> {
    match template.render(context.root, budget) {
        Ok(rendered) if rendered.value.is_deeper_than(MAX_DOCUMENT_DEPTH) => {
            let message =
                format!("the value is nested deeper than {MAX_DOCUMENT_DEPTH} levels (at /with/{name})");
            Err(ErrorInfo::new("expr.too_complex", message).retryable(false))
        }
        Ok(rendered) => Ok(rendered.value),
        Err((below, error)) => Err(located(&error, &format!("/with/{name}{below}"))),
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
}

/// The references of an expression at a pointer below `with`.
fn references(pointer: &str, expr: &Expr) -> Vec<Reference> {
    let of = |path: &RootPath| Reference { pointer: pointer.to_owned(), keys: path.keys.clone() };
    expr.paths().iter().map(of).collect()
}

/// The references of a template in the field `name`.
fn template_references(name: &str, template: &Template) -> Vec<Reference> {
    template.exprs().iter().flat_map(|(below, expr)| references(&format!("/{name}{below}"), expr)).collect()
}

/// Complains about `$secrets` where nothing is sent outside.
fn refuse_secrets(fields: &Fields, name: &str, template: Option<&Template>, problems: &mut Problems) {
    for (below, secret) in template.into_iter().flat_map(Template::secrets) {
        let message =
            format!("secret \"{secret}\" does not exist; this release keeps no secrets to send outside");
        problems.add(format!("{}{below}", fields.at(name)), "secret", message);
    }
}
