//! The server's clock is put forward and back by hours while runs wait, work is leased and schedules stand.
//!
//! What may be late, and how late, is in docs/replay.md, "What faults do".

use super::{PAUSE, publish_orders};
use meshhook_e2e::load::under_load;
use meshhook_e2e::{
    Database, SOON, chain, claim, claim_one, complete, counted, ended, prepare, publish, start, wait_status,
};
use meshhook_testkit::wait::wait_some;
use meshhook_testkit::{Cluster, Session, wait_for};
use postgres::fallible_iterator::FallibleIterator;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

const HOUR: i64 = 3_600;
/// An orchestrator that sleeps notices a clock that was put forward when it next looks by itself.
const NEXT_LOOK: Duration = Duration::from_secs(45);

fn cluster() -> Cluster {
    let builder = Cluster::builder().preload(true).fast().clock(true);
    prepare(builder.setting("max_prepared_transactions", "2").start())
}

/// A workflow that waits for a while.
fn waits(name: &str, duration: &str) -> Value {
    json!({"name": name, "nodes": [{"id": "rest", "type": "delay", "with": {"duration": duration}}]})
}

/// Demands that the times of no run's events decrease.
fn times_never_decrease(admin: &mut Session) {
    let back = "SELECT count(*) FROM (
            SELECT created_at < lag(created_at) OVER (PARTITION BY run_id ORDER BY position) AS back
            FROM meshhook.run_event) e
        WHERE back";
    assert_eq!(counted(admin, back), 0, "events whose time is before that of the one before");
}

#[test]
fn a_clock_that_jumps_under_load_loses_and_doubles_nothing() {
    let cluster = cluster();
    let db = Database::create(&cluster, "jumps");
    publish_orders(&db);
    under_load(&cluster, &db.name, "order", PAUSE, |ledger| {
        for hours in [3, 1, 5, -2, 0] {
            cluster.shift_clock(hours * HOUR);
            ledger.wait_more(40);
        }
        // Some wait for a moment of the fifth hour.
        cluster.shift_clock(6 * HOUR);
    });
    times_never_decrease(&mut db.admin());
}

#[test]
fn a_clock_put_forward_makes_timers_due_and_leases_run_out() {
    let cluster = cluster();
    let db = Database::create(&cluster, "forward");
    let (mut app, mut admin, mut executor) = (db.app(), db.admin(), db.executor());
    publish(&mut app, &waits("waits", "50m"));
    publish(&mut app, &chain("chain", &["one"]));
    publish(
        &mut app,
        &json!({"name": "note", "nodes": [{"id": "n", "type": "transform", "with": {"output": 1}}]}),
    );
    app.exec(
        "SELECT meshhook.create_schedule('often', 'note', every => '10 minutes', overlap => 'allow',
                                         catch_up => '2 hours')",
    );
    let sleeper = start(&mut app, "waits", &json!({}));
    let worked = start(&mut app, "chain", &json!({}));
    let first = claim_one(&mut executor, "default");
    wait_status(&mut admin, sleeper, &["running"], SOON);

    cluster.shift_clock(HOUR);
    wait_status(&mut admin, sleeper, &["succeeded"], NEXT_LOOK);
    let second = wait_some("the job to be had again", NEXT_LOOK, || {
        claim(&mut executor, "default", 50, "60 s").into_iter().find(|job| job.run == worked)
    });
    assert_eq!(second.attempt, 2);
    assert_eq!(complete(&mut executor, &first, &json!("late")), "stale", "the first one is fenced off");
    assert_eq!(complete(&mut executor, &second, &json!("done")), "accepted");
    assert_eq!(ended(&mut admin, worked).output, Some(json!("done")));
    let fired = "SELECT count(*) FROM meshhook.runs WHERE workflow = 'note' AND status = 'succeeded'";
    wait_for("the times of the hour that was left out", SOON, || counted(&mut admin, fired) == 6);
    times_never_decrease(&mut admin);
}

