//! `emit`: appends a message to a stream, in the transaction of the turn that records it.

use super::field::{TemplateField, all_references};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;

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
    stream: TemplateField,
    message_type: TemplateField,
    data: Option<TemplateField>,
    metadata: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let stream = TemplateField::required(with, "stream", problems);
    let message_type = TemplateField::required(with, "message_type", problems);
    let data = TemplateField::read(with, "data", problems);
    let metadata = TemplateField::read(with, "metadata", problems);
    Some(Box::new(Emit { stream: stream?, message_type: message_type?, data, metadata }))
}

impl Node for Emit {
    fn references(&self) -> Vec<Reference> {
        all_references([&self.stream, &self.message_type].into_iter().chain(&self.data).chain(&self.metadata))
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let mut input = Vec::new();
        for field in [&self.stream, &self.message_type] {
            let (name, value) = (field.name(), field.render(context, &mut budget)?);
            let fits = value.as_str().is_some_and(|text| !text.is_empty() && text.len() <= MAX_TEXT_BYTES);
            if !fits || value.as_str().is_some_and(|text| name == "stream" && text.starts_with("meshhook:")) {
                let message = format!(
                    "\"{name}\" must come to a text of 1 to {MAX_TEXT_BYTES} bytes, and no stream begins with \"meshhook:\""
                );
                return Err(ErrorInfo::new("emit.value", message).retryable(false));
            }
            input.push((name, value));
        }
        for field in self.data.iter().chain(&self.metadata) {
            input.push((field.name(), field.render(context, &mut budget)?));
        }
        Ok(Action::Database { input: Json::object(input), timeout_ms: None })
    }

    /// An append waits for nobody.
    fn longest_attempt_ms(&self) -> Option<u64> {
        Some(0)
    }
}
