//! Each example as its README says: `services.py` is the outside world, a sidecar is there, and psql runs
//! `example.sql`.

use super::{OUTSIDE, folder, read};
use meshhook_e2e::{APP, Database, SOON, counted, ended, python};
use meshhook_testkit::{Session, Sidecar, request, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that ends with the value.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of an example whose outside world is at an address of its own, and what its README tells to start.
pub struct Copy {
    pub db: Database<'static>,
    pub folder: PathBuf,
    sidecar: Sidecar,
    services: SocketAddr,
    _process: Process,
}

impl Copy {
    /// Copies the example and starts `services.py` and a sidecar; folder and database have that name.
    pub fn of(example: &str, name: &str) -> Copy {
        let (services, process) = services();
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
        for file in files(&folder().join(example)) {
            let text = read(&file).replace(OUTSIDE, &format!("http://{services}"));
            let target = copy.join(file.file_name().expect("a file has a name"));
            fs::write(&target, text).unwrap_or_else(|e| panic!("{}: {e}", target.display()));
            let permissions = fs::metadata(&file).expect("it is there").permissions();
            fs::set_permissions(&target, permissions).unwrap_or_else(|e| panic!("{}: {e}", target.display()));
        }
        let db = Database::preloaded(name);
        Copy { sidecar: db.sidecar().start(), db, folder: copy, services, _process: process }
    }

    /// Runs `example.sql` and returns what psql prints: a line for each row, its values between bars.
    #[track_caller]
    pub fn psql(&self) -> String {
        let mut psql = self.db.cluster.command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "example.sql"])
            .env("PGUSER", APP)
            .env("PGDATABASE", &self.db.name)
            .current_dir(&self.folder);
        String::from_utf8(python::run(&mut psql).stdout).expect("psql prints UTF-8")
    }

    /// The answers of `services.py` at a path, one for each thing done.
    fn done(&self, path: &str) -> Vec<Value> {
        let ledger = request(self.services, "GET", "/", &[], b"").expect("services.py answers").json();
        ledger[path].as_object().map(|answers| answers.values().cloned().collect()).unwrap_or_default()
    }

    fn app(&self) -> Session {
        self.db.app()
    }
}

/// Starts `services.py` on a port of its own.
fn services() -> (SocketAddr, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("it has an address");
    drop(listener);
    let child = Command::new("python3")
        .arg(folder().join("services.py"))
        .arg(address.port().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 runs");
    let process = Process(child);
    wait_for("services.py", SOON, || request(address, "GET", "/", &[], b"").is_ok_and(|a| a.status == 200));
    (address, process)
}

/// The files in a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths
}

/// Demands that a line of psql's begins so.
#[track_caller]
pub fn has_line(text: &str, beginning: &str) {
    assert!(text.lines().any(|line| line.starts_with(beginning)), "no line begins with {beginning}:\n{text}");
}

