//! Which number a stream has, and which stream a number is. Rows of `stream` are only ever inserted, so what was read
//! of a committed one is true for as long as the extension is there.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use pgrx::{IntoDatum, pg_sys};

use super::name;
use super::table::{Key, Scan, Snapshot, Table};
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
    /// Its number.
    pub id: i64,
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
    ids: LruCache<(i32, String), Known>,
    streams: LruCache<(i32, i64), Rc<Stream>>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::new(Memory {
        table: pg_sys::InvalidOid,
        ids: LruCache::new(REMEMBERED),
        streams: LruCache::new(REMEMBERED),
    });
}

/// The table of streams, open, with what this process remembers of it.
pub(super) struct Streams(Table);

impl Streams {
    /// Opens the table.
    pub fn open() -> Self {
        let table = Table::open(c"stream", false);
        MEMORY.with_borrow_mut(|memory| {
            if memory.table != table.oid() {
                memory.ids.clear();
                memory.streams.clear();
                memory.table = table.oid();
            }
        });
        Self(table)
    }

    /// What is known of a stream; `None` if nothing was ever appended to it. For writers: hold the stream's lock.
    pub fn find(&self, snapshot: &Snapshot, project: i32, name: &str) -> Option<Known> {
        let key = (project, name.to_owned());
        if let Some(known) = MEMORY.with_borrow_mut(|memory| memory.ids.get(&key).copied()) {
            return Some(known);
        }
        let text = name.into_datum().unwrap_or_else(|| bug("a text has no datum"));
        let keys = [Key::Int4(1, project), Key::Text(2, text)];
        let mut scan = Scan::begin(&self.0, c"stream_name_key", snapshot, &keys, false);
        if !scan.next() {
            return None;
        }
        let known = Known { id: scan.must(column::STREAM_ID), hint: 0 };
        // What this transaction inserted may still be rolled back.
        if !scan.is_own() {
            MEMORY.with_borrow_mut(|memory| memory.ids.put(key, known));
        }
        Some(known)
    }

    /// Remembers where a stream's head was seen.
    pub fn hint(project: i32, name: &str, hint: i64) {
        MEMORY.with_borrow_mut(|memory| {
            if let Some(known) = memory.ids.get_mut(&(project, name.to_owned())) {
                known.hint = hint;
            }
        });
    }

    /// The stream of a number that a visible message has.
    pub fn get(&self, snapshot: &Snapshot, project: i32, id: i64) -> Rc<Stream> {
        if let Some(stream) = MEMORY.with_borrow_mut(|memory| memory.streams.get(&(project, id)).cloned()) {
            return stream;
        }
        let keys = [Key::Int4(1, project), Key::Int8(2, id)];
        let mut scan = Scan::begin(&self.0, c"stream_pkey", snapshot, &keys, false);
        if !scan.next() {
            bug(&format!("stream {id} of project {project} has messages but no row"));
        }
        let name: String = scan.must(column::NAME);
        let stream = Rc::new(Stream { member_hash: name::cardinal_id(&name).map(name::hash_64), name });
        if !scan.is_own() {
            MEMORY.with_borrow_mut(|memory| memory.streams.put((project, id), Rc::clone(&stream)));
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
