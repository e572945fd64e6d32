//! Points in time and durations as the engine sees them: plain numbers that came in as data.
//!
//! The engine never reads a clock. A [`Timestamp`] is handed to it with every fact and recorded
//! with every event, so that a replay sees the very same one.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01 00:00:00 UTC, the resolution Postgres keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The longest duration a definition may name: 100 years of 365 days.
pub const MAX_DURATION_MS: u64 = 100 * 365 * 86_400_000;

impl Timestamp {
    /// A point in time from microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time plus a number of milliseconds; stops at the end of the range.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        let micros = i64::try_from(millis.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Reads an RFC 3339 time, as [`fmt::Display`] writes it.
    ///
    /// # Errors
    /// The text is no RFC 3339 time.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|_| format!("\"{text}\" is not an RFC 3339 time"))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with six digits, so that equal times are equal texts and texts sort like times.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) if self.0 < 0 => f.write_str("-infinity"),
            Err(_) => f.write_str("infinity"),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Reads a duration such as `500ms`, `30s`, `5m`, `1h 30m`, `30d` or ISO 8601 `PT5M` into milliseconds.
///
/// A day is 24 hours and a week seven days; months and years have no fixed length and are refused.
///
/// # Errors
/// A message that says what is wrong with the text.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let complaint = || {
        format!(
            "\"{text}\" is not a duration; write for example \"500ms\", \"30s\", \"5m\", \"1h 30m\" or \"7d\""
        )
    };
    let span: jiff::Span = text.trim().parse().map_err(|_| complaint())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(format!("\"{text}\" names months or years, which have no fixed length; use days"));
    }
    let millis =
        span.total(jiff::SpanRelativeTo::days_are_24_hours().unit_millis()).map_err(|_| complaint())?;
    if !(0.0..=MAX_DURATION_MS as f64).contains(&millis) {
        return Err(format!("\"{text}\" is not between 0 and 36500 days"));
    }
    Ok(millis.round() as u64)
}

/// `total` wants a unit and a relation together; this names the pair in use.
trait UnitMillis {
    fn unit_millis(self) -> (jiff::Unit, Self)
    where
        Self: Sized;
}

impl UnitMillis for jiff::SpanRelativeTo<'_> {
    fn unit_millis(self) -> (jiff::Unit, Self) {
        (jiff::Unit::Millisecond, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_sort_as_text() {
        let a = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(a.to_string(), "2023-11-14T22:13:20.123456Z");
        assert_eq!(Timestamp::parse(&a.to_string()), Ok(a));
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert!(a.to_string() < a.plus_millis(1).to_string());
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1_500),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("PT5M", 300_000),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "5", "abc", "-1s", "1month", "1y", "99999999d"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }
}
