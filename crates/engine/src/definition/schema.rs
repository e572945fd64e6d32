//! The JSON Schema of definitions, for editors and builders: put together from what each node type says of its
//! `with` and from the limits in force, so that it cannot fall behind them.

use serde_json::{Map, Value, json};

use super::{MAX_EDGES, MAX_NAME_BYTES, MAX_NODES};
use crate::contract::{DIALECT, MAX_SCHEMA_BYTES};
use crate::node::{NODE_TYPES, NodeType};

/// The JSON Schema of definitions. What it refuses, [`super::Workflow::compile`] refuses; the reverse does not
/// hold, for a schema knows nothing of references, cycles and expressions.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": DIALECT,
        "title": "meshhook workflow definition",
        "type": "object",
        "required": ["name", "nodes"],
        "properties": {
            "$schema": { "description": "For editors; of no meaning to meshhook.", "type": "string" },
            "name": {
                "description": format!("1 to {MAX_NAME_BYTES} bytes, no control characters."),
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_NAME_BYTES,
            },
            "description": { "type": "string" },
            "vars": { "description": "Constants that expressions read as .vars.", "type": "object" },
            "input_schema": { "description": "What inputs of runs must be like.", "$ref": "#/$defs/contract" },
            "output_schema": { "description": "What outputs of runs must be like.", "$ref": "#/$defs/contract" },
            "nodes": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_NODES,
                "items": { "$ref": "#/$defs/node" },
            },
            "edges": { "type": "array", "maxItems": MAX_EDGES, "items": { "$ref": "#/$defs/edge" } },
        },
        "additionalProperties": false,
        "$defs": {
            "node": node(),
            "edge": edge(),
            "retry": retry(),
            "node_id": {
                "type": "string",
                "pattern": format!("^[A-Za-z_][A-Za-z0-9_]{{0,{}}}$", MAX_NAME_BYTES - 1),
            },
            "branch_port": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_NAME_BYTES,
                "not": { "enum": ["error", "timeout"] },
            },
            "duration": {
                "description": "A time without months and years; ISO 8601 as well.",
                "type": "string",
                "examples": ["500ms", "30s", "1h 30m", "7d", "PT5M"],
            },
            "expression": { "description": "A jq expression.", "type": "string" },
            "contract": {
                "description": format!(
                    "A JSON Schema (draft 2020-12) of at most {MAX_SCHEMA_BYTES} bytes that refers to itself only."
                ),
                "type": ["object", "boolean"],
            },
        },
    })
}

fn node() -> Value {
    let names: Vec<_> = NODE_TYPES.iter().map(|kind| kind.name).collect();
    json!({
        "type": "object",
        "required": ["id", "type"],
        "properties": {
            "id": { "$ref": "#/$defs/node_id" },
            "type": { "enum": names },
            "join": {
                "description": "Which incoming edges it waits for.",
                "enum": ["all", "any"],
                "default": "all",
            },
            "retry": { "$ref": "#/$defs/retry" },
            "timeout": { "description": "How long one attempt may take.", "$ref": "#/$defs/duration" },
            "with": { "type": "object" },
            "label": { "description": "For people; of no meaning to meshhook." },
            "position": { "description": "Where a builder draws it; of no meaning to meshhook." },
        },
        "additionalProperties": false,
        "allOf": NODE_TYPES.iter().map(|kind| of_type(kind)).collect::<Vec<_>>(),
    })
}

/// What holds of the nodes of one type.
fn of_type(kind: &NodeType) -> Value {
    // A constant of this crate; a test reads every one.
    let mut with: Map<String, Value> = serde_json::from_str(kind.schema).unwrap_or_default();
    with.insert("type".to_owned(), json!("object"));
    with.insert("additionalProperties".to_owned(), json!(false));
    let needs_with = with.contains_key("required");
    let mut then = json!({ "properties": { "with": with } });
    if needs_with {
        then["required"] = json!(["with"]);
    }
    if !kind.is_job {
        then["properties"]["retry"] = json!(false);
        then["properties"]["timeout"] = json!(false);
    }
    json!({ "if": { "properties": { "type": { "const": kind.name } }, "required": ["type"] }, "then": then })
}

fn edge() -> Value {
    json!({
        "type": "object",
        "required": ["from", "to"],
        "properties": {
            "from": { "$ref": "#/$defs/node_id" },
            "to": { "$ref": "#/$defs/node_id" },
            "port": { "type": "string", "default": "out" },
        },
        "additionalProperties": false,
    })
}

fn retry() -> Value {
    json!({
        "type": "object",
        "properties": {
            "max_attempts": {
                "description": "The first one included.",
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000,
                "default": 5,
            },
            "initial": { "description": "Before the second attempt.", "$ref": "#/$defs/duration", "default": "1s" },
            "factor": { "type": "number", "minimum": 1, "maximum": 100, "default": 2 },
            "max": { "description": "The longest wait.", "$ref": "#/$defs/duration", "default": "5m" },
            "jitter": { "enum": ["none", "full"], "default": "full" },
        },
        "additionalProperties": false,
    })
}
