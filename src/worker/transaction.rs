//! The one transaction wrapper of the workers.
//!
//! Decides when a worker's transaction starts, commits and aborts, and that nothing of a failed
//! one survives: no open transaction, no armed timeout, no pending cancellation, no role. pgrx's
//! own wrapper commits when the closure returns `Err` and leaves the transaction open on ERROR.

use super::ffi;
use crate::error::may_be_a_runs_fault;
use pgrx::PgTryBuilder;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Why a transaction was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE; codes pgrx does not know arrive as `XX000`.
    pub code: PgSqlErrorCode,
    /// Primary message.
    pub message: String,
    /// DETAIL, if any.
    pub detail: Option<String>,
    /// Whether COMMIT itself failed.
    at_commit: bool,
}

impl Failure {
    fn from_caught(error: CaughtError) -> Failure {
        let report = match error {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => report,
        };
        Failure {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            at_commit: false,
        }
    }

    /// Whether the failure says nothing about the work itself, so that doing the same again later is
    /// right: locks, a full disk, I/O, a missing right, shutdown, a standby.
    pub fn is_transient(&self) -> bool {
        // What COMMIT refuses (a full NOTIFY queue, say) is about the server, whatever its code.
        self.at_commit || !may_be_a_runs_fault(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

/// Runs `work` in a transaction of its own with a snapshot, named `name` in `pg_stat_activity`
/// and cancelled after `limit`. Commits when it returns; rolls everything back when it raises an
/// ERROR or panics. Never call inside a transaction.
pub fn run<T>(name: &CStr, limit: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: plain globals of this process.
    let (context, user) = unsafe { (pg_sys::CurrentMemoryContext, current_user()) };
    let committing = Cell::new(false);
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        begin(name, limit);
        let value = work();
        committing.set(true);
        commit();
        Ok(value)
    }))
    .catch_others(|error| Err(Failure::from_caught(error)))
    .execute()
    .map_err(|failure| Failure { at_commit: committing.get(), ..failure });
    if result.is_err() {
        abort();
    }
    // SAFETY: no transaction is open. The role of the turn lasts through COMMIT, whose deferred
    // triggers must not run as superuser; an abort has already restored it. The context existed
    // before the transaction.
    unsafe {
        pg_sys::SetUserIdAndSecContext(user.0, user.1);
        pg_sys::debug_query_string = std::ptr::null();
        pg_sys::MemoryContextSwitchTo(context);
    }
    ffi::report_statistics(false);
    result
}

/// For the rest of this transaction acts as `role`, restricted: no SET ROLE, no temporary tables,
/// nothing that outlives the transaction. Undone by `run`.
pub fn act_as(role: pg_sys::Oid) {
    let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
    // SAFETY: inside a transaction, whose abort restores the user it began with.
    unsafe { pg_sys::SetUserIdAndSecContext(role, flags as i32) }
}

fn current_user() -> (pg_sys::Oid, i32) {
    let (mut role, mut flags) = (pg_sys::InvalidOid, 0);
    // SAFETY: both pointers are valid for writing.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut flags) }
    (role, flags)
}

fn begin(name: &CStr, limit: Duration) {
    // SAFETY: outside a transaction, on the main thread; `name` outlives the transaction.
    unsafe {
        pg_sys::debug_query_string = name.as_ptr();
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        ffi::arm_statement_timeout(limit);
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    ffi::report_activity(Some(name));
}

fn commit() {
    // SAFETY: closes what `begin` opened. The timeout goes first: a commit is not cancelled.
    unsafe {
        pg_sys::PopActiveSnapshot();
        ffi::disarm_statement_timeout();
        pg_sys::CommitTransactionCommand();
    }
    ffi::report_activity(None);
}

fn abort() {
    ffi::disarm_all_timeouts();
    // SAFETY: rolls back whatever `begin` opened, also when it failed half-way; interrupts are
    // held so that the roll-back itself is not interrupted, as in the main loop of a backend.
    unsafe {
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::error_context_stack = std::ptr::null_mut();
        pg_sys::AbortCurrentTransaction();
        pg_sys::FlushErrorState();
        pg_sys::InterruptHoldoffCount -= 1;
    }
    ffi::report_activity(None);
}
