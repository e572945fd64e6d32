//! How long to wait after the n-th failure in a row.

use std::time::Duration;

/// `initial` doubled per failure up to `cap`, plus up to a quarter of that at random, so that
/// workers that failed together do not come back together. `failures` counts from 1.
pub(crate) fn delay(initial: Duration, cap: Duration, failures: u32) -> Duration {
    let doubled = initial.saturating_mul(1u32 << failures.saturating_sub(1).min(20)).min(cap);
    doubled + doubled.mul_f64(random() / 4.0)
}

/// A number in [0, 1) from the clock: spreading retries needs no better, and nothing that is
/// recorded depends on it.
fn random() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos());
    let mixed = nanos.wrapping_mul(0x9e37_79b1) ^ std::process::id().wrapping_mul(0x85eb_ca6b);
    f64::from(mixed) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_with_little_jitter() {
        let (initial, cap) = (Duration::from_secs(1), Duration::from_secs(60));
        for (failures, seconds) in [(1, 1), (2, 2), (6, 32), (7, 60), (100, 60)] {
            let delay = delay(initial, cap, failures);
            let base = Duration::from_secs(seconds);
            assert!(delay >= base && delay <= base.mul_f64(1.25), "{failures}: {delay:?}");
        }
    }
}
