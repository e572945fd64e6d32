//! What a transaction asks for and what its end sets off.
//!
//! Decides which workers and waiters a commit wakes. The callback runs after the transaction's
//! effects are visible and may only use atomics and `SetLatch`: an allocation that fails, a panic
//! or an ERROR in it restarts the whole cluster.

use super::inflight;
use super::waiters::{News, class_of};
use super::{CLASSES, Database, HOLDS_MAX, Shared, find, find_index, my_database, set_latch_of, shared};
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64};

/// What the current transaction asked for, acted on at its commit. Private to this process;
/// atomics only because that is safe Rust for a static.
struct Pending {
    registered: AtomicBool,
    any: AtomicBool,
    wake: AtomicBool,
    register: AtomicBool,
    rescan: AtomicBool,
    deadline: AtomicI64,
    /// Bit set of the wake-up classes of runs with news.
    classes: [AtomicU64; CLASSES / 64],
    /// Slot index + 1 of databases this transaction holds.
    holds: [AtomicU32; HOLDS_MAX],
    /// Whether this transaction may have drawn positions.
    drew: AtomicBool,
    /// Whether it drew any for messages of users, which are announced.
    messages: AtomicBool,
    /// How often it keeps the writers of a category out.
    excluding: AtomicI32,
    /// The bound it published in the lock table, plus one; without shared memory only.
    bound: AtomicI64,
}

static PENDING: Pending = Pending {
    registered: AtomicBool::new(false),
    any: AtomicBool::new(false),
    wake: AtomicBool::new(false),
    register: AtomicBool::new(false),
    rescan: AtomicBool::new(false),
    deadline: AtomicI64::new(i64::MAX),
    classes: [const { AtomicU64::new(0) }; CLASSES / 64],
    holds: [const { AtomicU32::new(0) }; HOLDS_MAX],
    drew: AtomicBool::new(false),
    messages: AtomicBool::new(false),
    excluding: AtomicI32::new(0),
    bound: AtomicI64::new(0),
};

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

/// At commit, wakes the backends that wait for such news of this run (and a few that wait for others).
pub fn notify_run_on_commit(run: &[u8; 16], news: News) {
    if mark() {
        let class = class_of(my_database(), run, news);
        if let Some(word) = PENDING.classes.get(class / 64) {
            word.fetch_or(1 << (class % 64), Relaxed);
        }
    }
}

/// Whether this transaction registers its database when it commits.
pub(super) fn registers() -> bool {
    PENDING.register.load(Relaxed)
}

/// Where a transaction's positions are registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// Done: in shared memory.
    Published,
    /// To be done by the caller, in the lock table, with this bound.
    LockTable(i64),
}

/// Before a transaction draws positions for these categories of a project: says that it may hold some above what is
/// assigned by now, until it ends, and refuses to be prepared from here on. Each append calls it again.
pub(crate) fn publish_positions(
    project: i32,
    mask: u64,
    of_users: bool,
    last_assigned: impl FnOnce() -> i64,
) -> Register {
    register_callback();
    PENDING.any.store(true, Relaxed);
    PENDING.drew.store(true, Relaxed);
    if of_users {
        PENDING.messages.store(true, Relaxed);
    }
    if inflight::available() {
        inflight::publish(project, mask, last_assigned);
        return Register::Published;
    }
    if PENDING.bound.load(Relaxed) == 0 {
        PENDING.bound.store(last_assigned() + 1, Relaxed);
    }
    Register::LockTable(PENDING.bound.load(Relaxed) - 1)
}

/// From here until this transaction ends, writers take the locks of their categories.
pub(crate) fn exclude_writers() {
    register_callback();
    PENDING.any.store(true, Relaxed);
    PENDING.excluding.fetch_add(1, Relaxed);
    inflight::count_excluding(1);
}

/// Notes that this transaction asked for something. False without shared memory: nothing to remember.
fn mark() -> bool {
    if shared().is_none() {
        return false;
    }
    register_callback();
    PENDING.any.store(true, Relaxed);
    true
}

