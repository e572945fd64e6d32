//! What the world refuses: retries, error ports, leases, cancellation.

use meshhook_e2e::{
    Database, SOON, caller, chain, claim, claim_one, complete, ended, fail, publish, quick, start, timeline,
};
use meshhook_testkit::{Gate, Reply, Stub, history};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn attempts_are_counted_and_then_the_run_fails() {
    let db = Database::preloaded("attempts");
    let mut definition = chain("chain", &["one", "two"]);
    definition["nodes"][0]["retry"] = quick(3);
    publish(&mut db.app(), &definition);
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = db.executor();
    for attempt in 1..=3 {
        let job = claim_one(&mut executor, "default");
        assert_eq!((job.run, job.node.as_str(), job.attempt), (id, "one", attempt));
        assert_eq!(job.idempotency_key, format!("{id}/one"));
        let error = json!({"class": "stock.empty", "message": format!("none left at attempt {attempt}")});
        assert_eq!(fail(&mut executor, &job, &error), "accepted");
    }
    let mut admin = db.admin();
    let done = ended(&mut admin, id);
    assert_eq!(done.status, "failed");
    let error = done.error.expect("a failed run has an error");
    assert_eq!((&error["class"], &error["node"]), (&json!("stock.empty"), &json!("one")));
    assert_eq!(error["message"], json!("none left at attempt 3"));
    let kinds: Vec<String> = timeline(&mut admin, id).into_iter().map(|(kind, _, _)| kind).collect();
    let retries = ["node.scheduled", "node.retry_scheduled"];
    let expected =
        [&["run.started"], &retries[..], &retries, &["node.scheduled", "node.failed", "run.failed"]].concat();
    assert_eq!(kinds, expected);
    let steps = admin.rows(
        "SELECT node, status, attempts::int FROM meshhook.run_steps WHERE run_id = $1 ORDER BY node",
        &[&id],
    );
    let steps: Vec<(String, String, i32)> =
        steps.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(steps[0], ("one".to_owned(), "failed".to_owned(), 3));
}

#[test]
fn a_failure_that_says_so_is_not_retried() {
    let db = Database::preloaded("not_retried");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = db.executor();
    let job = claim_one(&mut executor, "default");
    fail(&mut executor, &job, &json!({"class": "card.declined", "message": "no", "retryable": false}));
    assert_eq!(ended(&mut db.admin(), id).error.expect("an error")["class"], json!("card.declined"));
}

#[test]
fn an_http_status_decides_whether_to_try_again() {
    let db = Database::preloaded("http_status");
    let stub = Stub::start();
    stub.script("/busy", [Reply::status(429), Reply::status(502), Reply::json(200, &json!("ok"))]);
    stub.script("/refused", [Reply::json(422, &json!({"why": "no such product"}))]);
    stub.script(
        "/torn",
        [Reply::bytes(200, "text/plain", "half of it").cut_after(4), Reply::json(200, &json!("whole"))],
    );
    stub.script(
        "/slow",
        [Reply::status(200).delay(Duration::from_secs(3)), Reply::json(200, &json!("quick"))],
    );
    let mut app = db.app();
    for name in ["busy", "refused", "torn", "slow"] {
        let mut definition = caller(name, &stub.url(&format!("/{name}")));
        definition["nodes"][0]["timeout"] = json!("1s");
        publish(&mut app, &definition);
    }
    let _sidecar = db.sidecar().start();
    let mut admin = db.admin();
    let mut outcome = |name: &str| {
        let id = start(&mut app, name, &json!({}));
        (ended(&mut admin, id), stub.received_at(&format!("/{name}")).len())
    };
    let (busy, calls) = outcome("busy");
    assert_eq!((busy.output, calls), (Some(json!({"answer": "ok"})), 3));
    let (refused, calls) = outcome("refused");
    let error = refused.error.expect("an error");
    assert_eq!((&error["class"], &error["status"], calls), (&json!("http.status"), &json!(422), 1));
    let (torn, calls) = outcome("torn");
    assert_eq!((torn.output, calls), (Some(json!({"answer": "whole"})), 2));
    let (slow, calls) = outcome("slow");
    assert_eq!((slow.output, calls), (Some(json!({"answer": "quick"})), 2));
    // Nobody there at all.
    publish(&mut app, &{
        let mut definition = caller("nobody", "http://127.0.0.1:9/");
        definition["nodes"][0]["retry"] = quick(2);
        definition
    });
    let id = start(&mut app, "nobody", &json!({}));
    let nobody = ended(&mut admin, id).error.expect("an error");
    assert_eq!((&nobody["class"], &nobody["node"]), (&json!("connect"), &json!("call")));
}

