//! What the end-to-end tests share: clusters for all, a database of its own for each test, and the few
//! things every test does with one.
//!
//! The tests are one program (`tests/suite`), so that two clusters serve all that does not break its cluster.

use meshhook_testkit::{Cluster, Response, Session, Sidecar, SidecarBuilder, history, wait};
use postgres::types::ToSql;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

pub mod examples;
pub mod load;
pub mod python;

/// How long anything that should happen at once may take on a busy machine before a test gives up.
pub const SOON: Duration = Duration::from_secs(30);

/// The application's role in every test: not a superuser, granted the API by `grant_api`.
pub const APP: &str = "shop";

/// The login role of sidecars and other executors: not a superuser, member of `meshhook_executor`.
pub const EXECUTOR: &str = "courier";

/// A cluster of the kind most tests share; for tests that break theirs.
pub fn own_cluster(preload: bool) -> Cluster {
    let builder = Cluster::builder().preload(preload).kek(true).fast();
    let builder = builder.setting("meshhook.public_url", "http://hooks.test");
    prepare(builder.setting("max_prepared_transactions", "10").start())
}

/// Makes the roles. Those of the extension are made by installing it once: roles are the cluster's.
pub fn prepare(cluster: Cluster) -> Cluster {
    cluster.create_database("first");
    let mut admin = cluster.superuser("first");
    admin.exec(&format!(
        "CREATE ROLE {APP} LOGIN; CREATE ROLE {EXECUTOR} LOGIN; GRANT meshhook_executor TO {EXECUTOR}"
    ));
    drop(admin);
    cluster.superuser("postgres").exec("DROP DATABASE first WITH (FORCE)");
    cluster
}

fn shared(preload: bool) -> &'static Cluster {
    static PRELOADED: OnceLock<Cluster> = OnceLock::new();
    static PLAIN: OnceLock<Cluster> = OnceLock::new();
    let cell = if preload { &PRELOADED } else { &PLAIN };
    cell.get_or_init(|| own_cluster(preload))
}

/// A database with the extension, in which [`APP`] may use the API. It is dropped with the value.
pub struct Database<'a> {
    /// The cluster it lies in.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl Database<'static> {
    /// One in the shared cluster that is preloaded with meshhook: an orchestrator serves it.
    pub fn preloaded(name: &str) -> Self {
        Database::create(shared(true), name)
    }

    /// One in the shared cluster without preloading: nobody serves it.
    pub fn plain(name: &str) -> Self {
        Database::create(shared(false), name)
    }
}

impl<'a> Database<'a> {
    /// One in a cluster that [`prepare`] has seen.
    pub fn create(cluster: &'a Cluster, name: &str) -> Self {
        cluster.create_database(name);
        let database = Database { cluster, name: name.into() };
        database.admin().exec(&format!("SELECT meshhook.grant_api('{APP}')"));
        database
    }

    /// A superuser's connection.
    #[track_caller]
    pub fn admin(&self) -> Session {
        self.cluster.superuser(&self.name)
    }

    /// The application's connection.
    #[track_caller]
    pub fn app(&self) -> Session {
        self.cluster.connect(APP, &self.name)
    }

    /// An executor's connection.
    #[track_caller]
    pub fn executor(&self) -> Session {
        self.cluster.connect(EXECUTOR, &self.name)
    }

    /// Two projects with a member each: sessions of alice and of bob, each in their own.
    #[track_caller]
    pub fn two_projects(&self) -> (Session, Session) {
        self.admin().exec(
            "DO $$ BEGIN CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             SELECT meshhook.grant_api('alice'), meshhook.grant_api('bob');
             SELECT meshhook.create_project('alices', 'Alice'), meshhook.create_project('bobs', 'Bob');
             SELECT meshhook.add_member('alices', 'alice'), meshhook.add_member('bobs', 'bob')",
        );
        let session = |role: &str| {
            let mut session = self.cluster.connect(role, &self.name);
            session.exec(&format!("SET meshhook.project = '{role}s'"));
            session
        };
        (session("alice"), session("bob"))
    }

    /// A sidecar that works here as [`EXECUTOR`].
    pub fn sidecar(&self) -> SidecarBuilder {
        Sidecar::builder(self.cluster, EXECUTOR, &self.name)
    }

