//! Rates: so many of something in a period, as a token bucket.
//!
//! A bucket is one number, the time until which everything taken is paid for (the generic cell rate algorithm, ATM Forum
//! Traffic Management 4.0, "virtual scheduling"). All times are microseconds of one clock.

/// So many in a period: `limit` at once after a quiet spell, and then one each `period / limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    limit: i64,
    period: i64,
}

/// What a bucket has at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How many can be taken now.
    pub tokens: i64,
    /// When one more than these can be.
    pub more_at: i64,
}

impl Rate {
    /// `limit` in `period` microseconds; both count as 1 at least.
    #[must_use]
    pub fn new(limit: i64, period: i64) -> Self {
        Self { limit: limit.max(1), period: period.max(1) }
    }

    /// How many there may be in a period.
    #[must_use]
    pub fn limit(self) -> i64 {
        self.limit
    }

    /// The period, in microseconds.
    #[must_use]
    pub fn period(self) -> i64 {
        self.period
    }

    /// What one costs, in microseconds of the period.
    #[must_use]
    pub fn step(self) -> i64 {
        (self.period / self.limit).max(1)
    }

    /// What a bucket that is paid until `paid` has at `now`. A time before `now` is a full bucket.
    #[must_use]
    pub fn level(self, paid: i64, now: i64) -> Level {
        let paid = paid.max(now);
        let tokens = ((now + self.period - paid) / self.step()).max(0);
        Level { tokens, more_at: paid + (tokens + 1) * self.step() - self.period }
    }

    /// Until when a bucket that is paid until `paid` is paid after one more was taken at `now`; or, if nothing is left,
    /// when the next one can be. A bucket that is emptier than empty, because the clock was put back or the period was
    /// longer before, counts as empty: nobody waits longer than the period.
    ///
    /// # Errors
    /// The time at which the next one can be taken.
    pub fn take(self, paid: i64, now: i64) -> Result<i64, i64> {
        let paid = paid.clamp(now, now + self.period);
        let level = self.level(paid, now);
        if level.tokens > 0 { Ok(paid + self.step()) } else { Err(level.more_at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_bucket_empties_and_fills() {
        let rate = Rate::new(3, 30);
        let mut paid = 0;
        for _ in 0..3 {
            paid = rate.take(paid, 1_000).unwrap();
        }
        assert_eq!(rate.take(paid, 1_000), Err(1_010));
        assert_eq!(rate.take(paid, 1_009), Err(1_010));
        assert_eq!(rate.level(paid, 1_000), Level { tokens: 0, more_at: 1_010 });
        paid = rate.take(paid, 1_010).unwrap();
        assert_eq!(rate.take(paid, 1_010), Err(1_020));
        assert_eq!(rate.level(paid, 2_000).tokens, 3);
    }

    #[test]
    fn nobody_waits_longer_than_the_period() {
        let rate = Rate::new(2, 100);
        assert_eq!(rate.take(1_000_000, 500), Err(550));
    }

    proptest! {
        /// In no window of a period there are more than the limit and what flows in meanwhile.
        #[test]
        fn no_more_than_the_limit(
            limit in 1..50_i64, period in 1..10_000_i64, gaps in prop::collection::vec(0..500_i64, 1..200)
        ) {
            let rate = Rate::new(limit, period);
            let (mut now, mut paid, mut taken) = (0, 0, Vec::new());
            for gap in gaps {
                now += gap;
                match rate.take(paid, now) {
                    Ok(next) => {
                        paid = next;
                        taken.push(now);
                    }
                    Err(at) => {
                        prop_assert!(at > now && at <= now + rate.period());
                        prop_assert_eq!(rate.take(paid, at), Ok(paid.max(at) + rate.step()));
                    }
                }
            }
            for (index, first) in taken.iter().enumerate() {
                let most = |until: i64| rate.period() / rate.step() + (until - first) / rate.step() + 1;
                for (more, last) in taken[index..].iter().enumerate() {
                    prop_assert!((more as i64) < most(*last), "{more} from {first} to {last}");
                }
            }
        }
    }
}
