//! Reading: a walk along one index, up to the safe position where the order of several streams counts.

use std::rc::Rc;

use pgrx::{FromDatum, pg_sys};

use super::append::column;
use super::horizon::{self, Interest};
use super::name;
use super::streams::{self, Stream, Streams};
use super::table::{Key, Scan, Snapshot, Table};

/// What of a category or of everything is wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Only these types; `None`: all.
    pub types: Option<Vec<String>>,
    /// Only messages that answer to this category.
    pub correlation: Option<String>,
    /// Only streams of one member of a group: its number from 0, and the size.
    pub member: Option<(i64, i64)>,
}

/// What a reader is told about each message; false ends the walk.
pub(super) type Visit<'v> = dyn FnMut(&Scan, &Rc<Stream>) -> bool + 'v;

/// How a walk in global order ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// Everything up to here was looked at, and nothing that is wanted and lies below can still appear.
    pub through: i64,
}

/// Walks the messages of a category, or of all, in global order from a position on, up to the safe position. `most`
/// bounds how many rows are looked at, wanted or not.
pub(super) fn walk(
    project: i32,
    category: Option<&str>,
    from: i64,
    filter: &Filter,
    most: u64,
    visit: &mut Visit,
) -> Walked {
    let hash = category.map(name::hash_64);
    let safe = horizon::safe(Some(project), hash.map_or(Interest::Users, Interest::Category));
    // The order matters: what is at or below the safe position is decided, so a snapshot taken now shows it.
    let snapshot = Snapshot::latest();
    walk_to(project, category, from, safe, &snapshot, filter, most, visit)
}

/// The same up to a position that was safe before the snapshot was taken.
#[allow(clippy::too_many_arguments, reason = "one walk, described by these")]
pub(super) fn walk_to(
    project: i32,
    category: Option<&str>,
    from: i64,
    safe: i64,
    snapshot: &Snapshot,
    filter: &Filter,
    most: u64,
    visit: &mut Visit,
) -> Walked {
    let own = Snapshot::of_transaction();
    let (table, streams) = (Table::open(c"message", false), Streams::open(project, snapshot));
    let mut keys = vec![Key::Int4(1, project)];
    let mut index = c"message_pkey";
    if let Some(category) = category {
        keys.push(Key::Int8(2, name::hash_64(category)));
        index = c"message_category";
        if let Some(correlation) = &filter.correlation {
            keys.push(Key::Int8(3, name::hash_64(correlation)));
            index = c"message_correlation";
        }
    }
    let position = i16::try_from(keys.len() + 1).unwrap_or(i16::MAX);
    keys.extend([Key::AtLeast(position, from), Key::AtMost(position, safe)]);
    let mut scan = Scan::begin(&table, index, snapshot, &keys, false);
    let mut looked_at = 0;
    let mut last = from - 1;
    while looked_at < most {
        if !scan.next() {
            return Walked { through: safe.max(last) };
        }
        // A transaction that is held to one snapshot gets the part of the order that lies whole inside it.
        if own.as_ref().is_some_and(|own| !scan.visible_in(own)) {
            let unseen: i64 = scan.must(column::GLOBAL_POSITION);
            return Walked { through: unseen - 1 };
        }
        looked_at += 1;
        last = scan.must(column::GLOBAL_POSITION);
        let stream = streams.get(scan.must(column::STREAM_ID));
        // Two categories may have one hash.
        let wanted = category.is_none_or(|category| name::category(&stream.name) == category)
            && passes(&scan, &stream, filter);
        if wanted && !visit(&scan, &stream) {
            break;
        }
    }
    Walked { through: last }
}

fn passes(row: &Scan, stream: &Stream, filter: &Filter) -> bool {
    if let Some((member, size)) = filter.member
        && stream.member_hash.is_none_or(|hash| member_of(hash, size) != member)
    {
        return false;
    }
    has_type(row, filter.types.as_deref())
        && filter.correlation.as_ref().is_none_or(|wanted| correlation(row).as_ref() == Some(wanted))
}

/// Whether the message that a walk stands at has one of these types; `None`: any.
pub(super) fn has_type(row: &Scan, types: Option<&[String]>) -> bool {
    types.is_none_or(|types| types.contains(&row.must::<String>(column::TYPE)))
}

/// The category that a message's metadata says it answers to.
fn correlation(row: &Scan) -> Option<String> {
    let (metadata, is_null) = row.datum(column::METADATA);
    let stream = (!is_null).then(|| super::append::correlation_stream(metadata)).flatten()?;
    Some(name::category(&stream).to_owned())
}

/// Which member of a group of this size a stream belongs to, as Message DB computes it. Raises 22003 for the one hash
/// that has no absolute value.
pub(super) fn member_of(hash: i64, size: i64) -> i64 {
    let Some(absolute) = hash.checked_abs() else {
        crate::error::refuse(pgrx::PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range")
            .raise()
    };
    absolute % size
}

/// A stream's messages from a position on, in order.
pub(super) fn walk_stream(project: i32, stream: &str, from: i64, visit: &mut Visit) {
    let snapshot = Snapshot::of_transaction().unwrap_or_else(Snapshot::latest);
    let Some(id) = streams::id(&snapshot, project, stream) else { return };
    let table = Table::open(c"message", false);
    let keys = [Key::Int4(1, project), Key::Int8(2, id), Key::AtLeast(3, from)];
    let mut scan = Scan::begin(&table, c"message_stream_key", &snapshot, &keys, false);
    let known = Streams::open(project, &snapshot).get(id);
    while scan.next() && visit(&scan, &known) {}
}

/// A stream's last message, or the last of a type.
pub(super) fn last(project: i32, stream: &str, kind: Option<&str>, visit: &mut Visit) {
    let snapshot = Snapshot::of_transaction().unwrap_or_else(Snapshot::latest);
    let Some(id) = streams::id(&snapshot, project, stream) else { return };
    let table = Table::open(c"message", false);
    let keys = [Key::Int4(1, project), Key::Int8(2, id)];
    let mut scan = Scan::begin(&table, c"message_stream_key", &snapshot, &keys, true);
    while scan.next() {
        if kind.is_none_or(|kind| scan.must::<String>(column::TYPE) == kind) {
            visit(&scan, &Streams::open(project, &snapshot).get(id));
            return;
        }
    }
}

/// The position of a stream's last message.
pub(super) fn version(project: i32, stream: &str) -> Option<i64> {
    let mut version = None;
    last(project, stream, None, &mut |row, _| {
        version = Some(row.must(column::POSITION));
        false
    });
    version
}

/// Where a stream begins, if it was purged.
pub(super) fn floor(project: i32, stream: &str) -> i64 {
    let snapshot = Snapshot::latest();
    streams::id(&snapshot, project, stream).map_or(0, |id| streams::floor(&snapshot, project, id))
}

/// The texts of an array; null elements are left out.
pub(super) fn texts(array: Option<Array>) -> Option<Vec<String>> {
    let elements = super::append::elements(array?.0, pg_sys::TEXTOID);
    Some(elements.into_iter().flatten().map(super::append::text_of).collect())
}

/// An array argument as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Array(pub pg_sys::Datum);

impl FromDatum for Array {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}
