//! `workflow`: starts a run of another workflow, and waits for its end or does not.

use std::sync::Arc;

use super::field::{TemplateField, all_references, input};
use super::{Action, ChildVersion, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;

/// `{"type":"workflow","with":{"workflow":"ship","input":{…},"version":"latest","detached":false}}`. The output is the
/// child's output; of a detached one `{"run": id}`. Without a version it is the one that was the newest when
/// this workflow was published.
pub(super) static TYPE: NodeType = NodeType { name: "workflow", work: Work::Child, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["workflow"],
    "properties": {
        "workflow": { "description": "Its name.", "type": "string", "minLength": 1, "maxLength": 63 },
        "version": {
            "description": "Without it, the one that is the newest when this workflow is published.",
            "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "latest" }]
        },
        "input": { "description": "The child's input; a template." },
        "detached": { "description": "Whether nobody waits for its end.", "type": "boolean", "default": false }
    }
}"##;

#[derive(Debug)]
struct Child {
    workflow: Arc<str>,
    version: ChildVersion,
    input: Option<TemplateField>,
    detached: bool,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("workflow", problems)?;
    let workflow = with.string("workflow", problems)?;
    if workflow.is_empty() || workflow.len() > MAX_NAME_BYTES {
        let message = format!("a workflow's name has 1 to {MAX_NAME_BYTES} bytes");
        problems.add(with.at("workflow"), "range", message);
    }
    let version = match with.get("version") {
        None => ChildVersion::Published,
        Some(version) => match (version.as_str(), version.as_i64().and_then(|n| u32::try_from(n).ok())) {
            (Some("latest"), _) => ChildVersion::Newest,
            (None, Some(number)) if number > 0 => ChildVersion::Number(number),
            _ => {
                let message = "\"version\" must be a version's number or \"latest\"";
                problems.add(with.at("version"), "value", message);
                return None;
            }
        },
    };
    let input = TemplateField::read(with, "input", problems);
    let detached = with.boolean("detached", problems).unwrap_or(false);
    Some(Box::new(Child { workflow: workflow.into(), version, input, detached }))
}

impl Node for Child {
    fn references(&self) -> Vec<Reference> {
        all_references(&self.input)
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let input = input(self.input.as_ref(), context)?;
        let workflow = Arc::clone(&self.workflow);
        Ok(Action::Start { workflow, version: self.version, input, detached: self.detached })
    }

    fn starts(&self) -> Option<(&str, ChildVersion)> {
        Some((&self.workflow, self.version))
    }
}
