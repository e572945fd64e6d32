//! The background workers: one launcher per cluster, one orchestrator per database.
//!
//! Decides who works where and when: starting, waking, stopping, back-off, staying out of the way
//! of DROP DATABASE. Must not know what a run, a job or a timer is; `run::turn` does. Without
//! `shared_preload_libraries` there is no launcher, no wake-up and no hook: `start_workers()`
//! starts an orchestrator that polls.

mod announce;
mod await_append;
mod await_turn;
mod backoff;
mod catalog;
mod ffi;
mod hooks;
mod launcher;
mod orchestrator;
mod probe;
mod transaction;
mod waiting;

use crate::shmem::{self, State};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, Spi, function_name, pg_sys};
use std::time::{Duration, Instant};

/// File name of this library, as `CREATE FUNCTION … AS` would name it.
pub(crate) const LIBRARY: &str = env!("CARGO_PKG_NAME");
pub(crate) const LAUNCHER_TYPE: &str = "meshhook launcher";
pub(crate) const ORCHESTRATOR_TYPE: &str = "meshhook orchestrator";
/// `objsubid` of the lock an unpreloaded orchestrator holds, as `pg_locks` shows it; user locks
/// have 1 or 2.
pub(crate) const LOCK_SUBID: u16 = 77;
/// How long `start_workers()` and `stop_workers()` wait for what they asked for.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// Registers the launcher and the hook. Call from `_PG_init`, only while
/// `process_shared_preload_libraries_in_progress`; does nothing during pg_upgrade.
pub fn init() {
    // SAFETY: a plain global of the postmaster.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    ffi::register_launcher();
    hooks::install();
}

/// Settings every worker runs under, whatever the configuration file, the database or the role
/// say: nobody's statement_timeout or isolation level is meant for a worker.
pub(crate) fn settle() {
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"5s"),
        (c"idle_in_transaction_session_timeout", c"0"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"session_replication_role", c"origin"),
        (c"row_security", c"on"),
        (c"datestyle", c"ISO, YMD"),
        (c"intervalstyle", c"postgres"),
        (c"timezone", c"UTC"),
        (c"extra_float_digits", c"1"),
        // A turn is many small statements; compiling them costs more than running them.
        (c"jit", c"off"),
        // Its plans are kept, and made while the tables may be empty; they must not read whole tables
        // once those are full. The same settings stand on the API functions (sql/finalize.sql).
        (c"plan_cache_mode", c"force_generic_plan"),
        (c"enable_seqscan", c"off"),
        (c"enable_bitmapscan", c"off"),
        (c"enable_hashjoin", c"off"),
        (c"enable_mergejoin", c"off"),
    ] {
        ffi::override_setting(name, value);
    }
}

/// Reports a WARNING with the way out.
pub(crate) fn warn(code: PgSqlErrorCode, message: String, hint: &str) {
    ErrorReport::new(code, message, function_name!()).set_hint(hint).report(PgLogLevel::WARNING);
}

/// What is known about the orchestrator of the current database, preloaded or not.
pub fn state() -> State {
    if shmem::available() {
        shmem::state(ffi::my_database())
    } else if ffi::orchestrator_lock_taken() {
        State::Serving
    } else {
        State::Unserved
    }
}

/// Whether something will take up work committed now: an orchestrator is attached or on its way.
pub fn is_served() -> bool {
    matches!(state(), State::Serving | State::Starting | State::Detached)
}

/// Process id of the current database's orchestrator.
pub fn orchestrator_pid() -> Option<i32> {
    if shmem::available() { shmem::orchestrator_pid(ffi::my_database()) } else { lock_holder() }
}

/// Makes sure that an orchestrator serves the current database; returns whether one does. Takes
/// effect at once, not at commit.
pub fn start_workers() -> bool {
    if !shmem::available() {
        return start_unpreloaded();
    }
    if let Some(name) = catalog::current_name()
        && !catalog::allowed(&name)
    {
        warn(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("meshhook.databases does not name database \"{name}\""),
            "Add it to meshhook.databases and reload the configuration.",
        );
        return false;
    }
    shmem::start_now();
    wait_until(|| matches!(state(), State::Serving | State::Dormant | State::Mismatched))
}

/// Ends the orchestrator of the current database and keeps it away until `start_workers()` or,
/// preloaded, until the server restarts. Returns whether one was running and has ended.
pub fn stop_workers() -> bool {
    if shmem::available() {
        return shmem::stop_now() && wait_until(|| orchestrator_pid().is_none());
    }
    lock_holder().is_some_and(ffi::terminate) && wait_until(|| !ffi::orchestrator_lock_taken())
}

fn start_unpreloaded() -> bool {
    if ffi::orchestrator_lock_taken() {
        return true;
    }
    let Some(handle) = ffi::start_orchestrator(ffi::my_database()) else {
        warn(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "no background worker slot is free for a meshhook orchestrator".to_owned(),
            "Increase max_worker_processes, or call meshhook.tick().",
        );
        return false;
    };
    wait_until(|| ffi::orchestrator_lock_taken() || handle.fate() == ffi::Fate::Ended)
        && ffi::orchestrator_lock_taken()
}

/// The process that holds the orchestrator lock of this database.
fn lock_holder() -> Option<i32> {
    let query = "SELECT l.pid FROM pg_catalog.pg_locks l \
         WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted \
         AND l.database OPERATOR(pg_catalog.=) $1 AND l.objsubid OPERATOR(pg_catalog.=) $2";
    Spi::connect(|client| {
        client
            .select(query, Some(1), &[ffi::my_database().into(), (LOCK_SUBID as i16).into()])
            .ok()
            .and_then(|rows| rows.first().get_one::<i32>().ok().flatten())
    })
}

/// Waits until `done`, at most `CHANGE_LIMIT`; cancellation gets through. Returns whether it came.
fn wait_until(done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + CHANGE_LIMIT;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        pgrx::check_for_interrupts!();
        ffi::wait_latch(Duration::from_millis(10));
        ffi::reset_latch();
    }
    true
}
