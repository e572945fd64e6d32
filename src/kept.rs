//! What administrators set and every start and every delivery asks for: kept by each backend until somebody writes to one
//! of the tables it is read from.
//!
//! Those tables have a trigger that sends an invalidation of [`marker`] with its transaction, as a change of the
//! catalogue would: every backend hears of it before whoever made the change is told that it is committed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use pgrx::prelude::*;

/// Most values that a backend keeps of a kind.
const MAX_KEPT: usize = 1_000;

thread_local! {
    /// The table whose invalidation is listened for, once it is.
    static HEARD: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// Counts the invalidations.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// Values by their keys, all of them read since the last change.
#[derive(Debug)]
pub struct Kept<K, V> {
    generation: Cell<u64>,
    values: RefCell<HashMap<K, V>>,
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { generation: Cell::new(0), values: RefCell::new(HashMap::new()) }
    }

    /// The value of a key: the kept one, or what `load` finds, which must read with a snapshot of its own. What is not
    /// there is not kept. A transaction whose snapshot stands still reads for itself.
    pub fn get(&self, key: K, load: impl FnOnce() -> Option<V>) -> Option<V> {
        if has_one_snapshot() {
            return load();
        }
        let generation = generation();
        if self.generation.replace(generation) != generation {
            self.values.borrow_mut().clear();
        }
        if let Some(value) = self.values.borrow().get(&key) {
            return Some(value.clone());
        }
        let value = load()?;
        // What was changed while it was read may be in it or not.
        if self::generation() == generation {
            let mut values = self.values.borrow_mut();
            if values.len() >= MAX_KEPT {
                values.clear();
            }
            values.insert(key, value.clone());
        }
        Some(value)
    }
}

/// The table that stands for all: a dropped and re-created extension has another one.
pub fn marker() -> pg_sys::Oid {
    // SAFETY: catalogue look-ups inside a transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"meshhook".as_ptr(), true);
        pg_sys::get_relname_relid(c"workflow_version".as_ptr(), schema)
    }
}

/// How many changes this backend has heard of, those that are committed by now among them.
fn generation() -> u64 {
    let marker = marker();
    let heard = HEARD.replace(Some(marker));
    if heard.is_none() {
        // SAFETY: once in a backend's life; the function stays where it is.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::from(0)) };
    }
    if heard != Some(marker) {
        GENERATION.set(GENERATION.get() + 1);
    }
    // SAFETY: what taking a lock does, too; runs what is registered for what has come in.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    GENERATION.get()
}

/// Something has changed in a table, or in any where none is named. May run at any look into the catalogue.
#[pg_guard]
unsafe extern "C-unwind" fn changed(_argument: pg_sys::Datum, table: pg_sys::Oid) {
    if table == pg_sys::InvalidOid || HEARD.get() == Some(table) {
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// Whether all of the transaction's statements see the same.
fn has_one_snapshot() -> bool {
    // SAFETY: a variable of the backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Tells every backend, at commit, that kept settings are to be read anew.
#[pg_trigger]
fn settings_changed<'a>(
    _trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, pgrx::pgbox::AllocatedByPostgres>>, pgrx::PgTriggerError> {
    // SAFETY: a table that exists, inside a transaction. Only a command whose id is used has its invalidations heard of
    // in its own transaction when it ends; that of a key's check may be the newest one.
    unsafe {
        pg_sys::GetCurrentCommandId(true);
        pg_sys::CacheInvalidateRelcacheByRelid(marker());
    }
    Ok(None)
}
