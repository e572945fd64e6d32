//! Shared memory of a preloaded meshhook: who serves which database, and how a commit wakes it.
//!
//! Decides: which process is woken by which commit, and that at most one orchestrator is attached
//! to a database. Must not: take locks, allocate or raise inside a transaction callback (an error
//! there restarts the whole cluster), run SQL, or assume that shared memory exists. Without
//! `shared_preload_libraries` every function here is a no-op and the poll of the unpreloaded
//! worker (or `tick()`) does the work.
//!
//! Everything in the segment is an atomic and all zeroes is a valid start. Only the launcher
//! allocates and frees database slots, so a slot has one owner; everybody else leaves it requests.

use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64};

/// Databases that can be served at once; far above any sane `max_worker_processes`.
pub const DATABASES_MAX: usize = 256;
/// Backends that can sleep on a latch for the end of a run; more fall back to polling.
pub const WAITERS_MAX: usize = 128;
/// Registrations that can wait for the launcher; more make it look at every database again.
const REQUESTS_MAX: usize = 64;
/// Wake-up classes of runs: a waiter is woken by every run of its class and looks again.
const BUCKETS: usize = 256;
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
pub(crate) struct Database {
    /// 0: free slot.
    oid: AtomicU32,
    /// Index into the proc array + 1 of the attached orchestrator; 0: none.
    process: AtomicU32,
    pid: AtomicI32,
    state: AtomicU32,
    /// Raised by commits, lowered by the orchestrator before it scans.
    wake: AtomicBool,
    /// `stop_workers()` asked it to leave and stay away.
    stopped: AtomicBool,
    /// `meshhook.databases` no longer names the database.
    evicted: AtomicBool,
    /// Transactions that need the database without connections (DROP DATABASE and the like).
    holds: AtomicU32,
    /// When the orchestrator means to wake by itself; `i64::MAX` while it is awake, because a
    /// deadline that commits during a scan may have been missed by it.
    sleeping_until: AtomicI64,
    turns: AtomicU64,
    failures: AtomicU64,
}

/// A backend that waits for a run to end.
#[repr(C, align(64))]
struct Waiter {
    /// Index into the proc array + 1; 0: free.
    process: AtomicU32,
    /// Bucket of the awaited run + 1; 0: none yet.
    bucket: AtomicU32,
}

#[repr(C)]
struct Shared {
    launcher: AtomicU32,
    launcher_pid: AtomicI32,
    /// Look at every database again: a database was created, or a request did not fit.
    rescan: AtomicBool,
    requests: [AtomicU32; REQUESTS_MAX],
    generations: [AtomicU32; BUCKETS],
    databases: [Database; DATABASES_MAX],
    waiters: [Waiter; WAITERS_MAX],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static PREVIOUS_REQUEST: OnceLock<pg_sys::shmem_request_hook_type> = OnceLock::new();
static PREVIOUS_STARTUP: OnceLock<pg_sys::shmem_startup_hook_type> = OnceLock::new();

/// What the current transaction asked for, acted on at its commit. Private to this process;
/// atomics only because that is safe Rust for a static.
struct Pending {
    registered: AtomicBool,
    any: AtomicBool,
    wake: AtomicBool,
    register: AtomicBool,
    rescan: AtomicBool,
    deadline: AtomicI64,
    /// Bit set of the wake-up classes of runs that ended.
    buckets: [AtomicU64; BUCKETS / 64],
    /// Slot index + 1 of databases this transaction holds.
    holds: [AtomicU32; HOLDS_MAX],
    /// Where this database's slot was last found (+ 1).
    slot: AtomicU32,
}

static PENDING: Pending = Pending {
    registered: AtomicBool::new(false),
    any: AtomicBool::new(false),
    wake: AtomicBool::new(false),
    register: AtomicBool::new(false),
    rescan: AtomicBool::new(false),
    deadline: AtomicI64::new(i64::MAX),
    buckets: [const { AtomicU64::new(0) }; BUCKETS / 64],
    holds: [const { AtomicU32::new(0) }; HOLDS_MAX],
    slot: AtomicU32::new(0),
};

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
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Shared>()) }
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
        let area =
            pg_sys::ShmemInitStruct(c"meshhook".as_ptr(), size_of::<Shared>(), &raw mut found)
                .cast::<Shared>();
        if !found {
            area.write_bytes(0, 1);
        }
        SHARED.store(area, SeqCst);
    }
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: null or the segment mapped for the life of this process; it holds only atomics.
    unsafe { SHARED.load(Relaxed).as_ref() }
}

