//! The private cluster of all contenders, and its databases.

use crate::connection::connect;
use crate::event_store::Options;
use crate::event_store::wire::{Address, Wire};
use crate::process::{seconds_of_all, seconds_of_children, stat};
use anyhow::{Context as _, Result, ensure};
use meshhook_testkit::{Cluster, install, message_db};
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

/// The role of all clients of ours: no superuser, so that no check is skipped.
pub const ROLE: &str = "meshhook_bench_app";

/// The database of the original Message DB.
pub const MESSAGE_DB: &str = "message_db";

/// Segments of WAL made ahead, 16 MiB each: nobody's commit has to wait for a new file.
const SEGMENTS: i32 = 64;

/// The cluster. Dropping it stops the server and deletes its folder.
pub struct Server {
    cluster: Cluster,
    /// Statements for each database of ours.
    setup: String,
}

impl Server {
    /// Starts it; not from within an asynchronous runtime, since the kit blocks.
    pub fn start(options: &Options) -> Result<Server> {
        let control = Path::new(&install::pg_config("--sharedir")).join("extension/meshhook.control");
        ensure!(
            control.exists(),
            "this Postgres has no meshhook: `make bench-event-store` installs it first"
        );
        let setup = match &options.setup {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => String::new(),
        };
        let mut builder = Cluster::builder().preload(true);
        for (name, value) in [
            ("shared_buffers", "1GB"),
            ("max_connections", "250"),
            // No checkpoint but those that are asked for; used segments of WAL are kept and used again.
            ("max_wal_size", "64GB"),
            ("min_wal_size", "4GB"),
            ("checkpoint_timeout", "1d"),
            // Vacuums would fall upon one contender or another; parts that are about them let them run.
            ("autovacuum", "off"),
            ("log_min_messages", "warning"),
        ] {
            builder = builder.setting(name, value);
        }
        for (name, value) in &options.settings {
            builder = builder.setting(name, value);
        }
        let cluster = builder.start();
        cluster.superuser("postgres").exec(&format!("CREATE ROLE {ROLE} LOGIN"));
        cluster.create_empty_database(MESSAGE_DB);
        message_db::install(&mut cluster.superuser(MESSAGE_DB));
        Ok(Server { cluster, setup })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where to connect.
    pub fn address(&self, user: &str, database: &str) -> Address {
        let socket: PathBuf = self.cluster.dir().join(format!(".s.PGSQL.{}", self.cluster.port()));
        Address { socket, user: user.into(), database: database.into() }
    }

    /// A connection as a client of ours.
    pub async fn client(&self, database: &str) -> Result<Wire> {
        Wire::connect(&self.address(ROLE, database)).await
    }

    /// A connection as the superuser, for what is not measured.
    pub async fn admin(&self, database: &str) -> Result<Client> {
        let config = self.cluster.url("postgres", database).parse()?;
        Ok(connect(&config).await?.0)
    }

    /// Makes a database with an empty store of ours and returns a superuser's connection to it.
    pub async fn create_store(&self, database: &str) -> Result<Client> {
        let postgres = self.admin("postgres").await?;
        postgres.batch_execute(&format!("CREATE DATABASE {database}")).await?;
        let admin = self.admin(database).await?;
        admin.batch_execute("CREATE EXTENSION meshhook").await?;
        admin.batch_execute(&self.setup).await.context("the statements of --setup failed")?;
        let found = "SELECT pg_catalog.to_regproc('meshhook.append_messages') IS NOT NULL";
        ensure!(
            admin.query_one(found, &[]).await?.get::<_, bool>(0),
            "the meshhook of this Postgres has no event store"
        );
        admin.batch_execute(&format!("SELECT meshhook.grant_api('{ROLE}')")).await?;
        Ok(admin)
    }

    /// Makes files of WAL ahead.
    pub async fn make_wal(&self) -> Result<()> {
        let admin = self.admin("postgres").await?;
        let switch =
            "SELECT pg_catalog.pg_logical_emit_message(true, 'bench', ''), pg_catalog.pg_switch_wal()
                      FROM pg_catalog.generate_series(1, $1)";
        admin.query(switch, &[&SEGMENTS]).await?;
        Ok(admin.batch_execute("CHECKPOINT").await?)
    }

    /// Lets the next figures start from a swept table, known statistics and a checkpoint.
    pub async fn settle(&self, databases: &[&str]) -> Result<()> {
        for database in databases {
            self.admin(database).await?.batch_execute("VACUUM (ANALYZE)").await?;
        }
        self.checkpoint().await
    }

    /// Makes used WAL usable again.
    pub async fn checkpoint(&self) -> Result<()> {
        Ok(self.admin("postgres").await?.batch_execute("CHECKPOINT").await?)
    }

    /// CPU seconds spent so far.
    pub fn cpu(&self) -> Cpu {
        Cpu {
            server: seconds_of_children(self.cluster.postmaster_pid()),
            client: stat(std::process::id()).map_or(0.0, |stat| stat.seconds),
            all: seconds_of_all(),
        }
    }
}

/// CPU seconds.
pub struct Cpu {
    /// Of the server's living processes.
    pub server: f64,
    /// Of this one.
    pub client: f64,
    /// Of everybody, those two among them.
    pub all: f64,
}

impl Cpu {
    /// What was spent since `earlier`.
    pub fn since(&self, earlier: &Cpu) -> Cpu {
        Cpu {
            server: self.server - earlier.server,
            client: self.client - earlier.client,
            all: self.all - earlier.all,
        }
    }

    /// Of those who have nothing to do with this.
    pub fn other(&self) -> f64 {
        (self.all - self.server - self.client).max(0.0)
    }
}