#[test]
fn order_fulfilment() {
    let copy = Copy::of("order-fulfilment", "order_fulfilment_copy");
    let text = copy.psql();
    has_line(&text, r#"succeeded|{"told": true, "order": "A-1042", "#);
    has_line(&text, "failed|");
    has_line(&text, "ship|");
    has_line(&text, "node.succeeded|charge/compensate|");
    has_line(&text, "node.succeeded|reserve/compensate|");
    let count = |path| copy.done(path).len();
    assert_eq!((count("/reservations"), count("/charges")), (2, 2));
    assert_eq!((count("/refunds"), count("/releases"), count("/shipments")), (1, 1, 1));
}

#[test]
fn issue_triage() {
    let copy = Copy::of("issue-triage", "issue_triage_copy");
    let text = copy.psql();
    has_line(&text, r#"succeeded|{"kind": "bug", "issue": 17}"#);
    has_line(&text, "comment|201");
    let endpoint = text.lines().find(|line| line.starts_with("/hooks/")).expect("path and secret are shown");
    let (path, secret) = endpoint.split_once('|').expect("both");
    let mut deliver = Command::new(copy.folder.join("deliver.sh"));
    deliver.arg(format!("http://{}{path}", copy.sidecar.address())).env("MESHHOOK_ENDPOINT_SECRET", secret);
    let answer = String::from_utf8(python::run(&mut deliver).stdout).expect("UTF-8");
    let (body, status) = answer.trim_end().rsplit_once('\n').expect("body and status");
    assert_eq!(status, "202", "{answer}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let id = body["run_id"].as_str().and_then(|id| id.parse().ok()).expect("a run");
    assert_eq!(ended(&mut copy.app(), id).output, Some(json!({"issue": 17, "kind": "bug"})));
    let event: Value = copy.app().value(
        "SELECT data #> '{trigger,event}' FROM meshhook.run_history($1) h WHERE h.type = 'run.started'",
        &[&id],
    );
    assert_eq!(event, "issues");
}

#[test]
fn payment_approval() {
    let copy = Copy::of("payment-approval", "payment_approval_copy");
    let text = copy.psql();
    has_line(&text, "running|");
    has_line(&text, "approval|waiting");
    let approved: Vec<&str> = text.lines().filter(|line| line.starts_with("succeeded|")).collect();
    assert!(approved.len() == 2 && approved[1].contains(r#""approved_by": "grace""#), "{text}");
    assert_eq!(copy.done("/accounts").len(), 2);
}

#[test]
fn nightly_sync() {
    let copy = Copy::of("nightly-sync", "nightly_sync_copy");
    let text = copy.psql();
    has_line(&text, "succeeded|");
    assert!(text.contains(r#""written": 11"#) && text.contains(r#""refused": [7]"#), "{text}");
    has_line(&text, "pages|succeeded|");
    let clock: String = copy.app().value(
        "SELECT to_char(next_time AT TIME ZONE time_zone, 'HH24:MI') || ' ' || time_zone || ' ' || overlap FROM meshhook.schedules",
        &[],
    );
    assert_eq!(clock, "02:30 Europe/Berlin skip");
    // Deployed again, it goes on as it was; and the hour has room for one more start.
    has_line(&copy.psql(), "succeeded|");
    assert_eq!(counted(&mut copy.app(), "SELECT count(*) FROM meshhook.schedules"), 1);
}

#[test]
fn enrichment() {
    let copy = Copy::of("enrichment", "enrichment_copy");
    let text = copy.psql();
    has_line(&text, "credit|failed|2|");
    has_line(&text, "company|succeeded|1|");
    has_line(&text, r#"0|Enriched|{"email": "ada@engines.example", "#);
    assert!(text.contains(r#""missing": ["credit"]"#), "{text}");
}

#[test]
fn reminder() {
    let copy = Copy::of("reminder", "reminder_copy");
    let text = copy.psql();
    let day = |day: &str, what: &str| {
        let found = text.lines().any(|line| line.starts_with(day) && line.ends_with(what));
        assert!(found, "no {what} on {day}:\n{text}");
    };
    day("2026-01-31", "node.scheduled|remind");
    day("2026-02-14", "node.scheduled|collect");
    has_line(&text, r#"succeeded|{"by": "card", "paid": true}"#);
    assert!(copy.done("/emails").is_empty(), "who has paid is not reminded");
}

/// Each folder has a workflow, a script and a test; each file is part of one; and the README tells of all.
#[test]
fn no_example_is_without_a_test() {
    let readme = read(&folder().join("README.md"));
    let tests = [include_str!("scripts.rs"), include_str!("worker.rs")].concat();
    let mut examples = 0;
    for entry in fs::read_dir(folder()).expect("the folder can be read") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if !path.is_dir() {
            assert!(["README.md", "services.py"].contains(&name.as_str()), "{name} is part of no example");
            continue;
        }
        examples += 1;
        assert!(tests.contains(&format!("Copy::of(\"{name}\", ")), "no test runs {name}");
        assert!(readme.contains(&format!("]({name}/workflow.json)")), "the README has no row for {name}");
        let inside: Vec<String> = files(&path)
            .iter()
            .map(|file| file.file_name().expect("a file has a name").to_string_lossy().into_owned())
            .collect();
        for needed in ["workflow.json", "example.sql"] {
            assert!(inside.iter().any(|file| file == needed), "{name} has no {needed}");
        }
        for file in inside.iter().filter(|file| !["workflow.json", "example.sql"].contains(&file.as_str())) {
            assert!(readme.contains(file.as_str()), "the README does not tell of {name}/{file}");
        }
    }
    assert_eq!(examples, 7);
}
