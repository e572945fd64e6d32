//! What administrators do: install, remove, reload, start and stop workers, ask how things are.

use meshhook_e2e::{
    Database, SOON, chain, ended, own_cluster, prepare, publish, start, status, work_off_when_ready,
};
use meshhook_testkit::{Cluster, wait, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

fn echo() -> Value {
    json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]})
}

#[test]
fn a_start_that_nobody_will_work_on_warns() {
    let db = Database::plain("unserved");
    let mut app = db.app();
    publish(&mut app, &echo());
    app.take_notices();
    let id = start(&mut app, "echo", &json!(1));
    let notices = app.take_notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].severity(), "WARNING");
    let hint = notices[0].hint().unwrap_or_default();
    assert!(hint.contains("start_workers") && hint.contains("tick"), "{hint}");
    let mut admin = db.admin();
    let (fine, _, hint) = status(&mut admin, "orchestrator").expect("status() speaks of the orchestrator");
    assert!(!fine && hint.contains("start_workers"));
    // It counts as stuck after a while only.
    admin.exec("UPDATE meshhook.inbox SET created_at = created_at - interval '1 minute'");
    let reason: String = admin.value("SELECT reason FROM meshhook.stuck_runs WHERE run_id = $1", &[&id]);
    assert!(!reason.is_empty());
    // With somebody there it does not.
    let served = Database::preloaded("served");
    let mut app = served.app();
    publish(&mut app, &echo());
    wait_for("an orchestrator", SOON, || served.cluster.orchestrator(&served.name).is_some());
    start(&mut app, "echo", &json!(1));
    assert!(app.take_notices().is_empty());
    wait_for("status() to be content with the orchestrator", SOON, || {
        status(&mut served.admin(), "orchestrator").is_some_and(|(fine, _, _)| fine)
    });
}

#[test]
fn workers_are_started_and_stopped_by_hand_where_nothing_is_preloaded() {
    let db = Database::plain("by_hand");
    let mut admin = db.admin();
    publish(&mut db.app(), &echo());
    assert!(admin.value::<bool>("SELECT meshhook.start_workers()", &[]));
    wait_for("an orchestrator", SOON, || db.cluster.orchestrator(&db.name).is_some());
    assert!(
        admin.value::<bool>("SELECT meshhook.start_workers()", &[]),
        "one is there already, and that is well"
    );
    let mut app = db.app();
    app.take_notices();
    let id = start(&mut app, "echo", &json!("x"));
    assert!(app.take_notices().is_empty());
    assert_eq!(ended(&mut admin, id).output, Some(json!("x")));
    assert!(admin.value::<bool>("SELECT meshhook.stop_workers()", &[]));
    wait_for("the orchestrator to go", SOON, || db.cluster.orchestrator(&db.name).is_none());
    assert!(!admin.value::<bool>("SELECT meshhook.stop_workers()", &[]), "none is left");
    let id = start(&mut app, "echo", &json!("y"));
    assert_eq!(meshhook_e2e::run(&mut admin, id).status, "queued");
}

#[test]
fn the_extension_can_be_dropped_under_a_worker_and_made_again() {
    let db = Database::preloaded("drop_extension");
    let mut admin = db.admin();
    for round in 1..=2 {
        publish(&mut db.app(), &echo());
        let id = start(&mut db.app(), "echo", &json!(round));
        assert_eq!(ended(&mut admin, id).output, Some(json!(round)));
        assert!(db.cluster.orchestrator(&db.name).is_some());
        admin.exec("SET lock_timeout = '20s'; DROP EXTENSION meshhook");
        admin.exec("CREATE EXTENSION meshhook; SELECT meshhook.grant_api('shop')");
        // Plans and caches of the old schema are still in this session and in the worker.
    }
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut admin, "chain", &json!({}));
    work_off_when_ready(&mut db.executor());
    assert_eq!(ended(&mut admin, id).status, "succeeded");
    admin.exec("DROP EXTENSION meshhook");
    let orphans: i64 = admin.value(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'meshhook'",
        &[],
    );
    assert_eq!(orphans, 0, "no table is left, partitions included");
}

