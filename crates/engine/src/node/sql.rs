//! `sql`: calls a function of the database, `(jsonb) returns jsonb`, exactly once: what it does commits with
//! the event that says so.

use super::field::{TemplateField, all_references, input};
use super::{Action, Context, Node, NodeType, Reference, Work};
use crate::definition::{Fields, Problems};
use crate::error::ErrorInfo;
use crate::json::Json;

/// `{"type":"sql","with":{"function":"app.reserve","input":{…},"run_as":"app_role"},"timeout":"5s"}`. It runs as the role that
/// published the workflow, or as `run_as`, which that role must be a member of.
pub(super) static TYPE: NodeType = NodeType { name: "sql", work: Work::Database, schema: SCHEMA, compile };

const SCHEMA: &str = r##"{
    "required": ["function"],
    "properties": {
        "function": {
            "description": "Schema and name of a function (jsonb) returns jsonb.",
            "type": "string",
            "pattern": "^[a-z_][a-z0-9_]{0,62}\\.[a-z_][a-z0-9_]{0,62}$"
        },
        "run_as": { "description": "Whose rights it has.", "type": "string", "minLength": 1, "maxLength": 63 },
        "input": { "description": "The function's argument; a template." }
    }
}"##;

/// How long the function may take where the definition does not say, in milliseconds.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The longest it may take, in milliseconds: it holds up the orchestrator meanwhile.
const MAX_TIMEOUT_MS: u64 = 20_000;
/// Longest name of an object of the database, in bytes.
const MAX_IDENTIFIER_BYTES: usize = 63;

#[derive(Debug)]
struct Sql {
    function: String,
    run_as: Option<String>,
    input: Option<TemplateField>,
}

fn compile(with: &mut Fields, problems: &mut Problems) -> Option<Box<dyn Node>> {
    with.required("function", problems)?;
    let function = with.string("function", problems)?;
    if !is_qualified(function) {
        let message = "\"function\" must be a schema and a name, as in app.reserve, each of letters, digits and underscores";
        problems.add(with.at("function"), "range", message);
    }
    let run_as = with.string("run_as", problems);
    if run_as.is_some_and(|role| role.is_empty() || role.len() > MAX_IDENTIFIER_BYTES) {
        let message = format!("a role's name has 1 to {MAX_IDENTIFIER_BYTES} bytes");
        problems.add(with.at("run_as"), "range", message);
    }
    let input = TemplateField::read(with, "input", problems);
    Some(Box::new(Sql { function: function.to_owned(), run_as: run_as.map(str::to_owned), input }))
}

fn is_qualified(name: &str) -> bool {
    let identifier = |part: &str| {
        let first = part.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let rest = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        first && rest && part.len() <= MAX_IDENTIFIER_BYTES
    };
    name.split_once('.').is_some_and(|(schema, name)| identifier(schema) && identifier(name))
}

impl Node for Sql {
    fn references(&self) -> Vec<Reference> {
        all_references(&self.input)
    }

    fn fire(&self, context: &Context) -> Result<Action, ErrorInfo> {
        let argument = input(self.input.as_ref(), context)?;
        let mut input = vec![("function", Json::from(self.function.as_str())), ("argument", argument)];
        input.extend(self.run_as.as_deref().map(|role| ("run_as", Json::from(role))));
        let timeout_ms = context.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        Ok(Action::Database { input: Json::object(input), timeout_ms: Some(timeout_ms) })
    }

    fn longest_attempt_ms(&self) -> Option<u64> {
        Some(MAX_TIMEOUT_MS)
    }

    fn database_function(&self) -> Option<(&str, Option<&str>)> {
        Some((&self.function, self.run_as.as_deref()))
    }
}
