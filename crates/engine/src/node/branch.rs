//! `branch`: takes the port of the first case whose condition is true. Inline.

use std::sync::Arc;

use super::{Action, Context, Node, NodeType, Reference, located, references};
use crate::definition::{ERROR_PORT, Fields, MAX_NAME_BYTES, Problems, TIMEOUT_PORT, pointer};
use crate::error::ErrorInfo;
use crate::expr::{Budget, Expr};
use crate::json::Json;

/// `{"type":"branch","with":{"cases":[{"port":"yes","when":".input.total > 100"}],"default":"no"}}`
pub(super) static TYPE: NodeType = NodeType { name: "branch", is_job: false, compile };

/// Most cases of one branch.
const MAX_CASES: usize = 200;

#[derive(Debug)]
struct Branch {
    cases: Vec<(Arc<str>, Expr)>,
    default: Option<Arc<str>>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
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
    let mut cases: Vec<(Arc<str>, Expr)> = Vec::new();
    for (i, case) in list.iter().enumerate() {
        let Some(mut case) = Fields::of(case, pointer(&at, i), problems) else { continue };
        let port = read_port(&mut case, "port", problems);
        case.required("when", problems);
        let when = case.expr("when", problems);
        if port.as_ref().is_some_and(|port| cases.iter().any(|(other, _)| other == port)) {
            problems.add(case.at("port"), "duplicate", "two cases have the same port");
        }
        case.finish(problems);
        cases.extend(port.zip(when));
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
        let mut ports: Vec<_> = self.cases.iter().map(|(port, _)| Arc::clone(port)).collect();
        ports.extend(self.default.clone().filter(|port| !ports.contains(port)));
        ports
    }

    fn references(&self) -> Vec<Reference> {
        let cases = self.cases.iter().enumerate();
        cases.flat_map(|(i, (_, when))| references(&format!("/cases/{i}/when"), when)).collect()
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let mut budget = Budget::node();
        let mut taken = None;
        for (i, (port, when)) in self.cases.iter().enumerate() {
            let holds = when.eval_bool(context.root, &mut budget);
            if holds.map_err(|error| located(&error, &format!("/with/cases/{i}/when")))? {
                taken = Some(port);
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
