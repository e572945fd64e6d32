//! `branch`: takes the port of the first case whose condition is true, or of a condition `true` or `false`. Inline.

use std::sync::Arc;

use super::{Action, Context, Node, NodeType, Reference, Work, located, references};
use crate::definition::{ERROR_PORT, Fields, MAX_NAME_BYTES, Problems, TIMEOUT_PORT, pointer};
use crate::error::ErrorInfo;
use crate::expr::{Budget, Expr};
use crate::json::Json;

/// `{"type":"branch","with":{"cases":[{"port":"yes","when":".input.total > 100"}],"default":"no"}}`, or
/// `{"type":"branch","with":{"when":".input.total > 100"}}` with the ports `true` and `false`.
pub(super) static TYPE: NodeType = NodeType { name: "branch", work: Work::Inline, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "properties": {
        "when": { "description": "Takes the port true or false; instead of cases.", "$ref": "#/$defs/expression" },
        "cases": {
            "description": "The first one whose condition is true is taken.",
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["port", "when"],
                "properties": {
                    "port": { "$ref": "#/$defs/branch_port" },
                    "when": { "$ref": "#/$defs/expression" }
                },
                "additionalProperties": false
            }
        },
        "default": { "description": "Taken if no case holds.", "$ref": "#/$defs/branch_port" }
    },
    "anyOf": [{ "required": ["when"] }, { "required": ["cases"] }]
}"##;

/// Most cases of one branch.
const MAX_CASES: usize = 200;

#[derive(Debug)]
struct Branch {
    cases: Vec<Case>,
    default: Option<Arc<str>>,
}

#[derive(Debug)]
struct Case {
    port: Arc<str>,
    when: Expr,
    /// JSON pointer of the condition, below `with`.
    place: String,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    if with.get("when").is_some() {
        let when = with.expr("when", problems)?;
        let case = Case { port: Arc::from("true"), when, place: "/when".to_owned() };
        return Some(Box::new(Branch { cases: vec![case], default: Some(Arc::from("false")) }));
    }
    with.required("cases", problems)?;
    let at = with.at("cases");
    let list = with.array("cases", problems)?;
    if list.is_empty() {
        problems.add(&at, "missing", "a branch has at least one case");
    }
    if list.len() > MAX_CASES {
        problems.add(&at, "limit", format!("a branch has at most {MAX_CASES} cases"));
        return None;
    }
    let mut cases: Vec<Case> = Vec::new();
    for (i, case) in list.iter().enumerate() {
        let Some(mut case) = Fields::of(case, pointer(&at, i), problems) else { continue };
        let port = read_port(&mut case, "port", problems);
        case.required("when", problems);
        let when = case.expr("when", problems);
        if port.as_ref().is_some_and(|port| cases.iter().any(|other| other.port == *port)) {
            problems.add(case.at("port"), "duplicate", "two cases have the same port");
        }
        case.finish(problems);
        let place = format!("/cases/{i}/when");
        cases.extend(port.zip(when).map(|(port, when)| Case { port, when, place }));
    }
    let default = with.get("default").is_some().then(|| read_port(with, "default", problems)).flatten();
    Some(Box::new(Branch { cases, default }))
}

fn read_port(fields: &mut Fields, key: &'static str, problems: &mut Problems) -> Option<Arc<str>> {
    fields.required(key, problems)?;
    let port = fields.string(key, problems)?;
    if port.is_empty() || port.len() > MAX_NAME_BYTES || [ERROR_PORT, TIMEOUT_PORT].contains(&port) {
        let message = format!("a port has 1 to {MAX_NAME_BYTES} bytes and is not \"error\" or \"timeout\"");
        problems.add(fields.at(key), "range", message);
        return None;
    }
    Some(port.into())
}

impl Node for Branch {
    fn ports(&self) -> Vec<Arc<str>> {
        let mut ports: Vec<_> = self.cases.iter().map(|case| Arc::clone(&case.port)).collect();
        ports.extend(self.default.clone().filter(|port| !ports.contains(port)));
        ports
    }

    fn references(&self) -> Vec<Reference> {
        self.cases.iter().flat_map(|case| references(&case.place, &case.when)).collect()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let mut taken = None;
        for case in &self.cases {
            let holds = case.when.eval_bool(context.root, &mut budget);
            if holds.map_err(|error| located(&error, &format!("/with{}", case.place)))? {
                taken = Some(&case.port);
                break;
            }
        }
        let port = taken.or(self.default.as_ref()).ok_or_else(|| {
            let message = "no case of the branch holds and it has no \"default\"";
            ErrorInfo::new("branch.no_match", message).retryable(false)
        })?;
        Ok(Action::Succeed { port: Arc::clone(port), output: Json::object([("port", Json::from(&**port))]) })
    }
}
