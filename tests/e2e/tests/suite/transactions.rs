//! Runs belong to the caller's transaction: they commit and roll back with it.

use meshhook_e2e::{Database, SOON, chain, counted, ended, publish, start};
use meshhook_testkit::Session;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use uuid::Uuid;

/// The number of rows of each table of meshhook's, partitions counted as themselves.
fn rows(session: &mut Session) -> BTreeMap<String, i64> {
    let tables: Vec<String> = session.values(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname = 'meshhook' AND relkind = 'r' ORDER BY 1",
        &[],
    );
    tables
        .into_iter()
        .map(|table| {
            let count = counted(session, &format!("SELECT count(*) FROM {table}"));
            (table, count)
        })
        .collect()
}

/// What people write who test a workflow from psql.
const SCRIPT: &str = r#"
\set ON_ERROR_STOP on
BEGIN;
SELECT meshhook.start_run('chain', '{"order": 7}') AS run \gset
SELECT meshhook.tick();
SELECT job_id, token, payload FROM meshhook.claim_jobs('default', 'psql') \gset
SELECT meshhook.complete_job(:'job_id', :token, '{"paid": true}');
SELECT meshhook.tick();
SELECT status || ' ' || output::text FROM meshhook.runs WHERE run_id = :'run';
SELECT count(*) FROM meshhook.verify_run(:'run');
ROLLBACK;
"#;

#[test]
fn a_whole_run_fits_into_one_transaction_and_rolls_back_with_it() {
    for db in [Database::plain("rolled_back"), Database::preloaded("rolled_back")] {
        let mut admin = db.admin();
        publish(&mut db.app(), &chain("chain", &["one"]));
        let before = rows(&mut admin);
        let mut psql = db.cluster.command("psql");
        psql.args(["-qAtX", "-d", &db.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = psql.spawn().expect("psql runs");
        let mut input = child.stdin.take().expect("it has an input");
        std::io::Write::write_all(&mut input, SCRIPT.as_bytes()).expect("it reads");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines, ["1", "accepted", "1", "succeeded {\"paid\": true}", "0"]);
        assert_eq!(rows(&mut admin), before, "nothing remains");
    }
}

#[test]
fn a_run_starts_with_its_transaction_or_not_at_all() {
    let db = Database::preloaded("with_the_order");
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let mut admin = db.admin();
    admin.exec("CREATE TABLE orders (id int); GRANT ALL ON orders TO shop");
    let mut app = db.app();
    let mut order = |id: i32, end: &str| -> Uuid {
        app.exec("BEGIN");
        app.exec(&format!("INSERT INTO orders VALUES ({id})"));
        let run = start(&mut app, "echo", &json!({"order": id}));
        app.exec(end);
        run
    };
    order(1, "ROLLBACK");
    let kept = order(2, "COMMIT");
    assert_eq!(ended(&mut admin, kept).output, Some(json!({"order": 2})));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
    // A savepoint is enough to take a start back.
    let mut app = db.app();
    app.exec("BEGIN; SAVEPOINT s");
    start(&mut app, "echo", &json!(3));
    app.exec("ROLLBACK TO s");
    let kept = start(&mut app, "echo", &json!(4));
    app.exec("COMMIT");
    assert_eq!(ended(&mut admin, kept).output, Some(json!(4)));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 2);
    // Until the commit nobody else sees it or works on it.
    app.exec("BEGIN");
    let open = start(&mut app, "echo", &json!(5));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 2);
    assert_eq!(db.executor().value::<i32>("SELECT meshhook.tick()", &[]), 0);
    app.exec("COMMIT");
    assert_eq!(ended(&mut admin, open).output, Some(json!(5)));
}

#[test]
fn a_commit_wakes_the_orchestrator_and_a_rollback_does_not() {
    let db = Database::preloaded("wakes");
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let mut app = db.app();
    let id = start(&mut app, "echo", &json!(0));
    ended(&mut db.admin(), id);
    // Seen from another database, so that looking does not count as activity here.
    let mut watcher = db.cluster.superuser("postgres");
    let mut last_turn = || -> Option<String> {
        watcher.value(
            "SELECT max(greatest(xact_start, query_start, state_change))::text FROM pg_stat_activity \
             WHERE datname = 'wakes' AND backend_type LIKE 'meshhook%'",
            &[],
        )
    };
    let before = last_turn();
    for _ in 0..20 {
        app.exec("BEGIN");
        start(&mut app, "echo", &json!(1));
        app.exec("ROLLBACK");
    }
    assert_eq!(last_turn(), before, "twenty rollbacks woke nobody");
    let id = start(&mut app, "echo", &json!(2));
    meshhook_e2e::wait_status(&mut db.admin(), id, &["succeeded"], SOON);
    assert_ne!(last_turn(), before, "a commit did");
}

#[test]
fn a_prepared_transaction_starts_its_run_when_it_commits() {
    let db = Database::preloaded("prepared");
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let mut app = db.app();
    let mut admin = db.admin();
    let mut prepare = |n: i32| -> Uuid {
        app.exec("BEGIN");
        let id = start(&mut app, "echo", &json!(n));
        app.exec(&format!("PREPARE TRANSACTION 'p{n}'"));
        id
    };
    let (kept, gone) = (prepare(1), prepare(2));
    // What is prepared is not committed, also for the transactions that follow in the same session.
    let other = start(&mut app, "echo", &json!(3));
    assert_eq!(ended(&mut admin, other).output, Some(json!(3)));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 1);
    app.exec("COMMIT PREPARED 'p1'");
    app.exec("ROLLBACK PREPARED 'p2'");
    // Nothing tells anybody of such a commit; the next one, or the safety poll, brings it along.
    start(&mut app, "echo", &json!(4));
    assert_eq!(ended(&mut admin, kept).output, Some(json!(1)));
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.runs"), 3);
    let found: i64 = admin.value("SELECT count(*) FROM meshhook.runs WHERE run_id = $1", &[&gone]);
    assert_eq!(found, 0);
}

#[test]
fn a_run_that_a_session_holds_delays_only_itself_and_only_as_long() {
    let db = Database::preloaded("held");
    publish(&mut db.app(), &json!({"name": "work", "nodes": [{"id": "do", "type": "task"}]}));
    publish(
        &mut db.app(),
        &json!({"name": "echo", "nodes": [{"id": "out", "type": "transform", "with": {"output": 1}}]}),
    );
    let (mut app, mut admin, mut holder) = (db.app(), db.admin(), db.admin());
    let held = start(&mut app, "work", &json!({}));
    meshhook_e2e::wait_status(&mut admin, held, &["running"], SOON);
    let well_before_the_poll = Duration::from_secs(10);
    holder.exec("BEGIN");
    holder.exec(&format!("SELECT FROM meshhook.run WHERE run_id = '{held}' FOR UPDATE"));
    // More facts than a turn reads at once, all of them in front of everybody else's.
    app.exec(&format!("SELECT count(meshhook.cancel_run('{held}')) FROM generate_series(1, 9000)"));
    let other = start(&mut app, "echo", &json!({}));
    meshhook_e2e::wait_status(&mut admin, other, &["succeeded"], well_before_the_poll);
    assert_eq!(
        admin.value::<String>("SELECT status FROM meshhook.run WHERE run_id = $1", &[&held]),
        "running",
        "nobody took the run from its holder"
    );
    // A rollback wakes nobody, and yet it does not take until the next poll.
    holder.exec("ROLLBACK");
    meshhook_e2e::wait_status(&mut admin, held, &["canceled"], well_before_the_poll);
}
