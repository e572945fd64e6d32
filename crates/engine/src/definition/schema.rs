//! The JSON Schema of definitions, for editors and builders: put together from what each node type says of its
//! `with` and from the limits in force, so that it cannot fall behind them.

use serde_json::{Map, Value, json};

use super::{MAX_DELAYS, MAX_EDGES, MAX_NAME_BYTES, MAX_NODES, flow};
use crate::contract::{DIALECT, MAX_SCHEMA_BYTES};
use crate::node::{NODE_TYPES, NodeType, Work};

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
            "timeout": { "description": "How long a run may take.", "$ref": "#/$defs/duration" },
            "on_failure": {
                "description": "The workflow that is started when a run fails.",
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_NAME_BYTES,
            },
            "concurrency": {
                "description": "How many of its runs there may be at once, for each key.",
                "type": "object",
                "required": ["limit"],
                "properties": {
                    "limit": { "type": "integer", "minimum": 1, "maximum": flow::MAX_LIMIT },
                    "key": { "description": "A template over .input and .run.", "type": "string" },
                    "on_limit": { "enum": ["queue", "skip", "cancel_oldest"], "default": "queue" },
                },
                "additionalProperties": false,
            },
            "rate": {
                "description": "How many of its runs may start in a period, for each key.",
                "type": "object",
                "required": ["limit", "per"],
                "properties": {
                    "limit": { "type": "integer", "minimum": 1, "maximum": flow::MAX_LIMIT },
                    "per": { "description": "1 ms to 30 days.", "$ref": "#/$defs/duration" },
                    "key": { "description": "A template over .input and .run.", "type": "string" },
                },
                "additionalProperties": false,
            },
            "nodes": nodes(),
            "edges": edges(),
        },
        "additionalProperties": false,
        "$defs": {
            "node": node(),
            "body": body(),
            "compensation": compensation(),
            "edge": edge(),
            "retry": retry(),
            "errors": {
                "description": "Error classes (timeout, http.*), HTTP statuses (429), classes of them (5xx).",
                "type": "array",
                "items": { "type": ["string", "integer"] },
            },
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

fn nodes() -> Value {
    json!({ "type": "array", "minItems": 1, "maxItems": MAX_NODES, "items": { "$ref": "#/$defs/node" } })
}

fn edges() -> Value {
    json!({ "type": "array", "maxItems": MAX_EDGES, "items": { "$ref": "#/$defs/edge" } })
}

/// Nodes and edges, or a child workflow; the members of the latter are those of a workflow node's `with`.
fn body() -> Value {
    let workflow = NODE_TYPES.iter().find(|kind| kind.work == Work::Child).map(|kind| with(kind));
    let graph = json!({
        "type": "object",
        "required": ["nodes"],
        "properties": { "nodes": nodes(), "edges": edges() },
        "additionalProperties": false,
    });
    json!({ "anyOf": [graph, workflow] })
}

/// What undoes a node: the work of a node without its place in the graph.
fn compensation() -> Value {
    let types: Vec<_> = NODE_TYPES.iter().filter(|kind| kind.work.can_compensate()).collect();
    json!({
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": { "enum": types.iter().map(|kind| kind.name).collect::<Vec<_>>() },
            "retry": { "$ref": "#/$defs/retry" },
            "timeout": { "description": "How long one attempt may take.", "$ref": "#/$defs/duration" },
            "total_timeout": { "description": "How long it may take in all.", "$ref": "#/$defs/duration" },
            "with": { "type": "object" },
        },
        "additionalProperties": false,
        "allOf": types.iter().map(|kind| of_type(kind)).collect::<Vec<_>>(),
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
            "timeout": {
                "description": "How long one attempt may take; of a node without attempts, how long it may take in all.",
                "$ref": "#/$defs/duration",
            },
            "total_timeout": { "description": "How long it may take in all.", "$ref": "#/$defs/duration" },
            "compensate": { "description": "What undoes it.", "$ref": "#/$defs/compensation" },
            "with": { "type": "object" },
            "label": { "description": "For people; of no meaning to meshhook." },
            "position": { "description": "Where a builder draws it; of no meaning to meshhook." },
        },
        "additionalProperties": false,
        "allOf": NODE_TYPES.iter().map(|kind| of_type(kind)).collect::<Vec<_>>(),
    })
}

/// The schema of the `with` of a node type.
fn with(kind: &NodeType) -> Map<String, Value> {
    // A constant of this crate; a test reads every one.
    let mut with: Map<String, Value> = serde_json::from_str(kind.schema).unwrap_or_default();
    with.insert("type".to_owned(), json!("object"));
    with.insert("additionalProperties".to_owned(), json!(false));
    with
}

/// What holds of the nodes of one type.
fn of_type(kind: &NodeType) -> Value {
    let with = with(kind);
    let needs_with = ["required", "minProperties", "anyOf"].iter().any(|key| with.contains_key(*key));
    let mut then = json!({ "properties": { "with": with } });
    if needs_with {
        then["required"] = json!(["with"]);
    }
    if !kind.work.is_retried() {
        then["properties"]["retry"] = json!(false);
    }
    if !kind.work.can_be_late() {
        then["properties"]["timeout"] = json!(false);
        then["properties"]["total_timeout"] = json!(false);
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
            "delays": {
                "description": "The waits one by one, in place of max_attempts, initial, factor and max; without jitter unless it is given.",
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_DELAYS,
                "items": { "$ref": "#/$defs/duration" },
            },
            "jitter": { "enum": ["none", "full", "equal"], "default": "full" },
            "max_elapsed": {
                "description": "No attempt begins later than this after the node did.",
                "$ref": "#/$defs/duration",
            },
            "only_on": { "description": "The only errors that are tried again.", "$ref": "#/$defs/errors" },
            "never_on": { "description": "Errors that are never tried again.", "$ref": "#/$defs/errors" },
        },
        "additionalProperties": false,
    })
}
