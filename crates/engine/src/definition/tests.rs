//! Every rule of a definition, each with the pointer it is reported at.

use super::*;

fn problems(text: &str) -> Vec<(String, &'static str)> {
    let definition = Json::parse(text).unwrap();
    let found = Workflow::compile(&definition).err().unwrap_or_default();
    found.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
}

fn one(text: &str) -> (String, &'static str) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// A workflow of one node with this `type` and `with`.
fn node(kind: &str, with: &str) -> String {
    format!(r#"{{"name":"w","nodes":[{{"id":"a","type":"{kind}","with":{with}}}]}}"#)
}

#[test]
fn a_sound_definition_compiles() {
    let text = r#"{"name":"order","description":"d","vars":{"limit":100},"nodes":[
        {"id":"charge","type":"http","position":{"x":1},"with":{"method":"POST","url":"https://pay.example/charge",
         "headers":{"x-order":"{{ .input.id }}"},"query":{"q":"1"},"body":{"amount":"{{ .input.total }}"}},
         "retry":{"max_attempts":3,"initial":"1s","factor":2,"max":"5m","jitter":"full"},"timeout":"30s"},
        {"id":"big","type":"branch","with":{"cases":[{"port":"yes","when":".input.total > .vars.limit"}],"default":"no"}},
        {"id":"review","type":"task","with":{"queue":"people"}},
        {"id":"wait","type":"delay","with":{"duration":"1s"}},
        {"id":"done","type":"transform","join":"any","with":{"output":{"id":"{{ .nodes.charge.output.body.id }}"}}},
        {"id":"stop","type":"terminate","with":{"status":"failed","reason":"{{ .error.message }}"}}],
        "edges":[{"from":"charge","to":"big"},{"from":"charge","port":"error","to":"stop"},
                 {"from":"big","port":"yes","to":"review"},{"from":"big","port":"no","to":"wait"},
                 {"from":"review","to":"done"},{"from":"wait","to":"done"}]}"#;
    let workflow = Workflow::compile(&Json::parse(text).unwrap()).unwrap();
    let order: Vec<_> = workflow.graph.order.iter().map(|i| &*workflow.graph.nodes[*i].id).collect();
    assert_eq!(order, ["charge", "big", "review", "wait", "done", "stop"]);
    assert_eq!(workflow.graph.nodes[0].retry.max_attempts, 3);
    assert_eq!(workflow.graph.leaves().map(|node| &*node.id).collect::<Vec<_>>(), ["done"]);
}

#[test]
fn all_faults_are_reported_at_once() {
    let found = problems(
        r#"{"nodes":[{"id":"1","type":"http","with":{"method":"POKE"}},{"id":"b","type":"nope"},
            {"id":"c","type":"transform","with":{"output":"{{ .nodes.ghost.output }} {{ 1 + }}"}}],
            "edges":[{"from":"b","to":"ghost"}],"surplus":1}"#,
    );
    let pointers: Vec<_> = found.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
    assert_eq!(
        pointers,
        [
            ("/edges/0/to", "unknown_node"),
            ("/name", "missing"),
            ("/nodes/0/id", "range"),
            ("/nodes/0/with/method", "value"),
            ("/nodes/0/with/url", "missing"),
            ("/nodes/1/type", "unknown_type"),
            ("/nodes/2/with/output", "expression"),
            ("/surplus", "unknown_field"),
        ]
    );
}

