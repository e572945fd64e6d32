//! `wait`: goes on when a signal comes, or when people have approved or rejected.

use std::sync::Arc;

use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;
use crate::state::OUT;

/// `{"type":"wait","with":{"signal":"paid"},"timeout":"3d"}`: port `out` with the signal's payload; or
/// `{"type":"wait","with":{"approval":{"approvers":2}},"timeout":"3d"}`: ports `approved` and `rejected`.
pub(crate) static TYPE: NodeType = NodeType { name: "wait", work: Work::Wait, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "signal": { "description": "Its name.", "type": "string", "minLength": 1, "maxLength": 63 },
        "approval": {
            "type": "object",
            "properties": { "approvers": { "type": "integer", "minimum": 1, "maximum": 100, "default": 1 } },
            "additionalProperties": false
        }
    },
    "minProperties": 1,
    "maxProperties": 1
}"##;

/// The port of an approval that was given.
pub(crate) const APPROVED: &str = "approved";
/// The port of an approval that was refused.
pub(crate) const REJECTED: &str = "rejected";
/// Most people whose approval a node may ask for.
const MAX_APPROVERS: i64 = 100;

#[derive(Debug)]
enum Wait {
    Signal(Arc<str>),
    Approval { approvers: usize },
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let (signal, approval) = (with.get("signal").is_some(), with.get("approval").is_some());
    if signal == approval {
        let at = with.pointer.clone();
        problems.add(at, "missing", "a wait has either a \"signal\" or an \"approval\"");
        return None;
    }
    if signal {
        let name = with.string("signal", problems)?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let message = format!("a signal's name has 1 to {MAX_NAME_BYTES} bytes");
            problems.add(with.at("signal"), "range", message);
        }
        return Some(Box::new(Wait::Signal(name.into())));
    }
    let at = with.at("approval");
    let mut approval = Fields::of(with.get("approval")?, at, problems)?;
    let approvers = approval.integer("approvers", 1..=MAX_APPROVERS, problems).unwrap_or(1);
    approval.finish(problems);
    Some(Box::new(Wait::Approval { approvers: usize::try_from(approvers).unwrap_or(1) }))
}

impl Node for Wait {
    fn ports(&self) -> Vec<Arc<str>> {
        match self {
            Self::Signal(_) => vec![Arc::from(OUT)],
            Self::Approval { .. } => vec![Arc::from(APPROVED), Arc::from(REJECTED)],
        }
    }

    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn fire(&self, _: &Context) -> Result<Action, ErrorInfo> {
        Ok(match self {
            Self::Signal(name) => Action::WaitForSignal(Arc::clone(name)),
            Self::Approval { .. } => Action::WaitForApproval,
        })
    }

    fn signal(&self) -> Option<&str> {
        match self {
            Self::Signal(name) => Some(name),
            Self::Approval { .. } => None,
        }
    }

    fn approvers(&self) -> usize {
        match self {
            Self::Signal(_) => 1,
            Self::Approval { approvers } => *approvers,
        }
    }
}
