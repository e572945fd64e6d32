//! Definitions that are wrong, and expressions that explode: the first are refused, the second hurt only their run.

use meshhook_e2e::{Database, SOON, chain, ended, publish, start};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn six_faults_are_six_pointers() {
    let db = Database::preloaded("six_faults");
    let faulty = json!({
        "name": "faulty",
        "nodes": [
            {"id": "a", "type": "http", "with": {"method": "FETCH", "url": "http://127.0.0.1/"}},
            {"id": "b", "type": "teleport", "with": {}},
            {"id": "c", "type": "transform", "with": {"output": "{{ .input. | }}"}},
            {"id": "d", "type": "delay", "with": {"duration": "soon"}},
            {"id": "e", "type": "task", "with": {}, "retry": {"max_attempts": 0}}
        ],
        "edges": [
            {"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "d"},
            {"from": "d", "to": "nowhere"}, {"from": "d", "to": "e"}
        ]
    });
    let mut app = db.app();
    let mut pointers: Vec<String> =
        app.values("SELECT pointer FROM meshhook.validate_workflow($1)", &[&faulty]);
    pointers.sort();
    assert_eq!(
        pointers,
        [
            "/edges/3/to",
            "/nodes/0/with/method",
            "/nodes/1/type",
            "/nodes/2/with/output",
            "/nodes/3/with/duration",
            "/nodes/4/retry/max_attempts"
        ]
    );
    let refused = app.error("SELECT meshhook.publish_workflow($1)", &[&faulty]);
    assert_eq!(refused.code().code(), "22023");
    let detail = refused.detail().expect("the problems are in the detail");
    assert!(pointers.iter().all(|pointer| detail.contains(pointer.as_str())), "{detail}");
    assert_eq!(meshhook_e2e::counted(&mut db.admin(), "SELECT count(*) FROM meshhook.workflow_version"), 0);
}

#[test]
fn a_cycle_is_refused() {
    let db = Database::preloaded("cycle");
    let mut cycle = chain("cycle", &["one", "two", "three"]);
    let edges = cycle["edges"].as_array_mut().expect("a list");
    edges.push(json!({"from": "three", "to": "two"}));
    let codes: Vec<String> = db.app().values("SELECT code FROM meshhook.validate_workflow($1)", &[&cycle]);
    assert_eq!(codes, ["cycle"]);
}

/// Runs a transform with this expression; returns the error class of the run, or of the refusal to publish it,
/// and how long that took.
fn explode(db: &Database, name: &str, expression: &str, input: &Value) -> (String, Duration) {
    let mut app = db.app();
    let definition = json!({"name": name, "nodes": [
        {"id": "bomb", "type": "transform", "with": {"output": format!("{{{{ {expression} }}}}")}}]});
    let started = Instant::now();
    let codes: Vec<String> = app.values("SELECT code FROM meshhook.validate_workflow($1)", &[&definition]);
    if !codes.is_empty() {
        return (format!("refused: {}", codes.join(" ")), started.elapsed());
    }
    publish(&mut app, &definition);
    let started = Instant::now();
    let id = start(&mut app, name, input);
    let done = ended(&mut db.admin(), id);
    let took = started.elapsed();
    assert_eq!(done.status, "failed", "{name}: {done:?}");
    let error = done.error.expect("an error");
    assert_eq!(error["node"], json!("bomb"));
    (error["class"].as_str().unwrap_or_default().to_owned(), took)
}

#[test]
fn an_expression_bomb_fails_its_run_at_once_and_nothing_else() {
    let db = Database::preloaded("bombs");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let bystander = start(&mut db.app(), "chain", &json!({}));
    let mut admin = db.admin();
    let boot: String = admin.value("SELECT pg_postmaster_start_time()::text", &[]);
    let mut orchestrator = None;
    let brackets = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let bombs = [
        ("range", "[range(1e12)]".to_owned()),
        ("range_of_input", "[range(.input.n)]".to_owned()),
        ("repeat", "\"x\" * 1e9".to_owned()),
        ("repeat_of_input", "\"x\" * .input.n".to_owned()),
        ("recursion", "def f: f; f".to_owned()),
        (
            "fan",
            "def f: ., .; [f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f|f] | length".to_owned(),
        ),
        ("product", "[range(1e5) as $a | range(1e5) as $b | $a * $b] | add".to_owned()),
        ("reduce", "reduce range(1e9) as $i (null; [.])".to_owned()),
        ("grow", "reduce range(60) as $i (\"x\"; . + .) | length".to_owned()),
        ("brackets", brackets(10_000)),
        ("operators", format!("1{}", "+1".repeat(100_000))),
        ("minus", format!("{}1", "-".repeat(100_000))),
        ("try", "try [range(1e12)] catch 0".to_owned()),
    ];
    for (name, expression) in &bombs {
        let (class, took) = explode(&db, name, expression, &json!({"n": 1_000_000_000_000_i64}));
        println!("{name}: {class} in {took:?}");
        assert!(took < Duration::from_secs(1), "{name} took {took:?}");
        let serving = db.cluster.orchestrator(&db.name);
        assert!(orchestrator.is_none() || orchestrator == serving, "{name} took the orchestrator along");
        orchestrator = serving;
    }
    assert_eq!(admin.value::<String>("SELECT pg_postmaster_start_time()::text", &[]), boot);
    // Not one session of the server was ended: this one is older than the bombs.
    meshhook_e2e::work_off_when_ready(&mut db.executor());
    assert_eq!(ended(&mut admin, bystander).status, "succeeded");
}

#[test]
fn a_bomb_in_the_input_is_only_data() {
    let db = Database::preloaded("deep_input");
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let mut app = db.app();
    // Deeper than any stack should recurse; the server's own limit refuses far deeper ones before meshhook sees them.
    for depth in [100, 5_000] {
        let deep = format!(
            "SELECT meshhook.start_run('echo', '{}1{}'::jsonb)",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        match app.query_one(&deep, &[]) {
            Ok(row) => {
                let id = row.get(0);
                meshhook_e2e::wait_status(&mut db.admin(), id, &["succeeded", "failed"], SOON);
            }
            Err(e) => assert!(e.as_db_error().is_some(), "the server is still there: {e}"),
        }
    }
    assert_eq!(app.value::<i32>("SELECT 1", &[]), 1);
}
