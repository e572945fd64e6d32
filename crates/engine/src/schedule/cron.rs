//! Cron patterns in a time zone, and what becomes of them when clocks are changed.
//!
//! A pattern that names its hours speaks of readings of the clock: each is due once, at the first moment at
//! which the clocks have reached it. A reading that is jumped over is due at the jump, one that is repeated
//! is due the first time. A pattern that matches in every hour speaks of the passing of time: it is due
//! whenever the clocks show a match, so "every 15 minutes" stays that on both days.

use croner::Cron as Pattern;
use croner::parser::{CronParser, Seconds, Year};
use jiff::ToSpan;
use jiff::civil::DateTime;

use super::zone::{Zone, moment};
use crate::time::Timestamp;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 255;
/// A pattern whose next match is further away than this has none.
const HORIZON_YEARS: i32 = 100;

/// A cron pattern in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    pattern: Pattern,
    zone: Zone,
    /// Whether it matches in every hour of the day.
    hourly: bool,
}

impl Cron {
    /// Reads a pattern of five fields (minute, hour, day of month, month, day of week) or six, with seconds
    /// first; or a nickname such as `@daily`.
    ///
    /// # Errors
    /// A message that says what is wrong with it.
    pub fn parse(pattern: &str, zone: Zone) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!("a cron pattern has at most {MAX_PATTERN_BYTES} bytes"));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let pattern = parser.parse(pattern).map_err(|error| error.to_string())?;
        let hourly = (0..24).all(|hour| pattern.pattern.hour_match(hour).unwrap_or(false));
        Ok(Self { pattern, zone, hourly })
    }

    /// The time zone.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first time after a moment; `None` if the pattern has none within a hundred years.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = moment(after)?;
        let horizon = self.zone.local(after).checked_add(HORIZON_YEARS.years()).ok()?;
        let next =
            if self.hourly { self.next_shown(after, horizon) } else { self.next_reached(after, horizon) };
        next.map(|at| Timestamp::from_micros(at.as_microsecond()))
    }

    /// The next match that the clocks show, from one change of the offset to the next.
    fn next_shown(&self, after: jiff::Timestamp, horizon: DateTime) -> Option<jiff::Timestamp> {
        let (mut since, mut inclusive) = (after, false);
        loop {
            let found = self.matching(self.zone.local(since), inclusive, horizon)?;
            match self.zone.at_offset_of(since, found)? {
                (at, Some(change)) if at >= change => (since, inclusive) = (change, true),
                (at, _) => return Some(at),
            }
        }
    }

    /// The next match that the clocks reach for the first time.
    fn next_reached(&self, after: jiff::Timestamp, horizon: DateTime) -> Option<jiff::Timestamp> {
        let mut local = self.zone.local(after);
        loop {
            local = self.matching(local, false, horizon)?;
            let at = self.zone.first(local)?;
            // In the second pass over an hour, its readings have been reached already.
            if at > after {
                return Some(at);
            }
        }
    }

    /// The next reading that matches, whether a clock ever shows it or not.
    fn matching(&self, local: DateTime, inclusive: bool, horizon: DateTime) -> Option<DateTime> {
        let found = self.pattern.find_next_occurrence(&local, inclusive).ok()?;
        (found <= horizon).then_some(found)
    }
}
