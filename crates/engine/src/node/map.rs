//! `map`: does its body once for each item, some of them at a time, and gathers the results in order.

use super::field::TemplateField;
use super::{Action, BodyRule, Context, Node, NodeType, Reference, Tolerance, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::expr::Budget;
use crate::json::Json;

/// `{"type":"map","with":{"items":"{{ .input.lines }}","concurrency":10,"tolerance":{"count":3},"body":{"nodes":[…]}}}`.
/// Inside, `.item` is the item and `.index` its place from 0. The output is the array of the body's outputs;
/// with a tolerance, of `{"status","output"}` or `{"status","error"}`.
pub(super) static TYPE: NodeType = NodeType { name: "map", work: Work::Body, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["items", "body"],
    "properties": {
        "items": { "description": "An array, or a template that makes one." },
        "concurrency": {
            "description": "Most items under way at a time.",
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "default": 10
        },
        "tolerance": {
            "description": "How many items may fail, or how many of a hundred; one of the two.",
            "type": "object",
            "properties": {
                "count": { "type": "integer", "minimum": 0, "maximum": 10000 },
                "percentage": { "type": "number", "minimum": 0, "maximum": 100 }
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false
        },
        "body": { "$ref": "#/$defs/body" }
    }
}"##;

/// Most items of one map.
pub const MAX_ITEMS: usize = 10_000;
/// Items under way at a time where the definition does not say.
const DEFAULT_CONCURRENCY: i64 = 10;
/// Most items under way at a time.
const MAX_CONCURRENCY: i64 = 1_000;

#[derive(Debug)]
struct Map {
    items: TemplateField,
    concurrency: u32,
    tolerance: Option<Tolerance>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("items", problems)?;
    let items = TemplateField::read(with, "items", problems);
    let concurrency =
        with.integer("concurrency", 1..=MAX_CONCURRENCY, problems).unwrap_or(DEFAULT_CONCURRENCY);
    let tolerance = read_tolerance(with, problems);
    let concurrency = u32::try_from(concurrency).unwrap_or(1);
    Some(Box::new(Map { items: items?, concurrency, tolerance }))
}

fn read_tolerance(with: &mut Fields, problems: &mut Problems) -> Option<Tolerance> {
    let at = with.at("tolerance");
    let mut fields = Fields::of(with.get("tolerance")?, at.clone(), problems)?;
    let most = i64::try_from(MAX_ITEMS).unwrap_or(i64::MAX);
    let count =
        fields.integer("count", 0..=most, problems).and_then(|n| u32::try_from(n).ok()).map(Tolerance::Count);
    let percentage = fields.get("percentage").and_then(|value| {
        let percentage = value.as_f64().filter(|percentage| (0.0..=100.0).contains(percentage));
        if percentage.is_none() {
            problems.add(fields.at("percentage"), "range", "\"percentage\" must be a number from 0 to 100");
        }
        percentage.map(Tolerance::Percentage)
    });
    if fields.get("count").is_some() == fields.get("percentage").is_some() {
        problems.add(at, "missing", "a tolerance has either a \"count\" or a \"percentage\"");
    }
    fields.finish(problems);
    count.or(percentage)
}

impl Node for Map {
    fn references(&self) -> Vec<Reference> {
        self.items.references()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let items = self.items.render(context, &mut Budget::node())?;
        let complaint = |message: String| ErrorInfo::new("map.items", message).retryable(false);
        match &items {
            Json::Arr(list) if list.len() <= MAX_ITEMS => Ok(Action::Enter { items: Some(items) }),
            Json::Arr(list) => {
                Err(complaint(format!("there are {} items; a map takes at most {MAX_ITEMS}", list.len())))
            }
            other => Err(complaint(format!("the items are {}, not an array", other.type_name()))),
        }
    }

    fn body_rule(&self) -> Option<BodyRule> {
        Some(BodyRule::Map { concurrency: self.concurrency, tolerance: self.tolerance })
    }
}

/// The output of a map: what each item came to, in order.
pub(crate) fn output(scope: &crate::state::Scope, tolerant: bool) -> Json {
    use crate::state::ItemResult;
    let one = |result: &ItemResult| match result {
        ItemResult::Succeeded(output) if tolerant => {
            Json::object([("status", Json::from("succeeded")), ("output", output.clone())])
        }
        ItemResult::Succeeded(output) => output.clone(),
        ItemResult::Failed(error) => {
            Json::object([("status", Json::from("failed")), ("error", crate::to_json(error))])
        }
    };
    Json::array(scope.results.values().map(one))
}
