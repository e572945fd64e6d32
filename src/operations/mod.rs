//! What operators call: status, workers, maintenance, version.

pub mod bulk;
mod retention;
mod status;

use pgrx::prelude::*;

use crate::fault;
use crate::guc;
use crate::owner::as_owner;
use crate::spi::{self, arg};

/// The extension's version; see the COMMENT.
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Starts an orchestrator for this database; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn start_workers() -> bool {
    crate::worker::start_workers()
}

/// Stops the orchestrator of this database; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn stop_workers() -> bool {
    crate::worker::stop_workers()
}

/// One step of maintenance; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn maintain() -> TableIterator<'static, (name!(action, String), name!(target, String))> {
    TableIterator::new(as_owner(|_| step()))
}

/// Does the next step of maintenance and says what it was. Called as the owner role.
pub fn step() -> Vec<(String, String)> {
    fault::around!("care.step");
    fault::at_commit!("care.commit");
    let rotated = spi::run(
        "SELECT action, target FROM meshhook.rotate_leaves($1)",
        &[arg(guc::LEAF_DAYS.get())],
        |row| (row.must(1), row.must(2)),
    );
    if rotated.is_empty() { retention::step() } else { rotated }
}

/// Registers the database with the launcher; the install script calls it last.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn register_database() {
    crate::shmem::register_database_on_commit();
}
