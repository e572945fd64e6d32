//! `delay`: goes on after a duration, or at a time. The wait is a timer row, never a sleeping process.

use super::field::TemplateField;
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
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
    For(TemplateField),
    Until(TemplateField),
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    let (duration, until) = (with.get("duration").is_some(), with.get("until").is_some());
    if duration == until {
        let at = with.pointer.clone();
        problems.add(at, "missing", "a delay has either a \"duration\" or an \"until\"");
        return None;
    }
    let name = if duration { "duration" } else { "until" };
    let time = TemplateField::read(with, name, problems)?;
    if duration {
        if time.as_const().is_some() {
            with.duration_ms("duration", problems);
        }
        return Some(Box::new(Delay::For(time)));
    }
    if let Some(text) = time.as_const()
        && let Err(message) =
            text.as_str().ok_or_else(|| "must be a string".to_owned()).and_then(Timestamp::parse)
    {
        problems.add(with.at("until"), "range", message);
    }
    Some(Box::new(Delay::Until(time)))
}

impl Node for Delay {
    fn references(&self) -> Vec<Reference> {
        let (Self::For(time) | Self::Until(time)) = self;
        time.references()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let (Self::For(time) | Self::Until(time)) = self;
        let name = time.name();
        let complaint = |message: String| ErrorInfo::new(&format!("delay.{name}"), message).retryable(false);
        let value = time.render(context, &mut Budget::node())?;
        let text = value.as_str().ok_or_else(|| complaint(format!("\"{name}\" is not a string")))?;
        Ok(Action::WaitUntil(match self {
            Self::For(_) => context.at.plus_millis(parse_duration_ms(text).map_err(complaint)?),
            Self::Until(_) => Timestamp::parse(text).map_err(complaint)?.max(context.at),
        }))
    }
}
