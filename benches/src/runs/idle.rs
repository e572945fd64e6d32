//! What idleness costs.

use crate::report::Report;
use crate::runs::snapshot::transactions;
use crate::runs::target::Target;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How long a vacuum that follows the load may take.
const VACUUM_LIMIT: Duration = Duration::from_secs(300);

/// Adds how many transactions and statements the server ran in the database while nobody asked for anything.
pub async fn measure(time: Duration, target: &Target, report: &mut Report) -> Result<()> {
    let observer = target.observer().await?;
    if target.is_private() {
        stop_vacuum(&observer).await?;
    }
    let transactions_before = transactions(&observer, target.database()).await?;
    let statements_before = statements(&observer, target.database()).await?;
    tokio::time::sleep(time).await;
    let transactions = transactions(&observer, target.database()).await? - transactions_before;
    let statements = statements(&observer, target.database()).await?;

    report.number("idle.seconds", time.as_secs_f64(), "s");
    report.number("idle.transactions", transactions as f64, "");
    if let (Some(before), Some(after)) = (statements_before, statements) {
        report.number("idle.statements", (after - before) as f64, "");
    }
    Ok(())
}

/// Statements run in the database since the server started, where pg_stat_statements counts them.
async fn statements(observer: &Client, database: &str) -> Result<Option<i64>> {
    let loaded = "SELECT 'pg_stat_statements' = ANY (pg_catalog.string_to_array(
                      pg_catalog.replace(pg_catalog.current_setting('shared_preload_libraries'), ' ', ''), ','))";
    if !observer.query_one(loaded, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    observer.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let count = "SELECT coalesce(sum(s.calls), 0)::bigint FROM pg_stat_statements s
                 JOIN pg_catalog.pg_database d ON d.oid = s.dbid WHERE d.datname = $1";
    Ok(Some(observer.query_one(count, &[&database]).await?.get(0)))
}

/// Clearing up behind the load is not what idleness costs: no vacuum starts any more, those under way are waited for.
async fn stop_vacuum(observer: &Client) -> Result<()> {
    observer.batch_execute("ALTER SYSTEM SET autovacuum = off").await?;
    observer.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
    let running = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                   WHERE backend_type = 'autovacuum worker'";
    let started = Instant::now();
    // At least once round the loop, so that the setting has been read.
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if observer.query_one(running, &[]).await?.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        ensure!(started.elapsed() < VACUUM_LIMIT, "a vacuum was still under way after {VACUUM_LIMIT:?}");
    }
}
