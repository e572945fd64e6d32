//! Waiting for a condition: the only way a test may wait.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Polls `condition` until it holds and returns how long that took.
///
/// # Panics
/// When `condition` does not hold within `limit`; the message names `what` was awaited.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    loop {
        if condition() {
            return started.elapsed();
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Polls `probe` until it returns a value, within `limit`.
///
/// # Panics
/// When `probe` returns `None` until `limit` has passed; the message names `what` was awaited.
#[track_caller]
pub fn wait_some<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    wait_for(what, limit, || {
        found = probe();
        found.is_some()
    });
    found.unwrap_or_else(|| unreachable!("wait_for returns only once a value was found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_probe_finds() {
        let mut calls = 0;
        let found = wait_some("the third call", Duration::from_secs(5), || {
            calls += 1;
            (calls == 3).then_some("here")
        });
        assert_eq!((found, calls), ("here", 3));
    }

    #[test]
    #[should_panic(expected = "in vain for pigs to fly")]
    fn names_what_never_came() {
        wait_for("pigs to fly", Duration::from_millis(1), || false);
    }
}
