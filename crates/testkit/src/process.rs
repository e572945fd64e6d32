//! Processes: finding them in `/proc`, ending them one by one, knowing when they are gone.

use crate::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Sends `SIGKILL` to one process. A process that is already gone is no error.
pub fn kill9(pid: u32) {
    send(pid, Signal::KILL);
}

/// Sends `SIGTERM` to one process. A process that is already gone is no error.
pub fn terminate(pid: u32) {
    send(pid, Signal::TERM);
}

/// Sends `SIGHUP` to one process. A process that is already gone is no error.
pub fn hang_up(pid: u32) {
    send(pid, Signal::HUP);
}

/// Sends `SIGABRT` to one process. A process that is already gone is no error.
pub fn abort(pid: u32) {
    send(pid, Signal::ABORT);
}

/// Stops one process where it is until the returned value is dropped.
#[must_use]
pub fn hold(pid: u32) -> impl Drop {
    struct Held(u32);
    impl Drop for Held {
        fn drop(&mut self) {
            send(self.0, Signal::CONT);
        }
    }
    send(pid, Signal::STOP);
    Held(pid)
}

/// Sends `signal` to one process. A process that is already gone is no error.
///
/// # Panics
/// When the signal may not be sent, or `pid` is not a process id.
pub fn send(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = raw.unwrap_or_else(|| panic!("{pid} is not a process id"));
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => panic!("cannot signal process {pid}: {e}"),
    }
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&candidate| stat(candidate).is_some_and(|(_, parent)| parent == pid))
        .collect()
}

/// The limits of a process, as the kernel tells them.
///
/// # Panics
/// When there is no such process.
pub fn limits(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/limits"))
        .unwrap_or_else(|e| panic!("no limits of process {pid}: {e}"))
}

/// Which of these texts stand in the memory of some processes: all that they can write to, their own or shared.
///
/// # Panics
/// When their memory may not be read.
pub fn in_memory<'t>(pids: &[u32], texts: &[&'t str]) -> BTreeSet<&'t str> {
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for pid in pids {
        let read = |file| format!("/proc/{pid}/{file}");
        let maps = std::fs::read_to_string(read("maps")).unwrap_or_else(|e| panic!("no map of {pid}: {e}"));
        let memory = File::open(read("mem")).unwrap_or_else(|e| panic!("no memory of {pid}: {e}"));
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [range, rights, offset, device, inode, ..] = fields[..] else { continue };
            let is_shared = rights.ends_with('s');
            // What is shared is the same in all of them.
            if !rights.starts_with("rw") || (is_shared && !seen.insert(format!("{device} {inode} {offset}")))
            {
                continue;
            }
            let address = |text| u64::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{line}: {e}"));
            let (from, to) = range.split_once('-').unwrap_or_else(|| panic!("{line}"));
            let size = address(to) - address(from);
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_else(|e| panic!("{line}: {e}"))];
            // A process that goes on unmaps something now and then.
            if memory.read_exact_at(&mut bytes, address(from)).is_ok() {
                let region = String::from_utf8_lossy(&bytes);
                found.extend(texts.iter().filter(|text| region.contains(**text)));
            }
        }
    }
    found
}

/// Waits until none of `pids` is alive.
///
/// # Panics
/// When one still lives after `limit`.
pub fn wait_gone(what: &str, pids: &[u32], limit: Duration) {
    wait_for(&format!("{what} to be gone"), limit, || !pids.iter().copied().any(is_alive));
}

/// State letter and parent of a process; `None` when there is no such process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything; what follows the last one is fixed.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_killed_child_is_seen_to_go() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        assert!(is_alive(child.id()));
        assert!(children(std::process::id()).contains(&child.id()));
        kill9(child.id());
        wait_gone("sleep", &[child.id()], Duration::from_secs(5));
        child.wait().expect("it can be reaped");
        kill9(child.id());
    }

    #[test]
    fn what_is_in_memory_is_found_and_nothing_else() {
        let mut child = Command::new("sleep").arg("60").env("HAY", "one needle").spawn().expect("sleep runs");
        let found = || in_memory(&[child.id()], &["one needle", "another needle"]);
        wait_for("sleep to have its environment", Duration::from_secs(5), || !found().is_empty());
        assert_eq!(found(), BTreeSet::from(["one needle"]));
        assert!(limits(child.id()).contains("Max core file size"));
        kill9(child.id());
        child.wait().expect("it can be reaped");
    }
}
