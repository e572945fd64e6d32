//! Snapshots under a real orchestrator, through a crash, and replay on a standby.

use meshhook_e2e::{Database, counted, ended, prepare, publish, start, wait_status};
use meshhook_testkit::{Cluster, Session, history, wait_for};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Long enough for crash recovery and for a standby on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ten signals, one after the other.
fn steps() -> Value {
    let step = json!({"id": "step", "type": "wait", "with": {"signal": "go"}});
    json!({"name": "steps", "nodes": [
        {"id": "each", "type": "repeat", "with": {
            "until": ".index >= 9", "max_iterations": 20, "body": {"nodes": [step], "edges": []}}}],
        "edges": []})
}

/// Sends signals, each once the one before has been taken in.
fn go(app: &mut Session, run: Uuid, times: i64) {
    for _ in 0..times {
        let taken = |app: &mut Session| -> i64 {
            app.value("SELECT count(*) FROM meshhook.run_history($1) WHERE type = 'signal.received'", &[&run])
        };
        let before = taken(app);
        app.rows("SELECT meshhook.signal_run($1, 'go', '{\"n\": 1.10}')", &[&run]);
        wait_for("the signal to be taken in", PATIENCE, || taken(app) > before);
    }
}

fn cluster() -> Cluster {
    // Durable: what is not does not reach a standby, and need not survive a crash.
    let builder = Cluster::builder().preload(true).setting("meshhook.snapshot_events", "10");
    prepare(builder.setting("meshhook.snapshot_bytes", "0").start())
}

#[test]
fn snapshots_survive_a_crash_and_change_nothing() {
    let cluster = cluster();
    let db = Database::create(&cluster, "replays");
    publish(&mut db.app(), &steps());
    let run = start(&mut db.app(), "steps", &json!({}));
    go(&mut db.app(), run, 6);
    let snapshots = "SELECT count(*) FROM meshhook.snapshot";
    assert_eq!(counted(&mut db.admin(), snapshots), 2, "the newest two are kept");
    cluster.kill9_postmaster();
    cluster.start();
    let mut app = db.app();
    go(&mut app, run, 4);
    let mut admin = db.admin();
    assert_eq!(ended(&mut admin, run).status, "succeeded");
    history::check_run(&mut admin, run);
    let different = "SELECT count(*) FROM meshhook.run r, generate_series(0, r.position) p
         WHERE meshhook.replay_run(r.run_id, p)::text
            <> meshhook.replay_run(r.run_id, p, use_snapshots => false)::text";
    assert_eq!(counted(&mut admin, different), 0);
    let from: Option<i64> = admin.value(
        "SELECT (meshhook.replay_run($1, debug => true) -> 'debug' ->> 'from_snapshot')::bigint",
        &[&run],
    );
    assert!(from.is_some(), "a snapshot written after the crash is used");
}

#[test]
fn a_standby_replays() {
    let primary = cluster();
    let db = Database::create(&primary, "replays");
    publish(&mut db.app(), &steps());
    let run = start(&mut db.app(), "steps", &json!({"n": 1}));
    go(&mut db.app(), run, 10);
    ended(&mut db.admin(), run);
    let standby = primary.standby();
    primary.wait_replayed(&standby);
    let there = Database { cluster: &standby, name: db.name.clone() };
    let (mut here, mut there) = (db.app(), there.app());
    for question in [
        "SELECT meshhook.replay_run($1)::text",
        "SELECT meshhook.replay_run($1, 20)::text",
        "SELECT meshhook.replay_run($1, use_snapshots => false)::text",
        "SELECT meshhook.run_state($1)::text",
        "SELECT meshhook.run_state_at($1, 7)::text",
        "SELECT jsonb_agg(d)::text FROM meshhook.run_diff($1, 3, 20) d",
        "SELECT jsonb_agg(t)::text FROM meshhook.run_timeline($1) t",
        "SELECT jsonb_agg(l)::text FROM meshhook.run_log($1) l",
        "SELECT jsonb_agg(a ORDER BY position)::text FROM meshhook.run_audit_trail a WHERE execution_id = $1",
    ] {
        let told: Option<String> = there.value(question, &[&run]);
        assert!(told.is_some(), "{question}");
        assert_eq!(told, here.value(question, &[&run]), "{question}");
    }
    let refused = there.error("SELECT meshhook.create_snapshot($1)", &[&run]);
    assert_eq!(refused.code().code(), "25006");
}

#[test]
fn a_run_that_diverges_is_left_alone_until_its_log_is_sound() {
    let cluster = prepare(Cluster::builder().preload(true).fast().start());
    let db = Database::create(&cluster, "diverges");
    publish(&mut db.app(), &steps());
    let mut app = db.app();
    let [forged, doomed, sound] = [(); 3].map(|()| start(&mut app, "steps", &json!({})));
    go(&mut app, forged, 3);
    go(&mut app, doomed, 3);
    let payload = |run: Uuid, to: &str| {
        let sql = "UPDATE meshhook.run_event SET data = jsonb_set(data, '{payload,n}', $2::text::jsonb)
             WHERE run_id = $1 AND type = 'signal.received'";
        assert_eq!(db.admin().execute(sql, &[&run, &to]).expect("a superuser may"), 3);
    };
    let sql = "SELECT data #>> '{payload,n}' FROM meshhook.run_event WHERE run_id = $1 AND type = 'signal.received' LIMIT 1";
    let true_payload: String = db.admin().value(sql, &[&forged]);
    // The orchestrator remembers the run; another one, which does not, reads what stands there.
    payload(forged, "2");
    payload(doomed, "2");
    let restart = || {
        let before = cluster.orchestrator(&db.name);
        db.admin().exec("SELECT meshhook.stop_workers(), meshhook.start_workers()");
        wait_for("another orchestrator", PATIENCE, || {
            let now = cluster.orchestrator(&db.name);
            now.is_some() && now != before
        });
    };
    restart();
    let mut admin = db.admin();
    for run in [forged, doomed] {
        db.app().rows("SELECT meshhook.signal_run($1, 'go', '1')", &[&run]);
    }
    let named = "SELECT count(*) FROM meshhook.diverging_runs";
    wait_for("the runs to be named", PATIENCE, || counted(&mut admin, named) == 2);
    // The orchestrator that leaves them alone hears of a kill all the same.
    db.app().rows("SELECT meshhook.kill_run($1, 'beyond repair')", &[&doomed]);
    wait_status(&mut admin, doomed, &["canceled"], PATIENCE);
    wait_for("one to be named no more", PATIENCE, || counted(&mut admin, named) == 1);
    let positions: Vec<i64> = admin.values("SELECT position FROM meshhook.diverging_runs", &[]);
    let verified: Vec<i64> = admin.values("SELECT position FROM meshhook.verify_run($1)", &[&forged]);
    assert_eq!(positions, verified);
    assert!(cluster.log_contains("is not what this release decides"));
    // The other goes on meanwhile.
    go(&mut db.app(), sound, 10);
    assert_eq!(ended(&mut admin, sound).status, "succeeded");
    payload(forged, &true_payload);
    restart();
    wait_for("what it was told meanwhile", PATIENCE, || counted(&mut admin, named) == 0);
    go(&mut db.app(), forged, 6);
    assert_eq!(ended(&mut admin, forged).status, "succeeded");
}