    /// Where a text stands: in the dump, in the logs of server and sidecar, in a file of the cluster, WAL included.
    ///
    /// # Panics
    /// When one of them cannot be searched.
    #[track_caller]
    pub fn places_of(&self, text: &str, sidecar: &Sidecar) -> Vec<String> {
        self.admin().exec("CHECKPOINT");
        let output = |command: &mut std::process::Command| match command.output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => panic!("{command:?}: {error}"),
        };
        let dump = output(self.cluster.command("pg_dump").arg(&self.name));
        assert!(dump.contains("CREATE EXTENSION"), "no dump");
        let texts = [
            ("the dump", dump),
            ("the server's log", self.cluster.log()),
            ("the sidecar's log", sidecar.log()),
        ];
        let found =
            texts.into_iter().filter(|(_, whole)| whole.contains(text)).map(|(name, _)| name.to_owned());
        let mut grep = std::process::Command::new("grep");
        let files = output(grep.args(["-rlaF", "-e", text]).arg(self.cluster.data_dir()));
        found.chain(files.lines().map(str::to_owned)).collect()
    }

    /// Makes an endpoint; returns path and secret.
    #[track_caller]
    pub fn endpoint(&self, workflow: &str, preset: &str) -> (String, String) {
        let rows = self
            .admin()
            .rows("SELECT path, secret FROM meshhook.create_endpoint($1, $2)", &[&workflow, &preset]);
        (rows[0].get(0), rows[0].get(1))
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cluster.keep();
            return;
        }
        let sql = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name);
        if let Ok(mut session) = Session::connect(&self.cluster.config("postgres", "postgres")) {
            let _ = session.batch_execute(&sql);
        }
    }
}

/// Publishes a definition and returns its version.
#[track_caller]
pub fn publish(session: &mut Session, definition: &Value) -> i32 {
    session.value("SELECT meshhook.publish_workflow($1)", &[definition])
}

/// Starts a run.
#[track_caller]
pub fn start(session: &mut Session, workflow: &str, input: &Value) -> Uuid {
    session.value("SELECT meshhook.start_run($1, $2)", &[&workflow, input])
}

/// The row of a run in `meshhook.runs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Where it stands.
    pub status: String,
    /// Its output, if it ended with one.
    pub output: Option<Value>,
    /// Its error, if it failed.
    pub error: Option<Value>,
}

/// Reads a run's row.
#[track_caller]
pub fn run(session: &mut Session, id: Uuid) -> Run {
    let rows =
        session.rows("SELECT status::text, output, error FROM meshhook.runs WHERE run_id = $1", &[&id]);
    assert_eq!(rows.len(), 1, "run {id} has one row");
    Run { status: rows[0].get(0), output: rows[0].get(1), error: rows[0].get(2) }
}

/// Waits for the end of a run, checks its log and returns its row.
#[track_caller]
pub fn ended(session: &mut Session, id: Uuid) -> Run {
    wait_status(session, id, &["succeeded", "failed", "canceled"], SOON);
    history::check_run(session, id);
    run(session, id)
}

/// Waits until a run has one of these statuses.
#[track_caller]
pub fn wait_status(session: &mut Session, id: Uuid, statuses: &[&str], limit: Duration) {
    let mut last = None;
    let probe = std::time::Instant::now();
    while probe.elapsed() < limit {
        let row = run(session, id);
        if statuses.contains(&row.status.as_str()) {
            return;
        }
        last = Some(row);
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("run {id} is not {statuses:?} after {limit:?}: {last:?}");
}

/// Waits until `count` runs have succeeded, checks the logs of all, and that there are no others.
#[track_caller]
pub fn all_succeeded(session: &mut Session, count: i64, limit: Duration) {
    wait::wait_for(&format!("{count} runs to succeed"), limit, || {
        counted(session, "SELECT count(*) FROM meshhook.runs WHERE status = 'succeeded'") == count
    });
    assert_eq!(counted(session, "SELECT count(*) FROM meshhook.runs"), count);
    history::check_all(session);
}

/// The number a counting query returns.
#[track_caller]
pub fn counted(session: &mut Session, sql: &str) -> i64 {
    session.value(sql, &[])
}

/// The events of a run as `(type, node, attempt)`.
#[track_caller]
pub fn timeline(session: &mut Session, id: Uuid) -> Vec<(String, String, i64)> {
    let events = history::history(session, id);
    let of = |event: &history::Event| {
        let attempt = event.data.get("attempt").and_then(Value::as_i64);
        (event.kind.clone(), event.node().unwrap_or_default().to_owned(), attempt.unwrap_or(0))
    };
    events.iter().map(of).collect()
}

/// A job as claimed.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// The fencing token of this claim.
    pub token: i64,
    /// The run it belongs to.
    pub run: Uuid,
    /// The node it is for.
    pub node: String,
    /// Counted from 1.
    pub attempt: i32,
    /// What to do.
    pub payload: Value,
    /// The same over all attempts.
    pub idempotency_key: String,
}

