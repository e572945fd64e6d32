//! It has committed, and whoever asked for it never learns: they ask again, and it counts once.

use meshhook_e2e::{
    Database, SOON, caller, chain, claim_one, counted, ended, publish, run_id, start, timeline,
};
use meshhook_testkit::sign::{self, unix_now};
use meshhook_testkit::{Proxy, Reply, Session, Stub, wait_for};
use serde_json::json;
use uuid::Uuid;

/// A connection through a proxy.
#[track_caller]
fn through(db: &Database, proxy: &Proxy, user: &str) -> Session {
    let mut config = postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).user(user).dbname(&db.name);
    Session::connect(&config).expect("a connection through the proxy")
}

#[test]
fn a_report_whose_answer_is_lost_is_made_again_and_counts_once() {
    let db = Database::preloaded("report_lost");
    let proxy = Proxy::start(db.cluster.port());
    publish(&mut db.app(), &chain("chain", &["one", "two"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = through(&db, &proxy, meshhook_e2e::EXECUTOR);
    let job = claim_one(&mut executor, "default");
    let sql = "SELECT meshhook.complete_job($1, $2, $3)";
    proxy.lose_answers(1, "complete_job");
    let lost = executor.query(sql, &[&job.id, &job.token, &json!("once")]);
    assert!(lost.expect_err("the answer is lost").code().is_none());
    assert_eq!(proxy.lost_answers(), 1);

    let mut executor = through(&db, &proxy, meshhook_e2e::EXECUTOR);
    assert_eq!(meshhook_e2e::complete(&mut executor, &job, &json!("again")), "stale");
    let second = claim_one(&mut executor, "default");
    assert_eq!((second.node.as_str(), second.attempt), ("two", 1));
    meshhook_e2e::complete(&mut executor, &second, &json!("done"));
    let mut admin = db.admin();
    assert_eq!(ended(&mut admin, id).status, "succeeded");
    let done = ("node.succeeded".to_owned(), "one".to_owned(), 1);
    assert_eq!(timeline(&mut admin, id).iter().filter(|event| **event == done).count(), 1);
    let output: serde_json::Value =
        admin.value("SELECT meshhook.run_state($1) #> '{nodes,one,output}'", &[&id]);
    assert_eq!(output, json!("once"));
}

#[test]
fn a_claim_whose_answer_is_lost_is_a_lease_that_runs_out() {
    let db = Database::preloaded("claim_lost");
    let proxy = Proxy::start(db.cluster.port());
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut admin = db.admin();
    wait_for("the job", SOON, || counted(&mut admin, "SELECT count(*) FROM meshhook.job") == 1);
    let mut executor = through(&db, &proxy, meshhook_e2e::EXECUTOR);
    proxy.lose_answers(1, "claim_jobs");
    let claim = "SELECT count(*) FROM meshhook.claim_jobs('default', 'gone', 1, '300 ms')";
    assert!(executor.query(claim, &[]).is_err());
    let job = claim_one(&mut db.executor(), "default");
    assert_eq!((job.run, job.attempt), (id, 2));
    meshhook_e2e::complete(&mut db.executor(), &job, &json!("done"));
    assert_eq!(ended(&mut admin, id).output, Some(json!("done")));
}

#[test]
fn a_start_whose_answer_is_lost_is_told_again_under_its_key() {
    let db = Database::preloaded("start_lost");
    let proxy = Proxy::start(db.cluster.port());
    publish(&mut db.app(), &chain("chain", &["one"]));
    let mut app = through(&db, &proxy, meshhook_e2e::APP);
    let sql = "SELECT meshhook.start_run('chain', '{\"n\": 1}', idempotency_key => 'order-1')";
    proxy.lose_answers(1, "start_run");
    assert!(app.query(sql, &[]).is_err());
    let mut admin = db.admin();
    let committed: Uuid = admin.value("SELECT run_id FROM meshhook.runs", &[]);
    let mut app = through(&db, &proxy, meshhook_e2e::APP);
    assert_eq!(app.value::<Uuid>(sql, &[]), committed);
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
}

#[test]
fn a_webhook_that_committed_without_the_sidecar_knowing_is_one_run() {
    let db = Database::preloaded("webhook_lost");
    let proxy = Proxy::start(db.cluster.port());
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let (path, secret) = db.endpoint("order", "standard");
    let sidecar = db.sidecar().port(proxy.port()).env("MESHHOOK_LEASE", "2s").start();
    let body = br#"{"id": 7}"#;
    let post = || sidecar.post(&path, &sign::standard(&secret, "msg_1", unix_now(), body), body);
    proxy.lose_answers(1, "receive_webhook");
    let first = post();
    assert_eq!(proxy.lost_answers(), 1, "{} {}", first.status, first.text());
    let mut admin = db.admin();
    let committed: Uuid = admin.value("SELECT run_id FROM meshhook.runs", &[]);
    // It says that it does not know, or has asked again by itself; a sender that asks again learns which run it is.
    assert!(matches!(first.status, 200 | 503), "{} {}", first.status, first.text());
    let mut answer = post();
    wait_for("the sidecar to have its connection again", SOON, || {
        answer = post();
        answer.status == 200
    });
    assert_eq!(run_id(&answer), committed);

    // The same of the report on the call, which the sidecar makes.
    assert_eq!(ended(&mut admin, committed).status, "succeeded");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
    proxy.lose_answers(1, "complete_jobs");
    let second = start(&mut db.app(), "order", &json!({"id": 8}));
    assert_eq!(ended(&mut admin, second).output, Some(json!({"answer": "ok"})));
    wait_for("the answer to be lost", SOON, || proxy.lost_answers() == 2);
    let succeeded = timeline(&mut admin, second).iter().filter(|event| event.0 == "run.succeeded").count();
    assert_eq!((succeeded, sidecar.get("/healthz").map(|answer| answer.status)), (1, Some(200)));
}
