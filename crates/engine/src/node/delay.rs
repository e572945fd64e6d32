//! `delay`: goes on after a time. The wait is a timer row, never a sleeping process.

use super::{Action, Context, Node, NodeType, Reference, refuse_secrets, render, template_references};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::template::Template;
use crate::time::parse_duration_ms;

/// `{"type":"delay","with":{"duration":"5m"}}`; the duration may be a template.
pub(super) static TYPE: NodeType = NodeType { name: "delay", is_job: false, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["duration"],
    "properties": { "duration": { "description": "How long: a duration, or a template that makes one." } }
}"##;

#[derive(Debug)]
struct Delay {
    duration: Template,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("duration", problems)?;
    let duration = with.template("duration", problems)?;
    refuse_secrets(with, "duration", Some(&duration), problems);
    if duration.as_const().is_some() {
        with.duration_ms("duration", problems);
    }
    Some(Box::new(Delay { duration }))
}

impl Node for Delay {
    fn references(&self) -> Vec<Reference> {
        template_references("duration", &self.duration)
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let duration = render(&self.duration, "duration", context, &mut Budget::node())?;
        let complaint = |message: String| ErrorInfo::new("delay.duration", message).retryable(false);
        let text = duration.as_str().ok_or_else(|| complaint("the duration is not a string".to_owned()))?;
        let millis = parse_duration_ms(text).map_err(complaint)?;
        Ok(Action::WaitUntil(context.at.plus_millis(millis)))
    }
}
