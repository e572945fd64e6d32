//! Runs that are started by the clock: on time, in order, once each, whatever happens meanwhile.

use meshhook_e2e::{
    Database, SOON, chain, claim_one, complete, counted, ended, own_cluster, publish, start, wait_status,
};
use meshhook_testkit::{Session, StopMode, history, wait_for};
use serde_json::{Value, json};
use uuid::Uuid;

/// A workflow that ends at once and says what it was started for.
fn report() -> Value {
    json!({"name": "report", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .run.trigger }}"}}]})
}

/// Makes a schedule with further arguments, as SQL.
#[track_caller]
fn schedule(session: &mut Session, name: &str, workflow: &str, arguments: &str) {
    session.exec(&format!("SELECT meshhook.create_schedule('{name}', '{workflow}', {arguments})"));
}

/// Puts a schedule's next time off into the past, as if the server had been away since then.
fn set_back(admin: &mut Session, name: &str, by: &str) {
    admin.exec(&format!(
        "UPDATE meshhook.schedule SET next_time = next_time - interval '{by}', due_at = due_at - interval '{by}'
         WHERE name = '{name}'"
    ));
}

#[track_caller]
fn trigger(session: &mut Session, name: &str) -> Option<Uuid> {
    session.value("SELECT meshhook.trigger_schedule($1)", &[&name])
}

#[test]
fn a_run_starts_within_moments_of_its_time_and_nobody_asks() {
    let db = Database::preloaded("on_time");
    publish(&mut db.app(), &report());
    schedule(&mut db.app(), "often", "report", "every => '2 seconds'");
    let mut watcher = db.admin();
    wait_for("three runs", SOON, || {
        counted(&mut watcher, "SELECT count(*) FROM meshhook.run WHERE finished_at IS NOT NULL") >= 3
    });
    db.app().exec("SELECT meshhook.pause_schedule('often')");
    let late: Vec<f64> = watcher.values(
        "SELECT extract(epoch FROM created_at - (output ->> 'nominal_time')::timestamptz)::float8
         FROM meshhook.runs WHERE status = 'succeeded' ORDER BY run_id",
        &[],
    );
    println!("seconds late: {late:?}");
    assert!(late.iter().all(|late| (0.0..1.5).contains(late)), "{late:?}");
    let steps: Vec<f64> = watcher.values(
        "SELECT extract(epoch FROM t - lag(t) OVER (ORDER BY t))::float8
         FROM (SELECT (output ->> 'nominal_time')::timestamptz AS t FROM meshhook.runs) r ORDER BY t OFFSET 1",
        &[],
    );
    assert!(steps.iter().all(|step| *step == 2.0), "{steps:?}");
    history::check_all(&mut watcher);
}

#[test]
fn what_waits_starts_when_the_run_before_has_ended() {
    let db = Database::preloaded("in_line");
    let (mut app, mut executor, mut admin) = (db.app(), db.executor(), db.admin());
    publish(&mut app, &chain("slow", &["one"]));
    schedule(&mut app, "line", "slow", "'@yearly', overlap => 'queue_all'");
    let first = trigger(&mut app, "line").expect("nothing is ahead of it");
    assert_eq!((trigger(&mut app, "line"), trigger(&mut app, "line")), (None, None));
    let mut order = Vec::new();
    for _ in 0..3 {
        let job = claim_one(&mut executor, "default");
        let open = "SELECT count(*) FROM meshhook.runs WHERE status IN ('queued', 'running')";
        assert_eq!(counted(&mut admin, open), 1, "one at a time");
        assert_eq!(complete(&mut executor, &job, &json!(1)), "accepted");
        assert_eq!(ended(&mut admin, job.run).status, "succeeded");
        order.push(job.run);
    }
    assert_eq!(order[0], first);
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 3);
    assert_eq!(counted(&mut admin, "SELECT waiting::bigint FROM meshhook.schedules"), 0);
}

#[test]
fn the_newest_time_takes_the_place_of_an_open_run() {
    let db = Database::preloaded("instead");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &chain("slow", &["one"]));
    schedule(&mut app, "newest", "slow", "'@yearly', overlap => 'cancel_other'");
    let first = trigger(&mut app, "newest").expect("nothing is ahead of it");
    wait_status(&mut admin, first, &["running"], SOON);
    assert_eq!(trigger(&mut app, "newest"), None, "it waits for the first to end");
    assert_eq!(ended(&mut admin, first).status, "canceled");
    let job = claim_one(&mut db.executor(), "default");
    assert_ne!(job.run, first);
    let in_order: bool = admin.value(
        "SELECT (SELECT finished_at FROM meshhook.run WHERE run_id = $1)
             <= (SELECT started_at FROM meshhook.run WHERE run_id = $2)",
        &[&first, &job.run],
    );
    assert!(in_order, "the second began before the first had ended");
}

