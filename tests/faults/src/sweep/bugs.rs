//! The harness is only worth something if it finds what is wrong: three bugs that `src/fault/bugs.rs` plants.

use super::play::{Trouble, perform};
use super::points::Crash;
use super::stage::{points, scenarios};
use super::table;
use super::theatre::Theatre;
use anyhow::{Context as _, Result};

/// A bug, and a play that suffers from it.
struct Bug {
    name: &'static str,
    scenario: &'static str,
    /// Where the crash is that shows it; some show without.
    crash: Option<&'static str>,
}

const BUGS: [Bug; 3] = [
    Bug { name: "unfenced_completion", scenario: "late-report", crash: None },
    Bug { name: "snapshot_by_clock", scenario: "order-fulfilment", crash: Some("turn.commit.after") },
    Bug { name: "torn_turn", scenario: "order-fulfilment", crash: Some("turn.commit.after") },
];

/// How manieth crashes are tried before a bug counts as not found.
const TRIES: u32 = 4;

/// Plants a bug, or `all` one after the other; whether each was found, and its play is sound without it.
pub fn hunt(name: &str, seed: u64) -> Result<bool> {
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| name == "all" || bug.name == name).collect();
    anyhow::ensure!(!bugs.is_empty(), "there is no such bug; they are in src/fault/bugs.rs");
    let mut found = 0;
    for bug in &bugs {
        match caught(bug, seed)? {
            Some(trouble) => {
                found += 1;
                println!("test bug::{} ... ok\n    found under {}: {trouble}", bug.name, bug.scenario);
            }
            None => println!("test bug::{} ... FAILED: nothing was noticed", bug.name),
        }
    }
    Ok(table::result(found, bugs.len() - found))
}

/// What gives it away.
fn caught(bug: &Bug, seed: u64) -> Result<Option<Trouble>> {
    let all = scenarios();
    let scenario = all.iter().find(|scenario| scenario.name == bug.scenario).context("no such scenario")?;
    let mut theatre = Theatre::open();
    let sound = theatre.undisturbed(scenario);
    let sound = sound.map_err(|trouble| anyhow::anyhow!("{} without the bug: {trouble}", scenario.name))?;
    let cluster = theatre.cluster;
    points(cluster).plant(bug.name);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..TRIES {
        let crash = bug.crash.map(|point| {
            let times = sound.reached.get(point).copied().unwrap_or(1);
            Crash { point: point.to_owned(), nth: random.u32(1..=times) }
        });
        let played =
            theatre.guarded(|stage| perform(cluster, stage, scenario, crash.as_ref(), Some(&sound.traces)));
        if let Err(trouble) = played {
            return Ok(Some(trouble));
        }
    }
    Ok(None)
}
