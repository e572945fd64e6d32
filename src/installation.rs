//! Where this installation is at home, and what a fresh one needs before its first workflow.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::refuse;
use crate::owner::as_owner;
use crate::project::{self, DEFAULT};
use crate::spi::{self, arg};

/// This cluster and database, as `installation` records them.
fn here() -> (i64, pg_sys::Oid) {
    // SAFETY: both are fixed for the backend's life once it is connected.
    unsafe { (pg_sys::GetSystemIdentifier().cast_signed(), pg_sys::MyDatabaseId) }
}

/// Whether this installation may act: no row of another cluster or database is there.
///
/// A fresh installation has no row at all; the first workflow, endpoint or project writes it.
pub fn active() -> bool {
    let (system, database) = here();
    let foreign = spi::read_one(
        "SELECT EXISTS (SELECT FROM meshhook.installation WHERE (system_identifier, database_oid) <> ($1, $2))",
        &[arg(system), arg(database)],
        |row| row.must::<bool>(1),
    );
    foreign == Some(false)
}

/// Makes a fresh installation ready: its own row, and the first leaves. Called as the owner role.
pub fn ensure() {
    let (system, database) = here();
    spi::exec(
        "INSERT INTO meshhook.installation (system_identifier, database_oid)
         SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM meshhook.installation) ON CONFLICT DO NOTHING",
        &[arg(system), arg(database)],
    );
    spi::exec("SELECT meshhook.ensure_leaves()", &[]);
}

/// Whether this copy may act; see the COMMENT.
#[pg_extern(stable)]
#[search_path(pg_catalog, pg_temp)]
fn is_active() -> bool {
    as_owner(|_| active())
}

/// Makes this copy the one that acts; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn activate() -> bool {
    let changed = as_owner(|caller| {
        if active() {
            return false;
        }
        let (system, database) = here();
        let gone = spi::exec(
            "DELETE FROM meshhook.installation WHERE (system_identifier, database_oid) <> ($1, $2)",
            &[arg(system), arg(database)],
        );
        if gone == 0 {
            refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "somebody else activates this copy just now",
            )
            .raise();
        }
        spi::exec(
            "INSERT INTO meshhook.installation (system_identifier, database_oid) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[arg(system), arg(database)],
        );
        spi::exec("SELECT meshhook.ensure_leaves()", &[]);
        project::audit(DEFAULT, caller, "installation.activated", "database", None);
        true
    });
    crate::shmem::register_database_on_commit();
    crate::shmem::wake_on_commit();
    changed
}
