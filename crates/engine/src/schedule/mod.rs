//! Schedules: when runs are due. Computed from what the schedule says and from moments handed in; no clock.

mod cron;
mod overlap;
mod zone;

pub use cron::{Cron, MAX_PATTERN_BYTES};
pub use overlap::{Ahead, Overlap, Verdict};
pub use zone::Zone;

use crate::retry::fraction;
use crate::time::{MAX_DURATION_MS, Timestamp};

/// Shortest period, in microseconds: one second.
pub const MIN_PERIOD_MICROS: i64 = 1_000_000;
/// Longest period, in microseconds.
pub const MAX_PERIOD_MICROS: i64 = MAX_DURATION_MS.cast_signed() * 1000;
/// Most times that one look at a calendar passes over.
const MAX_PASSED: usize = 10_000;
/// Most times that one look at a calendar brings.
const MAX_BROUGHT: usize = 100;

/// The times of a schedule.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Those that match a cron pattern in a time zone.
    Cron(Box<Cron>),
    /// Those a whole number of periods away from an anchor, before and after it.
    Every {
        /// The period, in microseconds.
        period: i64,
        /// One of the times.
        anchor: Timestamp,
    },
}

impl Rule {
    /// The first time after a moment; `None` if there is none within a hundred years.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron) => cron.next_after(after),
            Self::Every { period, anchor } => {
                let since = after.as_micros().checked_sub(anchor.as_micros())?;
                let next = since.div_euclid(*period).checked_add(1)?.checked_mul(*period)?;
                anchor.as_micros().checked_add(next).map(Timestamp::from_micros)
            }
        }
    }
}

/// A rule, and how far its times are spread.
#[derive(Clone, Debug)]
pub struct Calendar {
    /// The times.
    pub rule: Rule,
    /// How far at most a time is put off, in microseconds; never up to the one after it.
    pub jitter: i64,
    /// What decides how far: recorded with the schedule.
    pub seed: u64,
}

/// What a look at a calendar found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Times to start runs for, in order.
    pub times: Vec<Timestamp>,
    /// How many times were passed over because they are too long ago.
    pub missed: u64,
    /// The first and the last of those.
    pub missed_between: Option<(Timestamp, Timestamp)>,
    /// The time to go on from; `None` if the rule has no more.
    pub next: Option<Timestamp>,
}

impl Calendar {
    /// When a time is due: itself, put off by a share of the jitter that depends on seed and time only.
    #[must_use]
    pub fn due_at(&self, time: Timestamp) -> Timestamp {
        if self.jitter == 0 {
            return time;
        }
        let gap = self.rule.next_after(time).map_or(self.jitter, |next| next.as_micros() - time.as_micros());
        let spread = self.jitter.min(gap) as f64;
        let delay = (spread * fraction(self.seed, &time.to_string(), 0)) as i64;
        Timestamp::from_micros(time.as_micros().saturating_add(delay))
    }

    /// What is due by `now`, from the time `from` on. Times that were due more than `catch_up` microseconds
    /// ago are passed over and counted. Where much is due, `next` is due too: look again.
    #[must_use]
    pub fn due(&self, from: Timestamp, now: Timestamp, catch_up: i64) -> Due {
        let mut found = Due { next: Some(from), ..Due::default() };
        for _ in 0..MAX_PASSED {
            let Some(time) = found.next else { break };
            let due = self.due_at(time);
            if due > now || found.times.len() == MAX_BROUGHT {
                break;
            }
            if now.as_micros().saturating_sub(due.as_micros()) > catch_up {
                found.missed += 1;
                let first = found.missed_between.map_or(time, |(first, _)| first);
                found.missed_between = Some((first, time));
            } else {
                found.times.push(time);
            }
            found.next = self.rule.next_after(time);
        }
        found
    }

    /// The times from one moment (included) to another (not included), at most `limit` of them.
    #[must_use]
    pub fn between(&self, from: Timestamp, until: Timestamp, limit: usize) -> Vec<Timestamp> {
        let before = Timestamp::from_micros(from.as_micros().saturating_sub(1));
        let next = |time: &Timestamp| self.rule.next_after(*time);
        std::iter::successors(self.rule.next_after(before), next)
            .take_while(|time| *time < until)
            .take(limit)
            .collect()
    }
}
