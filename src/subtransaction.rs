//! Work that may fail without taking the caller's transaction along.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

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
                if is_interrupt(caught.sqlstate) {
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
