//! Bodies that are too large for a log, from one service through the database to another.

use meshhook_e2e::{Database, ended, publish, start};
use meshhook_testkit::{Reply, Stub};
use serde_json::json;

#[test]
fn a_large_body_goes_from_one_service_to_another_beside_the_log() {
    let db = Database::preloaded("freight");
    let _sidecar = db.sidecar().start();
    let depot = Stub::start();
    let goods: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    depot.script("/goods", [Reply::bytes(200, "application/x-goods", goods.clone())]);
    for path in ["/yard", "/form", "/list", "/small"] {
        depot.script(path, [Reply::json(200, &json!({"taken": true}))]);
    }
    let post = |id: &str, field: &str, value: serde_json::Value| json!({"id": id, "type": "http", "with": {"method": "POST", "url": depot.url(&format!("/{id}")), field: value}});
    let definition = json!({"name": "freight", "nodes": [
        {"id": "goods", "type": "http", "with": {"url": depot.url("/goods")}},
        post("yard", "body_blob", json!("{{ .nodes.goods.output.body_blob }}")),
        post("form", "multipart", json!([{"name": "file", "filename": "g.bin", "blob": "{{ .nodes.goods.output.body_blob }}"}])),
        post("list", "body", json!("{{ [range(.input.count)] }}")),
        {"id": "small", "type": "http", "with": {"url": depot.url("/small")}},
    ], "edges": [
        {"from": "goods", "to": "yard"}, {"from": "yard", "to": "form"}, {"from": "form", "to": "list"},
        {"from": "list", "to": "small"},
    ]});
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &definition);
    let id = start(&mut app, "freight", &json!({"count": 30_000}));
    let run = ended(&mut admin, id);
    assert_eq!(run.status, "succeeded", "{:?}", run.error);

    let sent = |path: &str| depot.received_at(path).pop().expect("a call");
    assert_eq!(sent("/yard").body, goods);
    assert_eq!(sent("/yard").header("content-type"), Some("application/x-goods"));
    let form = sent("/form").body;
    assert!(form.windows(goods.len()).any(|window| window == goods));
    let list: Vec<u32> = serde_json::from_slice(&sent("/list").body).expect("a list");
    assert!(list.into_iter().eq(0..30_000));

    let largest = "SELECT max(octet_length(data::text)) FROM meshhook.run_event WHERE run_id = $1";
    assert!(admin.value::<i32>(largest, &[&id]) < 4_000);
    let reference = "SELECT sha256, size, runs FROM meshhook.blobs WHERE size = 300000";
    let rows = app.rows(reference, &[]);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].get::<_, i32>(1), rows[0].get::<_, i64>(2)), (300_000, 1));
    let kept: Vec<u8> = app.value("SELECT meshhook.read_blob($1)", &[&rows[0].get::<_, String>(0)]);
    assert_eq!(kept, goods);
    let differences = "SELECT count(*) FROM meshhook.verify_run($1)";
    assert_eq!(app.value::<i64>(differences, &[&id]), 0);
}

#[test]
fn a_response_is_in_the_output_or_beside_it_as_the_node_says() {
    let db = Database::preloaded("forms");
    let _sidecar = db.sidecar().start();
    let stub = Stub::answering(|request| {
        let size = request.query.parse().unwrap_or(0);
        Reply::json(200, &json!("x".repeat(size)))
    });
    let (mut app, mut admin) = (db.app(), db.admin());
    let page = json!({"by": "page", "items": "", "limit": 2});
    for (name, size, with, is_kept) in [
        ("auto", 65_000, json!({}), false),
        ("large", 66_000, json!({}), true),
        ("inline", 400_000, json!({"response": "inline"}), false),
        ("text", 66_000, json!({"response": "text"}), false),
        ("blob", 1, json!({"response": "blob"}), true),
    ] {
        let mut with = with;
        with["url"] = json!(stub.url(&format!("/?{size}")));
        publish(&mut app, &json!({"name": name, "nodes": [{"id": "call", "type": "http", "with": with}]}));
        let id = start(&mut app, name, &json!({}));
        let output = ended(&mut admin, id).output.expect("an output");
        assert_eq!(output["body"].is_null(), is_kept, "{name}");
        let bytes = size + if name == "text" { 0 } else { 2 };
        if is_kept {
            assert_eq!(output["body_blob"]["size"], bytes, "{name}");
            assert_eq!(output["body_blob"]["content_type"], "application/json");
        }
    }
    let with = json!({"url": stub.url("/?1"), "pages": page, "response": "text"});
    let pages = json!({"name": "pages", "nodes": [{"id": "call", "type": "http", "with": with}]});
    let refused = app.error("SELECT meshhook.publish_workflow($1)", &[&pages]);
    assert!(refused.detail().is_some_and(|detail| detail.contains("(conflict)")), "{refused:?}");
}
