//! What a workflow promises: the JSON Schemas of its input and its output.
//!
//! A schema is compiled with its definition and checked against documents of up to a mebibyte, in the
//! caller's session at the start and within a turn at the end. So it may not take long, whoever wrote it:
//! [`cost`] knows before anything is checked how often each value of a document will be looked at, patterns
//! run in linear time, and nothing is fetched from anywhere.

mod cost;
#[cfg(test)]
mod tests;

use cost::Fault;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Number, Value};

use crate::definition::{Problem, Problems, Workflow, shown};
use crate::error::ErrorInfo;
use crate::json::Json;
use crate::to_json;

/// The dialect of schemas, and the only `$schema` that is accepted.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Largest schema, in bytes of JSON text.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Most checks that a schema may make of one value of a document; each 64 bytes of an `enum`, `const`,
/// `required` or `dependentRequired` count as one.
pub const MAX_CHECKS_PER_VALUE: u64 = 256;
/// How deep schemas may be applied within each other while a document is checked.
pub const MAX_SCHEMA_DEPTH: u64 = 500;
/// Largest compiled `pattern`, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256 << 10;
/// Most violations that are reported of one document.
pub const MAX_VIOLATIONS: usize = 20;
/// Error class of a run whose output breaks the output schema.
pub const OUTPUT_SCHEMA: &str = "output_schema";
/// Error class of a run whose input breaks the workflow's input schema.
pub const INPUT_SCHEMA: &str = "input_schema";

/// Longest text of one violation, in bytes.
const MAX_VIOLATION_BYTES: usize = 300;
/// Up to how many checks of a document its violations are listed: the library makes the whole list at once.
const MAX_LISTED_CHECKS: u64 = 200_000;
/// How many violations are looked at to report the first ones in order.
const MAX_SORTED: usize = 1_000;

/// A place where a document breaks a schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Violation {
    /// JSON pointer into the document; empty for the whole.
    pub pointer: String,
    /// One sentence for people. The offending value is not repeated.
    pub message: String,
}

/// A compiled schema.
#[derive(Debug)]
pub struct Contract {
    validator: Validator,
    /// How many checks at most fall on one value.
    checks: u64,
}

impl Contract {
    /// Compiles a schema that stands alone, from its JSON text. `None` where there is nothing to check.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn parse(schema: &str) -> Result<Option<Self>, Vec<Problem>> {
        let mut problems = Problems::default();
        let compiled = match Json::parse(schema) {
            Ok(schema) => Self::compile(&schema, "", &mut problems),
            Err(error) => {
                problems.add("", "json", error.to_string());
                None
            }
        };
        if problems.0.is_empty() { Ok(compiled) } else { Err(problems.0) }
    }

    /// Compiles a schema that stands at a place of a definition and notes every fault. `None` where it has
    /// one, and where there is nothing to check.
    pub(crate) fn compile(schema: &Json, at: &str, problems: &mut Problems) -> Option<Self> {
        match schema {
            Json::Obj(members) if members.is_empty() => return None,
            Json::Bool(true) => return None,
            Json::Obj(_) | Json::Bool(_) => {}
            _ => {
                problems.add(at, "type", "a JSON Schema is an object or a boolean");
                return None;
            }
        }
        if schema.to_string().len() > MAX_SCHEMA_BYTES {
            problems.add(at, "limit", format!("a schema has at most {MAX_SCHEMA_BYTES} bytes"));
            return None;
        }
        match build(schema) {
            Ok(contract) => Some(contract),
            Err(faults) => {
                for (below, code, message) in faults {
                    problems.add(format!("{at}{below}"), code, message);
                }
                None
            }
        }
    }

    /// Where a document breaks the schema: at most [`MAX_VIOLATIONS`] places, by pointer. Of a document so large
    /// that the list of all its violations might not fit into memory it is only told that it does.
    #[must_use]
    pub fn violations(&self, document: &Json) -> Vec<Violation> {
        let value = value(document);
        if self.validator.is_valid(&value) {
            return Vec::new();
        }
        if values(&value).saturating_mul(self.checks) > MAX_LISTED_CHECKS {
            let message = "the document breaks the schema and is too large to say where".to_owned();
            return vec![Violation { pointer: String::new(), message }];
        }
        let errors = self.validator.iter_errors(&value).take(MAX_SORTED);
        let mut found: Vec<_> = errors
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: bounded(error.masked().to_string()),
            })
            .collect();
        found.sort();
        found.dedup();
        found.truncate(MAX_VIOLATIONS);
        found
    }
}

