//! Random workflows, random schedules, every kind of fault: nothing is lost, nothing is done twice, everything ends.

use std::time::Instant;

use meshhook_simulation::history::Told;
use meshhook_simulation::search::search;

/// What an environment variable says, or something that suits `make test`.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// `MESHHOOK_SIMULATION_SEED` makes another search, or the same one again.
#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    let histories = u32::try_from(setting("PROPTEST_CASES", 20_000)).unwrap_or(u32::MAX);
    let seed = setting("MESHHOOK_SIMULATION_SEED", 1);
    let begun = Instant::now();
    if let Some(found) = search(None, histories, seed) {
        panic!("history {} of MESHHOOK_SIMULATION_SEED={seed}:\n{}", found.tried, Told(&found.case, None));
    }
    let rate = f64::from(histories) / begun.elapsed().as_secs_f64();
    println!("{histories} histories, {rate:.0} a second");
}
