//! Databases of the cluster, read without being connected to any.
//!
//! Decides which databases can be served at all.

use super::transaction::{self, Failure};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::time::Duration;

/// A row of `pg_database` that an orchestrator can connect to.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub oid: u32,
    pub name: String,
}

/// All databases that accept connections and are no templates: connecting to a template would
/// stand in the way of those who copy it.
pub(crate) fn databases() -> Result<Vec<Database>, Failure> {
    transaction::run(c"meshhook: looking for databases", Duration::from_secs(30), scan)
}

fn scan() -> Vec<Database> {
    let mut databases = Vec::new();
    // SAFETY: a sequential catalog scan, as autovacuum's launcher does it; opened and closed
    // here; the fixed part of each row is read while the scan holds it.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // A limit of -2 marks what an interrupted DROP DATABASE left.
            if (*row).datallowconn && !(*row).datistemplate && (*row).datconnlimit != -2 {
                let name = CStr::from_ptr((&raw const (*row).datname.data).cast());
                databases
                    .push(Database { oid: (*row).oid.to_u32(), name: name.to_string_lossy().into_owned() });
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    databases
}

/// Whether `meshhook.databases` allows this database; an empty list allows all. Names are
/// separated by commas and may be double-quoted.
pub(crate) fn allowed(name: &str) -> bool {
    let Some(list) = crate::guc::DATABASES.get() else {
        return true;
    };
    let list = list.to_string_lossy();
    list.trim().is_empty() || named(&list, name)
}

fn named(list: &str, name: &str) -> bool {
    list.split(',').any(|entry| {
        let entry = entry.trim();
        let bare = entry.strip_prefix('"').and_then(|entry| entry.strip_suffix('"'));
        bare.map_or(entry == name, |bare| bare.replace("\"\"", "\"") == name)
    })
}

/// Name of the database this session is connected to.
pub(crate) fn current_name() -> Option<String> {
    // SAFETY: a catalog cache look-up inside a transaction; the copy is ours.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_list_names_databases_with_and_without_quotes() {
        assert!(named("app, \"My App\" ,other", "My App"));
        assert!(named("app", "app"));
        assert!(named("\"say \"\"hi\"\"\"", "say \"hi\""));
        assert!(!named("application", "app"));
    }
}
