//! Endpoints that receive as PostgREST calls, without a sidecar.

use super::dump::{dump, restore};
use meshhook_e2e::{Database, counted, own_cluster, publish};
use meshhook_testkit::{Cluster, Session, sign};
use serde_json::{Value, json};

/// A cluster with the role that PostgREST acts as for whoever has not signed in.
fn with_anon() -> Cluster {
    let cluster = own_cluster(false);
    cluster.connect("postgres", "postgres").exec("CREATE ROLE anon LOGIN");
    cluster
}

/// What PostgREST does for a request: the headers and the role in the transaction, one call, the status behind it.
fn post(session: &mut Session, function: &str, headers: &[(String, String)], body: &str) -> (String, Value) {
    let headers: serde_json::Map<_, _> =
        headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    session.exec("BEGIN");
    session.rows(
        "SELECT set_config('request.headers', $1, true), set_config('request.method', 'POST', true)",
        &[&Value::Object(headers).to_string()],
    );
    let answer: Option<Value> =
        session.value(&format!("SELECT meshhook_public.\"{function}\"($1::text::json)"), &[&body]);
    let status = session.value("SELECT current_setting('response.status')", &[]);
    session.exec("COMMIT");
    (status, answer.unwrap_or(Value::Null))
}

#[test]
fn an_endpoints_function_receives_and_is_in_a_dump_with_it() {
    let cluster = with_anon();
    let db = Database::create(&cluster, "rpc");
    let echo = json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]});
    publish(&mut db.app(), &echo);
    let mut admin = db.admin();
    let made = admin
        .rows("SELECT endpoint, secret FROM meshhook.create_endpoint('echo', 'github', rpc => true)", &[]);
    let (endpoint, secret): (String, String) = (made[0].get(0), made[0].get(1));
    let function = format!("hook_{endpoint}");
    let anon = |database: &str| cluster.connect("anon", database);

    // The bytes count, spaces and all.
    let body = "{\"n\":  1.0,\"n\": 2}";
    let signed = sign::github(&secret, "d", body.as_bytes());
    let (status, answer) = post(&mut anon("rpc"), &function, &signed, body);
    assert_eq!(status, "202", "{answer}");
    let again = post(&mut anon("rpc"), &function, &signed, body);
    assert_eq!((again.0.as_str(), &again.1["run_id"]), ("200", &answer["run_id"]));
    // What is refused is on record all the same.
    assert_eq!(
        post(&mut anon("rpc"), &function, &sign::github("guess", "d", body.as_bytes()), body).0,
        "401"
    );
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.delivery WHERE status = 401"), 1);
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);

    let file = cluster.dir().join("rpc_dump");
    dump(&cluster, "rpc", &file);
    restore(&cluster, "rpc_copy", &file);
    let mut copy = cluster.connect("postgres", "rpc_copy");
    assert_eq!(post(&mut anon("rpc_copy"), &function, &signed, body).0, "503", "a copy is dormant");
    copy.exec("SELECT meshhook.activate()");
    assert_eq!(post(&mut anon("rpc_copy"), &function, &signed, body).0, "200", "and knows its deliveries");
    // An endpoint takes its function along, and so does the extension.
    let functions = "SELECT count(*) FROM pg_proc WHERE proname ~ '^hook_'";
    assert_eq!(counted(&mut copy, functions), 3);
    copy.rows("SELECT meshhook.drop_endpoint($1)", &[&endpoint]);
    assert_eq!(counted(&mut copy, functions), 0);
    admin.exec("DROP EXTENSION meshhook");
    assert_eq!(counted(&mut admin, functions), 0);
}
