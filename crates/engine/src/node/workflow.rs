//! `workflow`: starts a run of another workflow, and waits for its end or does not.

use std::sync::Arc;

use super::{
    Action, ChildVersion, Context, Node, NodeType, Reference, Work, refuse_secrets, render,
    template_references,
};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;
use crate::template::Template;

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
    input: Option<Template>,
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
    let input = with.template("input", problems);
    refuse_secrets(with, "input", input.as_ref(), problems);
    let detached = with.boolean("detached", problems).unwrap_or(false);
    Some(Box::new(Child { workflow: workflow.into(), version, input, detached }))
}

impl Node for Child {
    fn references(&self) -> Vec<Reference> {
        self.input.iter().flat_map(|input| template_references("input", input)).collect()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let input = match &self.input {
            Some(template) => render(template, "input", context, &mut Budget::node())?,
            None => Json::object([] as [(&str, Json); 0]),
        };
        let workflow = Arc::clone(&self.workflow);
        Ok(Action::Start { workflow, version: self.version, input, detached: self.detached })
    }

    fn starts(&self) -> Option<(&str, ChildVersion)> {
        Some((&self.workflow, self.version))
    }
}
