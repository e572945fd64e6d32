//! The database under load: a private cluster, or one that is given.

use crate::connection::connect;
use crate::machine;
use crate::report::Report;
use crate::runs::Options;
use anyhow::{Context as _, Result, bail, ensure};
use meshhook_testkit::{Cluster, install};
use std::path::Path;
use std::str::FromStr as _;
use tokio_postgres::{Client, Config};

/// The queue of the benchmark's jobs and the name of its workflow.
pub const NAME: &str = "bench";

const APPLICATION: &str = "meshhook_bench_app";
const EXECUTOR: &str = "meshhook_bench_executor";

/// Where to connect, and as whom.
pub struct Target {
    /// Kept for its life: dropping it stops the server.
    cluster: Option<Cluster>,
    admin: Config,
    application: Config,
    executor: Config,
}

impl Target {
    /// Starts the private cluster, unless a URL was given.
    pub fn open(options: &Options) -> Result<Target> {
        if let Some(url) = &options.database_url {
            let admin = Config::from_str(url).context("--database-url cannot be read")?;
            return Ok(Target { cluster: None, application: admin.clone(), executor: admin.clone(), admin });
        }
        let control = Path::new(&install::pg_config("--sharedir")).join("extension/meshhook.control");
        ensure!(control.exists(), "this Postgres has no meshhook: `make bench` installs it first");
        let libraries = if options.statements { "meshhook,pg_stat_statements" } else { "meshhook" };
        let mut builder = Cluster::builder()
            .setting("shared_preload_libraries", libraries)
            .setting("shared_buffers", "256MB")
            .setting("log_min_messages", "warning");
        if options.statements {
            builder = builder.setting("pg_stat_statements.track", "all");
        }
        for (name, value) in &options.settings {
            builder = builder.setting(name, value);
        }
        let cluster = builder.start();
        cluster.create_database(NAME);
        let config = |user: &str| -> Result<Config> { Ok(Config::from_str(&cluster.url(user, NAME))?) };
        Ok(Target {
            admin: config("postgres")?,
            application: config(APPLICATION)?,
            executor: config(EXECUTOR)?,
            cluster: Some(cluster),
        })
    }

    /// The private cluster's folder.
    pub fn folder(&self) -> Option<&Path> {
        self.cluster.as_ref().map(Cluster::dir)
    }

    /// Shows what the private server said last: its folder is gone when the benchmark has ended.
    pub fn print_log_end(&self) {
        if let Some(cluster) = &self.cluster {
            machine::print_log_end(cluster);
        }
    }

    /// Whether the server is this benchmark's own, so that its settings may be changed.
    pub fn is_private(&self) -> bool {
        self.cluster.is_some()
    }

    /// A connection as the superuser.
    pub async fn admin(&self) -> Result<Client> {
        Ok(connect(&self.admin).await?.0)
    }

    /// A connection as the superuser to the database `postgres`: it leaves no trace in the counters of the one
    /// under load.
    pub async fn observer(&self) -> Result<Client> {
        let mut config = self.admin.clone();
        config.dbname("postgres");
        Ok(connect(&config).await?.0)
    }

    /// Name of the database under load.
    pub fn database(&self) -> &str {
        self.admin.get_dbname().unwrap_or("postgres")
    }

    /// How whoever starts runs connects. In the private cluster not a superuser, so that no check is skipped.
    pub fn application(&self, name: &str) -> Config {
        named(&self.application, name)
    }

    /// How whoever works on jobs connects.
    pub fn executor(&self, name: &str) -> Config {
        named(&self.executor, name)
    }

    /// Makes roles (in the private cluster) and publishes the workflow.
    pub async fn prepare(&self, admin: &Client) -> Result<()> {
        if self.is_private() {
            let roles = format!(
                "CREATE ROLE {APPLICATION} LOGIN; SELECT meshhook.grant_api('{APPLICATION}');
                 CREATE ROLE {EXECUTOR} LOGIN IN ROLE meshhook_executor;"
            );
            admin.batch_execute(&roles).await.context("cannot make the roles")?;
        }
        let task = |id: &str, input: &str| serde_json::json!({"id": id, "type": "task", "with": {"queue": NAME, "input": {"n": input}}});
        let definition = serde_json::json!({
            "name": NAME,
            "nodes": [
                task("a", "{{ .input.n }}"),
                task("b", "{{ .nodes.a.output.n }}"),
                task("c", "{{ .nodes.b.output.n }}"),
            ],
            "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}],
        });
        admin
            .query_one("SELECT meshhook.publish_workflow($1)", &[&definition])
            .await
            .context("cannot publish the workflow")?;
        Ok(())
    }

    /// Replays a sample of the runs; one that differs from its state makes every figure void.
    pub async fn check_replay(&self, admin: &Client, report: &mut Report) -> Result<()> {
        let sample = "SELECT count(DISTINCT r.run_id), count(v.\"position\")
             FROM (SELECT run_id FROM meshhook.runs WHERE workflow = $1 ORDER BY random() LIMIT 200) r
             LEFT JOIN LATERAL meshhook.verify_run(r.run_id) v ON true";
        let row = admin.query_one(sample, &[&NAME]).await.context("cannot replay runs")?;
        let (runs, differences): (i64, i64) = (row.get(0), row.get(1));
        if differences > 0 {
            bail!("replay differs from the state of runs in {differences} places");
        }
        report.number("replayed_identically", runs as f64, "runs");
        Ok(())
    }

    /// Prints what took the server's time, by statement.
    pub async fn print_statements(&self, admin: &Client) -> Result<()> {
        let top = "SELECT calls, total_exec_time, rows, wal_bytes::float8,
                          regexp_replace(query, '\\s+', ' ', 'g')
             FROM pg_stat_statements s JOIN pg_catalog.pg_database d ON d.oid = s.dbid
             WHERE d.datname = current_database() ORDER BY total_exec_time DESC LIMIT 25";
        admin.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
        println!(
            "{:>9} {:>11} {:>9} {:>9} {:>10}  statement",
            "calls", "total ms", "ms/call", "rows", "WAL KiB"
        );
        for row in admin.query(top, &[]).await? {
            let (calls, ms): (i64, f64) = (row.get(0), row.get(1));
            let (rows, wal, query): (i64, f64, String) = (row.get(2), row.get(3), row.get(4));
            let query: String = query.chars().take(150).collect();
            println!(
                "{calls:>9} {ms:>11.0} {:>9.3} {rows:>9} {:>10.0}  {query}",
                ms / calls as f64,
                wal / 1024.0
            );
        }
        Ok(())
    }
}

/// By its name the server's process is told from others when its time is counted.
fn named(config: &Config, name: &str) -> Config {
    let mut config = config.clone();
    config.application_name(name);
    config
}
