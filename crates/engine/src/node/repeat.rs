//! `repeat`: does its body again and again until a condition holds, with a bound that must be given.

use super::{Action, BodyRule, Context, Iteration, Node, NodeType, Reference, Work, located, references};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::{Budget, Expr};

/// `{"type":"repeat","with":{"until":".nodes.poll.output.body.done","max_iterations":100,"delay":"10s","body":{"nodes":[…]}}}`.
/// Inside, `.index` counts from 0 and `.item` is the output of the iteration before. The condition sees the
/// nodes of the body and, as `.item`, its output. The output is that of the last iteration.
pub(super) static TYPE: NodeType = NodeType { name: "repeat", work: Work::Body, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["until", "max_iterations", "body"],
    "properties": {
        "until": { "description": "Ends the repetition; sees the body's nodes.", "$ref": "#/$defs/expression" },
        "max_iterations": { "type": "integer", "minimum": 1, "maximum": 100000 },
        "delay": { "description": "Between two iterations.", "$ref": "#/$defs/duration", "default": "0s" },
        "body": { "$ref": "#/$defs/body" }
    }
}"##;

/// Most iterations a definition may ask for.
const MAX_ITERATIONS: i64 = 100_000;

#[derive(Debug)]
struct Repeat {
    until: Expr,
    max_iterations: u32,
    delay_ms: u64,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("until", problems);
    with.required("max_iterations", problems);
    let until = with.expr("until", problems);
    let max_iterations = with.integer("max_iterations", 1..=MAX_ITERATIONS, problems);
    let delay_ms = with.duration_ms("delay", problems).unwrap_or(0);
    let max_iterations = u32::try_from(max_iterations?).ok()?;
    Some(Box::new(Repeat { until: until?, max_iterations, delay_ms }))
}

impl Node for Repeat {
    fn references(&self) -> Vec<Reference> {
        let mut references = references("/until", &self.until);
        references.iter_mut().for_each(|reference| reference.in_body = true);
        references
    }

    fn fire(&self, _: &Context) -> Result<Action, ErrorInfo> {
        Ok(Action::Enter { items: None })
    }

    fn body_rule(&self) -> Option<BodyRule> {
        Some(BodyRule::Repeat { max_iterations: self.max_iterations })
    }

    fn after_iteration(&self, context: &Context) -> Result<Iteration, ErrorInfo> {
        let holds = self.until.eval_bool(context.root, &mut Budget::node());
        match holds.map_err(|error| located(&error, "/with/until"))? {
            true => Ok(Iteration::Done),
            false => Ok(Iteration::Again(self.delay_ms)),
        }
    }
}
