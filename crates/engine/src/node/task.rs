//! `task`: work that anybody does, in any language, by claiming it from a queue over SQL.

use std::sync::Arc;

use super::field::{TemplateField, all_references, all_resumes, input};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;

/// `{"type":"task","with":{"queue":"default","input": <template>}}`
pub(super) static TYPE: NodeType = NodeType { name: "task", work: Work::Job, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "queue": {
            "type": "string",
            "minLength": 1,
            "maxLength": 63,
            "not": { "const": "http" },
            "default": "default"
        },
        "input": { "description": "What the executor gets; a template." }
    }
}"##;

/// The queue of tasks that name none.
const DEFAULT_QUEUE: &str = "default";

#[derive(Debug)]
struct Task {
    queue: Arc<str>,
    input: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let queue = with.string("queue", problems).unwrap_or(DEFAULT_QUEUE);
    if queue.is_empty() || queue.len() > MAX_NAME_BYTES || queue == super::http::QUEUE {
        let message =
            format!("a queue name has 1 to {MAX_NAME_BYTES} bytes and is not \"http\", the sidecar's own");
        problems.add(with.at("queue"), "range", message);
    }
    let input = TemplateField::sent(with, "input", problems);
    Some(Box::new(Task { queue: queue.into(), input }))
}

impl Node for Task {
    fn references(&self) -> Vec<Reference> {
        all_references(&self.input)
    }

    fn resumes(&self) -> Vec<(String, &str)> {
        all_resumes(&self.input)
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let input = input(self.input.as_ref(), context)?;
        Ok(Action::Job {
            queue: Arc::clone(&self.queue),
            input,
            timeout_ms: context.timeout_ms,
            blobs: Vec::new(),
        })
    }
}
