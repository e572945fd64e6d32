//! `emit`: appends a message to a stream, in the transaction of the turn that records it.

use super::{Action, Context, Node, NodeType, Reference, Work, refuse_secrets, render, template_references};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;
use crate::template::Template;

/// `{"type":"emit","with":{"stream":"order-{{ .input.id }}","message_type":"Shipped","data":{…},"metadata":{…}}}`. The output is
/// `{"stream","position","global_position"}`.
pub(super) static TYPE: NodeType = NodeType { name: "emit", work: Work::Database, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["stream", "message_type"],
    "properties": {
        "stream": { "description": "The stream's name; a template." },
        "message_type": { "description": "A template." },
        "data": { "description": "A template." },
        "metadata": { "description": "A template." }
    }
}"##;

/// Longest name of a stream and of a message type, in bytes.
const MAX_TEXT_BYTES: usize = 1_024;

#[derive(Debug)]
struct Emit {
    stream: Template,
    message_type: Template,
    data: Option<Template>,
    metadata: Option<Template>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("stream", problems);
    with.required("message_type", problems);
    let mut read = |name: &'static str| {
        let template = with.template(name, problems);
        refuse_secrets(with, name, template.as_ref(), problems);
        template
    };
    let (stream, message_type, data, metadata) =
        (read("stream"), read("message_type"), read("data"), read("metadata"));
    Some(Box::new(Emit { stream: stream?, message_type: message_type?, data, metadata }))
}

impl Node for Emit {
    fn references(&self) -> Vec<Reference> {
        let mut references = template_references("stream", &self.stream);
        references.extend(template_references("message_type", &self.message_type));
        for (name, template) in [("data", &self.data), ("metadata", &self.metadata)] {
            references.extend(template.iter().flat_map(|template| template_references(name, template)));
        }
        references
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let mut input = Vec::new();
        for (name, template) in [("stream", &self.stream), ("message_type", &self.message_type)] {
            let value = render(template, name, context, &mut budget)?;
            let fits = value.as_str().is_some_and(|text| !text.is_empty() && text.len() <= MAX_TEXT_BYTES);
            if !fits || value.as_str().is_some_and(|text| name == "stream" && text.starts_with("meshhook:")) {
                let message = format!(
                    "\"{name}\" must come to a text of 1 to {MAX_TEXT_BYTES} bytes, and no stream begins with \"meshhook:\""
                );
                return Err(ErrorInfo::new("emit.value", message).retryable(false));
            }
            input.push((name, value));
        }
        for (name, template) in [("data", &self.data), ("metadata", &self.metadata)] {
            if let Some(template) = template {
                input.push((name, render(template, name, context, &mut budget)?));
            }
        }
        Ok(Action::Database { input: Json::object(input), timeout_ms: None })
    }

    /// An append waits for nobody.
    fn longest_attempt_ms(&self) -> Option<u64> {
        Some(0)
    }
}