/// Claims up to `batch` jobs of a queue for `lease` (an interval's text).
#[track_caller]
pub fn claim(session: &mut Session, queue: &str, batch: i32, lease: &str) -> Vec<Job> {
    let rows = session.rows(
        "SELECT job_id, token, run_id, node, attempt, payload, idempotency_key \
         FROM meshhook.claim_jobs($1, 'test', $2, $3::text::interval)",
        &[&queue, &batch, &lease],
    );
    rows.iter()
        .map(|row| Job {
            id: row.get(0),
            token: row.get(1),
            run: row.get(2),
            node: row.get(3),
            attempt: row.get(4),
            payload: row.get(5),
            idempotency_key: row.get(6),
        })
        .collect()
}

/// Waits until a job of the queue can be claimed.
#[track_caller]
pub fn claim_one(session: &mut Session, queue: &str) -> Job {
    wait::wait_some(&format!("a job in queue {queue}"), SOON, || claim(session, queue, 1, "60 s").pop())
}

/// Reports a job's result; `accepted` or `stale`.
#[track_caller]
pub fn complete(session: &mut Session, job: &Job, output: &Value) -> String {
    report(session, "complete_job", job, output)
}

/// Reports a job's failure; `accepted` or `stale`.
#[track_caller]
pub fn fail(session: &mut Session, job: &Job, error: &Value) -> String {
    report(session, "fail_job", job, error)
}

#[track_caller]
fn report(session: &mut Session, function: &str, job: &Job, data: &Value) -> String {
    let params: [&(dyn ToSql + Sync); 3] = [&job.id, &job.token, data];
    session.value(&format!("SELECT meshhook.{function}($1, $2, $3)"), &params)
}

/// Claims and completes every job of the queue that is ready now, each with its own payload as output.
#[track_caller]
pub fn work_off(session: &mut Session, queue: &str) -> usize {
    let jobs = claim(session, queue, 50, "60 s");
    for job in &jobs {
        assert_eq!(complete(session, job, &job.payload), "accepted");
    }
    jobs.len()
}

/// A workflow of task nodes in a row: `one` → `two` → …, all in queue `default`, quick to retry.
pub fn chain(name: &str, nodes: &[&str]) -> Value {
    let list: Vec<Value> = nodes
        .iter()
        .map(|id| json!({"id": id, "type": "task", "with": {"input": {"step": id, "order": "{{ .input }}"}}, "retry": quick(5)}))
        .collect();
    let edges: Vec<Value> = nodes.windows(2).map(|pair| json!({"from": pair[0], "to": pair[1]})).collect();
    json!({"name": name, "nodes": list, "edges": edges})
}

/// A workflow with one http node `call` and a transform `done` that says what came back.
pub fn caller(name: &str, url: &str) -> Value {
    json!({
        "name": name,
        "nodes": [
            {"id": "call", "type": "http", "retry": quick(5),
             "with": {"method": "POST", "url": url, "body": {"order": "{{ .input }}"}}},
            {"id": "done", "type": "transform", "with": {"output": {"answer": "{{ .nodes.call.output.body }}"}}}
        ],
        "edges": [{"from": "call", "to": "done"}]
    })
}

/// A retry policy that hardly waits.
pub fn quick(max_attempts: i32) -> Value {
    json!({"max_attempts": max_attempts, "initial": "20ms", "factor": 1, "jitter": "none"})
}

/// The run id in an answer to a webhook.
#[track_caller]
pub fn run_id(answer: &Response) -> Uuid {
    let body = answer.json();
    let id = body["run_id"].as_str().and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no run_id in {body}"))
}

/// One row of `status()`: whether the check is fine, its value and its hint.
#[track_caller]
pub fn status(session: &mut Session, check: &str) -> Option<(bool, String, String)> {
    let rows = session.rows(
        "SELECT ok, coalesce(value, ''), coalesce(hint, '') FROM meshhook.status() WHERE check_name = $1",
        &[&check],
    );
    rows.first().map(|row| (row.get(0), row.get(1), row.get(2)))
}

/// Waits for the one ready job of queue `default` and completes it.
#[track_caller]
pub fn work_off_when_ready(session: &mut Session) {
    wait::wait_for("a job to complete", SOON, || work_off(session, "default") > 0);
}

/// Tells threads to stop when it is dropped: also when the test that started them fails.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Whether the threads should stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it when the returned value is dropped.
    pub fn at_end(&self) -> impl Drop + '_ {
        struct AtEnd<'a>(&'a AtomicBool);
        impl Drop for AtEnd<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        AtEnd(&self.0)
    }
}
