//! Who may hold positions that are not decided yet, and who waits for messages.
//!
//! One cache line per server process. A transaction that is about to draw a position first publishes a lower bound
//! here; the callback at its end takes it away. A reader of messages stops at the lowest bound that could concern it,
//! so nobody waits for anybody. `crates/order-model` checks the protocol; `event_store::horizon` is its one user.
//!
//! Must not: be trusted without preloading (every function then says so), allocate, raise.

use super::{find, my_database, my_process, set_latch_of};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64};

/// Stands for every project in a slot.
pub(crate) const ANY_PROJECT: i32 = -1;

/// What one process holds and waits for. All zeroes is a process that does neither.
#[repr(C, align(64))]
struct Slot {
    /// 0: nothing drawn. Else the position assigned last when this was published, plus one.
    bound: AtomicI64,
    /// Bits of the categories that the transaction appends to.
    mask: AtomicU64,
    database: AtomicU32,
    project: AtomicI32,
    pid: AtomicI32,
    /// When the transaction began, as a `timestamptz`.
    since: AtomicI64,
    /// The transaction's number in its process: one can wait for its end by it.
    transaction: AtomicU32,
    /// A waiter was called since it last looked.
    called: AtomicBool,
    /// Bits of the categories waited for; 0: does not wait.
    awaited: AtomicU64,
    awaited_database: AtomicU32,
    awaited_project: AtomicI32,
}

/// The head of the segment; as many slots as the server has processes follow.
#[repr(C, align(64))]
struct Head {
    slots: AtomicU32,
    /// How many processes wait, so that an append looks for them only if there are any.
    waiting: AtomicI32,
    /// How many transactions keep the writers of a category out, so that a writer takes its category's lock only if
    /// there are any.
    excluding: AtomicI32,
}

static HEAD: AtomicPtr<Head> = AtomicPtr::new(std::ptr::null_mut());

/// Bytes to ask for. Only in the phase in which shared memory is requested.
pub(super) fn size() -> usize {
    size_of::<Head>() + process_count() * size_of::<Slot>()
}

/// Processes that can have a transaction: the limit is fixed before memory is requested.
fn process_count() -> usize {
    // SAFETY: a plain global of the postmaster.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// Attaches to the segment; in the start-up phase, by the postmaster alone.
pub(super) fn attach() {
    let mut found = false;
    // SAFETY: the area is cache-line aligned and of the size requested; all zeroes is a valid start.
    unsafe {
        let area = pg_sys::ShmemInitStruct(c"meshhook in flight".as_ptr(), size(), &raw mut found);
        if !found {
            area.cast::<u8>().write_bytes(0, size());
        }
        let head = area.cast::<Head>();
        (*head).slots.store(process_count() as u32, SeqCst);
        HEAD.store(head, SeqCst);
    }
}

fn head() -> Option<&'static Head> {
    // SAFETY: null or the segment mapped for the life of this process; it holds only atomics.
    unsafe { HEAD.load(Relaxed).as_ref() }
}

fn slots() -> &'static [Slot] {
    match head() {
        // SAFETY: the segment has this many slots behind its head, both aligned to 64 bytes.
        Some(head) => unsafe {
            let first = std::ptr::from_ref(head).add(1).cast::<Slot>();
            std::slice::from_raw_parts(first, head.slots.load(Relaxed) as usize)
        },
        None => &[],
    }
}

/// This process's slot. None: not preloaded, or a process without transactions.
fn mine() -> Option<&'static Slot> {
    slots().get((my_process() as usize).checked_sub(1)?)
}

/// Whether slots exist; without them the lock table keeps the register.
pub(crate) fn available() -> bool {
    mine().is_some()
}

/// Publishes that this transaction may hold positions above a bound, or adds to what it published. `last_assigned`
/// is asked once per transaction. What is drawn after this returns is covered.
pub(super) fn publish(project: i32, mask: u64, last_assigned: impl FnOnce() -> i64) {
    let Some(slot) = mine() else { return };
    if slot.bound.load(Relaxed) == 0 {
        // The bound last: a reader that sees it sees the rest, or sees that the slot's last owner has ended.
        let bound = last_assigned();
        // SAFETY: plain globals of this process.
        unsafe {
            slot.pid.store(pg_sys::MyProcPid, SeqCst);
            slot.since.store(pg_sys::GetCurrentTransactionStartTimestamp(), SeqCst);
            slot.transaction.store(local_transaction(pg_sys::MyProc), SeqCst);
        }
        slot.database.store(my_database(), SeqCst);
        slot.project.store(project, SeqCst);
        slot.mask.store(mask, SeqCst);
        slot.bound.store(bound + 1, SeqCst);
        return;
    }
    if slot.project.load(Relaxed) != project {
        slot.project.store(ANY_PROJECT, SeqCst);
    }
    slot.mask.fetch_or(mask, SeqCst);
}

/// The number of the transaction that a process is in.
unsafe fn local_transaction(process: *mut pg_sys::PGPROC) -> u32 {
    // SAFETY: the caller passes an entry of the proc array.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*process).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return (*process).vxid.lxid;
    }
}

/// The number of this process's transaction.
pub(crate) fn my_transaction() -> u32 {
    // SAFETY: this process's own entry, inside a transaction.
    unsafe { local_transaction(pg_sys::MyProc) }
}

/// The categories of a project that this transaction has published already.
pub(crate) fn published(project: i32) -> u64 {
    let mask = |slot: &Slot| {
        let of = slot.project.load(Relaxed);
        let concerned = slot.bound.load(Relaxed) != 0 && (of == project || of == ANY_PROJECT);
        if concerned { slot.mask.load(Relaxed) } else { 0 }
    };
    mine().map_or(0, mask)
}

