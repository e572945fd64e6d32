//! The server's counters at one moment.

use crate::process::stat;
use anyhow::Result;
use std::collections::HashMap;
use std::fs;
use std::time::SystemTime;
use tokio_postgres::Client;

/// What is read before and after a measured window.
pub struct Snapshot {
    /// The server's clock.
    pub at: SystemTime,
    /// Bytes of WAL ever written.
    pub wal: i64,
    /// Where the last checkpoint stands: differs from another snapshot's when one happened in between.
    pub checkpoint: i64,
    /// CPU seconds by who spent them; empty when the server is not on this machine.
    cpu: HashMap<(&'static str, u32), f64>,
}

impl Snapshot {
    /// Reads the counters as a superuser connected to the database under load.
    pub async fn take(admin: &Client) -> Result<Snapshot> {
        let counters = "SELECT pg_catalog.clock_timestamp(),
                               (pg_catalog.pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint,
                               (checkpoint_lsn - '0/0'::pg_lsn)::bigint
                        FROM pg_catalog.pg_control_checkpoint()";
        let row = admin.query_one(counters, &[]).await?;
        Ok(Snapshot {
            at: row.get(0),
            wal: row.get(1),
            checkpoint: row.get(2),
            cpu: cpu_seconds(admin).await?,
        })
    }

    /// Seconds from `earlier` to here, by the server's clock.
    pub fn seconds_since(&self, earlier: &Snapshot) -> f64 {
        self.at.duration_since(earlier.at).unwrap_or_default().as_secs_f64()
    }

    /// CPU seconds spent since `earlier`, by who spent them, in a fixed order.
    pub fn cpu_since(&self, earlier: &Snapshot) -> Vec<(&'static str, f64)> {
        ["orchestrator", "starters", "executors", "other_server", "driver"]
            .into_iter()
            .filter_map(|who| {
                let spent: Vec<f64> = self
                    .cpu
                    .iter()
                    .filter(|((name, _), _)| *name == who)
                    .map(|(key, seconds)| seconds - earlier.cpu.get(key).unwrap_or(&0.0))
                    .collect();
                (!spent.is_empty()).then(|| (who, spent.iter().sum()))
            })
            .collect()
    }
}

async fn cpu_seconds(admin: &Client) -> Result<HashMap<(&'static str, u32), f64>> {
    let processes = "SELECT pid, application_name, backend_type, datname = pg_catalog.current_database(),
                            pid = pg_catalog.pg_backend_pid()
                     FROM pg_catalog.pg_stat_activity";
    let mut spent = HashMap::new();
    let mut postmaster = None;
    let mut known = HashMap::new();
    for row in admin.query(processes, &[]).await? {
        let pid = u32::try_from(row.get::<_, i32>(0))?;
        let application: Option<&str> = row.get(1);
        let kind: Option<&str> = row.get(2);
        let here = row.get::<_, Option<bool>>(3) == Some(true);
        let who = match (application, kind) {
            (Some("bench starter"), _) => "starters",
            (Some("bench executor"), _) => "executors",
            (_, Some(kind)) if here && kind.starts_with("meshhook") => "orchestrator",
            _ => "other_server",
        };
        known.insert(pid, who);
        if row.get(4) {
            // A process of this number that is no postgres: the server runs on another machine.
            postmaster = stat(pid).filter(|stat| stat.name.starts_with("postgres")).map(|stat| stat.parent);
        }
    }
    let Some(postmaster) = postmaster else {
        return Ok(spent);
    };
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid).filter(|stat| stat.parent == postmaster) {
            spent.insert((known.get(&pid).copied().unwrap_or("other_server"), pid), stat.seconds);
        }
    }
    if let Some(own) = stat(std::process::id()) {
        spent.insert(("driver", std::process::id()), own.seconds);
    }
    Ok(spent)
}

/// Transactions committed and rolled back in `database`. Backends report them when they fall idle, at most once
/// a second, hence the pause; `observer` is connected elsewhere.
pub async fn transactions(observer: &Client, database: &str) -> Result<i64> {
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let count = "SELECT xact_commit + xact_rollback FROM pg_catalog.pg_stat_database WHERE datname = $1";
    Ok(observer.query_one(count, &[&database]).await?.get(0))
}
