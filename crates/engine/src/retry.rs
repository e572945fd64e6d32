//! How long to wait before the next attempt: exponential back-off, a cap, and jitter from a recorded seed.
//!
//! The random part is a function of (run seed, node, attempt), so that a replay draws the same delay.

use sha2::{Digest, Sha256};

use crate::error::ErrorInfo;

/// How the delay before an attempt is drawn from the computed back-off `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Exactly `d`.
    None,
    /// Uniform in 0..=`d` ("full jitter", M. Brooker, AWS Architecture Blog 2015).
    Full,
    /// Uniform in `d`/2..=`d` ("equal jitter", same source).
    Equal,
}

/// Errors that a retry policy speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    /// This class.
    Class(String),
    /// Every class that begins so.
    Prefix(String),
    /// These HTTP statuses.
    Statuses(std::ops::RangeInclusive<u16>),
}

impl Matcher {
    /// Reads `timeout`, `http.*`, `429` or `5xx`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(hundreds) = text.strip_suffix("xx").and_then(|digit| digit.parse::<u16>().ok()) {
            let statuses = hundreds * 100..=hundreds * 100 + 99;
            return (1..=5).contains(&hundreds).then_some(Self::Statuses(statuses));
        }
        if let Ok(status) = text.parse::<u16>() {
            return (100..=599).contains(&status).then_some(Self::Statuses(status..=status));
        }
        let (class, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let sound =
            class.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        match is_prefix {
            true if sound => Some(Self::Prefix(class.to_owned())),
            false if sound && !class.is_empty() => Some(Self::Class(class.to_owned())),
            _ => None,
        }
    }

    /// Whether it speaks of this error.
    #[must_use]
    pub fn matches(&self, error: &ErrorInfo) -> bool {
        match self {
            Self::Class(class) => *class == *error.class,
            Self::Prefix(prefix) => error.class.starts_with(prefix.as_str()),
            Self::Statuses(statuses) => error.status.is_some_and(|status| statuses.contains(&status)),
        }
    }
}

/// The retry policy of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 1 means no retry.
    pub max_attempts: u32,
    /// Back-off before the second attempt, in milliseconds.
    pub initial_ms: u64,
    /// What each further back-off is multiplied with.
    pub factor: f64,
    /// The largest back-off, in milliseconds.
    pub max_ms: u64,
    /// The back-offs one by one, in milliseconds, in place of the computed ones.
    pub delays_ms: Option<Vec<u64>>,
    /// How the delay is drawn.
    pub jitter: Jitter,
    /// How long after the node began another attempt may begin, in milliseconds.
    pub max_elapsed_ms: Option<u64>,
    /// The only errors that are tried again, whatever is said of them elsewhere.
    pub only_on: Option<Vec<Matcher>>,
    /// Errors that are never tried again.
    pub never_on: Vec<Matcher>,
}

impl Default for RetryPolicy {
    /// Five attempts, 1 s, doubled, at most 5 min, full jitter.
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial_ms: 1_000,
            factor: 2.0,
            max_ms: 300_000,
            delays_ms: None,
            jitter: Jitter::Full,
            max_elapsed_ms: None,
            only_on: None,
            never_on: Vec::new(),
        }
    }
}

/// The longest a peer's `Retry-After` is honoured, in milliseconds: one hour.
pub const MAX_RETRY_AFTER_MS: u64 = 3_600_000;

impl RetryPolicy {
    /// A policy that never tries twice.
    #[must_use]
    pub fn never() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }

    /// Whether an attempt that failed so is followed by another one.
    #[must_use]
    pub fn allows(&self, error: &ErrorInfo) -> bool {
        if self.never_on.iter().any(|matcher| matcher.matches(error)) {
            return false;
        }
        match &self.only_on {
            Some(only) => only.iter().any(|matcher| matcher.matches(error)),
            None => error.retryable != Some(false),
        }
    }

    /// Milliseconds to wait after attempt `failed` (1 for the first), or `None` when none is left.
    ///
    /// A `retry_after_ms` asked for by the peer lengthens the delay, up to [`MAX_RETRY_AFTER_MS`].
    #[must_use]
    pub fn delay_ms(&self, failed: u32, retry_after_ms: Option<u64>, seed: u64, node: &str) -> Option<u64> {
        if failed >= self.max_attempts {
            return None;
        }
        let backoff = self.backoff_ms(failed.saturating_sub(1))?;
        let delay = match self.jitter {
            Jitter::None => backoff,
            Jitter::Full => backoff * fraction(seed, node, failed),
            Jitter::Equal => backoff * (1.0 + fraction(seed, node, failed)) / 2.0,
        };
        let hint = retry_after_ms.unwrap_or(0).min(MAX_RETRY_AFTER_MS);
        Some((delay as u64).max(hint))
    }

    /// The back-off after so many others.
    fn backoff_ms(&self, earlier: u32) -> Option<f64> {
        if let Some(delays) = &self.delays_ms {
            return delays.get(earlier as usize).map(|millis| *millis as f64);
        }
        let exponent = i32::try_from(earlier).unwrap_or(i32::MAX);
        // Kept finite, because nothing times infinity is not a number.
        let growth = self.factor.powi(exponent).min(f64::MAX);
        Some((self.initial_ms as f64 * growth).min(self.max_ms as f64))
    }
}