/// Whether any transaction keeps the writers of a category out. Asked after publishing: either the writer sees that,
/// or whoever keeps out sees the writer.
pub(crate) fn excluding() -> bool {
    head().is_some_and(|head| head.excluding.load(SeqCst) != 0)
}

/// Adds to, or takes from, the transactions that keep writers out.
pub(super) fn count_excluding(by: i32) {
    if let Some(head) = head() {
        head.excluding.fetch_add(by, SeqCst);
    }
}

/// The transactions, other than this process's, that have published these categories of a project.
pub(crate) fn writers(project: i32, mask: u64) -> Vec<pg_sys::VirtualTransactionId> {
    let transaction = |(index, slot, _): (usize, &Slot, i64)| {
        #[allow(non_snake_case, reason = "the server's own names")]
        let localTransactionId = slot.transaction.load(SeqCst);
        // The slot lies where the process lies in the proc array.
        // SAFETY: the array has an entry for every slot and never moves.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            return pg_sys::VirtualTransactionId {
                backendId: (*(*pg_sys::ProcGlobal).allProcs.add(index)).backendId,
                localTransactionId,
            };
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            return pg_sys::VirtualTransactionId { procNumber: index as i32, localTransactionId };
        }
    };
    concerned(Some(project), mask).map(transaction).collect()
}

/// Takes this process's bound away; the transaction's effects are visible by now. Returns which project and
/// categories it concerned.
pub(super) fn clear() -> Option<(i32, u64)> {
    let slot = mine()?;
    if slot.bound.load(Relaxed) == 0 {
        return None;
    }
    let concerned = (slot.project.load(Relaxed), slot.mask.load(Relaxed));
    slot.bound.store(0, SeqCst);
    Some(concerned)
}

/// What another process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// The process.
    pub pid: i32,
    /// It may hold positions above this one.
    pub bound: i64,
    /// When its transaction began, as a `timestamptz`.
    pub since: i64,
}

/// The slots, with their places and bounds, of every process but this one that may hold positions of a project (None:
/// of any) and of these categories.
fn concerned(project: Option<i32>, mask: u64) -> impl Iterator<Item = (usize, &'static Slot, i64)> {
    let me = my_process() as usize;
    let database = my_database();
    slots().iter().enumerate().filter_map(move |(index, slot)| {
        // The bound first: if it is there, so is the rest, or the slot's last owner has ended.
        let bound = slot.bound.load(SeqCst);
        if bound == 0 || index + 1 == me || slot.database.load(SeqCst) != database {
            return None;
        }
        let of = slot.project.load(SeqCst);
        let concerns = of == ANY_PROJECT || project.is_none_or(|project| project == of);
        (concerns && slot.mask.load(SeqCst) & mask != 0).then_some((index, slot, bound - 1))
    })
}

/// What every process but this one may hold of a project (None: of any) and of these categories.
pub(crate) fn holders(project: Option<i32>, mask: u64) -> impl Iterator<Item = Holder> {
    concerned(project, mask).map(|(_, slot, bound)| Holder {
        pid: slot.pid.load(SeqCst),
        bound,
        since: slot.since.load(SeqCst),
    })
}

static EXIT_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Registers this process as one that waits for messages. From here on every end of a transaction that may have made
/// one readable calls it: look, then sleep. False: not preloaded, poll.
pub(crate) fn start_waiting(project: i32, mask: u64) -> bool {
    let (Some(head), Some(slot)) = (head(), mine()) else { return false };
    // An abort ends the waiting.
    super::commit::register_callback();
    if !EXIT_REGISTERED.swap(true, Relaxed) {
        // SAFETY: registration of a callback that lives as long as the library.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) }
    }
    slot.awaited_database.store(my_database(), SeqCst);
    slot.awaited_project.store(project, SeqCst);
    slot.called.store(false, SeqCst);
    if slot.awaited.swap(mask, SeqCst) == 0 {
        head.waiting.fetch_add(1, SeqCst);
    }
    true
}

/// Whether this process was called since it last asked.
pub(crate) fn called() -> bool {
    mine().is_some_and(|slot| slot.called.swap(false, SeqCst))
}

/// Ends the waiting; harmless for a process that does not wait.
pub(crate) fn stop_waiting() {
    if let (Some(head), Some(slot)) = (head(), mine())
        && slot.awaited.load(Relaxed) != 0
        && slot.awaited.swap(0, SeqCst) != 0
    {
        head.waiting.fetch_sub(1, SeqCst);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    stop_waiting();
}

/// Calls those who wait for any of these categories: messages may have become readable, by a commit, or by an abort
/// that no longer holds later ones back.
pub(super) fn call(project: i32, mask: u64) {
    if head().is_none_or(|head| head.waiting.load(SeqCst) == 0) {
        return;
    }
    let database = my_database();
    for (index, slot) in slots().iter().enumerate() {
        if slot.awaited.load(SeqCst) & mask == 0 || slot.awaited_database.load(SeqCst) != database {
            continue;
        }
        let awaited = slot.awaited_project.load(SeqCst);
        // Only who calls first sets the latch: a burst of commits signals once.
        if (awaited == project || project == ANY_PROJECT) && !slot.called.swap(true, SeqCst) {
            set_latch_of(index as u32 + 1);
        }
    }
}

/// Tells the orchestrator of this database that positions were decided, so that it announces them. Its own turns it
/// knows of; what they append for users it announces like anybody's.
pub(super) fn note_append(of_users: bool) {
    if let Some(database) = find(my_database())
        && (of_users || database.process.load(SeqCst) != my_process())
        && !database.appended.swap(true, SeqCst)
    {
        set_latch_of(database.process.load(SeqCst));
    }
}
