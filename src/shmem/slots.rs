//! The table of served databases, as the launcher and the orchestrators use it.
//!
//! Decides that one orchestrator at most is attached to a database. The launcher alone takes
//! databases on and lets them go.

use super::{Database, State, find_index, my_database, my_process, set_latch_of, shared};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

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
        // SAFETY: registration of a callback that lives as long as the library.
        unsafe { pg_sys::before_shmem_exit(Some(on_launcher_exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_launcher_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(shared) = shared() {
        let _ = shared.launcher.compare_exchange(my_process(), 0, SeqCst, SeqCst);
    }
}

/// Takes the registrations left since the last call, and whether all databases are to be looked
/// at again.
pub(crate) fn take_requests() -> (Vec<u32>, bool) {
    let Some(shared) = shared() else {
        return (Vec::new(), false);
    };
    let requests =
        shared.requests.iter().map(|place| place.swap(0, SeqCst)).filter(|oid| *oid != 0).collect();
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
    shared.databases.iter().enumerate().filter_map(view).collect()
}

/// Takes a database on that has no slot yet. None: the table is full.
pub(crate) fn take_on(oid: u32) -> Option<usize> {
    let databases = &shared()?.databases;
    let index = databases.iter().position(|database| database.oid.load(SeqCst) == 0)?;
    let database = databases.get(index)?;
    database.state.store(State::Starting as u32, SeqCst);
    database.wake.store(false, SeqCst);
    database.appended.store(false, SeqCst);
    database.stopped.store(false, SeqCst);
    database.evicted.store(false, SeqCst);
    database.sleeping_until.store(i64::MAX, SeqCst);
    database.oid.store(oid, SeqCst);
    Some(index)
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

/// Notes what becomes of a slot that nobody is attached to.
pub(crate) fn set_state(index: usize, state: State) {
    if let Some(database) = shared().and_then(|shared| shared.databases.get(index)) {
        database.state.store(state as u32, SeqCst);
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

/// The attached orchestrator's hold on its database's slot.
pub(crate) struct Link(&'static Database);

/// Slot + 1 this process is attached to, for the exit callback.
static MY_LINK: AtomicU32 = AtomicU32::new(0);

/// Attaches this process to its database. None: another orchestrator is attached, or the launcher
/// no longer wants one.
pub(crate) fn attach_orchestrator() -> Option<Link> {
    let index = find_index(my_database())?;
    let database = shared()?.databases.get(index)?;
    database.process.compare_exchange(0, my_process(), SeqCst, SeqCst).ok()?;
    // SAFETY: a plain global of this process.
    database.pid.store(unsafe { pg_sys::MyProcPid }, SeqCst);
    MY_LINK.store(index as u32 + 1, Relaxed);
    // SAFETY: registration of a callback that lives as long as the library.
    unsafe { pg_sys::before_shmem_exit(Some(on_orchestrator_exit), pg_sys::Datum::from(0)) }
    // One fewer on its way up: the launcher may look into the next database.
    super::wake_launcher();
    Some(Link(database))
}

/// Frees the place of this process on every way out short of a crash, which resets the segment.
#[pg_guard]
unsafe extern "C-unwind" fn on_orchestrator_exit(_code: i32, _arg: pg_sys::Datum) {
    let Some(shared) = shared() else { return };
    let index = MY_LINK.swap(0, Relaxed) as usize;
    if let Some(database) = index.checked_sub(1).and_then(|index| shared.databases.get(index)) {
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

    /// Whether messages were appended since they were last announced.
    pub fn appended(&self) -> bool {
        self.0.appended.load(SeqCst)
    }

    /// Lowers that flag. Before the announcement, so that an append during it raises the flag again.
    pub fn begin_announcement(&self) {
        self.0.appended.store(false, SeqCst);
    }

    /// Publishes when this orchestrator means to wake; an earlier deadline then wakes it.
    pub fn sleep_until(&self, time: i64) {
        self.0.sleeping_until.store(time, SeqCst);
    }

    /// Publishes what the orchestrator does.
    pub fn set_state(&self, state: State) {
        self.0.state.store(state as u32, SeqCst);
    }
}
