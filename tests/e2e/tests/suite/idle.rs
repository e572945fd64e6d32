//! Idleness costs nothing but the safety poll.

use meshhook_e2e::{Database, SOON, chain, ended, own_cluster, publish, start, work_off_when_ready};
use meshhook_testkit::{Session, wait_for};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long nothing is asked of anybody: a bit more than one safety poll.
const WINDOW: Duration = Duration::from_secs(35);

/// What a safety poll of orchestrator and sidecar may take, in transactions.
const POLL_TRANSACTIONS: i64 = 4;

#[test]
fn an_idle_database_is_left_alone() {
    let cluster = own_cluster(true);
    // Neither counts as ours.
    cluster.set("autovacuum", "off");
    let db = Database::create(&cluster, "idle");
    publish(&mut db.app(), &chain("chain", &["one"]));
    let _sidecar = db.sidecar().start();
    let id = start(&mut db.app(), "chain", &json!({}));
    work_off_when_ready(&mut db.executor());
    ended(&mut db.admin(), id);

    // Watched from another database, so that watching does not count.
    let mut watcher = cluster.superuser("postgres");
    let transactions = |watcher: &mut Session| -> i64 {
        watcher.value("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'idle'", &[])
    };
    let mut last = (transactions(&mut watcher), Instant::now());
    wait_for("the echo of the run to fade", SOON * 3, || {
        let now = transactions(&mut watcher);
        if now != last.0 {
            last = (now, Instant::now());
        }
        // Sessions report what they did up to ten seconds after they did it.
        last.1.elapsed() > Duration::from_secs(11)
    });
    cluster.set("log_statement", "all");
    let log_before = cluster.log().len();
    let before = transactions(&mut watcher);
    let started = Instant::now();
    wait_for("the window to pass", WINDOW * 2, || started.elapsed() > WINDOW);
    let spent = transactions(&mut watcher) - before;
    let log = cluster.log();
    let statements: Vec<&str> = log[log_before..]
        .lines()
        .filter(|line| line.contains("] idle") || line.contains(" idle LOG"))
        .collect();
    println!("{spent} transactions in {WINDOW:?}:\n{}", statements.join("\n"));
    assert!(spent <= POLL_TRANSACTIONS, "{spent} transactions in {WINDOW:?}:\n{}", statements.join("\n"));
    // And it was not asleep for good.
    let id = start(&mut db.app(), "chain", &json!({}));
    work_off_when_ready(&mut db.executor());
    assert_eq!(ended(&mut db.admin(), id).status, "succeeded");
}