/// Whether the library was preloaded, so that commits can wake workers.
pub fn available() -> bool {
    shared().is_some()
}

// ---- processes and latches ----------------------------------------------------------------

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

// ---- what a transaction asks for ----------------------------------------------------------

/// At commit of this transaction, wakes the orchestrator of this database. Nothing on abort;
/// PREPARE TRANSACTION forgets it (the safety poll covers that).
pub fn wake_on_commit() {
    if mark() {
        PENDING.wake.store(true, Relaxed);
    }
}

/// At commit, wakes the orchestrator only if `deadline` (microseconds since 2000-01-01, a
/// `timestamptz`) lies before the time it sleeps until.
pub fn note_deadline_on_commit(deadline: i64) {
    if mark() {
        PENDING.deadline.fetch_min(deadline, Relaxed);
    }
}

/// At commit, asks the launcher to serve this database from now on. Does not lift
/// `stop_workers()`.
pub fn register_database_on_commit() {
    if mark() {
        PENDING.register.store(true, Relaxed);
    }
}

/// At commit, makes the launcher look for databases it does not know.
pub(crate) fn rescan_on_commit() {
    if mark() {
        PENDING.rescan.store(true, Relaxed);
    }
}

/// At commit, wakes the backends that wait for this run (and a few that wait for others).
pub fn notify_run_on_commit(run: &[u8; 16]) {
    if mark() {
        let bucket = bucket_of(my_database(), run);
        if let Some(word) = PENDING.buckets.get(bucket / 64) {
            word.fetch_or(1 << (bucket % 64), Relaxed);
        }
    }
}

/// At commit, wakes every backend that waits for a run, of any database.
pub fn notify_waiters_on_commit() {
    if mark() {
        for word in &PENDING.buckets {
            word.store(u64::MAX, Relaxed);
        }
    }
}

/// Registers the callback once per process. False without shared memory: nothing to remember.
fn mark() -> bool {
    if shared().is_none() {
        return false;
    }
    if !PENDING.registered.swap(true, Relaxed) {
        // SAFETY: a plain C registration; the callback lives as long as the library, which is
        // never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_end), std::ptr::null_mut()) }
    }
    PENDING.any.store(true, Relaxed);
    true
}

/// Runs after the transaction's effects are visible (the proc array entry is gone). Only atomics
/// and SetLatch: nothing here can fail or panic.
#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_end(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    let committed = match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => true,
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => false,
        _ => return,
    };
    if !PENDING.any.swap(false, Relaxed) {
        return;
    }
    let wake = PENDING.wake.swap(false, Relaxed) && committed;
    let register = PENDING.register.swap(false, Relaxed) && committed;
    let rescan = PENDING.rescan.swap(false, Relaxed) && committed;
    let deadline = PENDING.deadline.swap(i64::MAX, Relaxed);
    let Some(shared) = shared() else { return };

    release_holds(shared);
    if (wake || (committed && deadline != i64::MAX))
        && let Some(database) = find(my_database())
        && (wake || deadline < database.sleeping_until.load(SeqCst))
    {
        raise(database);
    }
    if register {
        request(shared, my_database());
    }
    if rescan {
        shared.rescan.store(true, SeqCst);
        set_latch_of(shared.launcher.load(SeqCst));
    }
    notify(shared, committed);
}

