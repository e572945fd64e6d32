//! The JSON Schema of definitions and the checks at publish: they know the same members, and what the schema
//! refuses is refused at publish too.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use meshhook_engine::definition::{Problem, Workflow, schema};
use meshhook_engine::json::Json;
use meshhook_engine::node::NODE_TYPES;
use proptest::prelude::*;
use serde_json::{Value, json};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn compile(definition: &Value) -> Result<Workflow, Vec<Problem>> {
    Workflow::compile(&Json::parse(&definition.to_string()).unwrap())
}

/// Every example, and a definition with each node type, each member and each kind of value.
fn sound() -> Vec<Value> {
    let mut definitions: Vec<Value> = std::fs::read_dir(repository().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    definitions.push(json!({
        "name": "calls",
        "nodes": [
            {"id": "basic", "type": "http", "with": {"url": "http://x",
             "auth": {"basic": {"username": "u", "password": "{{ $secrets.p }}"}},
             "pages": {"by": "cursor", "at": "/next", "query": "c", "items": "/data", "limit": 3, "partial": true}}},
            {"id": "bearer", "type": "http", "with": {"url": "http://x", "auth": {"bearer": "t"},
             "pages": {"by": "page", "query": "p", "first": 0}}},
            {"id": "signed", "type": "http", "with": {"url": "http://x", "auth": {"hmac": {"secret": "s",
             "header": "x-sig", "algorithm": "sha512", "encoding": "base64", "prefix": "v=", "signed": "{id}.{timestamp}.{body}",
             "timestamp_header": "x-time", "id_header": "x-id", "key": "hex"}}}},
            {"id": "paired", "type": "http", "with": {"url": "http://x", "auth": {"hmac": {"secret_name": "s",
             "header": "x-sig", "signed": "{timestamp}.{body}", "pairs": {"signature": "v1", "timestamp": "t"}}}}},
            {"id": "hook", "type": "http", "with": {"url": "http://x", "auth": {"standard_webhooks": {"secret": "s"}}}},
            {"id": "named", "type": "http",
             "with": {"url": "http://x", "auth": {"standard_webhooks": {"secret_name": "{{ .input.s }}"}}}},
            {"id": "token", "type": "http", "with": {"url": "http://x", "auth": {"oauth2": {"token_url": "https://id/t",
             "client_id": "c", "client_secret": "s", "scope": "a b", "audience": "x", "credentials": "body"}}}}],
        "edges": [{"from": "basic", "to": "bearer"}, {"from": "bearer", "to": "signed"}, {"from": "signed", "to": "paired"}, {"from": "paired", "to": "hook"}, {"from": "hook", "to": "named"}, {"from": "named", "to": "token"}],
    }));
    definitions.push(json!({
        "$schema": "workflow.schema.json", "name": "everything", "description": "d", "vars": {"a": 1},
        "input_schema": {"type": "object"}, "output_schema": true,
        "nodes": [
            {"id": "call", "type": "http", "label": "l", "position": {"x": 1}, "join": "all", "timeout": "5s",
             "retry": {"max_attempts": 2, "initial": "1s", "factor": 1.5, "max": "1m", "jitter": "none"},
             "with": {"method": "POST", "url": "https://example.com", "headers": {"x-a": "1"}, "query": {"q": "1"},
                      "body": {"a": [1, null]}, "first_byte_timeout": "2s", "redirects": 3, "response": "text",
                      "success": ["2xx", 404]}},
            {"id": "do", "type": "task", "with": {"queue": "q", "input": "{{ .input }}"}, "join": "any"},
            {"id": "plain", "type": "task"},
            {"id": "way", "type": "branch",
             "with": {"cases": [{"port": "yes", "when": "true"}], "default": "no"}},
            {"id": "wait", "type": "delay", "with": {"duration": "1s"}},
            {"id": "make", "type": "transform", "with": {"output": 1}},
            {"id": "ask", "type": "wait", "timeout": "3d", "with": {"signal": "go"}},
            {"id": "people", "type": "wait", "total_timeout": "3d", "with": {"approval": {"approvers": 2}}},
            {"id": "each", "type": "map", "with": {"items": [1], "concurrency": 2, "tolerance": {"count": 1}, "body": {
                "nodes": [{"id": "one", "type": "task"}, {"id": "two", "type": "transform", "with": {"output": "{{ .item }}"}}],
                "edges": [{"from": "one", "to": "two"}]}}},
            {"id": "all", "type": "map", "with": {"items": [1], "body": {"workflow": "child", "version": 1}}},
            {"id": "again", "type": "repeat", "with": {"until": ".index > 1", "max_iterations": 3, "delay": "1s",
                "body": {"nodes": [{"id": "three", "type": "task"}]}}},
            {"id": "start", "type": "workflow",
             "with": {"workflow": "child", "version": "latest", "input": 1, "detached": true}},
            {"id": "query", "type": "sql", "total_timeout": "9s", "with": {"function": "app.f", "run_as": "r", "input": 1},
             "retry": {"jitter": "equal", "max_elapsed": "1m", "only_on": ["timeout", 429], "never_on": ["5xx"]},
             "compensate": {"type": "sql", "with": {"function": "app.g"}, "retry": {}, "timeout": "1s", "total_timeout": "2s"}},
            {"id": "tell", "type": "emit",
             "with": {"stream": "s-1", "message_type": "T", "data": 1, "metadata": {}}},
            {"id": "reply", "type": "respond", "with": {"status": 201, "headers": {"x": "1"}, "body": 1}},
            {"id": "form", "type": "http", "with": {"url": "https://example.com", "form": {"a": "1"}, "success": ".status < 500"}},
            {"id": "parts", "type": "http", "with": {"url": "https://example.com", "multipart": [
                {"name": "a", "value": 1, "content_type": "application/json"}, {"name": "b", "filename": "f", "base64": "aGk="},
                {"name": "c", "blob": "{{ .input.file }}"}]}},
            {"id": "kept", "type": "http", "with": {"url": "https://example.com", "body_blob": "{{ .input.file }}", "response": "blob"}},
            {"id": "bytes", "type": "http", "with": {"url": "https://example.com", "body_base64": "aGk="}},
            {"id": "end", "type": "terminate", "with": {"status": "failed", "output": 1, "reason": "r"}},
        ],
        "edges": [{"from": "form", "to": "call"}, {"from": "parts", "to": "call"}, {"from": "bytes", "to": "call"},
                  {"from": "kept", "to": "call"},
                  {"from": "call", "to": "way"}, {"from": "call", "port": "error", "to": "do"},
                  {"from": "way", "port": "yes", "to": "wait"}, {"from": "way", "port": "no", "to": "make"},
                  {"from": "wait", "to": "end"}, {"from": "make", "to": "plain"}, {"from": "plain", "to": "ask"},
                  {"from": "ask", "to": "people"}, {"from": "people", "port": "approved", "to": "each"},
                  {"from": "each", "to": "all"}, {"from": "all", "to": "again"}, {"from": "again", "to": "start"},
                  {"from": "start", "to": "query"}, {"from": "query", "to": "tell"}, {"from": "tell", "to": "reply"}],
        "timeout": "30d", "on_failure": "alarm",
        "concurrency": {"limit": 5, "key": "{{ .input.customer }}", "on_limit": "skip"},
        "rate": {"limit": 100, "per": "1m", "key": "{{ .input.customer }}"},
    }));
    definitions
}

#[test]
fn the_shipped_schema_is_current() {
    let shipped = std::fs::read_to_string(repository().join("docs/workflow.schema.json")).unwrap();
    assert_eq!(shipped, format!("{:#}\n", schema()), "write it anew with `make docs`");
}

#[test]
fn sound_definitions_satisfy_the_schema() {
    let types: BTreeSet<_> = NODE_TYPES.iter().map(|kind| kind.name.to_owned()).collect();
    let mut seen = BTreeSet::new();
    for definition in sound() {
        if let Err(problems) = compile(&definition) {
            panic!("{}: {problems:?}", definition["name"]);
        }
        if let Err(error) = validator().validate(&definition) {
            panic!("{}: {error} at {}", definition["name"], error.instance_path());
        }
        let nodes = definition["nodes"].as_array().unwrap().iter();
        seen.extend(nodes.map(|node| node["type"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, types, "a node type is in no sound definition here");
}

/// The members that publishing knows at a place, from what it says of one that it does not know.
fn known(definition: &Value, at: &str) -> BTreeSet<String> {
    let mut definition = definition.clone();
    definition.pointer_mut(at).unwrap()["no_such_member"] = json!(1);
    let problems = compile(&definition).unwrap_err();
    let place = format!("{at}/no_such_member");
    let problem = problems.iter().find(|problem| problem.pointer == place && problem.code == "unknown_field");
    let list = problem.unwrap().message.split_once("known are ").unwrap().1.to_owned();
    list.split(", ").map(|name| name.trim_matches('"').to_owned()).collect()
}

fn properties(schema: &Value, at: &str) -> BTreeSet<String> {
    let object = schema.pointer(at).unwrap_or_else(|| panic!("nothing at {at}"));
    assert_eq!(object["additionalProperties"], json!(false), "{at}");
    object["properties"]
        .as_object()
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

#[test]
fn schema_and_checks_know_the_same_members() {
    let (schema, everything) = (schema(), sound().pop().unwrap());
    assert_eq!(known(&everything, ""), properties(&schema, ""));
    assert_eq!(known(&everything, "/edges/0"), properties(&schema, "/$defs/edge"));
    assert_eq!(known(&everything, "/nodes/0/retry"), properties(&schema, "/$defs/retry"));
    let types = schema.pointer("/$defs/node/allOf").unwrap().as_array().unwrap();
    for (i, node) in everything["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(known(&everything, &format!("/nodes/{i}")), properties(&schema, "/$defs/node"));
        if node.get("with").is_some() {
            let kind =
                types.iter().position(|of| of["if"]["properties"]["type"]["const"] == node["type"]).unwrap();
            let at = format!("/$defs/node/allOf/{kind}/then/properties/with");
            assert_eq!(
                known(&everything, &format!("/nodes/{i}/with")),
                properties(&schema, &at),
                "{}",
                node["type"]
            );
        }
    }
    let case = "/nodes/3/with/cases/0";
    let branch = types.iter().position(|of| of["if"]["properties"]["type"]["const"] == "branch").unwrap();
    let at = format!("/$defs/node/allOf/{branch}/then/properties/with/properties/cases/items");
    assert_eq!(known(&everything, case), properties(&schema, &at));
}

/// Every place in a document.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => members.iter().for_each(|(key, member)| {
            places(member, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

fn some_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5i64..2_000).prop_map(Value::from),
        (0.5f64..200.0).prop_map(Value::from),
        "[a-z.]{0,70}".prop_map(Value::from),
        proptest::sample::select(vec!["http", "task", "branch", "error", "all", "1s", "GET", "9x"])
            .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}])),
        Just(json!({"output": 1})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Takes a sound definition, changes or removes what stands at one to three places.
    #[test]
    fn what_the_schema_refuses_is_refused_at_publish(
        which: proptest::sample::Index,
        mutations in proptest::collection::vec((any::<proptest::sample::Index>(), some_value(), any::<bool>()), 1..4),
    ) {
        let validator = validator();
        let mut definition = which.get(&sound()).clone();
        for (place, value, remove) in mutations {
            let mut found = Vec::new();
            places(&definition, "", &mut found);
            let place = place.get(&found).clone();
            let parent = place.rsplit_once('/').map(|(parent, key)| (parent.to_owned(), key.to_owned()));
            match parent {
                Some((parent, key)) if remove => {
                    if let Some(members) = definition.pointer_mut(&parent).and_then(Value::as_object_mut) {
                        members.remove(&key);
                    }
                }
                _ => *definition.pointer_mut(&place).unwrap() = value,
            }
        }
        if !validator.is_valid(&definition) {
            prop_assert!(compile(&definition).is_err(), "only the schema refuses {definition}");
        }
    }
}
