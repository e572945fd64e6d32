//! The task worker in Python, as a process of its own.

use super::scripts::{Copy, Process, has_line};
use super::{folder, read};
use meshhook_e2e::{EXECUTOR, SOON, counted, ended, python, start};
use meshhook_testkit::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The interpreter of an environment that holds what the worker requires.
fn interpreter() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("task-worker");
        let requirements = folder().join("task-worker/requirements.txt");
        python::environment(&environment, &requirements, &[], "import psycopg")
    })
}

/// Starts the worker of a copy.
fn worker(copy: &Copy) -> Process {
    let child = Command::new(interpreter())
        .args(["-I", "-u"])
        .arg(copy.folder.join("worker.py"))
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", copy.db.cluster.port().to_string())
        .env("PGUSER", EXECUTOR)
        .env("PGDATABASE", &copy.db.name)
        .stdin(Stdio::null())
        .spawn()
        .expect("python runs");
    Process(child)
}

/// Has the copy's worker take five seconds for a task that it has on lease for two.
fn slow_down(copy: &Copy) {
    let path = copy.folder.join("worker.py");
    let mut text = read(&path);
    for (from, to) in [
        (r#"LEASE = "30 s""#, r#"LEASE = "2 s""#),
        ("RENEW_SECONDS = 10", "RENEW_SECONDS = 0.2"),
        ("    words = ", "    Event().wait(5)\n    words = "),
    ] {
        assert!(text.contains(from), "{from} is not in it");
        text = text.replacen(from, to, 1);
    }
    fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn it_does_what_the_readme_says_and_is_woken_by_what_comes() {
    let copy = Copy::of("task-worker", "worker_copy");
    let _worker = worker(&copy);
    let text = copy.psql();
    has_line(&text, r#"succeeded|{"words": 9, "longest": "quick"}"#);
    has_line(&text, r#"succeeded|{"refused": "#);
    has_line(&text, "count|1|");
    // It waits for a notification now, at most 30 s long: what is done at once was not polled for.
    let mut app = copy.db.app();
    for _ in 0..5 {
        let before = Instant::now();
        let id = start(&mut app, "text-statistics", &json!({"text": "a bc"}));
        assert_eq!(ended(&mut app, id).output, Some(json!({"words": 2, "longest": "bc"})));
        assert!(before.elapsed() < Duration::from_secs(10), "it took {:?}", before.elapsed());
    }
}

#[test]
fn it_keeps_what_takes_longer_than_its_lease_and_loses_it_when_it_is_killed() {
    let copy = Copy::of("task-worker", "slow_worker");
    slow_down(&copy);
    let mut app = copy.db.app();
    let definition: Value =
        serde_json::from_str(&read(&copy.folder.join("workflow.json"))).expect("it is JSON");
    meshhook_e2e::publish(&mut app, &definition);
    let mut first = worker(&copy);
    let steps = "SELECT attempts::bigint FROM meshhook.run_steps WHERE run_id = $1 AND node = 'count'";
    let kept = start(&mut app, "text-statistics", &json!({"text": "a"}));
    assert_eq!(ended(&mut app, kept).output, Some(json!({"words": 1, "longest": "a"})));
    assert_eq!(app.value::<i64>(steps, &[&kept]), 1, "its lease was renewed");

    let lost = start(&mut app, "text-statistics", &json!({"text": "b"}));
    let claimed = "SELECT count(*) FROM meshhook.job WHERE executor IS NOT NULL";
    wait_for("the task to be claimed", SOON, || counted(&mut copy.db.admin(), claimed) == 1);
    first.0.kill().expect("it can be killed");
    let _second = worker(&copy);
    assert_eq!(ended(&mut app, lost).output, Some(json!({"words": 1, "longest": "b"})));
    assert_eq!(app.value::<i64>(steps, &[&lost]), 2, "the second attempt is another worker's");
}

#[test]
fn it_is_under_forty_lines_and_needs_psycopg_only() {
    let text = read(&folder().join("task-worker/worker.py"));
    assert!(text.lines().count() < 40, "{} lines", text.lines().count());
    assert!(text.lines().all(|line| line.len() <= 120), "and none of them a trick");
    let requirements = read(&folder().join("task-worker/requirements.txt"));
    assert!(
        requirements.lines().count() == 1 && requirements.starts_with("psycopg[binary]=="),
        "{requirements}"
    );
    let modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("import ").or_else(|| line.strip_prefix("from ")))
        .filter_map(|rest| rest.split([' ', '.']).next())
        .collect();
    let standard = "import sys; sys.exit(not set(sys.argv[1:]) <= sys.stdlib_module_names)";
    let others: Vec<&&str> = modules.iter().filter(|module| **module != "psycopg").collect();
    assert!(modules.contains(&"psycopg"));
    python::run(Command::new("python3").args(["-c", standard]).args(others));
}