/// A number in 0.0..1.0 that depends on its arguments only: the first 53 bits of a SHA-256.
pub(crate) fn fraction(seed: u64, what: &str, count: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(what.as_bytes());
    hash.update(count.to_be_bytes());
    let digest = hash.finalize();
    let bits = digest.iter().take(8).fold(0u64, |acc, byte| (acc << 8) | u64::from(*byte));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn backs_off_exponentially_up_to_the_cap() {
        let policy =
            RetryPolicy { max_attempts: 6, max_ms: 5_000, jitter: Jitter::None, ..RetryPolicy::default() };
        let delays: Vec<_> = (1..=6).map(|n| policy.delay_ms(n, None, 1, "a")).collect();
        assert_eq!(delays, [Some(1_000), Some(2_000), Some(4_000), Some(5_000), Some(5_000), None]);
    }

    #[test]
    fn no_back_off_stays_none_however_often_it_is_multiplied() {
        let policy =
            RetryPolicy { max_attempts: 1_000, initial_ms: 0, factor: 100.0, ..RetryPolicy::default() };
        assert_eq!(policy.delay_ms(999, None, 1, "a"), Some(0));
    }

    #[test]
    fn honours_the_peers_hint_up_to_an_hour() {
        let policy = RetryPolicy { jitter: Jitter::None, ..RetryPolicy::default() };
        assert_eq!(policy.delay_ms(1, Some(90_000), 1, "a"), Some(90_000));
        assert_eq!(policy.delay_ms(1, Some(10), 1, "a"), Some(1_000));
        assert_eq!(policy.delay_ms(1, Some(u64::MAX), 1, "a"), Some(MAX_RETRY_AFTER_MS));
    }

    #[test]
    fn delays_that_are_given_are_those_that_are_waited() {
        let delays_ms = Some(vec![5_000, 300_000, 0]);
        let policy =
            RetryPolicy { max_attempts: 4, delays_ms, jitter: Jitter::None, ..RetryPolicy::default() };
        let delays: Vec<_> = (1..=4).map(|n| policy.delay_ms(n, None, 1, "a")).collect();
        assert_eq!(delays, [Some(5_000), Some(300_000), Some(0), None]);
        assert_eq!(policy.delay_ms(3, Some(90_000), 1, "a"), Some(90_000));
    }

    #[test]
    fn one_attempt_means_no_retry() {
        assert_eq!(RetryPolicy::never().delay_ms(1, None, 1, "a"), None);
    }

    #[test]
    fn full_jitter_covers_its_range_evenly() {
        let policy = RetryPolicy::default();
        let delays: Vec<u64> = (0..4_000).filter_map(|seed| policy.delay_ms(1, None, seed, "a")).collect();
        let mean = delays.iter().sum::<u64>() / delays.len() as u64;
        assert!((450..550).contains(&mean), "mean {mean} ms of a uniform 0..1000 ms");
        assert!(delays.iter().all(|d| *d < 1_000));
    }

    proptest! {
        #[test]
        fn is_a_function_of_its_arguments(seed: u64, attempt in 1u32..1_000_000, node in "[a-z]{1,8}", factor in 1.0f64..100.0) {
            let policy = RetryPolicy { max_attempts: u32::MAX, factor, ..RetryPolicy::default() };
            let first = policy.delay_ms(attempt, None, seed, &node);
            prop_assert_eq!(first, policy.delay_ms(attempt, None, seed, &node));
            prop_assert!(first.is_some_and(|d| d <= policy.max_ms));
        }
    }
}