#[test]
fn after_a_day_down_the_window_is_made_up_for_and_the_rest_is_counted() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "a_day_down");
    publish(&mut db.app(), &report());
    let mut admin = db.admin();
    for (name, overlap) in [("all", "allow"), ("some", "skip"), ("line", "queue_all")] {
        let arguments =
            format!("every => '1 hour', catch_up => '2 hours 30 minutes', overlap => '{overlap}'");
        schedule(&mut db.app(), name, "report", &arguments);
    }
    for name in ["all", "some", "line"] {
        set_back(&mut admin, name, "24 hours");
    }
    drop(admin);
    cluster.restart(StopMode::Fast);
    let mut admin = db.admin();
    let done = "SELECT count(*) FROM meshhook.schedules WHERE next_time > now() AND waiting = 0";
    wait_for("the schedules to catch up", SOON, || counted(&mut admin, done) == 3);
    let rows = admin.rows(
        "SELECT s.name, s.missed, s.skipped, count(e.run_id),
                array_agg(e.data #>> '{trigger,nominal_time}' ORDER BY e.global_position)
                    = array_agg(e.data #>> '{trigger,nominal_time}' ORDER BY e.data #>> '{trigger,nominal_time}')
         FROM meshhook.schedules s
         LEFT JOIN meshhook.run_event e ON e.type = 'run.started' AND e.data #>> '{trigger,schedule}' = s.name
         GROUP BY 1, 2, 3",
        &[],
    );
    for row in rows {
        let (name, missed, skipped, runs): (String, i64, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!(missed + skipped + runs, 24, "{name}: every time of the day is accounted for");
        assert_eq!(missed, 21, "{name}");
        assert!(row.get::<_, bool>(4), "{name} started them in another order");
        match name.as_str() {
            "some" => assert!(runs == 1 && skipped > 0, "{runs} runs, {skipped} skipped"),
            _ => assert!(runs >= 2 && skipped == 0, "{name}: {runs} runs, {skipped} skipped"),
        }
    }
    let audited =
        "SELECT sum((details ->> 'missed')::bigint)::bigint = (SELECT sum(missed) FROM meshhook.schedules)
                   FROM meshhook.audit_log WHERE action = 'schedule.missed'";
    assert!(admin.value::<bool>(audited, &[]));
    history::check_all(&mut admin);
}

#[test]
fn a_day_of_seconds_is_passed_over_without_holding_up_anybody() {
    let db = Database::preloaded("seconds_missed");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &report());
    schedule(&mut app, "ticks", "report", "every => '1 second', catch_up => '10 seconds'");
    set_back(&mut admin, "ticks", "1 day");
    let id = start(&mut app, "report", &json!({}));
    assert_eq!(ended(&mut admin, id).status, "succeeded");
    wait_for("the schedule to be up to date", SOON, || {
        admin.value("SELECT due_at > now() - interval '1 second' FROM meshhook.schedules", &[])
    });
    let missed = counted(&mut admin, "SELECT missed FROM meshhook.schedules");
    assert!((86_380..=86_400).contains(&missed), "{missed} missed");
}

#[test]
fn every_time_has_one_run_whatever_crashes() {
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "crashing_clock");
    publish(&mut db.app(), &report());
    schedule(&mut db.app(), "often", "report", "every => '1 second', overlap => 'allow'");
    for round in 1..=3 {
        wait_for("more runs", SOON, || {
            counted(&mut db.admin(), "SELECT count(*) FROM meshhook.run WHERE finished_at IS NOT NULL")
                >= 2 * round
        });
        cluster.kill9_postmaster();
        cluster.start();
    }
    let mut admin = db.admin();
    wait_for("the schedule to be up to date", SOON, || {
        admin.value("SELECT due_at > now() FROM meshhook.schedules", &[])
    });
    db.app().exec("SELECT meshhook.pause_schedule('often')");
    wait_for("the last run to end", SOON, || {
        counted(&mut admin, "SELECT count(*) FROM meshhook.run WHERE finished_at IS NULL") == 0
    });
    let whole: bool = admin.value(
        "SELECT count(*) = count(DISTINCT t) AND count(*) = extract(epoch FROM max(t) - min(t)) + 1
         FROM (SELECT (output ->> 'nominal_time')::timestamptz AS t FROM meshhook.runs) r",
        &[],
    );
    assert!(whole, "a time has two runs, or none");
    history::check_all(&mut admin);
}

#[test]
fn somebody_who_holds_a_schedule_holds_up_nobody_else() {
    let db = Database::preloaded("held_schedule");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &report());
    for name in ["held", "free"] {
        schedule(&mut app, name, "report", "every => '1 second', overlap => 'allow'");
    }
    let of =
        |name: &str| format!("SELECT count(*) FROM meshhook.runs WHERE output ->> 'schedule' = '{name}'");
    let mut holder = db.app();
    holder.exec("BEGIN; SELECT meshhook.pause_schedule('held')");
    let before = counted(&mut admin, &of("held"));
    wait_for("runs of the free schedule", SOON, || counted(&mut admin, &of("free")) >= 3);
    let id = start(&mut app, "report", &json!({}));
    assert_eq!(ended(&mut admin, id).status, "succeeded");
    assert_eq!(counted(&mut admin, &of("held")), before);
    holder.exec("ROLLBACK");
    // What came meanwhile was put off, not lost.
    wait_for("runs of the held schedule", SOON, || counted(&mut admin, &of("held")) >= before + 3);
    let missed = "SELECT sum(missed + skipped)::bigint FROM meshhook.schedules";
    assert_eq!(counted(&mut admin, missed), 0);
}

