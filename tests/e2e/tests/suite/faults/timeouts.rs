//! Time limits that somebody has set for everybody: none is meant for those who move runs.

use super::{PAUSE, publish_orders};
use meshhook_e2e::load::under_load;
use meshhook_e2e::{Database, SOON, caller, counted, ended, own_cluster, publish, start};
use meshhook_testkit::wait::wait_some;
use meshhook_testkit::{Reply, Session, Stub, wait_for};
use serde_json::json;
use uuid::Uuid;

/// Limits under which nothing survives that waits or takes long.
const LIMITS: [(&str, &str); 5] = [
    ("statement_timeout", "150ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "5ms"),
    ("idle_session_timeout", "300ms"),
    ("transaction_timeout", "200ms"),
];

/// Calls `set` with each limit that the server's version has.
fn each_limit(session: &mut Session, set: impl Fn(&str, &str) -> String) {
    let known: Vec<String> = session.values("SELECT name FROM pg_settings WHERE name LIKE '%timeout'", &[]);
    for (name, value) in LIMITS.iter().filter(|(name, _)| known.iter().any(|known| known == name)) {
        session.exec(&set(name, value));
    }
}

/// A superuser's session that no limit holds for.
fn unlimited(db: &Database) -> Session {
    let mut session = db.admin();
    each_limit(&mut session, |name, _| format!("SET {name} = 0"));
    session
}

/// A workflow with a turn that takes longer than every limit.
fn slow() -> serde_json::Value {
    json!({"name": "slow", "nodes": [
        {"id": "sleep", "type": "sql", "with": {"function": "app.slow"}, "timeout": "5s"}]})
}

/// Has every process of the database begin anew, under the settings that hold now.
fn begin_anew(db: &Database, admin: &mut Session) {
    let before = wait_some("an orchestrator", SOON, || db.cluster.orchestrator(&db.name));
    admin.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    wait_for("another orchestrator", SOON, || {
        db.cluster.orchestrator(&db.name).is_some_and(|pid| pid != before)
    });
}

#[test]
fn limits_for_everybody_hold_up_no_run() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "limits");
    let mut admin = db.admin();
    admin.exec(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
         CREATE FUNCTION app.slow(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(pg_sleep(0.5)::text)'",
    );
    publish_orders(&db);
    publish(&mut db.app(), &slow());
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &caller("call", &stub.url("/call")));
    let sidecar = db.sidecar().start();
    let ways: [(&str, &str); 3] = [
        ("ALTER SYSTEM SET", "ALTER SYSTEM RESET ALL"),
        ("ALTER DATABASE limits SET", "ALTER DATABASE limits RESET ALL"),
        ("ALTER ROLE ALL SET", "ALTER ROLE ALL RESET ALL"),
    ];
    under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        for (set, reset) in ways {
            let mut admin = unlimited(&db);
            each_limit(&mut admin, |name, value| format!("{set} {name} = '{value}'"));
            cluster.reload();
            wait_for("the limits to hold", SOON, || {
                db.admin().value::<String>("SHOW statement_timeout", &[]) == "150ms"
            });
            begin_anew(&db, &mut admin);
            let runs: [Uuid; 2] = ["slow", "call"].map(|workflow| start(&mut admin, workflow, &json!({})));
            ledger.wait_more(20);
            for run in runs {
                assert_eq!(ended(&mut admin, run).status, "succeeded", "{set}");
            }
            assert_eq!(sidecar.get("/healthz").map(|answer| answer.status), Some(200));
            admin.exec(reset);
            cluster.reload();
            wait_for("the limits to be gone", SOON, || {
                db.admin().value::<String>("SHOW statement_timeout", &[]) == "0"
            });
        }
        begin_anew(&db, &mut unlimited(&db));
    });
    let mut admin = db.admin();
    let blamed = "SELECT count(*) FROM meshhook.runs WHERE status = 'failed'";
    assert_eq!(counted(&mut admin, blamed), 0);
    assert!(!cluster.log_contains("meshhook turn rolled back: canceling statement"), "no turn was cut short");
}

#[test]
fn an_event_waits_as_long_as_its_sender_allows_and_leaves_nothing_then() {
    let db = Database::preloaded("impatient");
    publish(
        &mut db.app(),
        &json!({"name": "asks", "nodes": [{"id": "go", "type": "wait", "with": {"signal": "go"}}]}),
    );
    let run = start(&mut db.app(), "asks", &json!({}));
    let mut admin = db.admin();
    meshhook_e2e::wait_status(&mut admin, run, &["running"], SOON);
    let submit = "SELECT meshhook.submit_event($1, 'go', $2)";
    let (mut holder, mut sender) = (db.app(), db.app());
    let traces = "SELECT (SELECT count(*) FROM meshhook.run_event) + (SELECT count(*) FROM meshhook.inbox)";
    let before = counted(&mut admin, traces);
    holder.exec("BEGIN");
    holder.rows(submit, &[&run, &json!("first")]);
    for (limit, code) in [("lock_timeout", "55P03"), ("statement_timeout", "57014")] {
        sender.exec(&format!("SET lock_timeout = 0; SET {limit} = '100ms'"));
        assert_eq!(sender.error(submit, &[&run, &json!("late")]).code().code(), code);
        assert_eq!(counted(&mut admin, traces), before);
    }
    holder.exec("ROLLBACK");
    sender.exec("SET statement_timeout = 0");
    sender.rows(submit, &[&run, &json!("second")]);
    assert_eq!(ended(&mut admin, run).output, Some(json!("second")));
}
