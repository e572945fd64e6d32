//! `transform`: makes data from data. Inline: no job, no wait.

use std::sync::Arc;

use super::field::TemplateField;
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::state::OUT;

/// `{"type":"transform","with":{"output": <template>}}`
pub(super) static TYPE: NodeType =
    NodeType { name: "transform", work: Work::Inline, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["output"],
    "properties": { "output": { "description": "The node's output; a template." } }
}"##;

#[derive(Debug)]
struct Transform {
    output: TemplateField,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let output = TemplateField::required(with, "output", problems)?;
    Some(Box::new(Transform { output }))
}

impl Node for Transform {
    fn references(&self) -> Vec<Reference> {
        self.output.references()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let output = self.output.render(context, &mut Budget::node())?;
        Ok(Action::Succeed { port: Arc::from(OUT), output })
    }
}
