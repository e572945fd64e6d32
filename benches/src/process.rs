//! What processes of this machine have spent.

use std::fs;

use anyhow::{Context as _, Result};

/// Clock ticks per second in `/proc/<pid>/stat`: fixed by Linux, whatever its timer's rate.
const TICKS: f64 = 100.0;

/// What `/proc` says of one process.
pub struct Stat {
    /// The program's name.
    pub name: String,
    /// The parent's process id.
    pub parent: u32,
    /// CPU seconds in both modes, without those of children.
    pub seconds: f64,
}

/// Looks at one process; `None` when there is none of this number here.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; what follows the last one is fixed.
    let (front, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Stat {
        name: front.split_once('(')?.1.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        seconds: (ticks(11)? + ticks(12)?) / TICKS,
    })
}

/// Memory that a process holds, in MiB.
pub fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kib.context("the process has no memory")? / 1024.0)
}

/// CPU seconds of the living children of a process: for a postmaster, of the whole server but for backends that ended.
pub fn seconds_of_children(parent: u32) -> f64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).filter(|stat| stat.parent == parent).map(|stat| stat.seconds).sum()
}

/// CPU seconds spent so far by everybody on this machine, and those it was kept from having by others around it.
pub fn seconds_of_all() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system; then idle and iowait; irq, softirq, steal. What follows is part of user and nice.
    let busy = ticks.iter().take(8).enumerate().filter(|(n, _)| !(3..5).contains(n));
    busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS
}
