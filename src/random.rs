//! Randomness and time from the server. The engine sees either only once it is recorded.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::bug;

/// Microseconds from 1970-01-01 to 2000-01-01, the epoch of Postgres.
pub const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Cryptographically strong random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    // SAFETY: the buffer has the length said.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) } {
        bug("the server has no random numbers to give");
    }
    bytes
}

/// A seed for a run's draws: 63 bits, so that it fits a bigint.
pub fn seed() -> i64 {
    i64::from_be_bytes(bytes::<8>()) & i64::MAX
}

/// Microseconds since 1970 by the server's clock.
pub fn now_micros() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }.saturating_add(PG_EPOCH_MICROS)
}

/// A point in time as Postgres takes it.
pub fn timestamptz(unix_micros: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(unix_micros.saturating_sub(PG_EPOCH_MICROS))
        .unwrap_or_else(|_| bug("a time is out of the server's range"))
}

/// Microseconds since 1970 of a Postgres time.
pub fn unix_micros(at: TimestampWithTimeZone) -> i64 {
    i64::from(at).saturating_add(PG_EPOCH_MICROS)
}

/// A new time-ordered id (UUIDv7, RFC 9562) and its time.
pub fn uuid_v7() -> (pgrx::Uuid, TimestampWithTimeZone) {
    let micros = now_micros();
    (Ids::at(micros).next_id(), timestamptz(micros))
}

/// Ids of one moment that follow each other: random numbers are asked for once, and an index takes what comes in order
/// at its right end (RFC 9562, 6.2, method 2).
#[derive(Debug)]
pub struct Ids {
    millis: u64,
    random: [u8; 10],
    /// The 62 bits behind the variant; begins with a clear top bit, so that counting on never runs over.
    low: u64,
}

impl Ids {
    /// Ids of now.
    pub fn new() -> Self {
        Self::at(now_micros())
    }

    fn at(micros: i64) -> Self {
        let random = bytes::<10>();
        let low = random.iter().skip(2).fold(0u64, |low, byte| low << 8 | u64::from(*byte));
        Self { millis: u64::try_from(micros / 1000).unwrap_or(0), random, low: low & (u64::MAX >> 3) }
    }

    /// The next one.
    pub fn next_id(&mut self) -> pgrx::Uuid {
        let mut random = self.random;
        random.iter_mut().skip(2).zip(self.low.to_be_bytes()).for_each(|(to, from)| *to = from);
        self.low += 1;
        let id = uuid::Builder::from_unix_timestamp_millis(self.millis, &random).into_uuid();
        pgrx::Uuid::from_bytes(*id.as_bytes())
    }
}
