//! A state as bytes, for a replay to start from instead of from the first event.
//!
//! A snapshot is the whole [`RunState`], status included, in its one spelling: the same state always has the same
//! bytes, and what is read back is the same state to the last digit. It is never believed: bytes that do not have the
//! hash that was stored with them, or that an engine with another idea of a state wrote, are refused, and the replay
//! starts further back.

use sha2::{Digest as _, Sha256};

use crate::state::RunState;

/// The shape of [`RunState`] in bytes. Raised with every change of it, also one that only adds a field: a snapshot of
/// another version is not read. `tests/snapshots.rs` holds the golden bytes of each version.
pub const ENGINE_STATE_VERSION: u32 = 1;

/// A state as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Position of the last event in it.
    pub position: u64,
    /// The [`ENGINE_STATE_VERSION`] of whoever wrote it.
    pub version: u32,
    /// SHA-256 over version and bytes.
    pub hash: [u8; 32],
    /// The state's text.
    pub bytes: Vec<u8>,
}

/// Why a snapshot is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It was written by an engine whose states look different.
    #[error("it is of state version {0}, this release reads version {ENGINE_STATE_VERSION}")]
    Version(u32),
    /// It is not what was written.
    #[error("its bytes do not have the hash that was stored with them")]
    Hash,
    /// It is no state.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is the state at another position than the one it is filed under.
    #[error("it holds the state at position {0}")]
    Position(u64),
}

impl Snapshot {
    /// A state as bytes.
    #[must_use]
    pub fn of(state: &RunState) -> Self {
        // Plain structs of strings, numbers and `Json`, with strings for keys, always serialise.
        let bytes = serde_json::to_vec(state)
            .unwrap_or_else(|error| unreachable!("a state does not serialise: {error}"));
        let version = ENGINE_STATE_VERSION;
        Self { position: state.position, version, hash: hash(version, &bytes), bytes }
    }

    /// The state, if these bytes can be trusted to be one.
    ///
    /// # Errors
    /// Another state version, a wrong hash, or bytes that are no state of this position.
    pub fn open(&self) -> Result<RunState, Unusable> {
        if self.version != ENGINE_STATE_VERSION {
            return Err(Unusable::Version(self.version));
        }
        if hash(self.version, &self.bytes) != self.hash {
            return Err(Unusable::Hash);
        }
        let state: RunState =
            serde_json::from_slice(&self.bytes).map_err(|error| Unusable::Unreadable(error.to_string()))?;
        if state.position != self.position {
            return Err(Unusable::Position(state.position));
        }
        Ok(state)
    }
}

fn hash(version: u32, bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(version.to_be_bytes()).chain_update(bytes).finalize().into()
}

/// When a run gets its next snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Events since the last one that call for the next; 0: never.
    pub events: u64,
    /// Bytes of events since the last one that call for the next; 0: never.
    pub bytes: u64,
}

/// How far a run's log has grown since its last snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Events since.
    pub events: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Size of the last snapshot; 0 without one.
    pub last: u64,
}

impl Growth {
    /// None yet behind a snapshot of this size.
    #[must_use]
    pub fn behind(size: usize) -> Self {
        Self { events: 0, bytes: 0, last: size as u64 }
    }

    /// Counts events.
    pub fn add(&mut self, events: usize, bytes: usize) {
        self.events = self.events.saturating_add(events as u64);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Whether a snapshot is due: enough events or bytes since the last one, and at least as many bytes as that one
    /// has. A state is hardly larger than the last snapshot and the events since, so whatever the size of the state,
    /// the snapshots of a run have together at most a small multiple of the bytes of its log.
    #[must_use]
    pub fn is_due(&self, cadence: Cadence) -> bool {
        let enough = |grown: u64, threshold: u64| threshold > 0 && grown >= threshold;
        (enough(self.events, cadence.events) || enough(self.bytes, cadence.bytes)) && self.bytes >= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_cannot_be_trusted_is_refused() {
        let state = RunState { position: 7, ..RunState::default() };
        let snapshot = Snapshot::of(&state);
        assert_eq!(snapshot.open(), Ok(state));
        let other = Snapshot { version: ENGINE_STATE_VERSION + 1, ..snapshot.clone() };
        assert_eq!(other.open(), Err(Unusable::Version(ENGINE_STATE_VERSION + 1)));
        let mut damaged = snapshot.clone();
        damaged.bytes[12] ^= 1;
        assert_eq!(damaged.open(), Err(Unusable::Hash));
        let moved = Snapshot { position: 8, ..snapshot };
        assert_eq!(moved.open(), Err(Unusable::Position(7)));
        let bytes = b"[]".to_vec();
        let odd = Snapshot {
            position: 0,
            version: ENGINE_STATE_VERSION,
            hash: hash(ENGINE_STATE_VERSION, &bytes),
            bytes,
        };
        assert!(matches!(odd.open(), Err(Unusable::Unreadable(_))));
    }

    #[test]
    fn snapshots_of_a_growing_state_cost_a_multiple_of_the_log() {
        let cadence = Cadence { events: 500, bytes: 256 << 10 };
        // The worst that can be: everything that is logged stays in the state.
        let (mut growth, mut log, mut written) = (Growth::default(), 0u64, 0u64);
        for _ in 0..200_000 {
            growth.add(1, 300);
            log += 300;
            if growth.is_due(cadence) {
                written += log;
                growth = Growth::behind(usize::try_from(log).unwrap());
            }
        }
        assert!(
            written > log / 2 && written < 3 * log,
            "{written} bytes of snapshots for {log} bytes of log"
        );
    }

    #[test]
    fn either_threshold_calls_for_a_snapshot_and_nought_never_does() {
        let grown = |events, bytes| Growth { events, bytes, last: 0 };
        let cadence = Cadence { events: 10, bytes: 1_000 };
        assert!(!grown(9, 999).is_due(cadence));
        assert!(grown(10, 20).is_due(cadence));
        assert!(grown(1, 1_000).is_due(cadence));
        assert!(!Growth { events: 10, bytes: 20, last: 21 }.is_due(cadence));
        assert!(!grown(u64::MAX, u64::MAX).is_due(Cadence { events: 0, bytes: 0 }));
    }
}
