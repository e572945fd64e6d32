//! What procedures that wait have in common: they end the transaction they were called in, so that they hold neither
//! snapshot nor transaction id while they sleep. A thousand waiting sessions must not keep vacuum from removing what
//! turns leave behind.

use super::ffi;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_sys};
use std::time::{Duration, Instant};

/// Without anybody who calls, things are looked at this often.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Raises 55000 where waiting would never end or hold others up: inside a transaction block or function, or after a
/// write.
///
/// # Safety
/// `fcinfo` is the frame that Postgres called the procedure with.
pub(super) unsafe fn refuse_in_transaction(fcinfo: pg_sys::FunctionCallInfo, procedure: &str) {
    // SAFETY: the context of a CALL is a CallContext node; of anything else it is not.
    let atomic = unsafe {
        let context = (*fcinfo).context;
        context.is_null()
            || (*context).type_ != pg_sys::NodeTag::T_CallContext
            || (*context.cast::<pg_sys::CallContext>()).atomic
    };
    // SAFETY: a plain look at this process's transaction state.
    let has_written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    let message = if atomic {
        format!("{procedure} cannot run inside a transaction block or a function")
    } else if has_written {
        format!("{procedure} cannot wait in a transaction that has written")
    } else {
        return;
    };
    let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
    let hint = format!("Commit first, then CALL meshhook.{procedure}() on its own.");
    ErrorReport::new(code, message, function_name!()).set_hint(hint).report(PgLogLevel::ERROR);
}

/// Commits and begins a new transaction, which has no snapshot yet. Only in a call that may.
pub(super) fn end_transaction() {
    // SAFETY: in a non-atomic call, as checked; SPI undoes nothing of its caller's.
    unsafe {
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        pg_sys::SPI_commit();
        pg_sys::SPI_finish();
        pg_sys::InvalidateCatalogSnapshot();
    }
}

/// Sleeps up to `limit` or until `done`; cancellation and termination get through.
pub(super) fn sleep(limit: Duration, done: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    loop {
        pgrx::check_for_interrupts!();
        ffi::reset_latch();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || done() {
            return;
        }
        ffi::wait_latch(left);
    }
}