#[test]
fn shape() {
    assert_eq!(problems("[]"), [(String::new(), "type")]);
    assert_eq!(problems("{}"), [("/name".into(), "missing"), ("/nodes".into(), "missing")]);
    assert_eq!(one(r#"{"name":"w","nodes":[]}"#), ("/nodes".into(), "missing"));
    assert_eq!(one(r#"{"name":"","nodes":[{"id":"a","type":"task"}]}"#), ("/name".into(), "range"));
    assert_eq!(one(r#"{"name":"w","nodes":[{"id":"a","type":"task"}],"vars":1}"#), ("/vars".into(), "type"));
    assert_eq!(
        one(r#"{"name":"w","nodes":[{"id":"a","type":"task"}],"input_schema":{"type":"objekt"}}"#),
        ("/input_schema/type".into(), "schema")
    );
    assert_eq!(one(r#"{"name":"w","nodes":[{"id":"a/b","type":"task"}]}"#), ("/nodes/0/id".into(), "range"));
}

#[test]
fn graph() {
    let tasks = r#"[{"id":"a","type":"task"},{"id":"b","type":"task"},{"id":"c","type":"task"}]"#;
    let with = |edges: &str| format!(r#"{{"name":"w","nodes":{tasks},"edges":{edges}}}"#);
    let chain = r#"{"from":"a","to":"b"},{"from":"b","to":"c"}"#;
    assert!(problems(&with(&format!("[{chain}]"))).is_empty());
    assert_eq!(one(&with(&format!(r#"[{chain},{{"from":"c","to":"b"}}]"#))), ("/nodes/1".into(), "cycle"));
    assert_eq!(one(&with(&format!(r#"[{chain},{{"from":"c","to":"c"}}]"#))), ("/edges/2".into(), "cycle"));
    assert_eq!(
        one(&with(&format!(r#"[{chain},{{"from":"a","to":"b"}}]"#))),
        ("/edges/2".into(), "duplicate")
    );
    assert_eq!(one(&with(r#"[{"from":"a","to":"b"}]"#)), ("/nodes/2".into(), "unconnected"));
    assert_eq!(
        one(&with(&format!(r#"[{chain},{{"from":"a","port":"yes","to":"c"}}]"#))),
        ("/edges/2/port".into(), "port")
    );
    assert!(problems(&with(&format!(r#"[{chain},{{"from":"a","port":"timeout","to":"c"}}]"#))).is_empty());
    let twins = r#"{"name":"w","nodes":[{"id":"a","type":"task"},{"id":"a","type":"task"}]}"#;
    assert!(problems(twins).contains(&("/nodes/1/id".into(), "duplicate")));
}

#[test]
fn a_cycle_is_named() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"task"},{"id":"b","type":"task"},{"id":"c","type":"task"}],
        "edges":[{"from":"a","to":"b"},{"from":"b","to":"c"},{"from":"c","to":"a"}]}"#;
    let found = Workflow::compile(&Json::parse(text).unwrap()).unwrap_err();
    assert!(found[0].message.starts_with("cycle: a → b → c → a"), "{}", found[0].message);
}

#[test]
fn references_go_backwards_only() {
    let chain = |with: &str| {
        format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"transform","with":{{"output":{with}}}}},
               {{"id":"b","type":"task"}}],"edges":[{{"from":"a","to":"b"}}]}}"#
        )
    };
    assert_eq!(
        one(&chain(r#"{"x":["{{ .nodes.b.output }}"]}"#)),
        ("/nodes/0/with/output/x/0".into(), "reference")
    );
    assert_eq!(one(&chain(r#""{{ .nodes.a.output }}""#)), ("/nodes/0/with/output".into(), "reference"));
    assert_eq!(one(&chain(r#""{{ .inputs }}""#)), ("/nodes/0/with/output".into(), "reference"));
    assert!(problems(&chain(r#""{{ .input.x, .run.id, .vars.y, .now | tostring }}""#)).is_empty());
}

#[test]
fn nodes() {
    assert_eq!(one(&node("http", r#"{"url":"ftp://x"}"#)), ("/nodes/0/with/url".into(), "url"));
    assert_eq!(one(&node("http", r#"{"url":"http://user@x/"}"#)), ("/nodes/0/with/url".into(), "url"));
    assert_eq!(
        one(&node("http", r#"{"url":"http://x","headers":{"Host":"y"}}"#)),
        ("/nodes/0/with/headers/Host".into(), "header")
    );
    assert_eq!(
        one(&node("http", r#"{"url":"http://x","headers":{"a b":"y"}}"#)),
        ("/nodes/0/with/headers/a b".into(), "header")
    );
    for (with, pointer, code) in [
        (r#""body":1,"form":{}"#, "/nodes/0/with/form", "conflict"),
        (r#""form":{"a":1}"#, "/nodes/0/with/form/a", "type"),
        (r#""multipart":[]"#, "/nodes/0/with/multipart", "limit"),
        (r#""multipart":[{"value":"x"}]"#, "/nodes/0/with/multipart/0/name", "missing"),
        (
            r#""multipart":[{"name":"a","value":1,"base64":""}]"#,
            "/nodes/0/with/multipart/0/base64",
            "conflict",
        ),
        (r#""redirects":6"#, "/nodes/0/with/redirects", "range"),
        (r#""response":"xml""#, "/nodes/0/with/response", "value"),
        (r#""success":[]"#, "/nodes/0/with/success", "missing"),
        (r#""success":[200,"6xx"]"#, "/nodes/0/with/success/1", "value"),
        (r#""success":".input.ok""#, "/nodes/0/with/success", "expression"),
    ] {
        let found = one(&node("http", &format!(r#"{{"url":"http://x",{with}}}"#)));
        assert_eq!(found, (pointer.into(), code), "{with}");
    }
    assert_eq!(
        one(&node("http", r#"{"url":"http://x","query":{"a":1}}"#)),
        ("/nodes/0/with/query/a".into(), "type")
    );
    assert_eq!(
        one(&node("task", r#"{"input":{"key":"{{ $secrets.api }}"}}"#)),
        ("/nodes/0/with/input/key".into(), "secret")
    );
    assert_eq!(one(&node("branch", r#"{"cases":[]}"#)), ("/nodes/0/with/cases".into(), "missing"));
    assert_eq!(
        one(&node("branch", r#"{"cases":[{"port":"error","when":"true"}]}"#)),
        ("/nodes/0/with/cases/0/port".into(), "range")
    );
    assert_eq!(one(&node("delay", r#"{"duration":"1 month"}"#)), ("/nodes/0/with/duration".into(), "range"));
    assert!(problems(&node("delay", r#"{"duration":"{{ .input.wait }}"}"#)).is_empty());
    assert_eq!(one(&node("task", r#"{"queue":"http"}"#)), ("/nodes/0/with/queue".into(), "range"));
    assert_eq!(one(&node("task", r#"{"inputs":1}"#)), ("/nodes/0/with/inputs".into(), "unknown_field"));
    assert_eq!(one(&node("terminate", r#"{"status":"paused"}"#)), ("/nodes/0/with/status".into(), "value"));
    assert_eq!(one(&node("transform", "{}")), ("/nodes/0/with/output".into(), "missing"));
}

#[test]
fn policies() {
    let task = |more: &str| format!(r#"{{"name":"w","nodes":[{{"id":"a","type":"task",{more}}}]}}"#);
    assert_eq!(one(&task(r#""retry":{"max_attempts":0}"#)), ("/nodes/0/retry/max_attempts".into(), "range"));
    assert_eq!(one(&task(r#""retry":{"factor":0.5}"#)), ("/nodes/0/retry/factor".into(), "range"));
    assert_eq!(one(&task(r#""retry":{"initial":"10m"}"#)), ("/nodes/0/retry/max".into(), "range"));
    assert_eq!(one(&task(r#""timeout":"0s""#)), ("/nodes/0/timeout".into(), "range"));
    assert_eq!(one(&task(r#""join":"some""#)), ("/nodes/0/join".into(), "value"));
    let limited = |kind: &str, with: &str, limit: &str| {
        format!(r#"{{"name":"w","nodes":[{{"id":"a","type":"{kind}","with":{with},"timeout":"{limit}"}}]}}"#)
    };
    let (http, sql) = (r#"{"url":"http://x/"}"#, r#"{"function":"a.b"}"#);
    assert!(
        problems(&limited("http", http, "5m")).is_empty() && problems(&limited("sql", sql, "20s")).is_empty()
    );
    assert_eq!(one(&limited("http", http, "301s")), ("/nodes/0/timeout".into(), "range"));
    assert_eq!(one(&limited("sql", sql, "21s")), ("/nodes/0/timeout".into(), "range"));
    let emit = r#"{"stream":"s","message_type":"t"}"#;
    assert_eq!(one(&limited("emit", emit, "1s")), ("/nodes/0/timeout".into(), "unsupported"));
    let transform = r#"{"name":"w","nodes":[{"id":"a","type":"transform","with":{"output":1},"retry":{},"timeout":"1s"}]}"#;
    assert_eq!(
        problems(transform),
        [("/nodes/0/retry".into(), "unsupported"), ("/nodes/0/timeout".into(), "unsupported")]
    );
}

#[test]
fn a_resume_url_is_sent_and_of_a_wait_node_beside() {
    let of = |sender: &str, more: &str| {
        format!(
            r#"{{"name":"w","nodes":[{{"id":"ok","type":"wait","with":{{"approval":{{}}}}}},{sender}],"edges":[{{"from":"a","to":"ok"}}]{more}}}"#
        )
    };
    let http = r#"{"id":"a","type":"http","with":{"url":"https://x/?u={{ $resume.ok }}","headers":{"x":"{{$resume.ok}}"},
        "query":{"q":"{{ $resume.ok }}"},"body":{"b":["{{ $resume.ok }}"]}}}"#;
    let task = r#"{"id":"a","type":"task","with":{"input":"{{ $resume.ok }} {{ .input }}"}}"#;
    for sender in [http, task] {
        let workflow = Workflow::compile(&Json::parse(&of(sender, "")).unwrap()).unwrap();
        assert!(workflow.sends_resume_urls());
    }
    for (with, at) in [
        (r#""type":"transform","with":{"output":["{{ $resume.ok }}"]}"#, "/nodes/1/with/output/0"),
        (
            r#""type":"workflow","with":{"workflow":"x","input":{"u":"{{ $resume.ok }}"}}"#,
            "/nodes/1/with/input/u",
        ),
        (
            r#""type":"sql","with":{"function":"a.b","input":{"u":"{{ $resume.ok }}"}}"#,
            "/nodes/1/with/input/u",
        ),
        (r#""type":"respond","with":{"body":"{{ $resume.ok }}"}"#, "/nodes/1/with/body"),
        (r#""type":"task","with":{"input":"{{ $resume.gone }}"}"#, "/nodes/1/with/input"),
        (r#""type":"task","with":{"input":["{{ $resume.a }}"]}"#, "/nodes/1/with/input/0"),
        (
            r#""type":"task","compensate":{"type":"task","with":{"input":"{{ $resume.ok }}"}}"#,
            "/nodes/1/compensate/with/input",
        ),
    ] {
        assert_eq!(one(&of(&format!(r#"{{"id":"a",{with}}}"#), "")), (at.into(), "resume"), "{with}");
    }
    // A node outside the body does not wait once for each item, and one inside not for what is outside.
    let inside = |sender: &str| {
        format!(
            r#"{{"id":"a","type":"map","with":{{"items":"{{{{ .input }}}}","body":{{"nodes":[{sender},{{"id":"in","type":"wait","with":{{"signal":"s"}}}}],
                "edges":[{{"from":"t","to":"in"}}]}}}}}}"#
        )
    };
    let sender = |node: &str| {
        inside(&format!(r#"{{"id":"t","type":"task","with":{{"input":"{{{{ $resume.{node} }}}}"}}}}"#))
    };
    assert!(problems(&of(&sender("in"), "")).is_empty());
    let at = "/nodes/1/with/body/nodes/0/with/input".to_owned();
    assert_eq!(one(&of(&sender("ok"), "")), (at, "resume"));
    let key = r#","concurrency":{"limit":1,"key":"{{ $resume.ok }}"}"#;
    assert_eq!(one(&of(task, key)), ("/concurrency/key".into(), "expression"));
}
