//! HTTP at both ends: signed webhooks that become runs, and runs that make calls, through the sidecar and durably.
//!
//! Server, sidecar, load and the service that is called share this machine. A delivery counts when its run has
//! succeeded, a call when the run that made it has.

mod executor;
mod intake;
mod load;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use meshhook_testkit::session::Params;
use meshhook_testkit::{Cluster, Session, Sidecar};
use serde_json::Value;

use crate::machine;
use crate::process;
use crate::report::Report;

const DATABASE: &str = "http";
/// The login role of the sidecar.
const SIDECAR: &str = "courier";
/// Longest that what was begun may take to end.
const LIMIT: Duration = Duration::from_secs(300);

/// How much of what is done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Line for the private cluster's postgresql.conf, name=value; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = crate::parse_setting)]
    settings: Vec<(String, String)>,
    /// Connections that deliver webhooks
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds of each measurement of intake
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measurements of each kind; figures are their medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Runs of one call in each measurement of the executor
    #[arg(long, default_value_t = 20_000)]
    calls: i32,
    /// Where the figures are written as JSON
    #[arg(long, default_value = "target/bench-http.json")]
    output: PathBuf,
}

/// Measures, prints the table and writes the file.
pub fn run(options: &Options) -> Result<()> {
    let builder = Cluster::builder().preload(true).kek(true).setting("log_min_messages", "warning");
    let builder =
        options.settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
    let bench = Bench::start(builder.start());
    let mut report = Report::default();
    machine::describe(&mut report, Some(bench.cluster.dir()));
    let measured = intake::measure(options, &bench, &mut report)
        .and_then(|()| executor::measure(options, &bench, &mut report))
        .and_then(|()| executor::measure_slow_host(options, &bench, &mut report));
    measured.inspect_err(|_| machine::print_log_end(&bench.cluster))?;
    drop(bench);
    report.finish(&options.output)
}

/// A server and a sidecar on it.
struct Bench {
    sidecar: Sidecar,
    cluster: Cluster,
}

impl Bench {
    fn start(cluster: Cluster) -> Bench {
        cluster.create_database(DATABASE);
        let create = format!("CREATE ROLE {SIDECAR} LOGIN IN ROLE meshhook_executor");
        cluster.superuser(DATABASE).exec(&create);
        let sidecar = Sidecar::builder(&cluster, SIDECAR, DATABASE)
            .env("MESHHOOK_LOG", "warn")
            .env("MESHHOOK_ALLOW", "127.0.0.0/8")
            .start();
        Bench { sidecar, cluster }
    }

    fn admin(&self) -> Session {
        self.cluster.superuser(DATABASE)
    }

    fn publish(&self, definition: &Value) {
        self.admin().value::<i32>("SELECT meshhook.publish_workflow($1)", &[definition]);
    }

    /// Waits until no run of a workflow is open, and tells how many there were; fails if one did not succeed.
    fn ended(&self, workflow: &str) -> Result<i64> {
        let mut admin = self.admin();
        // The index of open runs answers it: a look through the view would cost the cores that are measured.
        self.wait_until_not("SELECT EXISTS (SELECT FROM meshhook.run WHERE finished_at IS NULL)", &[])?;
        let failed = "SELECT count(*) FROM meshhook.runs WHERE workflow = $1 AND status <> 'succeeded'";
        ensure!(admin.value::<i64>(failed, &[&workflow]) == 0, "a run of {workflow} did not succeed");
        Ok(admin.value("SELECT count(*) FROM meshhook.runs WHERE workflow = $1", &[&workflow]))
    }

    /// Waits until what is asked is no longer so.
    fn wait_until_not(&self, question: &str, parameters: Params) -> Result<()> {
        let (mut admin, begun) = (self.admin(), Instant::now());
        while admin.value(question, parameters) {
            ensure!(begun.elapsed() < LIMIT, "after {LIMIT:?} it was still so: {question}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// CPU seconds spent so far by server, sidecar and this process.
    fn spent(&self) -> [(&'static str, f64); 3] {
        let of = |pid| process::stat(pid).map_or(0.0, |stat| stat.seconds);
        [
            ("server", process::seconds_of_children(self.cluster.postmaster_pid())),
            ("sidecar", of(self.sidecar.pid())),
            ("driver", of(std::process::id())),
        ]
    }

    /// Adds the cores that were busy since `before`.
    fn report_cores(
        &self,
        report: &mut Report,
        prefix: &str,
        before: [(&'static str, f64); 3],
        seconds: f64,
    ) {
        for ((who, spent), (_, earlier)) in self.spent().into_iter().zip(before) {
            report.number(format!("{prefix}.cpu_{who}"), (spent - earlier) / seconds, "cores");
        }
    }
}
