//! Work that may fail without taking the caller's transaction along.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use crate::error::may_be_a_runs_fault;

/// An ERROR or panic that was caught and undone.
#[derive(Debug)]
pub struct Caught {
    /// Its SQLSTATE; XX000 for a panic.
    pub sqlstate: PgSqlErrorCode,
    /// Its message.
    pub message: String,
}

/// Runs `work` in a subtransaction: kept if it returns, undone if it raises.
///
/// Interrupts (57014 and its class) are undone and raised again: a cancel is meant for the caller.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    attempt_unless(is_interrupt, work)
}

/// Like [`attempt`], where only what says something of the data is undone and told: that, and a refusal (55000). A lock
/// that is not to be had, a deadlock or a full disk is nobody's answer and is raised again.
pub fn attempt_on_data<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    let of_the_data =
        |code| may_be_a_runs_fault(code) || code == PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    attempt_unless(|code| is_interrupt(code) || !of_the_data(code), work)
}

/// Like [`attempt`], with a time limit of its own: when that is over, the work is undone with 57014 and the caller
/// goes on. (A `statement_timeout` set inside a statement has no effect on it.)
pub fn attempt_within<T>(limit: Duration, work: impl FnOnce() -> T) -> Result<T, Caught> {
    let alarm = alarm::arm(limit);
    let result = attempt_unless(
        |code| is_interrupt(code) && !alarm::rang(),
        || {
            let value = work();
            alarm::disarm();
            value
        },
    );
    drop(alarm);
    result
}

fn attempt_unless<T>(
    raise: impl FnOnce(PgSqlErrorCode) -> bool,
    work: impl FnOnce() -> T,
) -> Result<T, Caught> {
    // SAFETY: paired with release or rollback below; memory context and resource owner are put back, as
    // PL/pgSQL does around its exception blocks.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| {
            let value = work();
            pg_sys::ReleaseCurrentSubTransaction();
            Ok(value)
        }))
        .catch_others(|cause| Err(Box::new((caught(&cause), cause))))
        .execute();
        let result = match result {
            Ok(value) => Ok(value),
            Err(failure) => {
                let (caught, cause) = *failure;
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                if raise(caught.sqlstate) {
                    cause.rethrow();
                }
                Err(caught)
            }
        };
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}

/// A timeout of this process that cancels what is under way, and remembers that it did.
mod alarm {
    use std::cell::Cell;
    use std::ffi::c_int;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use pgrx::pg_sys;

    /// Of `TimeoutId` in the server's utils/timeout.h: asks for a free number. 17 has one more of its own before it.
    const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

    thread_local! {
        /// The number the server gave the timeout.
        static TIMEOUT: Cell<Option<c_int>> = const { Cell::new(None) };
    }
    static RANG: AtomicBool = AtomicBool::new(false);

    unsafe extern "C-unwind" {
        fn RegisterTimeout(id: c_int, handler: extern "C" fn()) -> c_int;
        fn enable_timeout_after(id: c_int, delay_ms: c_int);
        fn disable_timeout(id: c_int, keep_indicator: bool);
    }

    /// Runs in the signal handler: sets flags and nothing else.
    extern "C" fn ring() {
        RANG.store(true, Ordering::SeqCst);
        // SAFETY: flags of this process that signal handlers are meant to set.
        unsafe {
            (&raw mut pg_sys::QueryCancelPending).write_volatile(1);
            (&raw mut pg_sys::InterruptPending).write_volatile(1);
            pg_sys::SetLatch(pg_sys::MyLatch);
        }
    }

    /// Disarms when it goes out of scope.
    pub(super) struct Armed;

    impl Drop for Armed {
        fn drop(&mut self) {
            disarm();
        }
    }

    pub(super) fn arm(limit: Duration) -> Armed {
        RANG.store(false, Ordering::SeqCst);
        let id = TIMEOUT.get().unwrap_or_else(|| {
            // SAFETY: asks for a number of our own, once a process.
            let id = unsafe { RegisterTimeout(USER_TIMEOUT, ring) };
            TIMEOUT.set(Some(id));
            id
        });
        let delay = limit.as_millis().clamp(1, i32::MAX as u128) as c_int;
        // SAFETY: the timeout is registered.
        unsafe { enable_timeout_after(id, delay) };
        Armed
    }

    /// Disarms, and takes back a cancel that came too late.
    pub(super) fn disarm() {
        let Some(id) = TIMEOUT.get() else { return };
        // SAFETY: the timeout is registered; the flag is this process's own.
        unsafe {
            disable_timeout(id, false);
            if rang() {
                (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
            }
        }
    }

    pub(super) fn rang() -> bool {
        RANG.load(Ordering::SeqCst)
    }
}

fn is_interrupt(code: PgSqlErrorCode) -> bool {
    matches!(
        code,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
    )
}

fn caught(cause: &CaughtError) -> Caught {
    match cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            Caught { sqlstate: report.sql_error_code(), message: report.message().to_owned() }
        }
        CaughtError::RustPanic { ereport, .. } => {
            Caught { sqlstate: PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message: ereport.message().to_owned() }
        }
    }
}
