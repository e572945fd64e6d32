//! What callers say of a schedule, checked before anything is written.

use meshhook_engine::schedule::{Cron, MAX_PERIOD_MICROS, MIN_PERIOD_MICROS, Overlap, Rule, Zone};
use meshhook_engine::time::Timestamp;
use pgrx::datum::{Interval, TimestampWithTimeZone};

use crate::error::bad_parameter;
use crate::random::unix_micros;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Shortest catch-up window, in microseconds: shorter than any restart of a server would lose times.
const MIN_CATCH_UP_MICROS: i64 = 10_000_000;
/// Years that can be written with four digits, in microseconds since 1970.
const MOMENTS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// The times of a schedule as they were asked for, and as the engine takes them.
#[derive(Debug)]
pub struct Times {
    /// The cron pattern.
    pub cron: Option<String>,
    /// The period in microseconds.
    pub every: Option<i64>,
    /// Where periods are counted from.
    pub anchor: Option<Timestamp>,
    /// The time zone, as the database of zones writes it.
    pub zone: Zone,
}

impl Times {
    /// Checks what was asked for. Raises 22023.
    pub fn of(
        cron: Option<&str>,
        every: Option<Interval>,
        time_zone: &str,
        anchor: Option<TimestampWithTimeZone>,
    ) -> Self {
        if cron.is_some() == every.is_some() {
            bad_parameter("a schedule has either a cron pattern or a period")
                .hint(
                    "Give one of cron (for example '0 9 * * MON-FRI') and every (for example '15 minutes').",
                )
                .raise();
        }
        if anchor.is_some() && every.is_none() {
            bad_parameter("anchor is where periods are counted from: it goes with every").raise();
        }
        let Some(zone) = Zone::named(time_zone) else {
            bad_parameter(format!("there is no time zone \"{time_zone}\""))
                .hint("Give a name of the IANA database, for example 'Europe/Berlin' or 'UTC'.")
                .raise()
        };
        let cron = cron.map(|pattern| pattern.trim().to_owned());
        Self { cron, every: every.map(period), anchor: anchor.map(|at| moment("anchor", at)), zone }
    }

    /// Counts periods from this moment if nothing else was said.
    pub fn anchored_at(mut self, moment: Timestamp) -> Self {
        self.anchor = self.anchor.or_else(|| self.every.map(|_| moment));
        self
    }

    /// As the engine takes it. Raises 22023 for a pattern that is none.
    pub fn rule(&self) -> Rule {
        match (&self.cron, self.every, self.anchor) {
            (Some(pattern), _, _) => Rule::Cron(Box::new(
                Cron::parse(pattern, self.zone.clone()).unwrap_or_else(|error| no_pattern(pattern, &error)),
            )),
            (None, Some(period), Some(anchor)) => Rule::Every { period, anchor },
            _ => crate::error::bug("a schedule has neither pattern nor period"),
        }
    }

    /// The first time after a moment. Raises 22023 if there is none.
    pub fn first_after(&self, after: Timestamp) -> Timestamp {
        self.rule().next_after(after).unwrap_or_else(|| {
            let what = self.cron.as_deref().unwrap_or("the period");
            bad_parameter(format!("\"{what}\" matches no time of the next hundred years")).raise()
        })
    }
}

fn no_pattern(pattern: &str, error: &str) -> ! {
    bad_parameter(format!("\"{pattern}\" is not a cron pattern"))
        .detail(error)
        .hint("Give minute, hour, day of month, month, day of week, and before them seconds if you like: '0 9 * * MON-FRI', '*/10 * * * * *'.")
        .raise()
}

fn period(every: Interval) -> i64 {
    if every.months() != 0 {
        bad_parameter("a period has no months or years: their length differs")
            .hint("Use cron: '0 0 1 * *' is the first of each month.")
            .raise();
    }
    within("every", every, MIN_PERIOD_MICROS, "1 second")
}

/// A catch-up window in microseconds. Raises 22023.
pub fn catch_up(window: Interval) -> i64 {
    within("catch_up", window, MIN_CATCH_UP_MICROS, "10 seconds")
}

/// How far times are spread, in microseconds. Raises 22023.
pub fn jitter(spread: Interval) -> i64 {
    within("jitter", spread, 0, "0")
}

fn within(name: &str, value: Interval, shortest: i64, in_words: &str) -> i64 {
    match i64::try_from(value.as_micros()) {
        Ok(micros) if (shortest..=MAX_PERIOD_MICROS).contains(&micros) => micros,
        _ => bad_parameter(format!("{name} must be from {in_words} to 36500 days")).raise(),
    }
}

/// A point in time between the years 1 and 9999. Raises 22023.
pub fn moment(name: &str, at: TimestampWithTimeZone) -> Timestamp {
    let micros = unix_micros(at);
    if !MOMENTS.contains(&micros) {
        bad_parameter(format!("{name} must be between the years 1 and 9999")).raise();
    }
    Timestamp::from_micros(micros)
}

/// An overlap policy by name. Raises 22023.
pub fn overlap(name: &str) -> Overlap {
    Overlap::by_name(name).unwrap_or_else(|| {
        let names = Overlap::ALL.map(Overlap::name).join(", ");
        bad_parameter(format!("there is no overlap policy \"{name}\""))
            .hint(format!("There are: {names}."))
            .raise()
    })
}

/// Refuses what cannot be a schedule's name: 22023.
pub fn check_name(name: &str) {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        bad_parameter(format!(
            "the name of a schedule has 1 to {MAX_NAME_BYTES} bytes without control characters"
        ))
        .raise();
    }
}
