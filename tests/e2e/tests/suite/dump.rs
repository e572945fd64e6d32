//! A dump is a backup: what was unfinished waits in the restored copy, dormant, until somebody activates it.

use meshhook_e2e::{
    APP, Database, EXECUTOR, SOON, all_succeeded, caller, chain, claim, counted, own_cluster, publish, start,
    status,
};
use meshhook_testkit::sign::{self, unix_now};
use meshhook_testkit::{Cluster, Reply, Stub, history, wait_for};
use serde_json::json;
use std::path::Path;

/// Dumps a database into a file.
pub fn dump(cluster: &Cluster, database: &str, file: &Path) {
    pg_dump(cluster, database, file, &[]);
}

fn pg_dump(cluster: &Cluster, database: &str, file: &Path, options: &[&str]) {
    let dumped = cluster
        .command("pg_dump")
        .args(options)
        .args(["-Fc", "-f"])
        .arg(file)
        .arg(database)
        .output()
        .expect("pg_dump runs");
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
}

/// Restores a file into a new database.
pub fn restore(cluster: &Cluster, database: &str, file: &Path) {
    cluster.create_empty_database(database);
    let restored = cluster
        .command("pg_restore")
        .args(["--exit-on-error", "--single-transaction", "-d", database])
        .arg(file)
        .output()
        .expect("pg_restore runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
}

#[test]
fn a_restored_copy_is_dormant_until_it_is_activated() {
    const RUNS: i64 = 7;
    let source = Database::preloaded("dumped");
    let stub = Stub::start();
    stub.script("/call", [Reply::json(200, &json!("ok"))]);
    let mut app = source.app();
    publish(&mut app, &caller("order", &stub.url("/call")));
    publish(&mut app, &chain("chain", &["one", "two"]));
    publish(
        &mut app,
        &json!({
            "name": "later",
            "nodes": [{"id": "pause", "type": "delay", "with": {"duration": "2s"}}]
        }),
    );
    publish(
        &mut app,
        &json!({"name": "echo", "nodes": [
        {"id": "out", "type": "transform", "with": {"output": "{{ .input }}"}}]}),
    );
    let (path, secret) = source.endpoint("echo", "standard");
    // Unfinished in every way there is: a call to make, a call somebody holds, a task, the second task of two,
    // a timer that is due by the time of the restore; and finished ones.
    for workflow in ["order", "order", "chain", "chain", "later", "echo", "echo"] {
        start(&mut app, workflow, &json!({"of": workflow}));
    }
    let mut executor = source.executor();
    let mut admin = source.admin();
    wait_for("every run to be under way", SOON, || {
        counted(&mut admin, "SELECT count(*) FROM meshhook.runs WHERE position > 1") == RUNS
    });
    assert_eq!(claim(&mut executor, "http", 1, "5 s").len(), 1);
    let half = meshhook_e2e::claim_one(&mut executor, "default");
    assert_eq!(meshhook_e2e::complete(&mut executor, &half, &json!("half")), "accepted");
    wait_for("the second task", SOON, || {
        counted(
            &mut admin,
            "SELECT count(*) FROM meshhook.run_steps WHERE node = 'two' AND status = 'scheduled'",
        ) == 1
    });
    wait_for("the finished ones", SOON, || {
        counted(
            &mut admin,
            "SELECT count(*) FROM meshhook.runs WHERE workflow = 'echo' AND status = 'succeeded'",
        ) == 2
    });
    let runs = "SELECT jsonb_object_agg(run_id, jsonb_build_array(status, position)) FROM meshhook.runs";

    let target = own_cluster(true);
    let file = target.dir().join("dump");
    // The timer may end its run at any moment: what is compared is what was dumped.
    admin.exec("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let snapshot: String = admin.value("SELECT pg_export_snapshot()", &[]);
    pg_dump(source.cluster, &source.name, &file, &["--snapshot", &snapshot]);
    let before: serde_json::Value = admin.value(runs, &[]);
    admin.exec("COMMIT");
    // The endpoints' secrets in the dump are sealed: the copy needs the same key.
    std::fs::copy(source.cluster.kek_file(), target.kek_file()).expect("the KEK can be copied");
    target.reload();
    restore(&target, "restored", &file);
    let copy = Database { cluster: &target, name: "restored".into() };
    let mut admin = copy.admin();
    let sidecar = copy.sidecar().spawn();
    wait_for("the sidecar to have asked for jobs", SOON, || {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'restored' \
                     AND application_name = 'meshhook-sidecar' AND query ~ 'claim_jobs' AND state = 'idle'";
        counted(&mut admin, asked) > 0
    });

    let (fine, value, hint) = status(&mut admin, "activation").expect("status() speaks of the installation");
    assert!(!fine && value.contains("dormant") && hint.contains("activate"), "{value} {hint}");
    let mut executor = copy.executor();
    assert_eq!(executor.value::<i32>("SELECT meshhook.tick()", &[]), 0, "no turn");
    for queue in ["http", "default"] {
        assert!(claim(&mut executor, queue, 10, "1 s").is_empty(), "no job of {queue} is handed out");
    }
    assert_eq!(admin.value::<serde_json::Value>(runs, &[]), before, "nothing has moved");
    let mut events = counted(&mut admin, "SELECT count(*) FROM meshhook.run_event");
    // A start is taken in, as an order by phone; it is not worked on.
    let taken = start(&mut copy.app(), "echo", &json!("asleep"));
    assert_eq!(meshhook_e2e::run(&mut admin, taken).status, "queued");
    assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.run_event"), events);
    assert_eq!(stub.received().len(), 0, "no call is made by the copy");

    assert!(admin.value::<bool>("SELECT meshhook.activate()", &[]));
    assert!(!admin.value::<bool>("SELECT meshhook.activate()", &[]), "it is active already");
    wait_for("the tasks", SOON, || {
        meshhook_e2e::work_off(&mut executor, "default");
        counted(&mut admin, "SELECT count(*) FROM meshhook.runs WHERE status <> 'succeeded'") == 0
    });
    all_succeeded(&mut admin, RUNS + 1, SOON);
    let keys: std::collections::BTreeSet<String> =
        stub.received().iter().map(|call| call.idempotency_key().to_owned()).collect();
    assert_eq!(keys.len(), 2);
    let body = b"\"by webhook\"";
    wait_for("the sidecar to be ready", SOON, || {
        sidecar.get("/readyz").is_some_and(|answer| answer.status == 200)
    });
    let answer = sidecar.post(&path, &sign::standard(&secret, "m1", unix_now(), body), body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    all_succeeded(&mut admin, RUNS + 2, SOON);
    // New positions follow the ones that were brought along.
    let last = counted(&mut admin, "SELECT max(global_position) FROM meshhook.run_event");
    events = counted(&mut admin, "SELECT count(*) FROM meshhook.run_event");
    assert!(last >= events);
    let distinct = counted(&mut admin, "SELECT count(DISTINCT global_position) FROM meshhook.run_event");
    assert_eq!(distinct, events);
    // The original, which nobody told anything, has lost nothing.
    history::check_all(&mut source.admin());
    assert_eq!((APP, EXECUTOR), ("shop", "courier"));
}

#[test]
fn a_copy_by_template_is_dormant_too() {
    let source = Database::plain("template_source");
    publish(&mut source.app(), &chain("chain", &["one"]));
    start(&mut source.app(), "chain", &json!({}));
    let mut maintenance = source.cluster.superuser("postgres");
    wait_for("the source to be left alone", SOON, || {
        maintenance.batch_execute("CREATE DATABASE template_copy TEMPLATE template_source").is_ok()
    });
    let copy = Database { cluster: source.cluster, name: "template_copy".into() };
    let mut admin = copy.admin();
    assert_eq!(admin.value::<i32>("SELECT meshhook.tick()", &[]), 0);
    assert!(!status(&mut admin, "activation").expect("a row").0);
    assert!(admin.value::<bool>("SELECT meshhook.activate()", &[]));
    assert_eq!(admin.value::<i32>("SELECT meshhook.tick()", &[]), 1);
    let mut original = source.admin();
    assert_eq!(original.value::<i32>("SELECT meshhook.tick()", &[]), 1);
}

#[test]
fn a_dump_of_a_restored_copy_is_the_same_again() {
    let source = Database::plain("dump_source");
    let mut app = source.app();
    publish(&mut app, &chain("chain", &["one"]));
    start(&mut app, "chain", &json!({}));
    app.exec("SELECT meshhook.create_schedule('nightly', 'chain', '@daily', overlap => 'queue_one')");
    app.exec("SELECT meshhook.trigger_schedule('nightly'), meshhook.trigger_schedule('nightly')");
    let mut executor = source.executor();
    executor.value::<i32>("SELECT meshhook.tick()", &[]);
    // With a second leaf, as after a week; maintenance proves each of three tables before it makes one.
    let mut admin = source.admin();
    admin.exec("UPDATE meshhook.installation SET activated_at = activated_at - interval '30 days'");
    let steps: Vec<String> =
        (0..6).flat_map(|_| admin.values("SELECT action FROM meshhook.maintain()", &[])).collect();
    assert_eq!(steps, ["bound", "prove", "prove", "prove", "open"]);
    let target = own_cluster(false);
    let (first, second) = (target.dir().join("first"), target.dir().join("second"));
    dump(source.cluster, &source.name, &first);
    restore(&target, "restored", &first);
    dump(&target, "restored", &second);
    let text = |file: &Path| {
        let output = target.command("pg_restore").arg("-f-").arg(file).output().expect("pg_restore runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("--") && !line.contains("restrict"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(text(&first), text(&second));
    let mut restored = target.superuser("restored");
    let leaves = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'meshhook.run_event'::regclass";
    assert_eq!(counted(&mut restored, leaves), 2);
    assert!(restored.value::<bool>("SELECT meshhook.activate()", &[]));
    assert_eq!(history::check_all(&mut restored), 2);
    restored.exec("DROP EXTENSION meshhook");
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'meshhook'::regnamespace";
    assert_eq!(counted(&mut restored, left), 0, "leaves go with the extension");
}