/// Raises the flag; only who raises it sets the latch, so a burst of commits signals once.
fn raise(database: &Database) {
    if !database.wake.swap(true, SeqCst) {
        set_latch_of(database.process.load(SeqCst));
    }
}

fn notify(shared: &Shared, committed: bool) {
    let mut woken = [0u64; BUCKETS / 64];
    let mut any = false;
    for (word, bits) in PENDING.buckets.iter().zip(woken.iter_mut()) {
        *bits = word.swap(0, Relaxed);
        any |= *bits != 0;
    }
    if !any || !committed {
        return;
    }
    let is_woken = |bucket: usize| {
        woken
            .get(bucket / 64)
            .is_some_and(|bits| bits & (1 << (bucket % 64)) != 0)
    };
    for (bucket, generation) in shared.generations.iter().enumerate() {
        if is_woken(bucket) {
            generation.fetch_add(1, SeqCst);
        }
    }
    for waiter in &shared.waiters {
        let bucket = waiter.bucket.load(SeqCst);
        if bucket != 0 && is_woken(bucket as usize - 1) {
            set_latch_of(waiter.process.load(SeqCst));
        }
    }
}

/// Leaves the launcher a request; the same database is asked for once.
fn request(shared: &Shared, oid: u32) {
    if oid == 0 {
        return;
    }
    let placed =
        shared.requests.iter().any(
            |place| match place.compare_exchange(0, oid, SeqCst, SeqCst) {
                Ok(_) => true,
                Err(other) => other == oid,
            },
        );
    if !placed {
        shared.rescan.store(true, SeqCst);
    }
    set_latch_of(shared.launcher.load(SeqCst));
}

