//! Telling listeners and standbys what was appended, off the writers' path.
//!
//! Decides how often: the first append after a pause is announced at once, what follows at most every 10 ms. Writers
//! raise a flag and set a latch, once for each announcement; the NOTIFY, with its lock that all notifying commits of
//! the cluster share, is this process's.

use super::ffi;
use super::probe::{self, Probe};
use super::transaction::{self, Failure};
use crate::event_store::{self, Listeners};
use crate::shmem;
use std::time::Duration;

/// Pause between two announcements, in microseconds.
const PERIOD: i64 = 10_000;
/// Without a commit that calls, positions are looked at this often, in microseconds.
const POLL: i64 = 200_000;
/// After an announcement that failed, in microseconds.
const AFTER_FAILURE: i64 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(5);

/// What was announced, and when the next time may be.
#[derive(Debug)]
pub(super) struct Announcer {
    /// The position assigned last when the last announcement was made.
    announced: i64,
    /// Not before this time (microseconds since 2000).
    not_before: i64,
    /// This process's own turns have drawn positions since: a standby is to hear of them, listeners are not.
    moved: bool,
    /// Nothing was announced yet: what was appended before this process was there raised no flag.
    first: bool,
}

impl Announcer {
    /// One that begins with an announcement.
    pub fn new() -> Self {
        Self { announced: 0, not_before: 0, moved: false, first: true }
    }

    /// Notes that a turn of this process drew positions.
    pub fn note_turn(&mut self) {
        self.moved = true;
    }

    /// When an announcement is to be made, if one is (microseconds since 2000). `link` is none where no commit calls.
    pub fn due(&self, link: Option<&shmem::Link>) -> Option<i64> {
        let now = ffi::now();
        // A pause longer than any is one by a clock that was set back since.
        let due = if self.not_before - now > AFTER_FAILURE { now } else { self.not_before };
        link.is_none_or(|link| self.first || self.moved || link.appended()).then_some(due)
    }

    /// Makes one.
    pub fn announce(&mut self, link: Option<&shmem::Link>) -> Result<(), Failure> {
        let listeners = match link {
            Some(link) if link.appended() => Listeners::Notify,
            Some(_) if !self.first => Listeners::Leave,
            _ => Listeners::NotifyIfMoved,
        };
        if let Some(link) = link {
            link.begin_announcement();
        }
        self.moved = false;
        let announced = self.announced;
        let result = transaction::run(c"meshhook: announcing messages", LIMIT, || match probe::probe() {
            Probe::Ready { owner, .. } => {
                transaction::act_as(owner);
                event_store::announce(announced, listeners)
            }
            _ => announced,
        });
        let pause = match &result {
            Ok(_) if link.is_some() => PERIOD,
            Ok(_) => POLL,
            Err(_) => AFTER_FAILURE,
        };
        self.not_before = ffi::now().saturating_add(pause);
        self.first &= result.is_err();
        result.map(|announced| self.announced = announced)
    }
}