#[test]
fn an_error_port_takes_over() {
    let db = Database::preloaded("error_port");
    let stub = Stub::start();
    stub.script("/charge", [Reply::json(402, &json!({"declined": true}))]);
    publish(
        &mut db.app(),
        &json!({
            "name": "order",
            "nodes": [
                {"id": "charge", "type": "http", "with": {"method": "POST", "url": stub.url("/charge")}},
                {"id": "ship", "type": "transform", "with": {"output": "shipped"}},
                {"id": "refund", "type": "transform", "with": {"output": {"refunded": "{{ .error.class }}", "status": "{{ .error.status }}"}}}
            ],
            "edges": [{"from": "charge", "to": "ship"}, {"from": "charge", "port": "error", "to": "refund"}]
        }),
    );
    let _sidecar = db.sidecar().start();
    let id = start(&mut db.app(), "order", &json!({}));
    let mut admin = db.admin();
    let done = ended(&mut admin, id);
    assert_eq!(done.status, "succeeded");
    assert_eq!(done.output, Some(json!({"refund": {"refunded": "http.status", "status": 402}})));
    assert!(timeline(&mut admin, id).contains(&("node.skipped".into(), "ship".into(), 0)));
}

#[test]
fn a_canceled_run_takes_nothing_more_in() {
    let db = Database::preloaded("canceled");
    let stub = Stub::start();
    let gate = Gate::new();
    stub.script("/call", [Reply::json(200, &json!("late")).behind(&gate)]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    publish(&mut db.app(), &chain("chain", &["one"]));
    let sidecar = db.sidecar().start();
    let mut app = db.app();
    let called = start(&mut app, "order", &json!({}));
    let claimed = start(&mut app, "chain", &json!({}));
    stub.wait_received("/call", 1, SOON);
    let mut executor = db.executor();
    let job = claim_one(&mut executor, "default");
    let mut admin = db.admin();
    let cancel = "SELECT meshhook.cancel_run($1, 'changed my mind')";
    for id in [called, claimed] {
        assert!(app.value::<bool>(cancel, &[&id]));
        assert_eq!(ended(&mut admin, id).status, "canceled");
        assert!(!app.value::<bool>(cancel, &[&id]), "it has already ended");
    }
    gate.open();
    assert_eq!(complete(&mut executor, &job, &json!("late")), "stale");
    let lease: Option<std::time::SystemTime> = executor.value(
        "SELECT lease_expires_at FROM meshhook.heartbeat_jobs(ARRAY[$1], ARRAY[$2::bigint])",
        &[&job.id, &job.token],
    );
    assert_eq!(lease, None, "there is no lease to renew");
    let last = history::history(&mut admin, claimed).pop().expect("an event");
    assert_eq!((last.kind.as_str(), &last.data["reason"]), ("run.canceled", &json!("changed my mind")));
    sidecar.terminate();
    history::check_all(&mut admin);
}

#[test]
fn a_run_that_fails_takes_its_other_branches_along() {
    let db = Database::preloaded("siblings");
    publish(
        &mut db.app(),
        &json!({
            "name": "fork",
            "nodes": [
                {"id": "start", "type": "transform", "with": {"output": 1}},
                {"id": "good", "type": "task", "with": {"queue": "good"}},
                {"id": "bad", "type": "task", "with": {"queue": "bad"}},
                {"id": "later", "type": "delay", "with": {"duration": "1h"}}
            ],
            "edges": [{"from": "start", "to": "good"}, {"from": "start", "to": "bad"}, {"from": "start", "to": "later"}]
        }),
    );
    let id = start(&mut db.app(), "fork", &json!({}));
    let mut executor = db.executor();
    let good = claim_one(&mut executor, "good");
    let bad = claim_one(&mut executor, "bad");
    fail(&mut executor, &bad, &json!({"class": "broken", "retryable": false}));
    let mut admin = db.admin();
    assert_eq!(ended(&mut admin, id).status, "failed");
    assert_eq!(complete(&mut executor, &good, &Value::Null), "stale");
    assert!(claim(&mut executor, "good", 10, "1 s").is_empty());
}

#[test]
fn a_lease_lives_as_long_as_it_is_renewed_and_a_released_job_costs_no_attempt() {
    let db = Database::preloaded("leases");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = db.executor();
    let job = claim_one(&mut executor, "default");
    let released: String = executor.value(
        "SELECT outcome FROM meshhook.release_jobs(ARRAY[$1], ARRAY[$2::bigint])",
        &[&job.id, &job.token],
    );
    assert_eq!(released, "accepted");
    assert_eq!(complete(&mut executor, &job, &Value::Null), "stale");
    let again = meshhook_testkit::wait::wait_some("the job", SOON, || {
        claim(&mut executor, "default", 1, "1 s").pop()
    });
    assert_eq!(again.attempt, 1);
    // Renewed four times at half its length, it lasts twice its length.
    for _ in 0..4 {
        let pause = std::time::Instant::now();
        meshhook_testkit::wait_for("half a lease", SOON, || pause.elapsed() > Duration::from_millis(500));
        let renewed: bool = executor.value(
            "SELECT lease_expires_at > clock_timestamp() FROM meshhook.heartbeat_jobs(ARRAY[$1], ARRAY[$2::bigint], '1 s')",
            &[&again.id, &again.token],
        );
        assert!(renewed);
    }
    assert_eq!(complete(&mut executor, &again, &json!("done")), "accepted");
    assert_eq!(ended(&mut db.admin(), id).output, Some(json!("done")));
}
