//! `delay`: goes on after a duration, or at a time. The wait is a timer row, never a sleeping process.

use super::{Action, Context, Node, NodeType, Reference, Work, refuse_secrets, render, template_references};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::template::Template;
use crate::time::{Timestamp, parse_duration_ms};

/// `{"type":"delay","with":{"duration":"5m"}}` or `{"type":"delay","with":{"until":"2027-01-01T00:00:00Z"}}`; both may
/// be templates. A time that is past goes on at once.
pub(super) static TYPE: NodeType = NodeType { name: "delay", work: Work::Timer, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "duration": { "description": "How long: a duration, or a template that makes one." },
        "until": { "description": "Until when: an RFC 3339 time, or a template that makes one." }
    },
    "minProperties": 1,
    "maxProperties": 1
}"##;

#[derive(Debug)]
enum Delay {
    For(Template),
    Until(Template),
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let (duration, until) = (with.get("duration").is_some(), with.get("until").is_some());
    if duration == until {
        let at = with.pointer.clone();
        problems.add(at, "missing", "a delay has either a \"duration\" or an \"until\"");
        return None;
    }
    let name = if duration { "duration" } else { "until" };
    let template = with.template(name, problems)?;
    refuse_secrets(with, name, Some(&template), problems);
    if duration {
        if template.as_const().is_some() {
            with.duration_ms("duration", problems);
        }
        return Some(Box::new(Delay::For(template)));
    }
    if let Some(text) = template.as_const()
        && let Err(message) =
            text.as_str().ok_or_else(|| "must be a string".to_owned()).and_then(Timestamp::parse)
    {
        problems.add(with.at("until"), "range", message);
    }
    Some(Box::new(Delay::Until(template)))
}

impl Node for Delay {
    fn references(&self) -> Vec<Reference> {
        match self {
            Self::For(template) => template_references("duration", template),
            Self::Until(template) => template_references("until", template),
        }
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let (template, name) = match self {
            Self::For(template) => (template, "duration"),
            Self::Until(template) => (template, "until"),
        };
        let complaint = |message: String| ErrorInfo::new(&format!("delay.{name}"), message).retryable(false);
        let value = render(template, name, context, &mut Budget::node())?;
        let text = value.as_str().ok_or_else(|| complaint(format!("\"{name}\" is not a string")))?;
        Ok(Action::WaitUntil(match self {
            Self::For(_) => context.at.plus_millis(parse_duration_ms(text).map_err(complaint)?),
            Self::Until(_) => Timestamp::parse(text).map_err(complaint)?.max(context.at),
        }))
    }
}
