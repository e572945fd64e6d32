//! Launcher and orchestrators under everything an administrator may do to them.

use meshhook_e2e::{Database, SOON, ended, own_cluster, publish, start};
use meshhook_testkit::{Session, wait, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

fn echo() -> Value {
    json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]})
}

/// Starts a run and demands that it ends well.
#[track_caller]
fn proves_served(db: &Database) {
    publish(&mut db.app(), &echo());
    let id = start(&mut db.app(), "echo", &json!("served"));
    assert_eq!(ended(&mut db.admin(), id).output, Some(json!("served")));
}

/// The process id of the orchestrator, once there is one.
#[track_caller]
fn orchestrator(db: &Database) -> i32 {
    wait::wait_some("an orchestrator", SOON, || db.cluster.orchestrator(&db.name))
}

#[test]
fn installing_and_removing_again_and_again_ends_with_a_served_database() {
    let db = Database::preloaded("again_and_again");
    let mut admin = db.admin();
    for _ in 0..10 {
        admin.exec("DROP EXTENSION meshhook");
        wait_for("the orchestrator to go", SOON, || db.cluster.orchestrator(&db.name).is_none());
        admin.exec("CREATE EXTENSION meshhook");
        orchestrator(&db);
    }
    admin.exec("BEGIN; DROP EXTENSION meshhook; CREATE EXTENSION meshhook; COMMIT");
    admin.exec("SELECT meshhook.grant_api('shop')");
    proves_served(&db);
    admin.exec("BEGIN; DROP EXTENSION meshhook; ROLLBACK");
    proves_served(&db);
}

#[test]
fn the_launcher_may_go_and_orchestrators_stay() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "launcher_gone");
    let pid = orchestrator(&db);
    let launcher = |session: &mut Session| -> Option<i32> {
        let sql = "SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'meshhook launcher'";
        session.value(sql, &[])
    };
    let mut admin = db.admin();
    let before = launcher(&mut admin).expect("there is a launcher");
    admin.exec(&format!("SELECT pg_terminate_backend({before})"));
    wait_for("the launcher to go", SOON, || launcher(&mut admin) != Some(before));
    proves_served(&db);
    assert_eq!(cluster.orchestrator(&db.name), Some(pid));
    wait_for("another launcher", SOON, || launcher(&mut admin).is_some());
    // It has taken over what it did not start itself.
    admin.exec(&format!("SELECT pg_terminate_backend({pid})"));
    wait_for("another orchestrator", SOON, || {
        cluster.orchestrator(&db.name).is_some_and(|other| other != pid)
    });
    proves_served(&db);
    // To cancel what an idle orchestrator does not do is nothing to it.
    let pid = orchestrator(&db);
    admin.exec(&format!("SELECT pg_cancel_backend({pid})"));
    proves_served(&db);
    assert_eq!(cluster.orchestrator(&db.name), Some(pid));
}

#[test]
fn settings_meant_for_users_do_not_reach_orchestrators() {
    let db = Database::preloaded("odd_settings");
    let before = orchestrator(&db);
    let mut admin = db.admin();
    for (name, value) in [
        ("statement_timeout", "1ms"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
        ("search_path", "public"),
        ("row_security", "off"),
        ("session_replication_role", "replica"),
    ] {
        admin.exec(&format!("ALTER DATABASE odd_settings SET {name} = '{value}'"));
    }
    admin.exec(&format!("SELECT pg_terminate_backend({before})"));
    wait_for("another orchestrator", SOON, || {
        db.cluster.orchestrator(&db.name).is_some_and(|pid| pid != before)
    });
    // The session that starts the run sets its own back to what they were.
    let mut session = db.admin();
    session.exec(
        "SET statement_timeout = 0; SET default_transaction_read_only = off; \
         SET default_transaction_isolation = 'read committed'; SET row_security = on; SET session_replication_role = origin",
    );
    publish(&mut session, &echo());
    let id = start(&mut session, "echo", &json!(1));
    assert_eq!(ended(&mut session, id).output, Some(json!(1)));
}

#[test]
fn another_version_of_the_extension_is_left_alone() {
    let db = Database::preloaded("other_version");
    proves_served(&db);
    let mut admin = db.admin();
    admin.exec("UPDATE pg_extension SET extversion = '99.0.0' WHERE extname = 'meshhook'");
    let id = start(&mut db.app(), "echo", &json!("waits"));
    let asleep =
        |admin: &mut Session| meshhook_e2e::status(admin, "orchestrator").is_some_and(|(fine, _, _)| !fine);
    wait_for("status() to say so", SOON, || asleep(&mut admin));
    assert_eq!(meshhook_e2e::run(&mut admin, id).status, "queued");
    let version = env!("CARGO_PKG_VERSION");
    admin.exec(&format!("UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'meshhook'"));
    // The next thing that happens wakes the orchestrator, which looks again.
    start(&mut db.app(), "echo", &json!("wakes"));
    assert_eq!(ended(&mut admin, id).output, Some(json!("waits")));
}

#[test]
fn an_orchestrator_whose_turns_fail_backs_off_and_recovers() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "failing_turns");
    proves_served(&db);
    let mut admin = db.admin();
    // Every turn that has something to write fails from here on, and not for a fault of the run's.
    admin.exec(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'no disk, for example' USING ERRCODE = 'disk_full'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON meshhook.run_event FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    );
    let id = start(&mut db.app(), "echo", &json!("late"));
    wait_for("a turn to fail", SOON, || cluster.log_contains("no disk, for example"));
    let started = std::time::Instant::now();
    let before = cluster.log().matches("no disk, for example").count();
    wait_for("three seconds of failures", SOON, || started.elapsed() > Duration::from_secs(3));
    let failures = cluster.log().matches("no disk, for example").count() - before;
    assert!(failures <= 12, "{failures} failures in three seconds: it spins");
    assert_eq!(meshhook_e2e::run(&mut admin, id).status, "queued", "the run is not to blame");
    admin.exec("DROP TRIGGER refuse ON meshhook.run_event");
    meshhook_e2e::wait_status(&mut admin, id, &["succeeded"], Duration::from_secs(90));
    assert_eq!(ended(&mut admin, id).output, Some(json!("late")));
}

#[test]
fn a_served_database_can_be_copied_renamed_and_not_quite_dropped() {
    let db = Database::preloaded("to_be_moved");
    proves_served(&db);
    let mut maintenance = db.cluster.superuser("postgres");
    let alone = |maintenance: &mut Session| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'to_be_moved' AND backend_type = 'client backend'";
        wait_for("the tests' own sessions to end", SOON, || maintenance.value::<i64>(sql, &[]) == 0);
    };
    alone(&mut maintenance);
    maintenance.exec("CREATE DATABASE copied TEMPLATE to_be_moved");
    let copy = Database { cluster: db.cluster, name: "copied".into() };
    assert!(!meshhook_e2e::status(&mut copy.admin(), "activation").expect("a row").0, "a copy is dormant");
    proves_served(&db);
    let visitor = db.admin();
    let refused = maintenance.error("DROP DATABASE to_be_moved", &[]);
    assert_eq!(refused.code().code(), "55006");
    drop(visitor);
    proves_served(&db);
    alone(&mut maintenance);
    maintenance.exec("ALTER DATABASE to_be_moved RENAME TO moved");
    let moved = Database { cluster: db.cluster, name: "moved".into() };
    proves_served(&moved);
}
