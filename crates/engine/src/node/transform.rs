//! `transform`: makes data from data. Inline: no job, no wait.

use std::sync::Arc;

use super::{Action, Context, Node, NodeType, Reference, Work, refuse_secrets, render, template_references};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::state::OUT;
use crate::template::Template;

/// `{"type":"transform","with":{"output": <template>}}`
pub(super) static TYPE: NodeType =
    NodeType { name: "transform", work: Work::Inline, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["output"],
    "properties": { "output": { "description": "The node's output; a template." } }
}"##;

#[derive(Debug)]
struct Transform {
    output: Template,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("output", problems)?;
    let output = with.template("output", problems);
    refuse_secrets(with, "output", output.as_ref(), problems);
    Some(Box::new(Transform { output: output? }))
}

impl Node for Transform {
    fn references(&self) -> Vec<Reference> {
        template_references("output", &self.output)
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let output = render(&self.output, "output", context, &mut Budget::node())?;
        Ok(Action::Succeed { port: Arc::from(OUT), output })
    }
}
