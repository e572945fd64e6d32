//! `task`: work that anybody does, in any language, by claiming it from a queue over SQL.

use std::sync::Arc;

use super::{Action, Context, Node, NodeType, Reference, Work, refuse_secrets, render, template_references};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;
use crate::template::Template;

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
    input: Option<Template>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let queue = with.string("queue", problems).unwrap_or(DEFAULT_QUEUE);
    if queue.is_empty() || queue.len() > MAX_NAME_BYTES || queue == super::http::QUEUE {
        let message =
            format!("a queue name has 1 to {MAX_NAME_BYTES} bytes and is not \"http\", the sidecar's own");
        problems.add(with.at("queue"), "range", message);
    }
    let input = with.template("input", problems);
    refuse_secrets(with, "input", input.as_ref(), problems);
    Some(Box::new(Task { queue: queue.into(), input }))
}

impl Node for Task {
    fn references(&self) -> Vec<Reference> {
        self.input.iter().flat_map(|input| template_references("input", input)).collect()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let input = match &self.input {
            Some(template) => render(template, "input", context, &mut Budget::node())?,
            None => Json::object([] as [(&str, Json); 0]),
        };
        Ok(Action::Job { queue: Arc::clone(&self.queue), input, timeout_ms: context.timeout_ms })
    }
}
