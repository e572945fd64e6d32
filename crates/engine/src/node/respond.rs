//! `respond`: answers whoever started the run and waits for it, for example a webhook's sender. Inline.

use super::field::{TemplateField, all_references};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;

/// `{"type":"respond","with":{"status":201,"headers":{…},"body":{…}}}`. Only a run's first answer counts; a second one fails.
pub(super) static TYPE: NodeType = NodeType { name: "respond", work: Work::Inline, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "status": { "type": "integer", "minimum": 200, "maximum": 599, "default": 200 },
        "headers": { "description": "Templates by name.", "type": "object" },
        "body": { "description": "A template." }
    }
}"##;

#[derive(Debug)]
struct Respond {
    status: u16,
    headers: Option<TemplateField>,
    body: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let status = with.integer("status", 200..=599, problems).unwrap_or(200);
    if with.get("headers").is_some_and(|headers| headers.as_obj().is_none()) {
        problems.add(with.at("headers"), "type", "\"headers\" must be an object of strings");
    }
    let headers = TemplateField::read(with, "headers", problems);
    let body = TemplateField::read(with, "body", problems);
    Some(Box::new(Respond { status: u16::try_from(status).unwrap_or(200), headers, body }))
}

impl Node for Respond {
    fn references(&self) -> Vec<Reference> {
        all_references(self.headers.iter().chain(&self.body))
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let headers = self.headers.as_ref().map(|headers| headers.render(context, &mut budget));
        let headers =
            headers.transpose()?.map(|headers| super::http::texts(headers, "headers", &[])).transpose()?;
        let body = self.body.as_ref().map(|body| body.render(context, &mut budget));
        Ok(Action::Respond { status: self.status, headers, body: body.transpose()? })
    }
}
