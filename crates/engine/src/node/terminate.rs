//! `terminate`: ends the run at once, however many other paths are open. Inline.

use std::sync::Arc;

use super::field::{TemplateField, all_references};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;
use crate::state::RunStatus;

/// `{"type":"terminate","with":{"status":"succeeded","output": <template>,"reason": <template>}}`
pub(crate) static TYPE: NodeType =
    NodeType { name: "terminate", work: Work::Inline, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "status": { "enum": ["succeeded", "failed", "canceled"], "default": "succeeded" },
        "output": { "description": "The run's output; a template." },
        "reason": { "description": "Why, for people; a template." }
    }
}"##;

#[derive(Debug)]
struct Terminate {
    status: RunStatus,
    output: Option<TemplateField>,
    reason: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let words = [
        ("succeeded", RunStatus::Succeeded),
        ("failed", RunStatus::Failed),
        ("canceled", RunStatus::Canceled),
    ];
    let status = with.word("status", &words, problems).unwrap_or(RunStatus::Succeeded);
    let output = TemplateField::read(with, "output", problems);
    let reason = TemplateField::read(with, "reason", problems);
    Some(Box::new(Terminate { status, output, reason }))
}

impl Node for Terminate {
    /// Nothing follows the end; the list is only for the message about an edge that says otherwise.
    fn ports(&self) -> Vec<Arc<str>> {
        vec![Arc::from("nothing (it ends the run)")]
    }

    fn references(&self) -> Vec<Reference> {
        all_references(self.output.iter().chain(&self.reason))
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let output = self.output.as_ref().map(|output| output.render(context, &mut budget));
        let reason = self.reason.as_ref().map(|reason| reason.render(context, &mut budget));
        let reason = reason.transpose()?.map(|reason| match reason.as_str() {
            Some(text) => Arc::from(text),
            None => Arc::from(reason.to_string()),
        });
        Ok(Action::End { status: self.status, output: output.transpose()?, reason })
    }
}

/// The error of a run that a `terminate` node lets fail.
pub(crate) fn failure(reason: Option<&str>, output: Option<&Json>) -> ErrorInfo {
    let mut error = ErrorInfo::new("terminated", reason.unwrap_or("the workflow ended the run as failed"));
    error.details = output.cloned();
    error.retryable(false)
}
