//! The server, its standby, its sidecar and what it calls; a fault in the midst of a load; what was felt of it.

use super::fault::Fault;
use super::{Options, Row};
use anyhow::{Context as _, Result};
use meshhook_e2e::load::{Ledger, keep_starting};
use meshhook_e2e::{APP, EXECUTOR, Stop, prepare, publish, quick};
use meshhook_testkit::{Cluster, Reply, Session, Sidecar, Stub};
use postgres::config::Config;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const DATABASE: &str = "recovery";
/// A run that has not ended by then is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Starts that must have gone through after a fault before the load ends.
const ENOUGH: usize = 50;

/// Everything that takes part.
pub struct Scene {
    load: (usize, Duration),
    settle: Duration,
    lease: String,
    stub: Stub,
    primary: Cluster,
    standby: Option<Cluster>,
    promoted: AtomicBool,
    sidecar: Mutex<Option<Sidecar>>,
}

impl Scene {
    /// Starts server and sidecar.
    pub fn set(options: &Options) -> Result<Scene> {
        let mut builder = Cluster::builder().preload(true).kek(true);
        for line in &options.settings {
            let (name, value) =
                line.split_once('=').with_context(|| format!("--set {line}: no name=value"))?;
            builder = builder.setting(name, value);
        }
        let primary = prepare(builder.start());
        primary.create_database(DATABASE);
        primary.superuser(DATABASE).exec(&format!("SELECT meshhook.grant_api('{APP}')"));
        let stub = Stub::start();
        stub.script("/call", [Reply::json(200, &json!("ok"))]);
        let scene = Scene {
            load: (options.clients, Duration::from_millis(options.rest)),
            settle: Duration::from_secs_f64(options.settle),
            lease: format!("{}s", options.lease),
            stub,
            primary,
            standby: None,
            promoted: AtomicBool::new(false),
            sidecar: Mutex::new(None),
        };
        scene.replace_sidecar();
        Ok(scene)
    }

    /// The server that is in charge.
    pub fn server(&self) -> &Cluster {
        match &self.standby {
            Some(standby) if self.promoted.load(Ordering::SeqCst) => standby,
            _ => &self.primary,
        }
    }

