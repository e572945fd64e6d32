//! Which number a stream has, and which stream a number is. Rows of `stream` are only ever inserted, so what was read
//! of a committed one is true for as long as the extension is there.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pgrx::{IntoDatum, pg_sys};

use super::table::{self, Key, Scan, Snapshot, Table};
use super::{lock, name};
use crate::error::bug;
use crate::spi::{self, arg};

/// Streams a process remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// Columns of `stream`.
mod column {
    pub const STREAM_ID: i32 = 2;
    pub const NAME: i32 = 3;
}

/// A stream as writers need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The hash of its category.
    pub category_hash: i64,
    /// The key of its lock.
    pub lock_key: i64,
    /// Its number; `None` as long as nothing was ever appended to it, or this process has not looked.
    id: Option<i64>,
    /// Where this process saw its head last. The head is rarely lower: only if what was seen was rolled back or purged.
    pub hint: i64,
}

/// A stream as readers need it.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its name.
    pub name: String,
    /// The hash of its cardinal id, which tells the members of a group apart; `None` for a bare category.
    pub member_hash: Option<i64>,
}

struct Memory {
    /// Of which table this is remembered: another one means that the extension was made anew.
    table: pg_sys::Oid,
    known: LruCache<(i32, String), Known>,
    streams: LruCache<(i32, i64), Rc<Stream>>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::new(Memory {
        table: pg_sys::InvalidOid,
        known: LruCache::new(REMEMBERED),
        streams: LruCache::new(REMEMBERED),
    });
}

/// What this process remembers, if it is of the installation that is there now.
fn memory<T>(use_it: impl FnOnce(&mut Memory) -> T) -> T {
    let table = table::oid(c"stream");
    MEMORY.with_borrow_mut(|memory| {
        if memory.table != table {
            memory.known.clear();
            memory.streams.clear();
            memory.table = table;
        }
        use_it(memory)
    })
}

/// What follows from a stream's name, and what else is remembered of it.
pub(super) fn known(project: i32, name: &str) -> Known {
    memory(|memory| {
        *memory.known.get_or_insert((project, name.to_owned()), || Known {
            category_hash: name::hash_64(name::category(name)),
            lock_key: lock::stream_key(project, name),
            id: None,
            hint: 0,
        })
    })
}

/// Remembers where a stream's head was seen.
pub(super) fn hint(project: i32, name: &str, hint: i64) {
    memory(|memory| {
        if let Some(known) = memory.known.get_mut(&(project, name.to_owned())) {
            known.hint = hint;
        }
    });
}

/// The number of a stream; `None` if nothing was ever appended to it. For writers: hold the stream's lock.
pub(super) fn id(snapshot: &Snapshot, project: i32, name: &str) -> Option<i64> {
    if let Some(id) = known(project, name).id {
        return Some(id);
    }
    let table = Table::open(c"stream", false);
    let text = name.into_datum().unwrap_or_else(|| bug("a text has no datum"));
    let keys = [Key::Int4(1, project), Key::Text(2, text)];
    let mut scan = Scan::begin(&table, c"stream_name_key", snapshot, &keys, false);
    if !scan.next() {
        return None;
    }
    let id = scan.must(column::STREAM_ID);
    // What this transaction inserted may still be rolled back.
    if !scan.is_own() {
        memory(|memory| {
            if let Some(known) = memory.known.get_mut(&(project, name.to_owned())) {
                known.id = Some(id);
            }
        });
    }
    Some(id)
}

/// The streams of a project by the numbers that visible messages have.
pub(super) struct Streams<'a> {
    project: i32,
    snapshot: &'a Snapshot,
    table: Table,
}

impl<'a> Streams<'a> {
    /// Opens the table.
    pub fn open(project: i32, snapshot: &'a Snapshot) -> Self {
        Self { project, snapshot, table: Table::open(c"stream", false) }
    }

    /// The stream of a number.
    pub fn get(&self, id: i64) -> Rc<Stream> {
        let key = (self.project, id);
        if let Some(stream) = memory(|memory| memory.streams.get(&key).cloned()) {
            return stream;
        }
        let keys = [Key::Int4(1, self.project), Key::Int8(2, id)];
        let mut scan = Scan::begin(&self.table, c"stream_pkey", self.snapshot, &keys, false);
        if !scan.next() {
            bug(&format!("stream {id} of project {} has messages but no row", self.project));
        }
        let name: String = scan.must(column::NAME);
        let stream = Rc::new(Stream { member_hash: name::cardinal_id(&name).map(name::hash_64), name });
        if !scan.is_own() {
            memory(|memory| memory.streams.put(key, Rc::clone(&stream)));
        }
        stream
    }
}

/// Gives a stream its number. Hold the stream's lock.
pub(super) fn insert(project: i32, name: &str) -> i64 {
    let id = spi::run_one(
        "INSERT INTO meshhook.stream (project_id, name) VALUES ($1, $2) RETURNING stream_id",
        &[arg(project), arg(name.to_owned())],
        |row| row.must(1),
    );
    id.unwrap_or_else(|| bug("a stream was not inserted"))
}

/// Where an empty stream goes on: behind what was purged.
pub(super) fn floor(snapshot: &Snapshot, project: i32, id: i64) -> i64 {
    let table = Table::open(c"stream_floor", false);
    let keys = [Key::Int4(1, project), Key::Int8(2, id)];
    let mut scan = Scan::begin(&table, c"stream_floor_pkey", snapshot, &keys, true);
    if scan.next() { scan.must(3) } else { 0 }
}
