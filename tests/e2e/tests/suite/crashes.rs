//! Processes die in the middle of things; every run is finished exactly once all the same.

use meshhook_e2e::load::{configs, keep_working};
use meshhook_e2e::{
    Database, EXECUTOR, SOON, Stop, all_succeeded, caller, chain, ended, own_cluster, prepare, publish,
    start, timeline, work_off,
};
use meshhook_testkit::sign;
use meshhook_testkit::{Cluster, Gate, Reply, Session, Stub, history, wait_for};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Long enough for crash recovery and expired leases on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn a_sidecar_killed_in_mid_call_is_replaced() {
    let db = Database::preloaded("sidecar_killed");
    let stub = Stub::start();
    let gate = Gate::new();
    stub.script("/call", [Reply::status(204).behind(&gate), Reply::json(200, &json!("second"))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let first = db.sidecar().env("MESHHOOK_LEASE", "2s").start();
    let id = start(&mut db.app(), "order", &json!({"n": 1}));
    stub.wait_received("/call", 1, SOON);
    first.kill9();
    let _second = db.sidecar().env("MESHHOOK_LEASE", "2s").start();
    let mut admin = db.admin();
    let done = ended(&mut admin, id);
    gate.open();
    assert_eq!(done.output, Some(json!({"answer": "second"})));
    let calls = stub.received_at("/call");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].idempotency_key(), calls[1].idempotency_key());
    assert_eq!(calls[0].idempotency_key(), format!("{id}/call"));
    let lost = ("node.retry_scheduled".to_owned(), "call".to_owned(), 1);
    assert!(timeline(&mut admin, id).contains(&lost), "the lost attempt is in the log");
}

#[test]
fn a_sidecar_told_to_end_finishes_what_it_has() {
    let db = Database::preloaded("sidecar_drains");
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("done")).delay(Duration::from_millis(700))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let sidecar = db.sidecar().start();
    let id = start(&mut db.app(), "order", &json!({}));
    stub.wait_received("/call", 1, SOON);
    sidecar.terminate();
    assert_eq!(ended(&mut db.admin(), id).output, Some(json!({"answer": "done"})));
    assert_eq!(stub.received_at("/call").len(), 1);
}

#[test]
fn a_sidecar_survives_its_connections() {
    let db = Database::preloaded("sidecar_cut");
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let sidecar = db.sidecar().start();
    let mut admin = db.admin();
    for round in 1..=3 {
        admin.exec(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND usename = 'courier'",
        );
        start(&mut db.app(), "order", &json!({"round": round}));
        all_succeeded(&mut admin, round, SOON);
    }
    assert_eq!(sidecar.get("/readyz").expect("an answer").status, 200);
}

/// Starts `count` runs of a chain of three tasks, calls `fault` while they are under way, and demands that all
/// of them end well.
fn finish_despite(db: &Database, count: i64, fault: impl Fn(usize)) {
    publish(&mut db.app(), &chain("chain", &["one", "two", "three"]));
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let _end = stop.at_end();
        scope.spawn(|| keep_working(configs(db.cluster, EXECUTOR, &db.name), &stop));
        let mut app = db.app();
        for n in 0..count {
            start(&mut app, "chain", &json!({"n": n}));
        }
        for round in 0..3 {
            let goal = count * (round + 1) / 5;
            let enough = |session: &mut Session| {
                let sql =
                    "SELECT count(*) FROM meshhook.runs WHERE workflow = 'chain' AND status = 'succeeded'";
                session.query_one(sql, &[]).map_or(-1, |row| row.get::<_, i64>(0))
            };
            let mut admin = db.admin();
            wait_for("some runs to end", PATIENCE, || enough(&mut admin) >= goal);
            fault(usize::try_from(round).unwrap_or(0));
        }
        wait_for("the rest to end", PATIENCE, || {
            let mut admin = db.admin();
            let sql = "SELECT count(*) FROM meshhook.runs WHERE workflow = 'chain' AND status = 'succeeded'";
            admin.query_one(sql, &[]).is_ok_and(|row| row.get::<_, i64>(0) == count)
        });
    });
    let mut admin = db.admin();
    let outputs: Vec<i32> =
        admin.values("SELECT (output #>> '{order,n}')::int FROM meshhook.runs WHERE workflow = 'chain'", &[]);
    assert_eq!(outputs.len(), usize::try_from(count).unwrap_or(0));
    assert_eq!(outputs.into_iter().map(i64::from).collect::<BTreeSet<_>>(), (0..count).collect());
    history::check_all(&mut admin);
}

#[test]
fn an_orchestrator_terminated_in_mid_run_comes_back() {
    let db = Database::preloaded("orchestrator_terminated");
    finish_despite(&db, 200, |_| {
        let pid =
            meshhook_testkit::wait::wait_some("an orchestrator", SOON, || db.cluster.orchestrator(&db.name));
        db.admin().exec(&format!("SELECT pg_terminate_backend({pid})"));
        wait_for("another orchestrator", PATIENCE, || {
            db.cluster.orchestrator(&db.name).is_some_and(|other| other != pid)
        });
    });
}