/// Registers the callback once per process.
pub(super) fn register_callback() {
    if !PENDING.registered.swap(true, Relaxed) {
        // SAFETY: a plain C registration; the callback lives as long as the library, which is
        // never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_end), std::ptr::null_mut()) }
    }
}

/// Runs after the transaction's effects are visible (the proc array entry is gone). Only atomics
/// and SetLatch: nothing here can fail or panic.
#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_end(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    let committed = match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => true,
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => return refuse_prepare(),
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => false,
        _ => return,
    };
    if !committed {
        // A wait that was cut short.
        inflight::stop_waiting();
    }
    if !PENDING.any.swap(false, Relaxed) {
        return;
    }
    release_positions();
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

/// A prepared transaction outlives this process, whose slot could not speak for it any more.
fn refuse_prepare() {
    if PENDING.drew.load(Relaxed) || PENDING.excluding.load(Relaxed) != 0 {
        crate::error::refuse(
            pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that has appended messages or taken a turn",
        )
        .detail("Readers would have to wait for it, however long it stays prepared.")
        .hint("COMMIT it, or append in a transaction of its own.")
        .raise();
    }
}

/// The positions of this transaction are decided: whoever was held back by it may look again.
fn release_positions() {
    let excluding = PENDING.excluding.swap(0, Relaxed);
    // Shared by all processes: written only by who has raised it.
    if excluding != 0 {
        inflight::count_excluding(-excluding);
    }
    if !PENDING.drew.swap(false, Relaxed) {
        return;
    }
    PENDING.bound.store(0, Relaxed);
    let messages = PENDING.messages.swap(false, Relaxed);
    if let Some((project, mask)) = inflight::clear() {
        inflight::call(project, mask);
        inflight::note_append(messages);
    }
}

/// Raises the flag; only who raises it sets the latch, so a burst of commits signals once.
fn raise(database: &Database) {
    if !database.wake.swap(true, SeqCst) {
        set_latch_of(database.process.load(SeqCst));
    }
}

fn notify(shared: &Shared, committed: bool) {
    let mut woken = [0u64; CLASSES / 64];
    let mut any = false;
    for (word, bits) in PENDING.classes.iter().zip(woken.iter_mut()) {
        *bits = word.swap(0, Relaxed);
        any |= *bits != 0;
    }
    if !any || !committed {
        return;
    }
    let is_woken = |class: usize| woken.get(class / 64).is_some_and(|bits| bits & (1 << (class % 64)) != 0);
    for (class, generation) in shared.generations.iter().enumerate() {
        if is_woken(class) {
            generation.fetch_add(1, SeqCst);
        }
    }
    for waiter in &shared.waiters {
        let class = waiter.class.load(SeqCst);
        if class != 0 && is_woken(class as usize - 1) {
            set_latch_of(waiter.process.load(SeqCst));
        }
    }
}

/// Leaves the launcher a request; the same database is asked for once.
pub(super) fn request(shared: &Shared, oid: u32) {
    if oid == 0 {
        return;
    }
    let placed = shared.requests.iter().any(|place| match place.compare_exchange(0, oid, SeqCst, SeqCst) {
        Ok(_) => true,
        Err(other) => other == oid,
    });
    if !placed {
        shared.rescan.store(true, SeqCst);
    }
    set_latch_of(shared.launcher.load(SeqCst));
}

/// Keeps orchestrators away from a database until this transaction ends and asks the attached
/// one to leave. False: the launcher does not know the database.
pub(crate) fn hold_until_transaction_end(oid: pg_sys::Oid) -> bool {
    let Some(shared) = shared() else { return false };
    let Some(index) = find_index(oid.to_u32()) else {
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
        if let Some(database) = index.checked_sub(1).and_then(|index| shared.databases.get(index)) {
            database.holds.fetch_sub(1, SeqCst);
            released = true;
        }
    }
    if released {
        set_latch_of(shared.launcher.load(SeqCst));
    }
}
