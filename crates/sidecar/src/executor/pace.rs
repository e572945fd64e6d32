//! Calls to a host that may take only so many in a time begin evenly.

use std::time::Duration;

use tokio::time::Instant;

/// So much of a rate may begin at once, if nothing began before: timers are no finer.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A token bucket, kept as the moment at which it would be full.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    full: Instant,
}

impl Pace {
    /// Of a host that nothing was started at.
    pub fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// When the next call may begin, where one may in every `every`.
    pub fn next(&self, every: Duration, now: Instant) -> Instant {
        let full = self.full(every, now);
        full.checked_sub(AT_ONCE.saturating_sub(every)).unwrap_or(full)
    }

    /// A call begins.
    pub fn begin(&mut self, every: Duration, now: Instant) {
        self.full = self.full(every, now).max(now) + every;
    }

    /// When the bucket would be full: it never takes longer than this, whatever the rate was before.
    fn full(&self, every: Duration, now: Instant) -> Instant {
        self.full.min(now + every.max(AT_ONCE))
    }

    /// Whether there is nothing left to remember.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.full <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many begin within a time, if as many are there as may.
    fn begun(every: Duration, within: Duration, step: Duration) -> usize {
        let start = Instant::now();
        let (mut pace, mut now, mut count) = (Pace::new(start), start, 0);
        while now < start + within {
            while pace.next(every, now) <= now {
                pace.begin(every, now);
                count += 1;
            }
            now += step;
        }
        count
    }

    #[test]
    fn calls_begin_evenly_and_no_faster() {
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis);
        assert_eq!(begun(ms(100), second, ms(1)), 10);
        assert_eq!(begun(ms(1500), 3 * second, ms(1)), 2);
        // Nothing is lost where timers are late, and hardly anything is too much.
        assert_eq!(begun(ms(1), second, ms(10)), 1000 + 90);
        assert_eq!(begun(ms(1), 10 * second, ms(10)), 10_000 + 90);
        // Times without calls are not saved up.
        let (now, mut pace) = (Instant::now(), Pace::new(Instant::now()));
        pace.begin(second, now);
        let later = now + 60 * second;
        assert!(pace.is_idle(later) && !pace.is_idle(now));
        pace.begin(second, later);
        assert_eq!(pace.next(second, later), later + second);
        // A rate that is raised holds at once.
        pace.begin(3_600 * second, later);
        assert_eq!(pace.next(second, later), later + second);
    }
}
