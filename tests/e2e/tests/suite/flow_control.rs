//! Limits hold whatever is killed, starts come when they should, and nobody's backlog starves the rest.

use meshhook_e2e::{
    Database, EXECUTOR, SOON, Stop, claim, complete, counted, own_cluster, publish, start, wait_status,
};
use meshhook_testkit::wait::wait_some;
use meshhook_testkit::{Cluster, Session, history, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Long enough for crash recovery on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// One task under a limit, counted apart for each customer; an attempt lost with a killed server is made again,
/// however many are.
fn limited(name: &str, limit: u32) -> Value {
    json!({
        "name": name,
        "concurrency": {"limit": limit, "key": "{{ .input.customer }}"},
        "nodes": [{"id": "do", "type": "task", "with": {"queue": name},
                   "retry": {"max_attempts": 20, "initial": "100ms"}}]
    })
}

/// Completes jobs of a queue until told to stop; whatever goes wrong with its connection, it comes back.
fn work(cluster: &Cluster, database: &str, queue: &str, stop: &Stop) {
    while !stop.is_set() {
        let Ok(mut session) = Session::connect(&cluster.config(EXECUTOR, database)) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        while !stop.is_set() {
            let sql = "SELECT count(meshhook.complete_job(job_id, token, 'null'))
                       FROM meshhook.claim_jobs($1, 'worker', 1, '2 s'), LATERAL pg_sleep(0.01)";
            match session.query_one(sql, &[&queue]) {
                Ok(row) if row.get::<_, i64>(0) > 0 => {}
                Ok(_) => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => break,
            }
        }
    }
}

#[test]
fn limits_hold_whatever_is_killed() {
    const RUNS: i64 = 25;
    let cluster = own_cluster(true);
    let db = Database::create(&cluster, "limits");
    publish(&mut db.app(), &limited("limited", 2));
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let _end = stop.at_end();
        for _ in 0..4 {
            scope.spawn(|| work(&cluster, "limits", "limited", &stop));
        }
        let mut app = db.app();
        for n in 0..RUNS {
            for customer in ["ann", "bob", "cid"] {
                start(&mut app, "limited", &json!({"customer": customer, "n": n}));
            }
        }
        for (kill, done) in [(1, 10), (2, 40)] {
            wait_for("some runs to end", PATIENCE, || {
                counted(&mut db.admin(), "SELECT count(*) FROM meshhook.run WHERE status = 'succeeded'")
                    > done
            });
            let pid = wait_some("an orchestrator", PATIENCE, || cluster.orchestrator("limits"));
            meshhook_testkit::process::kill9(pid.cast_unsigned());
            // Until it has, it still lets connections in, and then takes them down.
            wait_for("the server to notice", PATIENCE, || {
                cluster.log().matches("terminated by signal 9").count() == kill
            });
        }
        wait_for("all runs to succeed", PATIENCE, || {
            counted(&mut db.admin(), "SELECT count(*) FROM meshhook.run WHERE status = 'succeeded'")
                == 3 * RUNS
        });
    });
    let mut admin = db.admin();
    // At each start: how many of the same customer were under way.
    let most = counted(
        &mut admin,
        "SELECT max(n) FROM (
             SELECT (SELECT count(*) FROM meshhook.runs b
                     WHERE b.input ->> 'customer' = a.input ->> 'customer'
                       AND b.started_at <= a.started_at AND b.finished_at > a.started_at) AS n
             FROM meshhook.runs a) x",
    );
    assert_eq!(most, 2, "the limit was used, and never exceeded");
    wait_for("the last slots to be taken away", SOON, || {
        counted(&mut admin, "SELECT count(*) FROM meshhook.run_slot") == 0
    });
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run_lane"), 0);
    assert_eq!(history::check_all(&mut admin), 75);
}

