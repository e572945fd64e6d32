//! The locks of the event store, and the register that the lock table keeps where there is no shared memory.
//!
//! They look like advisory locks, but their fourth field keeps them apart from every user's; `pg_locks` shows it as
//! `objsubid`. All last until the transaction ends, in this order: categories, then streams, each sorted.

use pgrx::pg_sys;

use super::name;

/// What a lock is about; the numbers are seen in `pg_locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    /// A category: shared by its writers, exclusive for `acquire_lock`.
    Category = 78,
    /// A stream: one writer at a time.
    Stream = 79,
    /// A bound below the positions a transaction may hold, without shared memory only.
    Bound = 80,
    /// The jump of the sequence after a crash.
    Jump = 81,
    /// A consumer's member: one commit at a time.
    Consumer = 82,
}

fn tag(kind: Kind, high: u32, low: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: a plain global of this process.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: high,
        locktag_field3: low,
        locktag_field4: kind as u16,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

fn acquire(tag: &pg_sys::LOCKTAG, mode: u32) {
    // SAFETY: the tag is fully set; waits like any lock, with deadlock detection and lock_timeout.
    unsafe { pg_sys::LockAcquire(tag, mode as pg_sys::LOCKMODE, false, false) };
}

fn try_acquire(tag: &pg_sys::LOCKTAG, mode: u32) -> bool {
    // SAFETY: the tag is fully set; does not wait.
    let result = unsafe { pg_sys::LockAcquire(tag, mode as pg_sys::LOCKMODE, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes a lock alone.
pub(super) fn exclusive(kind: Kind, high: u32, low: u32) {
    acquire(&tag(kind, high, low), pg_sys::ExclusiveLock);
}

/// Gives a lock back before the transaction ends.
pub(super) fn release(kind: Kind, high: u32, low: u32) {
    // SAFETY: the tag is fully set; a lock that is not held only warns.
    unsafe { pg_sys::LockRelease(&tag(kind, high, low), pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false) };
}

/// The two halves of a 64-bit key.
pub(super) fn halves(key: i64) -> (u32, u32) {
    let key = key.cast_unsigned();
    ((key >> 32) as u32, key as u32)
}

/// The key of a stream: its project is part of it, so that tenants never wait for each other.
pub(super) fn stream_key(project: i32, stream: &str) -> i64 {
    name::hash_of(&[&project.to_be_bytes(), stream.as_bytes()])
}

/// Takes the lock of a stream.
pub(super) fn stream(key: i64) {
    let (high, low) = halves(key);
    exclusive(Kind::Stream, high, low);
}

/// Takes the locks that an append to a stream needs, if nobody holds them. Without waiting: for turns.
pub(super) fn try_stream(key: i64, project: i32, category: i64) -> bool {
    let (high, low) = halves(key);
    try_acquire(&category_tag(project, category), pg_sys::ShareLock)
        && try_acquire(&tag(Kind::Stream, high, low), pg_sys::ExclusiveLock)
}

/// The whole group of a consumer; ids wrap at 32 bits, where two consumers would share a lock.
const GROUP: u32 = u32::MAX;

fn group_tag(consumer: i64) -> pg_sys::LOCKTAG {
    tag(Kind::Consumer, halves(consumer).1, GROUP)
}

/// Keeps the size of a consumer's group from changing.
pub(super) fn group_shared(consumer: i64) {
    acquire(&group_tag(consumer), pg_sys::ShareLock);
}

/// Takes a consumer's group alone: no member moves.
pub(super) fn group_exclusive(consumer: i64) {
    acquire(&group_tag(consumer), pg_sys::ExclusiveLock);
}

/// Takes one member of a consumer.
pub(super) fn member(consumer: i64, member: u32) {
    exclusive(Kind::Consumer, halves(consumer).1, member);
}

fn category_tag(project: i32, hash: i64) -> pg_sys::LOCKTAG {
    // Half of the hash: categories that collide only share what is about one of them.
    tag(Kind::Category, project.cast_unsigned(), halves(hash).1)
}

/// Takes the lock of a category as one of its writers.
pub(super) fn category_shared(project: i32, hash: i64) {
    acquire(&category_tag(project, hash), pg_sys::ShareLock);
}

/// Takes the lock of a category alone: its writers wait.
pub(super) fn category_exclusive(project: i32, hash: i64) {
    acquire(&category_tag(project, hash), pg_sys::ExclusiveLock);
}

/// Registers a bound in the lock table. Taken anew by each append: a subtransaction that is rolled back gives back
/// what was taken inside it.
pub(super) fn bound(bound: i64) {
    let (high, low) = halves(bound);
    acquire(&tag(Kind::Bound, high, low), pg_sys::ShareLock);
}

/// A transaction that the lock table knows to hold positions.
#[derive(Clone, Debug, Default)]
pub(super) struct Registered {
    /// Its process.
    pub pid: i32,
    /// Bounds it holds; none: it has drawn nothing yet.
    pub bounds: Vec<i64>,
    /// Project and half hash of the categories it writes.
    pub categories: Vec<(i32, u32)>,
}

/// What the lock table says of this database's writers, other than this process, in one look.
pub(super) fn registered() -> Vec<Registered> {
    let mut found: Vec<Registered> = Vec::new();
    // SAFETY: the server's own copy of the lock table, taken with all its partitions locked at once.
    unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        for n in 0..count {
            let lock = &*(*data).locks.add(n);
            let tag = &lock.locktag;
            if u32::from(tag.locktag_type) != pg_sys::LockTagType::LOCKTAG_ADVISORY
                || tag.locktag_field1 != pg_sys::MyDatabaseId.to_u32()
                || lock.holdMask == 0
                || lock.pid == pg_sys::MyProcPid
            {
                continue;
            }
            let kind = tag.locktag_field4;
            if kind != Kind::Bound as u16 && kind != Kind::Category as u16 {
                continue;
            }
            let index = found.iter().position(|one| one.pid == lock.pid).unwrap_or(found.len());
            if index == found.len() {
                found.push(Registered { pid: lock.pid, ..Registered::default() });
            }
            let Some(one) = found.get_mut(index) else { continue };
            if kind == Kind::Bound as u16 {
                let key = u64::from(tag.locktag_field2) << 32 | u64::from(tag.locktag_field3);
                one.bounds.push(key.cast_signed());
            } else {
                one.categories.push((tag.locktag_field2.cast_signed(), tag.locktag_field3));
            }
        }
        pg_sys::pfree((*data).locks.cast());
        pg_sys::pfree(data.cast());
    }
    found
}