/// Compiles a schema, or tells its faults.
fn build(schema: &Json) -> Result<Contract, Vec<Fault>> {
    let value = value(schema);
    let fault = |error: ValidationError| {
        (error.instance_path().to_string(), "schema", bounded(error.masked().to_string()))
    };
    let meta = jsonschema::draft202012::meta::validator();
    let faults: Vec<_> = meta.iter_errors(&value).take(MAX_VIOLATIONS).map(fault).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let checks = cost::checks(schema)?;
    let options = jsonschema::options().with_draft(Draft::Draft202012).offline();
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES);
    let validator =
        options.with_pattern_options(patterns).build(&value).map_err(|error| vec![fault(error)])?;
    Ok(Contract { validator, checks })
}

/// How many values a document has, itself included.
fn values(document: &Value) -> u64 {
    match document {
        Value::Array(items) => items.iter().map(values).sum::<u64>() + 1,
        Value::Object(members) => members.values().map(values).sum::<u64>() + 1,
        _ => 1,
    }
}

/// Why a run with this input fails at its start: where it begins by itself (as a child, by a schedule) nobody has
/// checked the input before.
#[must_use]
pub fn input_fault(workflow: &Workflow, input: &Json) -> Option<ErrorInfo> {
    fault(INPUT_SCHEMA, "input", workflow.input_contract.as_ref()?.violations(input))
}

/// Why a run that has come to its end with this output fails instead.
#[must_use]
pub fn output_fault(workflow: &Workflow, output: &Json) -> Option<ErrorInfo> {
    fault(OUTPUT_SCHEMA, "output", workflow.output_contract.as_ref()?.violations(output))
}

fn fault(class: &str, what: &str, violations: Vec<Violation>) -> Option<ErrorInfo> {
    let first = violations.first()?;
    let place = shown(&first.pointer);
    let more = match violations.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    let message = format!("the {what} breaks the {what} schema: {place}: {}{more}", first.message);
    let mut error = ErrorInfo::new(class, message).retryable(false);
    error.details = Some(Json::object([("violations", to_json(&violations))]));
    Some(error)
}

/// A document as the validator reads it. Numbers beyond a float's range become the largest float, which is
/// on the same side of every bound that a schema can name.
fn value(document: &Json) -> Value {
    match document {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Num(num) => {
            let float = || {
                let extreme = if num.is_negative() { f64::MIN } else { f64::MAX };
                Number::from_f64(num.as_f64().unwrap_or(extreme))
            };
            let whole = num.as_i64().map(Number::from);
            whole.or_else(|| num.to_string().parse::<u64>().ok().map(Number::from)).or_else(float).into()
        }
        Json::Str(text) => Value::String(text.to_string()),
        Json::Arr(items) => Value::Array(items.iter().map(value).collect()),
        Json::Obj(members) => Value::Object(
            members.iter().map(|(key, member)| (key.to_string(), value(member))).collect::<Map<_, _>>(),
        ),
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_VIOLATION_BYTES {
        let cut = (0..=MAX_VIOLATION_BYTES - '…'.len_utf8()).rev().find(|n| message.is_char_boundary(*n));
        message.truncate(cut.unwrap_or(0));
        message.push('…');
    }
    message
}
