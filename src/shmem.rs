//! Shared memory of a preloaded meshhook: who serves which database, how a commit wakes it, and what
//! is left of the rates of webhooks.
//!
//! Decides: which process is woken by which commit, and that at most one orchestrator is attached
//! to a database. Must not: take locks, allocate or raise inside a transaction callback (an error
//! there restarts the whole cluster), run SQL, or assume that shared memory exists. Without
//! `shared_preload_libraries` the functions here are no-ops and the poll of the unpreloaded
//! worker (or `tick()`) does the work; only rates are counted then too, in each process.
//!
//! Everything in the segment is an atomic and all zeroes is a valid start. Only the launcher
//! allocates and frees database slots, so a slot has one owner; everybody else leaves it requests.

pub(crate) mod buckets;
mod commit;
pub(crate) mod inflight;
mod slots;
mod waiters;

pub(crate) use commit::{Register, exclude_writers, publish_positions};
pub(crate) use commit::{hold_until_transaction_end, rescan_on_commit};
pub use commit::{
    note_deadline_on_commit, notify_run_on_commit, register_database_on_commit, wake_on_commit,
};
pub(crate) use slots::{
    Link, Slot, attach_launcher, attach_orchestrator, let_go, set_evicted, set_state, slots, take_on,
    take_requests,
};
pub use waiters::News;
pub(crate) use waiters::{generation, wait_place};

use pgrx::{pg_guard, pg_sys};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32};

/// Databases that can be served at once; far above any sane `max_worker_processes`.
pub const DATABASES_MAX: usize = 256;
/// Backends that can sleep on a latch for the end of a run; more fall back to polling.
pub const WAITERS_MAX: usize = 128;
/// Registrations that can wait for the launcher; more make it look at every database again.
const REQUESTS_MAX: usize = 64;
/// Wake-up classes of runs: a waiter is woken by every run of its class and looks again.
const CLASSES: usize = 512;
/// Databases one transaction can keep orchestrators away from.
const HOLDS_MAX: usize = 8;

/// What the orchestrator of a database is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nobody serves the database and nobody is about to.
    Unserved = 0,
    /// The launcher knows the database and its orchestrator is on the way.
    Starting = 1,
    /// The orchestrator is attached and does turns.
    Serving = 2,
    /// Attached, but the installation is a copy that waits for `meshhook.activate()`.
    Dormant = 3,
    /// Attached, but the extension's version differs from the library's.
    Mismatched = 4,
    /// The orchestrator left because the extension is not installed.
    Absent = 5,
    /// The orchestrator left because it was asked to; it is no failure.
    Detached = 6,
    /// `stop_workers()` was called; `start_workers()` ends this.
    Stopped = 7,
}

impl State {
    fn from_u32(value: u32) -> State {
        match value {
            1 => State::Starting,
            2 => State::Serving,
            3 => State::Dormant,
            4 => State::Mismatched,
            5 => State::Absent,
            6 => State::Detached,
            7 => State::Stopped,
            _ => State::Unserved,
        }
    }

    /// Lower-case word for `status()`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unserved => "unserved",
            State::Starting => "starting",
            State::Serving => "serving",
            State::Dormant => "dormant",
            State::Mismatched => "version mismatch",
            State::Absent => "not installed",
            State::Detached => "detached",
            State::Stopped => "stopped",
        }
    }
}

/// One database known to the launcher. A cache line of its own: commits of different databases
/// must not contend.
#[repr(C, align(64))]
struct Database {
    /// 0: free slot.
    oid: AtomicU32,
    /// Index into the proc array + 1 of the attached orchestrator; 0: none.
    process: AtomicU32,
    pid: AtomicI32,
    state: AtomicU32,
    /// Raised by commits, lowered by the orchestrator before it scans.
    wake: AtomicBool,
    /// Raised by ends of transactions that appended messages, lowered by the orchestrator before it announces them.
    appended: AtomicBool,
    /// `stop_workers()` asked it to leave and stay away.
    stopped: AtomicBool,
    /// `meshhook.databases` no longer names the database.
    evicted: AtomicBool,
    /// Transactions that need the database without connections (DROP DATABASE and the like).
    holds: AtomicU32,
    /// When the orchestrator means to wake by itself; `i64::MAX` while it is awake, because a
    /// deadline that commits during a scan may have been missed by it.
    sleeping_until: AtomicI64,
}

/// A backend that waits for a run to end.
#[repr(C, align(64))]
struct Waiter {
    /// Index into the proc array + 1; 0: free.
    process: AtomicU32,
    /// Bucket of the awaited run + 1; 0: none yet.
    class: AtomicU32,
}

#[repr(C)]
struct Shared {
    launcher: AtomicU32,
    /// Look at every database again: a database was created, or a request did not fit.
    rescan: AtomicBool,
    requests: [AtomicU32; REQUESTS_MAX],
    generations: [AtomicU32; CLASSES],
    databases: [Database; DATABASES_MAX],
    waiters: [Waiter; WAITERS_MAX],
    buckets: buckets::Table,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static PREVIOUS_REQUEST: OnceLock<pg_sys::shmem_request_hook_type> = OnceLock::new();
static PREVIOUS_STARTUP: OnceLock<pg_sys::shmem_startup_hook_type> = OnceLock::new();

/// Asks for the segment. Call from `_PG_init`, only while
/// `process_shared_preload_libraries_in_progress`.
pub fn init() {
    // SAFETY: called by the postmaster from _PG_init, the place where hooks are chained; nothing
    // else runs in this process.
    unsafe {
        let _ = PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(on_shmem_request);
        let _ = PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(on_shmem_startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_shmem_request() {
    if let Some(Some(previous)) = PREVIOUS_REQUEST.get() {
        // SAFETY: the hook another library installed, called in the phase it was made for.
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous()) }
    }
    // SAFETY: this is the one phase in which space may be requested.
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Shared>() + inflight::size()) }
}