#[test]
fn a_run_that_cannot_be_moved_does_not_undo_its_start() {
    let db = Database::plain("poisoned_clock");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &report());
    publish(&mut app, &chain("spoiled", &["one"]));
    // No way through the API leads to this: a published version that cannot be read.
    admin.exec(
        "UPDATE meshhook.workflow_version v SET definition = '{}' FROM meshhook.workflow w
         WHERE w.workflow_id = v.workflow_id AND w.name = 'spoiled'",
    );
    for (name, workflow) in [("bad", "spoiled"), ("good", "report")] {
        schedule(&mut app, name, workflow, "every => '1 hour'");
        set_back(&mut admin, name, "1 hour");
    }
    for _ in 0..10 {
        admin.value::<i32>("SELECT meshhook.tick()", &[]);
    }
    let runs = admin.rows("SELECT name, last_status FROM meshhook.schedules ORDER BY name", &[]);
    let status = |row: &postgres::Row| (row.get::<_, String>(0), row.get::<_, Option<String>>(1));
    let expected =
        [("bad", "queued"), ("good", "succeeded")].map(|(name, s)| (name.to_owned(), Some(s.to_owned())));
    assert_eq!(runs.iter().map(status).collect::<Vec<_>>(), expected);
}

#[test]
fn a_schedule_that_fails_is_paused_and_a_start_that_rolls_back_leaves_nothing() {
    let db = Database::preloaded("failing_schedule");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &report());
    publish(&mut app, &chain("gone", &["one"]));
    schedule(&mut app, "bad", "gone", "every => '1 second'");
    admin.exec(
        "DELETE FROM meshhook.workflow_version v USING meshhook.workflow w
         WHERE w.workflow_id = v.workflow_id AND w.name = 'gone'",
    );
    schedule(&mut app, "good", "report", "every => '1 second'");
    wait_for("the bad one to be paused and the good one to run", SOON, || {
        admin.value::<bool>("SELECT paused FROM meshhook.schedules WHERE name = 'bad'", &[])
            && counted(&mut admin, "SELECT count(*) FROM meshhook.runs WHERE output ->> 'schedule' = 'good'")
                >= 2
    });
    let reason: String = admin.value("SELECT pause_reason FROM meshhook.schedules WHERE name = 'bad'", &[]);
    assert!(reason.contains("gone"), "{reason}");
    app.exec("SELECT meshhook.drop_schedule('good')");
    let before = counted(&mut admin, "SELECT count(*) FROM meshhook.run");
    app.exec("SELECT meshhook.create_schedule('undone', 'report', every => '1 second')");
    app.exec("SELECT meshhook.pause_schedule('undone')");
    app.exec("BEGIN; SELECT meshhook.trigger_schedule('undone'); ROLLBACK");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run"), before);
}

#[test]
fn a_copy_fires_nothing_until_it_is_activated() {
    let source = Database::plain("clock_source");
    publish(&mut source.app(), &report());
    schedule(&mut source.app(), "hourly", "report", "every => '1 hour'");
    set_back(&mut source.admin(), "hourly", "1 hour");
    let mut maintenance = source.cluster.superuser("postgres");
    wait_for("the source to be left alone", SOON, || {
        maintenance.batch_execute("CREATE DATABASE clock_copy TEMPLATE clock_source").is_ok()
    });
    let copy = Database { cluster: source.cluster, name: "clock_copy".into() };
    let mut admin = copy.admin();
    assert_eq!(admin.value::<i32>("SELECT meshhook.tick()", &[]), 0);
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run"), 0);
    admin.exec("SELECT meshhook.activate()");
    assert_eq!(admin.value::<i32>("SELECT meshhook.tick()", &[]), 1);
}

#[test]
fn schedules_are_a_projects_own() {
    let db = Database::preloaded("tenants_clock");
    let (mut alice, mut bob) = db.two_projects();
    for session in [&mut alice, &mut bob] {
        publish(session, &report());
        schedule(session, "same name", "report", "every => '1 second'");
    }
    let (alice, bob) = (&mut alice, &mut bob);
    assert_eq!(counted(alice, "SELECT count(*) FROM meshhook.schedules"), 1);
    wait_for("runs of both", SOON, || {
        counted(alice, "SELECT count(*) FROM meshhook.runs") > 0
            && counted(bob, "SELECT count(*) FROM meshhook.runs") > 0
    });
    alice.exec("SELECT meshhook.drop_schedule('same name')");
    assert_eq!(alice.error("SELECT meshhook.pause_schedule('same name')", &[]).code().code(), "P0002");
    assert!(!bob.value::<bool>("SELECT paused FROM meshhook.schedules", &[]));
}
