//! Waiting for a run without a snapshot: `CALL meshhook.wait_turn(run, ms)`, the sleep inside the
//! procedure `meshhook.await_run`.
//!
//! Decides when a waiting session looks again. It first ends the transaction it was called in, so
//! that it holds neither snapshot nor transaction id while it sleeps: a thousand waiting sessions
//! must not keep vacuum from removing what turns leave behind.

use super::ffi;
use crate::shmem;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{FromDatum, PgLogLevel, PgSqlErrorCode, Uuid, function_name, pg_guard, pg_sys};
use std::time::{Duration, Instant};

/// Without a place among the waiters the change counter is looked at this often.
const POLL: Duration = Duration::from_millis(100);

/// The run last waited for, and the change counter then: what changed since must be looked at
/// before sleeping. One session waits for one run at a time.
static LAST_SEEN: std::sync::Mutex<Option<([u8; 16], u32)>> = std::sync::Mutex::new(None);

/// Tells Postgres that the function below follows calling convention 1.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_meshhook_wait_turn() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `wait_turn(run uuid, ms integer)`: ends the transaction, then sleeps until the run may have
/// ended or `ms` milliseconds have passed. The first call for a run returns at once: the caller
/// must have looked at the run after it for a later call to sleep.
///
/// # Safety
/// Called by Postgres only, with two arguments, declared STRICT by the caller's SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn meshhook_wait_turn(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: Postgres passes a valid call frame with the arguments of the SQL declaration.
    let (atomic, run, limit) = unsafe {
        let arguments = (*fcinfo).args.as_slice((*fcinfo).nargs as usize);
        let run = arguments.first().and_then(|a| Uuid::from_datum(a.value, a.isnull));
        let limit = arguments.get(1).and_then(|a| i32::from_datum(a.value, a.isnull));
        (is_atomic(fcinfo), run, limit)
    };
    refuse_in_transaction(atomic);
    end_transaction();
    if let Some(run) = run {
        let limit = Duration::from_millis(limit.unwrap_or(0).max(0) as u64);
        wait(run.as_bytes(), limit);
    }
    pg_sys::Datum::from(0)
}

unsafe fn is_atomic(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the context of a CALL is a CallContext node; of anything else it is not.
    unsafe {
        let context = (*fcinfo).context;
        context.is_null()
            || (*context).type_ != pg_sys::NodeTag::T_CallContext
            || (*context.cast::<pg_sys::CallContext>()).atomic
    }
}

fn refuse_in_transaction(atomic: bool) {
    // SAFETY: a plain look at this process's transaction state.
    let has_written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    let (message, hint) = if atomic {
        (
            "await_run cannot run inside a transaction block or a function",
            "Commit first, then CALL meshhook.await_run() on its own.",
        )
    } else if has_written {
        (
            "await_run cannot wait in a transaction that has written",
            "The run does not start before its transaction commits: COMMIT first.",
        )
    } else {
        return;
    };
    ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, function_name!())
        .set_hint(hint)
        .report(PgLogLevel::ERROR);
}

/// Commits and begins a new transaction, which has no snapshot yet.
fn end_transaction() {
    // SAFETY: in a non-atomic call, as checked; SPI undoes nothing of its caller's.
    unsafe {
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        pg_sys::SPI_commit();
        pg_sys::SPI_finish();
        pg_sys::InvalidateCatalogSnapshot();
    }
}

fn wait(run: &[u8; 16], limit: Duration) {
    let Some(now) = shmem::generation(run) else {
        // Nobody announces anything: the caller polls.
        return sleep(limit.min(POLL), || false);
    };
    // Never contended (one thread) and never poisoned (nothing panics while it is held).
    let seen = LAST_SEEN.lock().map_or(None, |seen| *seen);
    if seen == Some((*run, now)) {
        let place = shmem::wait_place(run);
        let step = if place.is_some() { limit } else { POLL };
        let end = Instant::now() + limit;
        let changed = || shmem::generation(run) != Some(now);
        while !changed() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(left.min(step), changed);
        }
    }
    if let Ok(mut seen) = LAST_SEEN.lock() {
        *seen = shmem::generation(run).map(|now| (*run, now));
    }
}

/// Sleeps up to `limit` or until `done`; cancellation and termination get through.
fn sleep(limit: Duration, done: impl Fn() -> bool) {
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