#[test]
fn an_orchestrator_killed_takes_the_server_through_recovery_and_comes_back() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "orchestrator_killed");
    finish_despite(&db, 100, |round| {
        if round == 0 {
            let pid =
                meshhook_testkit::wait::wait_some("an orchestrator", SOON, || cluster.orchestrator(&db.name));
            meshhook_testkit::process::kill9(u32::try_from(pid).expect("a process id"));
            wait_for("the server to notice", SOON, || cluster.log_contains("terminated by signal 9"));
        }
    });
}

#[test]
fn a_postmaster_killed_in_mid_run_loses_and_doubles_nothing() {
    // Durable, as in production.
    let cluster = prepare(Cluster::builder().preload(true).kek(true).start());
    let db = Database::create(&cluster, "postmaster_killed");
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let sidecar = db.sidecar().env("MESHHOOK_LEASE", "5s").start();
    finish_despite(&db, 60, |round| {
        if round == 1 {
            let mut app = db.app();
            for n in 0..20 {
                start(&mut app, "order", &json!({"n": n}));
            }
            cluster.kill9_postmaster();
            cluster.start();
            // Started before the kill and committed, so they are there after it; the sidecar reconnects by itself.
            let finished =
                "SELECT count(*) FROM meshhook.runs WHERE workflow = 'order' AND status = 'succeeded'";
            let mut admin = db.admin();
            wait_for("the calls made around the crash", PATIENCE, || {
                meshhook_e2e::counted(&mut admin, finished) == 20
            });
            let keys: BTreeSet<String> =
                stub.received_at("/call").iter().map(|call| call.idempotency_key().to_owned()).collect();
            assert_eq!(keys.len(), 20, "each called at least once, none of another run");
        }
    });
    drop(sidecar);
}

#[test]
fn an_executor_that_comes_back_too_late_changes_nothing() {
    let db = Database::preloaded("late_executor");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = db.executor();
    let first = meshhook_testkit::wait::wait_some("the job", SOON, || {
        meshhook_e2e::claim(&mut executor, "default", 1, "200 ms").pop()
    });
    let second = meshhook_e2e::claim_one(&mut executor, "default");
    assert_eq!((second.run, second.attempt), (first.run, 2));
    assert_eq!(second.idempotency_key, first.idempotency_key);
    assert_ne!(second.token, first.token);
    assert_eq!(meshhook_e2e::complete(&mut executor, &first, &json!("late")), "stale");
    assert_eq!(meshhook_e2e::fail(&mut executor, &first, &json!({"class": "late"})), "stale");
    assert_eq!(meshhook_e2e::complete(&mut executor, &second, &json!("in time")), "accepted");
    assert_eq!(meshhook_e2e::complete(&mut executor, &second, &json!("twice")), "stale");
    assert_eq!(ended(&mut db.admin(), id).output, Some(json!("in time")));
    assert_eq!(work_off(&mut executor, "default"), 0);
}

#[test]
fn a_sidecar_outlives_its_server_and_promises_nothing_meanwhile() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "server_away");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let (path, secret) = db.endpoint("chain", "standard");
    let sidecar = db.sidecar().start();
    let body = b"{}";
    let post =
        |id: &str| sidecar.post(&path, &sign::standard(&secret, id, sign::unix_now(), body), body).status;
    let ready = || sidecar.get("/readyz").map(|answer| answer.status);
    assert_eq!(post("before"), 202);
    cluster.stop(meshhook_testkit::StopMode::Fast);
    wait_for("the sidecar to notice", SOON, || ready() == Some(503));
    assert_eq!(post("during"), 503);
    assert_eq!(sidecar.get("/healthz").map(|answer| answer.status), Some(200), "it is alive all the same");
    cluster.start();
    wait_for("the sidecar to be ready again", SOON, || ready() == Some(200));
    // After a failed connect the sidecar waits a moment before the next: the sender is told to try again.
    let mut answers = Vec::new();
    wait_for("the sender's retry to be taken", SOON, || {
        answers.push(post("during"));
        answers.last() == Some(&202)
    });
    assert!(answers.iter().all(|status| matches!(status, 202 | 503)), "{answers:?}");
    assert_eq!(post("before"), 200);
    assert_eq!(meshhook_e2e::counted(&mut db.admin(), "SELECT count(*) FROM meshhook.runs"), 2);
    let metrics = sidecar.get("/metrics").expect("an answer").text();
    assert!(metrics.contains("meshhook_sidecar_"), "{metrics}");
}

#[test]
fn a_sidecar_that_does_not_fit_says_so_and_waits() {
    let db = Database::preloaded("sidecar_misfit");
    let mut admin = db.admin();
    let answer = |admin: &mut Session, version: &str| {
        admin.exec(&format!(
            "CREATE OR REPLACE FUNCTION meshhook.version() RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE \
             AS $$ SELECT '{version}'::text $$"
        ));
    };
    answer(&mut admin, "9.9.0");
    let sidecar = db.sidecar().spawn();
    wait_for("the sidecar to say what is wrong", SOON, || {
        sidecar
            .get("/readyz")
            .is_some_and(|answer| answer.status == 503 && answer.text().contains("upgrade the sidecar"))
    });
    answer(&mut admin, env!("CARGO_PKG_VERSION"));
    wait_for("the sidecar to be ready", SOON, || {
        sidecar.get("/readyz").is_some_and(|answer| answer.status == 200)
    });
}
