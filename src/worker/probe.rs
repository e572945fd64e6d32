//! What a worker must know before it touches a table: is the extension there, is it ours, may we
//! look at its tables now, is this database awake.
//!
//! Decides nothing beyond that. Never waits for a lock, so that DROP and ALTER EXTENSION do not
//! wait for a worker that waits for them.

use pgrx::htup::heap_getattr_raw;
use pgrx::{FromDatum, Spi, pg_sys};
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// Name of the role that owns the tables and does the turns.
const OWNER: &CStr = c"meshhook_owner";
const SCHEMA: &CStr = c"meshhook";
const EXTENSION: &str = concat!(env!("CARGO_PKG_NAME"), "\0");
/// Column number of `extversion`; a constant of the catalog, 15 to 18.
const EXTVERSION: NonZeroUsize = NonZeroUsize::new(pg_sys::Anum_pg_extension_extversion as usize).unwrap();

/// The answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The extension is not installed in this database.
    Absent,
    /// Another version than this library's, or the owner role is missing: leave it alone.
    Mismatched,
    /// Being dropped, altered or otherwise locked: look again shortly.
    Busy,
    /// A restored or cloned copy that waits for `meshhook.activate()`.
    Dormant,
    /// Ours to serve.
    Ready {
        /// The extension's object id: a change means it was dropped and created again.
        extension: pg_sys::Oid,
        /// The role turns run as.
        owner: pg_sys::Oid,
    },
}

/// Looks; inside a transaction with a snapshot, as superuser. What it locks stays locked until
/// the transaction ends: the extension cannot vanish under the turn that follows.
pub fn probe() -> Probe {
    let Some((extension, version)) = installed() else {
        return Probe::Absent;
    };
    if version != env!("CARGO_PKG_VERSION") {
        return Probe::Mismatched;
    }
    // SAFETY: catalog look-ups and conditional locks inside a transaction.
    let owner = unsafe {
        let shared = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // DROP EXTENSION locks this object before any table. Without it a turn and a drop could
        // hold tables the other wants.
        if !pg_sys::ConditionalLockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, shared) {
            return Probe::Busy;
        }
        let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
        let table = pg_sys::get_relname_relid(c"run".as_ptr(), schema);
        if schema == pg_sys::InvalidOid
            || table == pg_sys::InvalidOid
            || !pg_sys::ConditionalLockRelationOid(table, shared)
        {
            return Probe::Busy;
        }
        pg_sys::get_role_oid(OWNER.as_ptr(), true)
    };
    // The catalog may have changed between look-up and lock.
    if installed().map(|(now, _)| now) != Some(extension) {
        return Probe::Busy;
    }
    if owner == pg_sys::InvalidOid {
        return Probe::Mismatched;
    }
    if active() { Probe::Ready { extension, owner } } else { Probe::Dormant }
}

/// The extension's object id and version, read from the catalog itself: no plan, no SPI.
fn installed() -> Option<(pg_sys::Oid, String)> {
    // SAFETY: an index scan of pg_extension as CREATE EXTENSION does it; everything opened is
    // closed, the value is copied before the tuple goes.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::ExtensionRelationId, lock);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut key,
            pg_sys::Anum_pg_extension_extname as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_NAMEEQ),
            pg_sys::Datum::from(EXTENSION.as_ptr()),
        );
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::Oid::from(pg_sys::ExtensionNameIndexId),
            true,
            std::ptr::null_mut(),
            1,
            &raw mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let found = if tuple.is_null() {
            None
        } else {
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_extension>();
            let version = heap_getattr_raw(tuple, EXTVERSION, (*relation).rd_att);
            version.and_then(|datum| String::from_datum(datum, false)).map(|version| ((*row).oid, version))
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
        found
    }
}

/// Whether the installation belongs to this database (design: a copy sleeps until activated).
fn active() -> bool {
    // A read: takes no transaction id.
    Spi::connect(|client| {
        client
            .select("SELECT meshhook.is_active()", Some(1), &[])
            .ok()
            .and_then(|rows| rows.first().get_one::<bool>().ok().flatten())
            .unwrap_or(false)
    })
}
