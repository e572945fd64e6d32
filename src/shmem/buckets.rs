//! What is left of rates that are counted in memory: of webhooks.
//!
//! A rate that every delivery pays in a row would have its senders wait for each other's commits; here they only share
//! a number. What is counted is forgotten when the server restarts, and without preloading each process counts for
//! itself. Must not: allocate or raise.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU64};

use meshhook_engine::rate::Rate;

use super::{my_database, shared};

/// Buckets that are counted at once.
const BUCKETS: usize = 4096;
/// Places a bucket can be at.
const PLACES: usize = 16;

/// One bucket. One that is full is as good as none, so its place is free for another. All zeroes is such a place.
#[repr(C)]
struct Bucket {
    key: AtomicU64,
    /// Until when what was taken is paid for, in microseconds since 1970.
    paid: AtomicI64,
}

/// The buckets of all databases.
#[repr(C)]
pub(super) struct Table([Bucket; BUCKETS]);

/// The buckets of a process without shared memory.
static OWN: Table = Table([const { Bucket { key: AtomicU64::new(0), paid: AtomicI64::new(0) } }; BUCKETS]);

/// A bucket's name across processes; never 0.
#[derive(Clone, Copy, Debug)]
pub struct Key(u64);

impl Key {
    /// Of something of this database.
    pub fn of(name: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        (my_database(), name).hash(&mut hasher);
        Self(hasher.finish().max(1))
    }
}

/// Takes one out of a bucket, and tells until when it is paid now.
///
/// # Errors
/// When nothing is left, the time at which the next one can be taken.
pub fn take(key: Key, rate: Rate, now: i64) -> Result<i64, i64> {
    table().find(key, now).take(rate, now)
}

/// Puts back one that was taken.
pub fn put_back(key: Key, rate: Rate, now: i64) {
    table().find(key, now).paid.fetch_sub(rate.step(), Relaxed);
}

fn table() -> &'static Table {
    shared().map_or(&OWN, |shared| &shared.buckets)
}

impl Bucket {
    fn take(&self, rate: Rate, now: i64) -> Result<i64, i64> {
        let mut paid = self.paid.load(Relaxed);
        loop {
            let next = rate.take(paid, now)?;
            match self.paid.compare_exchange_weak(paid, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(next),
                Err(other) => paid = other,
            }
        }
    }
}

impl Table {
    /// The bucket of a key. Where all its places are in use by others, the one with most left is given up: its senders
    /// are forgiven.
    fn find(&self, key: Key, now: i64) -> &Bucket {
        let start = usize::try_from(key.0 % BUCKETS as u64).unwrap_or(0);
        let places = || (0..PLACES).map(|step| &self.0[(start + step) % BUCKETS]);
        loop {
            if let Some(found) = places().find(|place| place.key.load(Relaxed) == key.0) {
                return found;
            }
            let paid = |place: &&Bucket| place.paid.load(Relaxed).max(now);
            let Some(place) = places().min_by_key(paid) else { return &self.0[start] };
            let holder = place.key.load(Relaxed);
            // Whoever was quicker may have put the same key here, or another: then look again.
            if holder != key.0 && place.key.compare_exchange(holder, key.0, Relaxed, Relaxed).is_ok() {
                place.paid.fetch_min(now, Relaxed);
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate() -> Rate {
        Rate::new(2, 100)
    }

    fn empty() -> Box<Table> {
        Box::new(Table([const { Bucket { key: AtomicU64::new(0), paid: AtomicI64::new(0) } }; BUCKETS]))
    }

    #[test]
    fn keys_are_counted_apart() {
        let table = empty();
        let take = |key, now| table.find(Key(key), now).take(rate(), now);
        assert_eq!([take(1, 10), take(1, 10), take(1, 10)], [Ok(60), Ok(110), Err(60)]);
        // The same place first, so it moves on.
        assert_eq!(take(1 + BUCKETS as u64, 10), Ok(60));
        assert_eq!(take(1, 60), Ok(160));
    }

    #[test]
    fn of_too_many_the_one_with_most_left_is_forgiven() {
        let table = empty();
        for n in 0..PLACES as u64 {
            let key = Key(1 + n * BUCKETS as u64);
            let _ = table.find(key, 10).take(rate(), 10);
            if n != 5 {
                let _ = table.find(key, 10).take(rate(), 10);
            }
        }
        let more = Key(1 + 99 * BUCKETS as u64);
        assert_eq!(table.find(more, 10).take(rate(), 10), Ok(60));
        assert_eq!(table.find(Key(1), 10).take(rate(), 10), Err(60));
        assert!(table.0.iter().all(|place| place.key.load(Relaxed) != 1 + 5 * BUCKETS as u64));
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let (table, rate) = (empty(), Rate::new(1000, 1_000_000_000));
        let taken: usize = std::thread::scope(|scope| {
            let one = || (0..1000).filter(|_| table.find(Key(7), 10).take(rate, 10).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