#[test]
fn a_delayed_start_comes_on_time() {
    let db = Database::preloaded("delayed");
    publish(
        &mut db.app(),
        &json!({"name": "w", "nodes": [{"id": "t", "type": "transform", "with": {"output": 1}}]}),
    );
    let mut app = db.app();
    // Let it fall asleep first: the start has to wake it for a later time.
    std::thread::sleep(Duration::from_millis(300));
    let called = Instant::now();
    let later: Uuid = app.value("SELECT meshhook.start_run('w', delay => '700 ms')", &[]);
    let status: String = app.value("SELECT status FROM meshhook.runs WHERE run_id = $1", &[&later]);
    assert_eq!(status, "queued");
    let mut admin = db.admin();
    wait_status(&mut admin, later, &["succeeded"], SOON);
    assert!(called.elapsed() >= Duration::from_millis(700));
    let late: f64 = admin.value(
        "SELECT extract(epoch FROM started_at - created_at - interval '700 ms')::float8 FROM meshhook.runs WHERE run_id = $1",
        &[&later],
    );
    assert!((-0.01..0.5).contains(&late), "it started {late} s after its time");
}

#[test]
fn a_backlog_of_starts_does_not_starve_the_rest() {
    let db = Database::preloaded("start_backlog");
    publish(&mut db.app(), &limited("big", 1));
    publish(&mut db.app(), &limited("small", 1));
    let mut app = db.app();
    app.exec(
        "SELECT count(meshhook.start_run('big', '{\"customer\": \"huge\"}')) FROM generate_series(1, 20000)",
    );
    let begun = Instant::now();
    // The same workflow for another customer, and another workflow.
    let other_key = start(&mut app, "big", &json!({"customer": "tiny"}));
    let other_workflow = start(&mut app, "small", &json!({"customer": "tiny"}));
    let mut admin = db.admin();
    for run in [other_key, other_workflow] {
        wait_status(&mut admin, run, &["running"], PATIENCE);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "they waited {:?}", begun.elapsed());
    assert_eq!(
        counted(&mut admin, "SELECT count(*) FROM meshhook.run WHERE status = 'queued'"),
        19_999,
        "the backlog has its one slot"
    );
    // A slot that is freed goes to the next of the backlog at once.
    let mut executor = db.executor();
    let begun = Instant::now();
    for _ in 0..50 {
        let jobs = claim(&mut executor, "big", 1, "60 s");
        let Some(job) = jobs.first() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        assert_eq!(complete(&mut executor, job, &json!(null)), "accepted");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "fifty looks took {:?}", begun.elapsed());
    assert!(counted(&mut admin, "SELECT count(*) FROM meshhook.run WHERE status = 'succeeded'") > 10);
}

#[test]
fn a_backlog_of_jobs_does_not_starve_another_project() {
    let db = Database::plain("job_backlog");
    let task = json!({"name": "w", "nodes": [{"id": "do", "type": "task"}]});
    let mut admin = db.admin();
    let mut executor = db.executor();
    admin.exec("SELECT meshhook.create_project('small')");
    publish(&mut admin, &task);
    admin.exec("SELECT count(meshhook.start_run('w')) FROM generate_series(1, 20000)");
    while executor.value::<i32>("SELECT meshhook.tick(10000)", &[]) > 0 {}
    admin.exec("SET meshhook.project = 'small'");
    publish(&mut admin, &task);
    let late: Vec<Uuid> = (0..3).map(|_| start(&mut admin, "w", &json!({}))).collect();
    while executor.value::<i32>("SELECT meshhook.tick()", &[]) > 0 {}
    let claimed = |session: &mut Session, batch: i32| -> Vec<Uuid> {
        session.values("SELECT run_id FROM meshhook.claim_jobs('default', 'x', $1)", &[&batch])
    };
    let first = claimed(&mut executor, 4);
    assert_eq!(first.len(), 4);
    assert_eq!(first.iter().filter(|run| late.contains(run)).count(), 2, "half of it is the small project's");
    // One at a time, projects take turns; then what is left goes to whoever has work.
    let singles: Vec<Uuid> = (0..2).flat_map(|_| claimed(&mut executor, 1)).collect();
    assert_eq!(singles.iter().filter(|run| late.contains(run)).count(), 1);
    assert_eq!(claimed(&mut executor, 100).len(), 100);
}
