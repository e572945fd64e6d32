//! The few raw Postgres calls of the worker room, each behind a safe function.
//!
//! Decides nothing. Everything here runs on the process's only thread.

use pgrx::pg_sys;
use std::ffi::{CStr, CString, c_int};
use std::time::Duration;

// Raw symbols: pgrx either does not bind these, or binds them through a Rust wrapper that cannot
// serve as a signal handler or be jumped over.
unsafe extern "C-unwind" {
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn disable_all_timeouts(keep_indicators: bool);
    fn kill(pid: i32, signal: c_int) -> c_int;
}

/// `STATEMENT_TIMEOUT` of `TimeoutId`, the same in 15 to 18; registered in every process that
/// connects to a database.
const STATEMENT_TIMEOUT: c_int = 3;
const SIGHUP: c_int = 1;
const SIGTERM: c_int = 15;

/// Installs the handlers of a worker and lets signals in. SIGTERM goes to `die`, so that it
/// interrupts running SQL; SIGINT (cancel) and SIGUSR1 keep what Postgres set up.
pub(crate) fn accept_signals() {
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;
    // SAFETY: the handlers are Postgres's own, async-signal-safe functions.
    unsafe {
        pqsignal(SIGHUP, Some(SignalHandlerForConfigReload));
        pqsignal(SIGTERM, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Serves interrupts (termination is FATAL here) and a pending configuration reload. Returns
/// whether the configuration was read again. Call outside transactions.
pub(crate) fn serve_interrupts() -> bool {
    // A cancellation between two transactions has nothing to cancel; as an ERROR out here it
    // would end the worker.
    // SAFETY: the flag belongs to this process.
    unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) }
    pgrx::check_for_interrupts!();
    // SAFETY: a flag the signal handler sets; volatile because it changes behind our back.
    unsafe {
        let pending = &raw mut pg_sys::ConfigReloadPending;
        if pending.read_volatile() == 0 {
            return false;
        }
        pending.write_volatile(0);
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Lowers this process's latch. Then test every condition, then `wait_latch`.
pub(crate) fn reset_latch() {
    // SAFETY: MyLatch is this process's own latch.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// Sleeps until the latch is set or `timeout` has passed; exits the process if the postmaster
/// is gone.
pub(crate) fn wait_latch(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = timeout.as_millis().clamp(1, i32::MAX as u128) as i64;
    // SAFETY: waits on this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as c_int, milliseconds, pg_sys::PG_WAIT_EXTENSION);
    }
}

/// Wall clock in microseconds since 2000-01-01, as `timestamptz` counts.
pub(crate) fn now() -> i64 {
    // SAFETY: no preconditions.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Arms the statement timeout, which nothing else does in a worker.
pub(crate) fn arm_statement_timeout(limit: Duration) {
    let milliseconds = limit.as_millis().clamp(1, i32::MAX as u128) as c_int;
    // SAFETY: the timeout is registered in every process connected to a database.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds) }
}

/// Disarms the statement timeout and forgets a cancellation that arrived too late, which would
/// otherwise hit the next turn.
pub(crate) fn disarm_statement_timeout() {
    // SAFETY: as above; the flag belongs to this process.
    unsafe {
        disable_timeout(STATEMENT_TIMEOUT, false);
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
    }
}

/// Disarms every timeout, before an abort, which must not be cancelled itself.
pub(crate) fn disarm_all_timeouts() {
    // SAFETY: as above.
    unsafe {
        disable_all_timeouts(false);
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
    }
}

/// Sets a setting for the life of this process, above configuration file, database and role.
pub(crate) fn override_setting(name: &CStr, value: &CStr) {
    // SAFETY: both strings live through the call; an unknown name raises an ordinary ERROR.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Shows what the process does in `pg_stat_activity`; None: idle.
pub(crate) fn report_activity(what: Option<&CStr>) {
    // SAFETY: the string is copied.
    unsafe {
        match what {
            Some(what) => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, what.as_ptr()),
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Hands table statistics over, which nothing else does in a worker; `force` before a long sleep.
pub(crate) fn report_statistics(force: bool) {
    // SAFETY: called outside transactions.
    unsafe {
        pg_sys::pgstat_report_stat(force);
    }
}

/// Connects a worker to a database as the bootstrap superuser; `None` to shared catalogs only. A
/// missing database is FATAL.
pub(crate) fn connect(database: Option<pg_sys::Oid>) {
    // SAFETY: called once per worker, before anything else touches Postgres.
    unsafe {
        match database {
            Some(oid) => {
                pg_sys::BackgroundWorkerInitializeConnectionByOid(oid, pg_sys::InvalidOid, 0);
            }
            None => pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0),
        }
    }
}

/// A memory context for one worker's cycles, emptied between them, so that nothing Postgres or
/// pgrx allocates outside a transaction can pile up.
pub(crate) fn enter_cycle_context() -> pg_sys::MemoryContext {
    // SAFETY: a new context under the one that lives as long as the process.
    unsafe {
        let context = pg_sys::AllocSetContextCreateExtended(
            pg_sys::TopMemoryContext,
            c"meshhook cycle".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        pg_sys::MemoryContextSwitchTo(context);
        context
    }
}

/// Empties the cycle's context. Outside transactions only.
pub(crate) fn reset_cycle_context(context: pg_sys::MemoryContext) {
    // SAFETY: made by `enter_cycle_context`; nothing kept points into it.
    unsafe {
        pg_sys::MemoryContextReset(context);
        pg_sys::MemoryContextSwitchTo(context);
    }
}

/// Sends SIGTERM. False: no such process.
pub(crate) fn terminate(pid: i32) -> bool {
    // SAFETY: plain system call; the caller found `pid` as the holder of our lock.
    pid > 0 && unsafe { kill(pid, SIGTERM) } == 0
}

/// The database this session is connected to; 0 in the launcher.
pub(crate) fn my_database() -> pg_sys::Oid {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// A handle to a dynamic worker, kept until it is seen to have ended.
pub(crate) struct Handle(*mut pg_sys::BackgroundWorkerHandle);

/// What became of a dynamic worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Waiting for the postmaster, or running.
    Alive,
    /// Ended, or never came up.
    Ended,
}

/// Starts an orchestrator for a database; it is never restarted by the postmaster, because a
/// worker of a dropped database would then fail for ever. None: no free worker slot.
pub(crate) fn start_orchestrator(database: pg_sys::Oid) -> Option<Handle> {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(database),
        ..Default::default()
    };
    copy(&mut worker.bgw_name, &format!("meshhook orchestrator {}", database.to_u32()));
    copy(&mut worker.bgw_type, super::ORCHESTRATOR_TYPE);
    copy(&mut worker.bgw_library_name, super::LIBRARY);
    copy(&mut worker.bgw_function_name, "meshhook_orchestrator_main");
    let mut handle = std::ptr::null_mut();
    // SAFETY: all fields are set; the handle is allocated in the context that lives as long as
    // the process, so that it survives transactions.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let started = pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle);
        pg_sys::MemoryContextSwitchTo(previous);
        // Not `then_some`: it would make, and drop, a handle that points nowhere.
        (started && !handle.is_null()).then(|| Handle(handle))
    }
}

/// Registers the launcher with the postmaster. Only from `_PG_init` while preloading.
pub(crate) fn register_launcher() {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: 10,
        ..Default::default()
    };
    copy(&mut worker.bgw_name, super::LAUNCHER_TYPE);
    copy(&mut worker.bgw_type, super::LAUNCHER_TYPE);
    copy(&mut worker.bgw_library_name, super::LIBRARY);
    copy(&mut worker.bgw_function_name, "meshhook_launcher_main");
    // SAFETY: all fields are set; the postmaster copies them.
    unsafe { pg_sys::RegisterBackgroundWorker(&raw mut worker) }
}

/// Copies a string into a fixed C array, cut to fit, always terminated.
fn copy<const N: usize>(target: &mut [std::ffi::c_char; N], text: &str) {
    for (to, from) in target.iter_mut().zip(text.bytes().take(N - 1)) {
        *to = from as std::ffi::c_char;
    }
}

impl Handle {
    /// Looks whether the worker is still there.
    pub fn fate(&self) -> Fate {
        let mut pid = 0;
        // SAFETY: the handle came from RegisterDynamicBackgroundWorker and is not freed.
        match unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &raw mut pid) } {
            pg_sys::BgwHandleStatus::BGWH_STARTED | pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED => {
                Fate::Alive
            }
            _ => Fate::Ended,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: allocated by RegisterDynamicBackgroundWorker in TopMemoryContext.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

/// The lock that makes the orchestrator of a database the only one when there is no shared
/// memory to agree in. Its fourth field keeps it apart from every user's advisory lock.
fn orchestrator_lock() -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: my_database().to_u32(),
        locktag_field2: 0x6d65_7368, // "mesh"
        locktag_field3: 0x686f_6f6b, // "hook"
        locktag_field4: super::LOCK_SUBID,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Takes the orchestrator lock for the life of this process. False: another one has it.
pub(crate) fn try_orchestrator_lock() -> bool {
    let tag = orchestrator_lock();
    // SAFETY: the tag is fully set; a session lock needs no transaction.
    let result = unsafe { pg_sys::LockAcquire(&raw const tag, pg_sys::ExclusiveLock as c_int, true, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Whether some process of this database holds the orchestrator lock.
pub(crate) fn orchestrator_lock_taken() -> bool {
    let tag = orchestrator_lock();
    // SAFETY: the tag is fully set; the share lock is given back at once.
    unsafe {
        let mode = pg_sys::ShareLock as c_int;
        match pg_sys::LockAcquire(&raw const tag, mode, false, true) {
            pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => true,
            _ => {
                pg_sys::LockRelease(&raw const tag, mode, false);
                false
            }
        }
    }
}

/// A C string from trusted text without NUL bytes; with one, an empty string.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
