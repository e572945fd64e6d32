//! Waiting costs nothing and ends in time.

use meshhook_e2e::{Database, SOON, chain, claim_one, complete, ended, publish, start};
use meshhook_testkit::{history, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn echo() -> Value {
    json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]})
}

#[test]
fn await_run_waits_without_a_snapshot() {
    let db = Database::preloaded("awaited");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let mut app = db.app();
    let id = start(&mut app, "chain", &json!({}));
    let pid = app.backend_pid();
    let mut admin = db.admin();
    let mut executor = db.executor();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let rows = app.rows(&format!("CALL meshhook.await_run('{id}', '30 s')"), &[]);
            (rows[0].get::<_, String>(0), rows[0].get::<_, Option<Value>>(1), Instant::now())
        });
        let job = claim_one(&mut executor, "default");
        wait_for("the wait", SOON, || {
            admin.value(
                "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND query ~ '^CALL'",
                &[&pid],
            )
        });
        // It looks now and then, but does not hold on to what it sees: neither its snapshot nor a transaction id.
        let held: usize = (0..50)
            .filter(|_| {
                let sql = "SELECT backend_xmin IS NOT NULL OR backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $1";
                let pause = Instant::now();
                wait_for("a moment", SOON, || pause.elapsed() > Duration::from_millis(20));
                admin.value::<bool>(sql, &[&pid])
            })
            .count();
        assert!(held <= 5, "{held} of 50 looks found a snapshot held");
        assert!(!waiter.is_finished());
        let completed = Instant::now();
        complete(&mut executor, &job, &json!("here"));
        let (status, output, seen) = waiter.join().expect("the wait succeeds");
        assert_eq!((status.as_str(), output), ("succeeded", Some(json!("here"))));
        assert!(seen - completed < Duration::from_secs(2), "it took {:?}", seen - completed);
    });
}

#[test]
fn await_run_gives_up_in_time_and_refuses_what_cannot_end() {
    let db = Database::preloaded("await_edges");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let mut app = db.app();
    let id = start(&mut app, "chain", &json!({}));
    let started = Instant::now();
    let rows = app.rows(&format!("CALL meshhook.await_run('{id}', '300 ms')"), &[]);
    assert_eq!(rows[0].get::<_, String>(0), "running");
    assert!(started.elapsed() >= Duration::from_millis(300) && started.elapsed() < Duration::from_secs(5));
    app.exec("BEGIN");
    let mine = start(&mut app, "chain", &json!({}));
    let started = Instant::now();
    let refused = app.error(&format!("CALL meshhook.await_run('{mine}', '20 s')"), &[]);
    assert!(started.elapsed() < Duration::from_secs(5), "it says so at once");
    assert!(refused.hint().is_some_and(|hint| !hint.is_empty()), "{refused:?}");
    app.exec("ROLLBACK");
}

#[test]
fn the_tail_of_a_log_is_the_log() {
    let db = Database::preloaded("tailed");
    publish(&mut db.app(), &chain("chain", &["one", "two"]));
    let mut app = db.app();
    let id = start(&mut app, "chain", &json!({}));
    let mut executor = db.executor();
    let log = "SELECT meshhook.log_job($1, $2, $3, $4)";
    std::thread::scope(|scope| {
        let tail = scope.spawn(|| {
            let rows = app.rows(&format!("CALL meshhook.wait_for_run('{id}', '30 s')"), &[]);
            let ended = Instant::now();
            let lines = app.take_notices().iter().map(|line| line.message().to_owned()).collect::<Vec<_>>();
            (rows[0].get::<_, String>(0), rows[0].get::<_, i64>(1), lines, ended)
        });
        let job = claim_one(&mut executor, "default");
        for (said, level) in [("half done", "info"), ("the printer is slow", "warning")] {
            let outcome: String = executor.value(log, &[&job.id, &job.token, &said, &level]);
            assert_eq!(outcome, "accepted");
        }
        assert_eq!(complete(&mut executor, &job, &json!(1)), "accepted");
        let late: String = executor.value(log, &[&job.id, &job.token, &"too late", &"info"]);
        assert_eq!(late, "stale");
        let job = claim_one(&mut executor, "default");
        let completed = Instant::now();
        assert_eq!(complete(&mut executor, &job, &json!(2)), "accepted");
        let (status, position, lines, ended) = tail.join().expect("the wait succeeds");
        assert!(ended - completed < Duration::from_secs(2), "it took {:?}", ended - completed);
        let mut admin = db.admin();
        let read: Vec<String> = admin.values(
            "SELECT meshhook.run_log_text(position, time, level, node, attempt, actor, message) FROM meshhook.run_log($1)",
            &[&id],
        );
        assert_eq!((status.as_str(), &lines), ("succeeded", &read));
        assert_eq!(usize::try_from(position).ok(), Some(read.len()));
        for said in ["half done", "the printer is slow"] {
            assert_eq!(lines.iter().filter(|line| line.contains(said)).count(), 1, "{lines:?}");
        }
        history::check_run(&mut admin, id);
    });
    // What is left of a log whose beginning was seen, of a run that has ended.
    let mut app = db.app();
    let rows = app.rows(&format!("CALL meshhook.wait_for_run('{id}', '30 s', 4)"), &[]);
    let lines = app.take_notices();
    assert_eq!(rows[0].get::<_, i64>(1), 4 + i64::try_from(lines.len()).unwrap_or(0));
}

