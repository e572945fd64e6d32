//! Waiting longer after each failure.

use std::time::Duration;

/// Doubles from `first` to `cap`; each wait is drawn from the upper half, so that replicas which
/// fail together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, never waits longer than `cap`.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, next: first }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.next.min(self.cap);
        self.next = full.saturating_mul(2).min(self.cap);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        for full in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let wait = backoff.next_wait().as_millis();
            assert!(wait >= full / 2 && wait <= full, "{wait} of {full}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}
