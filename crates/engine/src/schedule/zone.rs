//! Time zones from the tables built into this release, so that the host's own never decide.

use std::fmt;
use std::sync::LazyLock;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use crate::time::Timestamp;

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(TimeZone);

impl Zone {
    /// A zone by its IANA name, in any case; `None` if there is none of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        DATABASE.get(name).ok().map(Self)
    }

    /// Its name as the database writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// What the clocks of the zone read at a moment, with offset and zone (RFC 9557).
    #[must_use]
    pub fn reading(&self, at: Timestamp) -> String {
        match moment(at) {
            Some(moment) => moment.to_zoned(self.0.clone()).to_string(),
            None => at.to_string(),
        }
    }

    /// What the clocks read at a moment.
    pub(super) fn local(&self, at: jiff::Timestamp) -> DateTime {
        self.0.to_datetime(at)
    }

    /// The moment of a reading while the offset in force at `since` holds, and when that ends.
    pub(super) fn at_offset_of(
        &self,
        since: jiff::Timestamp,
        local: DateTime,
    ) -> Option<(jiff::Timestamp, Option<jiff::Timestamp>)> {
        let at = self.0.to_offset(since).to_timestamp(local).ok()?;
        Some((at, self.0.following(since).next().map(|change| change.timestamp())))
    }

    /// The first moment at which the clocks have reached a reading: where they repeat it, the earlier of the
    /// two; where they jump over it, the moment of the jump.
    pub(super) fn first(&self, local: DateTime) -> Option<jiff::Timestamp> {
        match self.0.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(local).ok()
            }
            AmbiguousOffset::Gap { after, .. } => {
                // With the offset of after the jump the reading lies before it.
                let before = after.to_timestamp(local).ok()?;
                self.0.following(before).next().map(|change| change.timestamp())
            }
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A moment as the calendar library takes it; `None` beyond the year 9999.
pub(super) fn moment(at: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(at.as_micros()).ok()
}
