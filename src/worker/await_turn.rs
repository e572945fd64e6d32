//! Waiting for a run without a snapshot: `CALL meshhook.wait_turn(run, ms, moves)`, the sleep inside the
//! procedures `meshhook.await_run` and `meshhook.wait_for_run`.
//!
//! Decides when a waiting session looks again.

use super::waiting::{POLL, end_transaction, refuse_in_transaction, sleep};
use crate::shmem::{self, News};
use pgrx::{FromDatum, Uuid, pg_guard, pg_sys};
use std::time::{Duration, Instant};

/// The run last waited for, for which news, and the change counter then: what changed since must be
/// looked at before sleeping. One session waits for one run at a time.
static LAST_SEEN: std::sync::Mutex<Option<([u8; 16], News, u32)>> = std::sync::Mutex::new(None);

/// Tells Postgres that the function below follows calling convention 1.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_meshhook_wait_turn() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `wait_turn(run uuid, ms integer, moves boolean)`: ends the transaction, then sleeps until the run
/// may have ended, or with `moves` may have new events, or `ms` milliseconds have passed. The first call for a run returns at once: the caller
/// must have looked at the run after it for a later call to sleep.
///
/// # Safety
/// Called by Postgres only, with three arguments, declared STRICT by the caller's SQL.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn meshhook_wait_turn(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: Postgres passes a valid call frame with the arguments of the SQL declaration.
    let (run, limit, news) = unsafe {
        let arguments = (*fcinfo).args.as_slice((*fcinfo).nargs as usize);
        let run = arguments.first().and_then(|a| Uuid::from_datum(a.value, a.isnull));
        let limit = arguments.get(1).and_then(|a| i32::from_datum(a.value, a.isnull));
        let moves = arguments.get(2).and_then(|a| bool::from_datum(a.value, a.isnull)).unwrap_or(false);
        let (procedure, news) =
            if moves { ("wait_for_run", News::Moved) } else { ("await_run", News::Ended) };
        refuse_in_transaction(fcinfo, procedure);
        (run, limit, news)
    };
    end_transaction();
    if let Some(run) = run {
        let limit = Duration::from_millis(limit.unwrap_or(0).max(0) as u64);
        wait(run.as_bytes(), news, limit);
    }
    pg_sys::Datum::from(0)
}

fn wait(run: &[u8; 16], news: News, limit: Duration) {
    let Some(now) = shmem::generation(run, news) else {
        // Nobody announces anything: the caller polls.
        return sleep(limit.min(POLL), || false);
    };
    // Never contended (one thread) and never poisoned (nothing panics while it is held).
    let seen = LAST_SEEN.lock().map_or(None, |seen| *seen);
    if seen == Some((*run, news, now)) {
        let place = shmem::wait_place(run, news);
        let step = if place.is_some() { limit } else { POLL };
        let end = Instant::now() + limit;
        let changed = || shmem::generation(run, news) != Some(now);
        while !changed() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(left.min(step), changed);
        }
    }
    if let Ok(mut seen) = LAST_SEEN.lock() {
        *seen = shmem::generation(run, news).map(|now| (*run, news, now));
    }
}