    /// Where the runs are.
    pub fn database(&self) -> &'static str {
        DATABASE
    }

    /// A superuser's session there.
    pub fn admin(&self) -> Session {
        self.server().superuser(DATABASE)
    }

    /// Kills the sidecar that is there and starts another one.
    pub fn replace_sidecar(&self) {
        let mut sidecar = self.sidecar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = sidecar.take() {
            old.kill9();
        }
        let builder = Sidecar::builder(self.server(), EXECUTOR, DATABASE);
        *sidecar = Some(builder.env("MESHHOOK_LEASE", &self.lease).start());
    }

    /// Kills the primary and has everybody go on at the standby.
    pub fn promote(&self) {
        self.primary.kill9_postmaster();
        if let Some(standby) = &self.standby {
            standby.promote();
        }
        self.promoted.store(true, Ordering::SeqCst);
        self.replace_sidecar();
    }

    /// Puts the server under load, causes a fault and looks at what was felt of it.
    pub fn play(&mut self, fault: Fault) -> Result<Row> {
        if matches!(fault, Fault::StandbyPromoted) {
            self.standby = Some(self.primary.standby());
            self.primary.set("synchronous_standby_names", "*");
        }
        let workflow = format!("{fault:?}");
        publish(&mut self.admin(), &two_calls(&workflow, &self.stub.url("/call")));
        let (ledger, stop) = (Ledger::default(), Stop::default());
        let mut moments = Vec::new();
        std::thread::scope(|scope| {
            let load = stop.at_end();
            for client in 0..self.load.0 {
                let (ledger, stop, workflow, scene) = (&ledger, &stop, &workflow, &*self);
                scope.spawn(move || {
                    keep_starting(
                        || scene.config(),
                        workflow,
                        &client.to_string(),
                        scene.load.1,
                        ledger,
                        stop,
                    )
                });
            }
            ledger.wait_more(ENOUGH);
            moments.push(SystemTime::now());
            std::thread::sleep(self.settle);
            moments.push(SystemTime::now());
            fault.cause(self);
            ledger.wait_more(ENOUGH);
            // The load goes on as long as the fault is felt: with its end, ends grow rare too.
            wait_ended(&mut self.admin(), &workflow, moments[1]);
            std::thread::sleep(self.settle / 2);
            drop(load);
        });
        let [settled, caused] = moments[..] else { unreachable!("two moments were noted") };
        self.look(fault, &workflow, &ledger, settled, caused)
    }

    /// How the application connects now.
    fn config(&self) -> Config {
        let mut config = self.server().config(APP, DATABASE);
        config.connect_timeout(Duration::from_secs(2));
        config
    }

    fn look(
        &self,
        fault: Fault,
        workflow: &str,
        ledger: &Ledger,
        settled: SystemTime,
        caused: SystemTime,
    ) -> Result<Row> {
        let mut admin = self.admin();
        let stuck = wait_ended(&mut admin, workflow, SystemTime::now());
        let broken = "SELECT count(DISTINCT run_id) FROM meshhook.verify_runs(jsonb_build_object('workflow', $1::text))";
        let broken: i64 = admin.value(broken, &[&workflow]);
        let unsound = "SELECT count(*) FROM meshhook.runs WHERE workflow = $1 AND status <> 'succeeded'";
        let unsound: i64 = admin.value(unsound, &[&workflow]);
        anyhow::ensure!(broken == 0, "{broken} logs of {workflow} are not what the engine decides");
        anyhow::ensure!(
            unsound == stuck,
            "{unsound} runs of {workflow} did not succeed, {stuck} of them stuck"
        );
        let (lost, doubled) = ledger.lost_and_doubled(&mut admin, workflow);
        let spans: Vec<(SystemTime, SystemTime)> = admin
            .rows(
                "SELECT created_at, finished_at FROM meshhook.runs WHERE workflow = $1 AND finished_at IS NOT NULL",
                &[&workflow],
            )
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let under_way: Vec<SystemTime> = spans
            .iter()
            .filter(|(begun, end)| *begun <= caused && *end > caused)
            .map(|(_, end)| *end)
            .collect();
        let starts = ledger.times();
        let mut ends: Vec<SystemTime> = spans.iter().map(|(_, end)| *end).collect();
        ends.sort();
        let (_, first_end) = longest_pause(&ends, caused, SystemTime::now()).context("no run has ended")?;
        let last_end = under_way.iter().max().copied().unwrap_or(caused);
        Ok(Row {
            fault: fault.name(),
            under_way: under_way.len(),
            usual_gap: longest_pause(&starts, settled, caused).context("no run was started")?.0,
            longest_gap: longest_pause(&starts, caused, SystemTime::now()).context("no run was started")?.0,
            first_end: first_end.duration_since(caused).unwrap_or_default(),
            last_end: last_end.duration_since(caused).unwrap_or_default(),
            runs: ledger.started(),
            lost,
            doubled,
            stuck: usize::try_from(stuck).unwrap_or(usize::MAX),
        })
    }
}

/// Two HTTP calls, one after the other.
fn two_calls(name: &str, url: &str) -> serde_json::Value {
    let call = |id: &str| {
        json!({"id": id, "type": "http", "retry": quick(20),
            "with": {"method": "POST", "url": url, "body": {"order": "{{ .input.order }}"}}})
    };
    json!({"name": name, "nodes": [call("pack"), call("send")], "edges": [{"from": "pack", "to": "send"}]})
}

/// Waits until every run has ended that was there at that time; how many have not, when patience ends.
fn wait_ended(admin: &mut Session, workflow: &str, begun_by: SystemTime) -> i64 {
    let open = "SELECT count(*) FROM meshhook.runs
         WHERE workflow = $1 AND finished_at IS NULL AND created_at <= $2";
    let waited = Instant::now();
    loop {
        let left: i64 = admin.value(open, &[&workflow, &begun_by]);
        if left == 0 || waited.elapsed() > PATIENCE {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The longest time between two of these moments, of which the second lies in a span of time; and that second one.
fn longest_pause(
    moments: &[SystemTime],
    from: SystemTime,
    until: SystemTime,
) -> Option<(Duration, SystemTime)> {
    moments
        .windows(2)
        .filter(|pair| (from..until).contains(&pair[1]))
        .filter_map(|pair| Some((pair[1].duration_since(pair[0]).ok()?, pair[1])))
        .max()
}