#[test]
fn a_database_can_be_dropped_under_its_worker() {
    let db = Database::preloaded("drop_database");
    publish(&mut db.app(), &echo());
    let id = start(&mut db.app(), "echo", &json!(1));
    ended(&mut db.admin(), id);
    wait_for("the orchestrator", SOON, || db.cluster.orchestrator(&db.name).is_some());
    let mut maintenance = db.cluster.superuser("postgres");
    wait_for("the tests' own sessions to end", SOON, || {
        maintenance.value::<i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'drop_database' AND backend_type = 'client backend'",
            &[],
        ) == 0
    });
    maintenance.exec("DROP DATABASE drop_database");
    assert!(db.cluster.orchestrator(&db.name).is_none());
    // The launcher has taken note; the name can be used again and is served again.
    let again = Database::create(db.cluster, "drop_database");
    publish(&mut again.app(), &echo());
    let id = start(&mut again.app(), "echo", &json!(2));
    assert_eq!(ended(&mut again.admin(), id).output, Some(json!(2)));
}

#[test]
fn a_reload_is_taken_in_and_disturbs_nobody() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "reloaded");
    publish(&mut db.app(), &echo());
    let pid = wait::wait_some("an orchestrator", SOON, || cluster.orchestrator("reloaded"));
    cluster.reload();
    let id = start(&mut db.app(), "echo", &json!(1));
    ended(&mut db.admin(), id);
    assert_eq!(cluster.orchestrator("reloaded"), Some(pid));
    cluster.set("meshhook.databases", "another");
    wait_for("the orchestrator to go where it is not wanted", SOON, || {
        cluster.orchestrator("reloaded").is_none()
    });
    cluster.set("meshhook.databases", "");
    wait_for("it to come back", Duration::from_secs(60), || cluster.orchestrator("reloaded").is_some());
    let id = start(&mut db.app(), "echo", &json!(2));
    assert_eq!(ended(&mut db.admin(), id).output, Some(json!(2)));
}

#[test]
fn a_worker_is_there_after_a_restart_and_for_each_database_with_the_extension() {
    let cluster = own_cluster(true);
    let one = Database::create(&cluster, "one");
    let two = Database::create(&cluster, "two");
    cluster.create_empty_database("three");
    for db in [&one, &two] {
        publish(&mut db.app(), &echo());
    }
    cluster.restart(meshhook_testkit::StopMode::Fast);
    for db in [&one, &two] {
        wait_for("an orchestrator each", SOON, || cluster.orchestrator(&db.name).is_some());
        let id = start(&mut db.app(), "echo", &json!(1));
        ended(&mut db.admin(), id);
    }
    assert_eq!(cluster.orchestrator("three"), None);
    let served = cluster.workers().iter().filter(|(_, _, database)| database.is_some()).count();
    assert_eq!(served, 2);
}

#[test]
fn status_and_maintain_answer() {
    let db = Database::preloaded("status");
    let mut admin = db.admin();
    wait_for("every check to be fine", SOON, || {
        let bad: Vec<String> = admin.values("SELECT check_name FROM meshhook.status() WHERE NOT ok", &[]);
        // Without a sidecar there is no executor to speak of.
        bad.iter().all(|check| check.starts_with("executor"))
    });
    let silent: Vec<String> = admin
        .values("SELECT check_name FROM meshhook.status() WHERE NOT ok AND coalesce(hint, '') = ''", &[]);
    assert!(silent.is_empty(), "what is not fine says what to do: {silent:?}");
    admin.rows("SELECT action, target FROM meshhook.maintain()", &[]);
    assert_eq!(admin.value::<String>("SELECT meshhook.version()", &[]), env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_database_without_a_free_worker_slot_waits_for_one() {
    // One slot is the launcher's, one that of Postgres' own logical replication launcher, one is left.
    let cluster = prepare(
        Cluster::builder().preload(true).kek(true).fast().setting("max_worker_processes", "3").start(),
    );
    let first = Database::create(&cluster, "first_come");
    wait_for("an orchestrator", SOON, || cluster.orchestrator("first_come").is_some());
    let second = Database::create(&cluster, "second_come");
    let mut app = second.app();
    publish(&mut app, &echo());
    wait_for("the complaint", SOON, || cluster.log_contains("no background worker slot is free"));
    app.take_notices();
    let id = start(&mut app, "echo", &json!(1));
    assert!(!app.take_notices().is_empty(), "nobody serves it, which is worth a warning");
    // Who cannot wait takes the turn himself.
    assert_eq!(second.executor().value::<i32>("SELECT meshhook.tick()", &[]), 1);
    let mut admin = second.admin();
    assert_eq!(ended(&mut admin, id).output, Some(json!(1)));
    let id = start(&mut app, "echo", &json!(2));
    drop(first);
    wait_for("the slot to be given on", Duration::from_secs(90), || {
        cluster.orchestrator("second_come").is_some()
    });
    assert_eq!(ended(&mut admin, id).output, Some(json!(2)));
    let complaints = cluster.log().matches("no background worker slot is free").count();
    assert!(complaints < 5, "said {complaints} times");
}
