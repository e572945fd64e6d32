//! One admission at a time for each workflow: a lock that is tried and never waited for.

use pgrx::pg_sys;

/// Keeps it apart from users' advisory locks; 78 to 82 are the event store's. `pg_locks` shows it as `objsubid`.
const ADMISSION: u16 = 83;

/// Takes a workflow's admission until the transaction ends; false if another session has it. Ids wrap at 32 bits,
/// where two workflows would share a lock.
pub(super) fn try_workflow(project: i32, workflow: i64) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: a plain global of this process.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: project.cast_unsigned(),
        locktag_field3: (workflow.cast_unsigned() & u64::from(u32::MAX)) as u32,
        locktag_field4: ADMISSION,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    // SAFETY: the tag is fully set; dontWait, so that a held lock is an answer.
    let taken = unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, true) };
    taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}