/// Runs in the postmaster at start and again after a crash, then with an empty segment.
#[pg_guard]
unsafe extern "C-unwind" fn on_shmem_startup() {
    if let Some(Some(previous)) = PREVIOUS_STARTUP.get() {
        // SAFETY: as in on_shmem_request.
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous()) }
    }
    let mut found = false;
    // SAFETY: called in the startup phase by the postmaster alone, so no lock is needed; the area
    // is cache-line aligned, of the size requested, and all zeroes is a valid `Shared`.
    unsafe {
        let area = pg_sys::ShmemInitStruct(c"meshhook".as_ptr(), size_of::<Shared>(), &raw mut found)
            .cast::<Shared>();
        if !found {
            area.write_bytes(0, 1);
        }
        SHARED.store(area, SeqCst);
    }
    inflight::attach();
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: null or the segment mapped for the life of this process; it holds only atomics.
    unsafe { SHARED.load(Relaxed).as_ref() }
}

/// Whether the library was preloaded, so that commits can wake workers.
pub fn available() -> bool {
    shared().is_some()
}

/// This process as other processes address it: its index in the proc array + 1; 0 without one.
fn my_process() -> u32 {
    // SAFETY: MyProc is null or points into allProcs; both are set before any code of ours runs.
    unsafe {
        if pg_sys::MyProc.is_null() || pg_sys::ProcGlobal.is_null() {
            return 0;
        }
        let offset = pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs);
        u32::try_from(offset + 1).unwrap_or(0)
    }
}

/// Sets the latch of another process. A process that has gone, or its successor in the same
/// place, at worst wakes once for nothing.
fn set_latch_of(process: u32) {
    if process == 0 {
        return;
    }
    // SAFETY: `process` came from `my_process` of some process, so it lies inside allProcs, whose
    // address never changes; SetLatch neither allocates nor raises.
    unsafe {
        let header = pg_sys::ProcGlobal;
        if header.is_null() || process > (*header).allProcCount {
            return;
        }
        let proc_ = (*header).allProcs.add(process as usize - 1);
        pg_sys::SetLatch(&raw mut (*proc_).procLatch);
    }
}

fn my_database() -> u32 {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// Where this process last found its database (+ 1).
static REMEMBERED: AtomicU32 = AtomicU32::new(0);

fn find_index(oid: u32) -> Option<usize> {
    if oid == 0 {
        return None;
    }
    let databases = &shared()?.databases;
    let remembered = (REMEMBERED.load(Relaxed) as usize).checked_sub(1);
    if let Some(index) = remembered
        && databases.get(index).is_some_and(|database| database.oid.load(SeqCst) == oid)
    {
        return Some(index);
    }
    let index = databases.iter().position(|database| database.oid.load(SeqCst) == oid)?;
    REMEMBERED.store(index as u32 + 1, Relaxed);
    Some(index)
}

fn find(oid: u32) -> Option<&'static Database> {
    shared()?.databases.get(find_index(oid)?)
}

/// What is known about the orchestrator of a database. Without shared memory: always `Unserved`
/// (see `worker::state`, which also knows the unpreloaded worker).
pub fn state(oid: pg_sys::Oid) -> State {
    let Some(shared) = shared() else {
        return State::Unserved;
    };
    let number = oid.to_u32();
    // Without a launcher nobody would act on a request.
    let requested = shared.launcher.load(SeqCst) != 0
        && (shared.requests.iter().any(|place| place.load(SeqCst) == number)
            || (commit::registers() && number == my_database()));
    match find(oid.to_u32()) {
        Some(database) if database.stopped.load(SeqCst) => State::Stopped,
        Some(database) => State::from_u32(database.state.load(SeqCst)),
        None if requested => State::Starting,
        None => State::Unserved,
    }
}

/// Process id of the orchestrator attached to a database.
pub fn orchestrator_pid(oid: pg_sys::Oid) -> Option<i32> {
    find(oid.to_u32()).map(|database| database.pid.load(SeqCst)).filter(|pid| *pid != 0)
}

/// Asks for this database at once, also when `stop_workers()` had been called.
pub(crate) fn start_now() {
    if let Some(shared) = shared() {
        if let Some(database) = find(my_database()) {
            database.stopped.store(false, SeqCst);
        }
        commit::request(shared, my_database());
    }
}

/// Makes this database's orchestrator leave and stay away. False: nothing to stop.
pub(crate) fn stop_now() -> bool {
    let Some(database) = find(my_database()) else {
        return false;
    };
    let was_served = database.process.load(SeqCst) != 0;
    database.stopped.store(true, SeqCst);
    set_latch_of(database.process.load(SeqCst));
    wake_launcher();
    was_served
}

/// Sets the launcher's latch.
pub(crate) fn wake_launcher() {
    if let Some(shared) = shared() {
        set_latch_of(shared.launcher.load(SeqCst));
    }
}