/// Asks for this database at once, also when `stop_workers()` had been called.
pub(crate) fn start_now() {
    if let Some(shared) = shared() {
        if let Some(database) = find(my_database()) {
            database.stopped.store(false, SeqCst);
        }
        request(shared, my_database());
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

// ---- who serves what ----------------------------------------------------------------------

fn find(oid: u32) -> Option<&'static Database> {
    if oid == 0 {
        return None;
    }
    let databases = &shared()?.databases;
    let remembered = PENDING.slot.load(Relaxed) as usize;
    if let Some(database) = remembered
        .checked_sub(1)
        .and_then(|index| databases.get(index))
        && database.oid.load(SeqCst) == oid
    {
        return Some(database);
    }
    let index = databases
        .iter()
        .position(|database| database.oid.load(SeqCst) == oid)?;
    PENDING.slot.store(index as u32 + 1, Relaxed);
    databases.get(index)
}

/// What is known about the orchestrator of a database. Without shared memory: always `Unserved`
/// (see `worker::state`, which also knows the unpreloaded worker).
pub fn state(oid: pg_sys::Oid) -> State {
    let Some(shared) = shared() else {
        return State::Unserved;
    };
    let requested = shared
        .requests
        .iter()
        .any(|place| place.load(SeqCst) == oid.to_u32())
        || (PENDING.register.load(Relaxed) && oid.to_u32() == my_database());
    match find(oid.to_u32()) {
        Some(database) if database.stopped.load(SeqCst) => State::Stopped,
        Some(database) => State::from_u32(database.state.load(SeqCst)),
        None if requested => State::Starting,
        None => State::Unserved,
    }
}

/// Whether an orchestrator is attached to this database and doing its turns.
pub fn served(oid: pg_sys::Oid) -> bool {
    state(oid) == State::Serving
}

/// Process id of the launcher; None: not running.
pub fn launcher_pid() -> Option<i32> {
    shared()
        .map(|shared| shared.launcher_pid.load(SeqCst))
        .filter(|pid| *pid != 0)
}

/// Process id of the orchestrator attached to a database.
pub fn orchestrator_pid(oid: pg_sys::Oid) -> Option<i32> {
    find(oid.to_u32())
        .map(|database| database.pid.load(SeqCst))
        .filter(|pid| *pid != 0)
}

/// Turns committed and turns failed by the orchestrators of a database since the server started.
pub fn turn_counts(oid: pg_sys::Oid) -> (u64, u64) {
    find(oid.to_u32()).map_or((0, 0), |database| {
        (
            database.turns.load(Relaxed),
            database.failures.load(Relaxed),
        )
    })
}

// ---- holding a database free of connections -----------------------------------------------

/// Keeps orchestrators away from a database until this transaction ends and asks the attached
/// one to leave. False: the launcher does not know the database.
pub(crate) fn hold_until_transaction_end(oid: pg_sys::Oid) -> bool {
    let Some(shared) = shared() else { return false };
    let Some(index) = shared
        .databases
        .iter()
        .position(|database| database.oid.load(SeqCst) == oid.to_u32())
    else {
        return false;
    };
    let Some(place) = PENDING.holds.iter().find(|place| place.load(Relaxed) == 0) else {
        return false;
    };
    if !mark() {
        return false;
    }
    let Some(database) = shared.databases.get(index) else {
        return false;
    };
    database.holds.fetch_add(1, SeqCst);
    place.store(index as u32 + 1, Relaxed);
    set_latch_of(database.process.load(SeqCst));
    true
}

fn release_holds(shared: &Shared) {
    let mut released = false;
    for place in &PENDING.holds {
        let index = place.swap(0, Relaxed) as usize;
        if let Some(database) = index
            .checked_sub(1)
            .and_then(|index| shared.databases.get(index))
        {
            database.holds.fetch_sub(1, SeqCst);
            released = true;
        }
    }
    if released {
        set_latch_of(shared.launcher.load(SeqCst));
    }
}

// ---- waiting for a run --------------------------------------------------------------------

fn bucket_of(database: u32, run: &[u8; 16]) -> usize {
    // The last bytes of a UUIDv7 are random; the first are a clock.
    let tail = run
        .iter()
        .rev()
        .take(8)
        .fold(database as u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    (tail >> 24) as usize % BUCKETS
}

/// The number of wake-ups so far in the class of this run; a change means: look again. None
/// without shared memory.
pub(crate) fn generation(run: &[u8; 16]) -> Option<u32> {
    let bucket = bucket_of(my_database(), run);
    shared()?
        .generations
        .get(bucket)
        .map(|generation| generation.load(SeqCst))
}

/// This process's place among the waiters, given back on drop and at process exit.
pub(crate) struct WaiterPlace(usize);

/// Place + 1 taken by this process, for the exit callback: FATAL runs no destructors.
static MY_WAITER: AtomicU32 = AtomicU32::new(0);
static WAITER_EXIT: AtomicBool = AtomicBool::new(false);

/// Registers this process's latch for a run. None: all places taken, or no shared memory; poll.
pub(crate) fn wait_place(run: &[u8; 16]) -> Option<WaiterPlace> {
    let shared = shared()?;
    let me = my_process();
    let index = shared.waiters.iter().position(|waiter| {
        waiter
            .process
            .compare_exchange(0, me, SeqCst, SeqCst)
            .is_ok()
    })?;
    MY_WAITER.store(index as u32 + 1, Relaxed);
    if !WAITER_EXIT.swap(true, Relaxed) {
        // SAFETY: registration of a callback that lives as long as the library.
        unsafe {
            pg_sys::before_shmem_exit(Some(on_waiter_exit), pg_sys::Datum::from(0));
        }
    }
    let bucket = bucket_of(my_database(), run) as u32;
    shared.waiters.get(index)?.bucket.store(bucket + 1, SeqCst);
    Some(WaiterPlace(index))
}

impl Drop for WaiterPlace {
    fn drop(&mut self) {
        free_waiter(self.0);
    }
}

fn free_waiter(index: usize) {
    if let Some(waiter) = shared().and_then(|shared| shared.waiters.get(index)) {
        waiter.bucket.store(0, SeqCst);
        waiter.process.store(0, SeqCst);
    }
    MY_WAITER.store(0, Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_waiter_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(index) = (MY_WAITER.load(Relaxed) as usize).checked_sub(1) {
        free_waiter(index);
    }
}

// ---- the launcher's side ------------------------------------------------------------------

/// A database slot as the launcher sees it.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// Place in the table.
    pub index: usize,
    /// The database.
    pub oid: u32,
    /// An orchestrator is attached.
    pub attached: bool,
    /// Last word of the orchestrator, or `Starting`.
    pub state: State,
    /// `stop_workers()` holds.
    pub stopped: bool,
    /// Some transaction needs the database free.
    pub held: bool,
}

/// Makes this process the one that registrations and exits wake.
pub(crate) fn attach_launcher() {
    if let Some(shared) = shared() {
        shared.launcher.store(my_process(), SeqCst);
        // SAFETY: a plain global of this process.
        shared
            .launcher_pid
            .store(unsafe { pg_sys::MyProcPid }, SeqCst);
        // SAFETY: registration of a callback that lives as long as the library.
        unsafe { pg_sys::before_shmem_exit(Some(on_launcher_exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_launcher_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(shared) = shared() {
        let _ = shared
            .launcher
            .compare_exchange(my_process(), 0, SeqCst, SeqCst);
        shared.launcher_pid.store(0, SeqCst);
    }
}

/// Takes the registrations left since the last call, and whether all databases are to be looked
/// at again.
pub(crate) fn take_requests() -> (Vec<u32>, bool) {
    let Some(shared) = shared() else {
        return (Vec::new(), false);
    };
    let requests = shared
        .requests
        .iter()
        .map(|place| place.swap(0, SeqCst))
        .filter(|oid| *oid != 0)
        .collect();
    (requests, shared.rescan.swap(false, SeqCst))
}

/// All databases the launcher has taken on.
pub(crate) fn slots() -> Vec<Slot> {
    let Some(shared) = shared() else {
        return Vec::new();
    };
    let view = |(index, database): (usize, &Database)| {
        let oid = database.oid.load(SeqCst);
        (oid != 0).then(|| Slot {
            index,
            oid,
            attached: database.process.load(SeqCst) != 0,
            state: State::from_u32(database.state.load(SeqCst)),
            stopped: database.stopped.load(SeqCst),
            held: database.holds.load(SeqCst) != 0,
        })
    };
    shared
        .databases
        .iter()
        .enumerate()
        .filter_map(view)
        .collect()
}

/// Takes a database on. False: the table is full.
pub(crate) fn take_on(oid: u32) -> bool {
    if find(oid).is_some() {
        return true;
    }
    let Some(shared) = shared() else { return false };
    let Some(database) = shared
        .databases
        .iter()
        .find(|database| database.oid.load(SeqCst) == 0)
    else {
        return false;
    };
    database.state.store(State::Starting as u32, SeqCst);
    database.wake.store(false, SeqCst);
    database.stopped.store(false, SeqCst);
    database.evicted.store(false, SeqCst);
    database.sleeping_until.store(i64::MAX, SeqCst);
    database.turns.store(0, SeqCst);
    database.failures.store(0, SeqCst);
    database.oid.store(oid, SeqCst);
    true
}

/// Forgets a database that nobody is attached to and nobody holds.
pub(crate) fn let_go(index: usize) {
    if let Some(database) = shared().and_then(|shared| shared.databases.get(index))
        && database.holds.load(SeqCst) == 0
        && database.process.load(SeqCst) == 0
    {
        database.state.store(State::Unserved as u32, SeqCst);
        database.oid.store(0, SeqCst);
    }
}

/// Notes that an orchestrator was started for the slot.
pub(crate) fn set_starting(index: usize) {
    if let Some(database) = shared().and_then(|shared| shared.databases.get(index)) {
        database.state.store(State::Starting as u32, SeqCst);
    }
}

/// Notes that a slot stays unserved until `start_workers()`.
pub(crate) fn set_stopped(index: usize) {
    if let Some(database) = shared().and_then(|shared| shared.databases.get(index)) {
        database.state.store(State::Stopped as u32, SeqCst);
    }
}

/// Asks the attached orchestrator to leave because the settings no longer name its database, or
/// takes that back.
pub(crate) fn set_evicted(index: usize, evicted: bool) {
    if let Some(database) = shared().and_then(|shared| shared.databases.get(index))
        && database.evicted.swap(evicted, SeqCst) != evicted
        && evicted
    {
        set_latch_of(database.process.load(SeqCst));
    }
}

// ---- the orchestrator's side --------------------------------------------------------------

/// The attached orchestrator's hold on its database's slot.
pub(crate) struct Link(&'static Database);

/// Slot + 1 this process is attached to, for the exit callback.
static MY_LINK: AtomicU32 = AtomicU32::new(0);

/// Attaches this process to its database. None: another orchestrator is attached, or the launcher
/// no longer wants one.
pub(crate) fn attach_orchestrator() -> Option<Link> {
    let database = find(my_database())?;
    database
        .process
        .compare_exchange(0, my_process(), SeqCst, SeqCst)
        .ok()?;
    // SAFETY: a plain global of this process.
    database.pid.store(unsafe { pg_sys::MyProcPid }, SeqCst);
    MY_LINK.store(PENDING.slot.load(Relaxed), Relaxed);
    // SAFETY: registration of a callback that lives as long as the library.
    unsafe { pg_sys::before_shmem_exit(Some(on_orchestrator_exit), pg_sys::Datum::from(0)) }
    Some(Link(database))
}

/// Frees the place of this process on every way out short of a crash, which resets the segment.
#[pg_guard]
unsafe extern "C-unwind" fn on_orchestrator_exit(_code: i32, _arg: pg_sys::Datum) {
    let Some(shared) = shared() else { return };
    let index = MY_LINK.swap(0, Relaxed) as usize;
    if let Some(database) = index
        .checked_sub(1)
        .and_then(|index| shared.databases.get(index))
    {
        if matches!(
            State::from_u32(database.state.load(SeqCst)),
            State::Serving | State::Dormant | State::Mismatched
        ) {
            database.state.store(State::Unserved as u32, SeqCst);
        }
        database.sleeping_until.store(i64::MAX, SeqCst);
        database.pid.store(0, SeqCst);
        database.process.store(0, SeqCst);
        set_latch_of(shared.launcher.load(SeqCst));
    }
}

impl Link {
    /// Whether to leave: stopped, evicted, or the database is needed without connections.
    pub fn must_leave(&self) -> bool {
        self.0.stopped.load(SeqCst) || self.0.evicted.load(SeqCst) || self.0.holds.load(SeqCst) != 0
    }

    /// Lowers the wake flag. Before the scan, so that a commit during the scan raises it again.
    pub fn begin_scan(&self) {
        self.0.sleeping_until.store(i64::MAX, SeqCst);
        self.0.wake.store(false, SeqCst);
    }

    /// Whether a commit raised the flag since the last scan began.
    pub fn woken(&self) -> bool {
        self.0.wake.load(SeqCst)
    }

    /// Publishes when this orchestrator means to wake; an earlier deadline then wakes it.
    pub fn sleep_until(&self, time: i64) {
        self.0.sleeping_until.store(time, SeqCst);
    }

    /// Publishes what the orchestrator does.
    pub fn set_state(&self, state: State) {
        self.0.state.store(state as u32, SeqCst);
    }

    /// Counts a turn.
    pub fn count_turn(&self, failed: bool) {
        let counter = if failed {
            &self.0.failures
        } else {
            &self.0.turns
        };
        counter.fetch_add(1, Relaxed);
    }
}