#[test]
fn a_clock_put_back_makes_what_waits_late_and_holds_up_nothing_else() {
    let cluster = cluster();
    let db = Database::create(&cluster, "back");
    let (mut app, mut admin, mut executor) = (db.app(), db.admin(), db.executor());
    publish(&mut app, &waits("waits", "15s"));
    publish(&mut app, &waits("blinks", "100ms"));
    publish(&mut app, &chain("chain", &["one"]));
    let held = start(&mut app, "chain", &json!({}));
    let job = claim_one(&mut executor, "default");
    let lost = start(&mut app, "chain", &json!({}));
    claim_and_forget(&mut executor, lost, "15 s");
    let sleeper = start(&mut app, "waits", &json!({}));
    wait_status(&mut admin, sleeper, &["running"], SOON);
    app.exec("LISTEN meshhook_messages");

    cluster.shift_clock(-HOUR);
    // Who has a lease reports as ever.
    assert_eq!(complete(&mut executor, &job, &json!("done")), "accepted");
    assert_eq!(ended(&mut admin, held).status, "succeeded");
    // What begins now knows no other time: timers, leases that run out, whoever listens.
    let fresh = ["blinks", "chain"].map(|workflow| start(&mut app, workflow, &json!({})));
    claim_and_forget(&mut executor, fresh[1], "200 ms");
    let again = claim_one(&mut executor, "default");
    assert_eq!((again.run, again.attempt), (fresh[1], 2));
    assert_eq!(complete(&mut executor, &again, &json!("again")), "accepted");
    for run in fresh {
        assert_eq!(ended(&mut admin, run).status, "succeeded");
    }
    app.exec("SELECT meshhook.append_message('told-1', 'Told', '{}')");
    let told = app.notifications().timeout_iter(SOON).next().expect("the connection holds");
    assert!(told.is_some(), "a listener is told of a message");

    // What waited for a time by the other clock waits for that time: late, and not a moment early.
    assert_eq!(meshhook_e2e::run(&mut admin, sleeper).status, "running");
    assert!(
        claim(&mut executor, "default", 50, "60 s").is_empty(),
        "a lease from before holds for an hour more"
    );
    cluster.shift_clock(0);
    wait_status(&mut admin, sleeper, &["succeeded"], NEXT_LOOK);
    let early = "SELECT count(*) FROM meshhook.run_timeline($1) WHERE finished_at - started_at < interval '15 seconds'";
    assert_eq!(admin.value::<i64>(early, &[&sleeper]), 0);
    let again = claim_one(&mut executor, "default");
    assert_eq!((again.run, again.attempt), (lost, 2));
    assert_eq!(complete(&mut executor, &again, &json!("late")), "accepted");
    assert_eq!(ended(&mut admin, lost).status, "succeeded");
    times_never_decrease(&mut admin);
}

#[test]
fn a_clock_put_back_does_not_put_off_the_look_for_what_nobody_announced() {
    let cluster = cluster();
    let db = Database::create(&cluster, "unannounced");
    let (mut app, mut admin) = (db.app(), db.admin());
    publish(&mut app, &waits("blinks", "100ms"));
    cluster.shift_clock(HOUR);
    let before = start(&mut app, "blinks", &json!({}));
    assert_eq!(ended(&mut admin, before).status, "succeeded");
    // The orchestrator sleeps until a time that is an hour away now.
    cluster.shift_clock(0);
    app.exec("BEGIN");
    let run = start(&mut app, "blinks", &json!({}));
    app.exec("PREPARE TRANSACTION 'unannounced'");
    app.exec("COMMIT PREPARED 'unannounced'");
    wait_status(&mut admin, run, &["succeeded"], NEXT_LOOK);
    times_never_decrease(&mut admin);
}

/// Claims the one job there is, which is `run`'s, and is never heard of again.
fn claim_and_forget(executor: &mut Session, run: Uuid, lease: &str) {
    let claimed = wait_some("the job", SOON, || claim(executor, "default", 1, lease).pop());
    assert_eq!(claimed.run, run);
}
