//! What the figures were taken on.

use crate::report::{Report, percentile};
use anyhow::{Context as _, Result};
use meshhook_testkit::Cluster;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Instant;
use tokio_postgres::Client;

/// Settings that decide what the figures mean.
const SETTINGS: [&str; 8] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "shared_preload_libraries",
];

/// Adds processor, cores, memory and, where the server's folder is known, what a flush of its disk costs.
pub fn describe(report: &mut Report, folder: Option<&Path>) {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown".into(), |(_, v)| v.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.text("machine.cpu", field("/proc/cpuinfo", "model name"));
    report.number("machine.cores", cores as f64, "");
    let memory = field("/proc/meminfo", "MemTotal");
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
    report.number("machine.memory", kib / 1_048_576.0, "GiB");
    if let Some(ms) = folder.and_then(flush_ms) {
        report.number("machine.flush_8k_p50", ms, "ms");
    }
}

/// Adds the server's version and its settings.
pub async fn describe_server(report: &mut Report, admin: &Client) -> Result<()> {
    let version = "SELECT pg_catalog.current_setting('server_version'), meshhook.version()";
    let row = admin.query_one(version, &[]).await.context("the database has no meshhook")?;
    report.text("version.postgres", row.get::<_, String>(0));
    report.text("version.meshhook", row.get::<_, String>(1));
    for name in SETTINGS {
        let row = admin.query_one("SELECT pg_catalog.current_setting($1)", &[&name]).await?;
        report.text(format!("setting.{name}"), row.get::<_, String>(0));
    }
    Ok(())
}

/// Median time of writing 8 KiB and flushing them: the floor under every commit.
fn flush_ms(folder: &Path) -> Option<f64> {
    let path = folder.join("flush-probe");
    let mut file = fs::File::create(&path).ok()?;
    let page = [7_u8; 8192];
    let mut samples = Vec::new();
    for _ in 0..200 {
        file.seek(SeekFrom::Start(0)).ok()?;
        let start = Instant::now();
        file.write_all(&page).ok()?;
        file.sync_data().ok()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path).ok()?;
    samples.sort_by(f64::total_cmp);
    Some(percentile(&samples, 0.5))
}

/// Shows what a server said last: its folder is gone when the benchmark has ended.
pub fn print_log_end(cluster: &Cluster) {
    let log = cluster.log();
    let lines: Vec<&str> = log.lines().rev().take(30).collect();
    for line in lines.iter().rev() {
        eprintln!("server: {line}");
    }
}
