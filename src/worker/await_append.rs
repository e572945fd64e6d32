//! Waiting for messages without a snapshot: `CALL meshhook.wait_append(category, ms)`, the sleep inside the procedure
//! `meshhook.wait_for_messages`.
//!
//! Decides when a waiting session looks again: after each end of a transaction that may have made a message readable.

use super::waiting::{POLL, end_transaction, refuse_in_transaction, sleep};
use crate::event_store;
use crate::shmem::inflight;
use pgrx::{FromDatum, pg_guard, pg_sys};
use std::time::Duration;

/// Tells Postgres that the function below follows calling convention 1.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_meshhook_wait_append() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `wait_append(category text, ms integer)`: with 0 ms registers this session as waiting; with more ends the
/// transaction and sleeps until a message may have become readable since the session last slept or registered; with
/// fewer ends the waiting. The caller looks in between.
///
/// # Safety
/// Called by Postgres only, with two arguments.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn meshhook_wait_append(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: Postgres passes a valid call frame with the arguments of the SQL declaration.
    let (category, limit) = unsafe {
        refuse_in_transaction(fcinfo, "wait_for_messages");
        let arguments = (*fcinfo).args.as_slice((*fcinfo).nargs as usize);
        let category = arguments.first().and_then(|a| String::from_datum(a.value, a.isnull));
        (category, arguments.get(1).and_then(|a| i32::from_datum(a.value, a.isnull)).unwrap_or(0))
    };
    match u64::try_from(limit) {
        Err(_) => inflight::stop_waiting(),
        Ok(0) => {
            let (project, mask) = event_store::awaited(category.as_deref());
            inflight::start_waiting(project, mask);
        }
        Ok(ms) => {
            end_transaction();
            let limit = Duration::from_millis(ms);
            // SAFETY: reads shared state of the server.
            if inflight::available() && !unsafe { pg_sys::RecoveryInProgress() } {
                sleep(limit, inflight::called);
            } else {
                // Nobody calls, on a standby either: the caller polls.
                sleep(limit.min(POLL), || false);
            }
        }
    }
    pg_sys::Datum::from(0)
}