#[test]
fn a_delay_ends_on_time_and_nobody_polls_for_it() {
    let db = Database::preloaded("delayed");
    let wait = Duration::from_secs(3);
    publish(
        &mut db.app(),
        &json!({
            "name": "later",
            "nodes": [{"id": "pause", "type": "delay", "with": {"duration": "3s"}},
                      {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}],
            "edges": [{"from": "pause", "to": "out"}]
        }),
    );
    let mut app = db.app();
    let started = Instant::now();
    let id = start(&mut app, "later", &json!("later"));
    let mut watcher = db.cluster.superuser("postgres");
    // The orchestrator does its turn, finds the timer, and then is not heard of until it is due.
    let mut moments = std::collections::BTreeSet::new();
    wait_for("most of the wait to pass", SOON, || {
        let moment: Option<String> = watcher.value(
            "SELECT max(xact_start)::text FROM pg_stat_activity WHERE datname = 'delayed' AND backend_type LIKE 'meshhook%'",
            &[],
        );
        moments.extend(moment);
        started.elapsed() > wait - Duration::from_millis(500)
    });
    assert!(moments.len() <= 3, "seen at work {} times", moments.len());
    let mut admin = db.admin();
    assert_eq!(ended(&mut admin, id).output, Some(json!("later")));
    let late: f64 = admin.value(
        "SELECT extract(epoch FROM finished_at - started_at)::float8 FROM meshhook.runs WHERE run_id = $1",
        &[&id],
    );
    assert!((3.0..4.5).contains(&late), "finished {late} s after its start");
}

#[test]
fn an_idle_orchestrator_wakes_within_milliseconds() {
    let db = Database::preloaded("latency");
    publish(&mut db.app(), &echo());
    let mut app = db.app();
    let mut admin = db.admin();
    let mut latencies: Vec<f64> = (0..20)
        .map(|n| {
            let id = start(&mut app, "echo", &json!(n));
            meshhook_e2e::wait_status(&mut admin, id, &["succeeded"], SOON);
            admin.value(
                "SELECT extract(epoch FROM finished_at - created_at)::float8 FROM meshhook.runs WHERE run_id = $1",
                &[&id],
            )
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    println!("start to finish: median {:.1} ms, worst {:.1} ms", latencies[10] * 1e3, latencies[19] * 1e3);
    assert!(latencies[10] < 0.1, "median {} s", latencies[10]);
    assert_eq!(history::check_all(&mut admin), 20);
}

#[test]
fn many_may_wait_at_once_and_be_called_away() {
    const WAITERS: usize = 40;
    let db = Database::preloaded("many_wait");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let id = start(&mut db.app(), "chain", &json!({}));
    let mut executor = db.executor();
    let job = claim_one(&mut executor, "default");
    let mut admin = db.admin();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..WAITERS)
            .map(|_| {
                let db = &db;
                let call = format!("CALL meshhook.await_run('{id}', '60 s')");
                scope.spawn(move || db.app().rows(&call, &[])[0].get::<_, String>(0))
            })
            .collect();
        let mut impatient = db.app();
        impatient.exec("SET statement_timeout = '200ms'");
        let given_up = impatient.error(&format!("CALL meshhook.await_run('{id}', '60 s')"), &[]);
        assert_eq!(given_up.code().code(), "57014", "a timeout gets through");
        wait_for("all to wait", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'many_wait' AND query ~ '^CALL' AND state = 'active'";
            meshhook_e2e::counted(&mut admin, sql) == i64::try_from(WAITERS).unwrap_or(0)
        });
        assert_eq!(complete(&mut executor, &job, &json!("all of you")), "accepted");
        for waiter in waiters {
            assert_eq!(waiter.join().expect("it does not fail"), "succeeded");
        }
    });
}
