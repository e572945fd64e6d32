//! Many at once: sidecars, orchestrators, callers. Each run is walked once.

use meshhook_e2e::{
    Database, EXECUTOR, SOON, Stop, all_succeeded, caller, chain, counted, ended, publish, start, work_off,
};
use meshhook_testkit::{Reply, Session, Stub, history, wait_for};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use uuid::Uuid;

#[test]
fn two_sidecars_and_two_tickers_share_the_work() {
    const RUNS: i64 = 150;
    let db = Database::preloaded("shared_work");
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    publish(&mut db.app(), &caller("order", &stub.url("/call")));
    let sidecars = [db.sidecar().start(), db.sidecar().start()];
    let stop = Stop::default();
    let ticked = AtomicI64::new(0);
    std::thread::scope(|scope| {
        let _end = stop.at_end();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut session = db.executor();
                while !stop.is_set() {
                    let advanced: i32 = session.value("SELECT meshhook.tick(8)", &[]);
                    ticked.fetch_add(i64::from(advanced), Ordering::Relaxed);
                }
            });
        }
        let starters: Vec<_> = (0..3)
            .map(|starter| {
                let db = &db;
                scope.spawn(move || {
                    let mut app = db.app();
                    for n in 0..RUNS / 3 {
                        start(&mut app, "order", &json!({"starter": starter, "n": n}));
                    }
                })
            })
            .collect();
        starters.into_iter().for_each(|starter| starter.join().expect("a starter does not panic"));
        let mut admin = db.admin();
        wait_for("all runs to succeed", Duration::from_secs(90), || {
            counted(&mut admin, "SELECT count(*) FROM meshhook.runs WHERE status = 'succeeded'") == RUNS
        });
    });
    all_succeeded(&mut db.admin(), RUNS, SOON);
    assert!(ticked.load(Ordering::Relaxed) > 0, "the tickers had a share");
    // Nothing failed and no lease ran out, so each call was made exactly once.
    let calls = stub.received_at("/call");
    let keys: BTreeSet<&str> = calls.iter().map(|call| call.idempotency_key()).collect();
    assert_eq!((calls.len(), keys.len()), (150, 150));
    drop(sidecars);
}

#[test]
fn without_preloading_tick_alone_does_it() {
    const RUNS: i64 = 40;
    let db = Database::plain("only_tick");
    publish(&mut db.app(), &chain("chain", &["one", "two", "three"]));
    let mut app = db.app();
    let runs: Vec<Uuid> = (0..RUNS).map(|n| start(&mut app, "chain", &json!({"n": n}))).collect();
    let mut admin = db.admin();
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run_event"), 0, "nobody works unasked");
    let turn_of = |session: &mut Session| while session.value::<i32>("SELECT meshhook.tick()", &[]) > 0 {};
    let mut executor = db.executor();
    for _step in 0..3 {
        turn_of(&mut executor);
        let done = work_off(&mut executor, "default");
        assert_eq!(i64::try_from(done), Ok(RUNS));
    }
    turn_of(&mut executor);
    all_succeeded(&mut admin, RUNS, Duration::ZERO.max(SOON));
    assert_eq!(runs.len(), 40);
    assert_eq!(executor.value::<i32>("SELECT meshhook.tick()", &[]), 0);
}

#[test]
fn a_small_batch_takes_no_more_than_asked() {
    let db = Database::plain("small_batches");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let mut app = db.app();
    for n in 0..5 {
        start(&mut app, "chain", &json!({"n": n}));
    }
    let mut executor = db.executor();
    let turns: Vec<i32> = (0..4).map(|_| executor.value("SELECT meshhook.tick(2)", &[])).collect();
    assert_eq!(turns, [2, 2, 1, 0]);
    let claims: Vec<usize> =
        (0..3).map(|_| meshhook_e2e::claim(&mut executor, "default", 3, "60 s").len()).collect();
    assert_eq!(claims, [3, 2, 0]);
}

#[test]
fn one_idempotency_key_is_one_run() {
    let db = Database::preloaded("idempotency");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let sql =
        "SELECT meshhook.start_run('chain', jsonb_build_object('n', $1::int), idempotency_key => 'order-7')";
    let ids: BTreeSet<Uuid> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..10)
            .map(|n| {
                let db = &db;
                scope.spawn(move || db.app().value::<Uuid>(sql, &[&n]))
            })
            .collect();
        starts.into_iter().map(|start| start.join().expect("no start fails")).collect()
    });
    assert_eq!(ids.len(), 1);
    // Still so when the run is long over, and not for another key.
    let id = *ids.first().expect("there is one");
    meshhook_e2e::work_off_when_ready(&mut db.executor());
    assert_eq!(ended(&mut db.admin(), id).status, "succeeded");
    assert_eq!(db.app().value::<Uuid>(sql, &[&99]), id);
    let other = sql.replace("order-7", "order-8");
    assert_ne!(db.app().value::<Uuid>(&other, &[&1]), id);
    assert_eq!(counted(&mut db.admin(), "SELECT count(*) FROM meshhook.runs"), 2);
}

#[test]
fn a_poisoned_run_does_not_hurt_its_batch() {
    const RUNS: i64 = 20;
    let db = Database::plain("poisoned");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let mut app = db.app();
    let runs: Vec<Uuid> = (0..RUNS).map(|n| start(&mut app, "chain", &json!({"n": n}))).collect();
    // No way through the API leads to this: what a turn finds is no fact it knows.
    let poisoned = runs[7];
    let mut admin = db.admin();
    let poison = "UPDATE meshhook.inbox SET data = '\"not what it should be\"' WHERE run_id = $1";
    assert_eq!(admin.execute(poison, &[&poisoned]).expect("the row can be spoiled"), 1);
    let mut executor = db.executor();
    let turn = |session: &mut Session| while session.value::<i32>("SELECT meshhook.tick()", &[]) > 0 {};
    turn(&mut executor);
    assert_eq!(i64::try_from(work_off(&mut executor, "default")), Ok(RUNS - 1));
    turn(&mut executor);
    for id in runs {
        let done = meshhook_e2e::run(&mut admin, id);
        let expected = if id == poisoned { "failed" } else { "succeeded" };
        assert_eq!(done.status, expected, "{done:?}");
        assert_eq!(done.error.is_some(), id == poisoned);
        if id != poisoned {
            history::check_run(&mut admin, id);
        }
    }
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = $1";
    assert!(!admin.value::<bool>(superuser, &[&EXECUTOR]));
}
