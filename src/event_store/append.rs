//! Appending: checks first, then positions, then rows. Nothing is drawn and nothing written before everything that
//! can be refused has been looked at under the locks.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{FromDatum, IntoDatum, PgSqlErrorCode, PgTryBuilder, Uuid, pg_sys};

use super::name;
use super::sequence::Positions;
use super::streams;
use super::table::{Inserter, Key, Scan, Snapshot, Table};
use super::{held, horizon};
use crate::error::{bug, refuse};
use crate::random::{self, Ids};

/// Columns of `message`.
pub(super) mod column {
    pub const GLOBAL_POSITION: i32 = 1;
    pub const STREAM_ID: i32 = 2;
    pub const POSITION: i32 = 3;
    pub const TIME: i32 = 6;
    pub const ID: i32 = 8;
    pub const TYPE: i32 = 9;
    pub const DATA: i32 = 10;
    pub const METADATA: i32 = 11;
}

/// Where a message's id comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Id<'a> {
    /// Made here, ordered by time.
    New,
    /// The caller's.
    Given(Uuid),
    /// The caller's, as text that is read once the version is found right.
    Text(&'a str),
}

/// A message to append.
#[derive(Debug)]
pub(super) struct NewMessage<'a> {
    pub stream: &'a str,
    pub kind: &'a str,
    pub data: Option<pg_sys::Datum>,
    pub metadata: Option<pg_sys::Datum>,
    /// The position that the stream's last message must have, -1 for none; `None`: any.
    pub expected_version: Option<i64>,
    pub id: Id<'a>,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub position: i64,
    pub global_position: i64,
    pub id: Uuid,
}

/// Why nothing was appended; the caller has the words for it.
#[derive(Debug)]
pub(super) enum Conflict {
    /// A stream is not at the version expected.
    Version { stream: String, expected: i64, actual: i64 },
    /// A message with this id exists.
    Id(Uuid),
    /// A message with this id exists in another stream than the one a repetition would be in.
    ForeignId(Uuid),
}

/// A stream that is appended to.
struct Target {
    id: Option<i64>,
    category_hash: i64,
    /// The version callers see: the last message's position, -1 without one.
    version: i64,
    /// The position that the next message gets: behind the version, or behind what was purged.
    next: i64,
}

/// A message that passed the checks, in the order of the input.
enum Step {
    Insert { message: usize, id: Uuid, position: i64 },
    Repeated(Placed),
}

/// Appends messages in order, all or none. With `idempotent`, one whose id is in its stream already is left out and
/// stands where the first did. Called as the owner role.
pub(super) fn append(
    project: i32,
    messages: &[NewMessage],
    idempotent: bool,
) -> Result<Vec<Placed>, Conflict> {
    // SAFETY: raises in a read-only transaction and on a standby.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(c"append_message()".as_ptr());
        pg_sys::PreventCommandIfParallelMode(c"append_message()".as_ptr());
    }
    lock_all(project, messages);
    let table = Table::open(c"message", true);
    let mut targets: HashMap<&str, Target> = HashMap::with_capacity(1);
    let steps = {
        let snapshot = Snapshot::latest();
        for message in messages {
            targets
                .entry(message.stream)
                .or_insert_with(|| look_up(&table, &snapshot, project, message.stream));
        }
        check(&table, &snapshot, project, messages, &mut targets, idempotent)?
    };
    if steps.iter().any(|step| matches!(step, Step::Insert { .. })) {
        insert(&table, project, messages, &steps, &mut targets)
    } else {
        Ok(steps
            .into_iter()
            .filter_map(|step| if let Step::Repeated(placed) = step { Some(placed) } else { None })
            .collect())
    }
}

/// Categories first, then streams, each in order, so that two calls never wait for each other in a circle.
fn lock_all(project: i32, messages: &[NewMessage]) {
    let names: BTreeSet<&str> = messages.iter().map(|message| message.stream).collect();
    let known: Vec<_> = names.into_iter().map(|name| streams::known(project, name)).collect();
    horizon::enter(project, &known.iter().map(|known| known.category_hash).collect());
    let keys: BTreeSet<i64> = known.iter().map(|known| known.lock_key).collect();
    keys.into_iter().for_each(held::lock_stream);
}

/// Where a stream stands now, whatever the transaction's snapshot shows.
fn look_up(table: &Table, snapshot: &Snapshot, project: i32, stream: &str) -> Target {
    let known = streams::known(project, stream);
    let (category_hash, hint) = (known.category_hash, known.hint);
    let Some(id) = streams::id(snapshot, project, stream) else {
        return Target { id: None, category_hash, version: -1, next: 0 };
    };
    // A walk reads a whole page of the index at its first step; the bound keeps that short.
    let probe = |from| {
        let keys = [Key::Int4(1, project), Key::Int8(2, id), Key::AtLeast(3, from)];
        let mut scan = Scan::begin(table, c"message_stream_key", snapshot, &keys, true);
        scan.next().then_some(scan)
    };
    let Some(scan) = probe(hint).or_else(|| (hint > 0).then(|| probe(0)).flatten()) else {
        let next = streams::floor(snapshot, project, id);
        return Target { id: Some(id), category_hash, version: -1, next };
    };
    let version: i64 = scan.must(column::POSITION);
    streams::hint(project, stream, version);
    if let Some(own) = Snapshot::of_transaction()
        && !scan.visible_in(&own)
    {
        refuse(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("could not serialize access: stream \"{stream}\" has grown since this transaction began"),
        )
        .detail(format!("It is at position {version} now."))
        .hint("The transaction might succeed if retried.")
        .raise();
    }
    Target { id: Some(id), category_hash, version, next: version + 1 }
}

/// Decides what becomes of each message, without writing anything.
fn check(
    table: &Table,
    snapshot: &Snapshot,
    project: i32,
    messages: &[NewMessage],
    targets: &mut HashMap<&str, Target>,
    idempotent: bool,
) -> Result<Vec<Step>, Conflict> {
    let mut steps: Vec<Step> = Vec::with_capacity(messages.len());
    let mut batch: HashMap<Uuid, usize> = HashMap::new();
    let mut ids = None;
    for (n, message) in messages.iter().enumerate() {
        let Some(target) = targets.get_mut(message.stream) else { bug("a stream was not looked up") };
        if idempotent && let Id::Given(id) = message.id {
            if let Some((stream, placed)) = find_id(table, snapshot, project, id) {
                if Some(stream) != target.id {
                    return Err(Conflict::ForeignId(id));
                }
                steps.push(Step::Repeated(placed));
                continue;
            }
            // Twice in one call: refused, for the first one's place is not known before it is drawn.
            if batch.insert(id, n).is_some() {
                return Err(Conflict::Id(id));
            }
        }
        if let Some(expected) = message.expected_version
            && expected != target.version
        {
            let stream = message.stream.to_owned();
            return Err(Conflict::Version { stream, expected, actual: target.version });
        }
        steps.push(Step::Insert { message: n, id: read_id(message.id, &mut ids), position: target.next });
        target.version = target.next;
        target.next += 1;
    }
    Ok(steps)
}

/// The message of an id: its stream and place.
fn find_id(table: &Table, snapshot: &Snapshot, project: i32, id: Uuid) -> Option<(i64, Placed)> {
    let key = id.into_datum().unwrap_or_else(|| bug("a uuid has no datum"));
    let keys = [Key::Int4(1, project), Key::Uuid(2, key)];
    let mut scan = Scan::begin(table, c"message_id_key", snapshot, &keys, false);
    scan.next().then(|| {
        let placed = Placed {
            position: scan.must(column::POSITION),
            global_position: scan.must(column::GLOBAL_POSITION),
            id,
        };
        (scan.must(column::STREAM_ID), placed)
    })
}

/// The id of a message; raises 22P02 for a text that is none.
pub(super) fn read_id(id: Id, new: &mut Option<Ids>) -> Uuid {
    match id {
        Id::New => new.get_or_insert_with(Ids::new).next_id(),
        Id::Given(id) => id,
        Id::Text(text) => {
            let Ok(text) = std::ffi::CString::new(text) else { bug("a text has a NUL in it") };
            // SAFETY: reads a NUL-terminated string; raises 22P02 if it is no uuid.
            let id = unsafe {
                pgrx::direct_function_call::<Uuid>(
                    pg_sys::uuid_in,
                    &[Some(pg_sys::Datum::from(text.as_ptr()))],
                )
            };
            id.unwrap_or_else(|| bug("uuid_in returned null"))
        }
    }
}

/// Draws the positions and writes the rows.
fn insert(
    table: &Table,
    project: i32,
    messages: &[NewMessage],
    steps: &[Step],
    targets: &mut HashMap<&str, Target>,
) -> Result<Vec<Placed>, Conflict> {
    for (stream, target) in targets.iter_mut().filter(|(_, target)| target.id.is_none()) {
        target.id = Some(streams::insert(project, stream));
    }
    let positions = Positions::find();
    positions.recover();
    let categories: BTreeSet<i64> = targets.values().map(|target| target.category_hash).collect();
    horizon::register(positions, project, &categories);
    let time = random::timestamptz(random::now_micros());
    let rows = || {
        let mut inserter = Inserter::begin(table);
        let mut placed = Vec::with_capacity(steps.len());
        for step in steps {
            let &Step::Insert { message, id, position } = step else {
                if let Step::Repeated(first) = step {
                    placed.push(*first);
                }
                continue;
            };
            let (Some(message), global_position) = (messages.get(message), positions.draw()) else {
                bug("a message is missing");
            };
            let Some(target) = targets.get(message.stream) else { bug("a stream was not looked up") };
            let one = Placed { position, global_position, id };
            inserter.insert(&columns(project, target, message, one, time));
            placed.push(one);
        }
        inserter.finish();
        placed
    };
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(rows())))
        .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |cause| match repeated_id(&cause, steps) {
            Some(conflict) => Err(conflict),
            None => cause.rethrow(),
        })
        .execute()
}

/// The columns of a message's row, in the order of the table.
fn columns(
    project: i32,
    target: &Target,
    message: &NewMessage,
    placed: Placed,
    time: TimestampWithTimeZone,
) -> [Option<pg_sys::Datum>; 11] {
    [
        placed.global_position.into_datum(),
        target.id.into_datum(),
        placed.position.into_datum(),
        target.category_hash.into_datum(),
        message
            .metadata
            .and_then(correlation_stream)
            .map(|stream| name::hash_64(name::category(&stream)))
            .into_datum(),
        time.into_datum(),
        project.into_datum(),
        placed.id.into_datum(),
        message.kind.into_datum(),
        message.data,
        message.metadata,
    ]
}

/// The stream that a message's metadata says it answers to.
pub(super) fn correlation_stream(metadata: pg_sys::Datum) -> Option<String> {
    let key = "correlationStreamName".into_datum();
    // SAFETY: takes a jsonb and a text, returns a text, or null where there is no such text.
    unsafe { pgrx::direct_function_call(pg_sys::jsonb_object_field_text, &[Some(metadata), key]) }
}

/// Whether a unique violation is that of an id, by the index it names; which id, by the DETAIL. Nothing may be read
/// here any more: the transaction is about to abort.
fn repeated_id(cause: &CaughtError, steps: &[Step]) -> Option<Conflict> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = cause else { return None };
    if !report.message().contains("message_id_key") {
        return None;
    }
    let detail = report.detail().unwrap_or_default();
    let ids =
        steps.iter().filter_map(|step| if let Step::Insert { id, .. } = step { Some(*id) } else { None });
    let mut ids = ids.collect::<Vec<_>>();
    let named = ids.iter().position(|id| detail.contains(&id.to_string())).unwrap_or(0);
    (!ids.is_empty()).then(|| Conflict::Id(ids.swap_remove(named)))
}

/// The elements of an array of texts or documents, null ones included.
pub(super) fn elements(array: pg_sys::Datum, element: pg_sys::Oid) -> Vec<Option<pg_sys::Datum>> {
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    let align = b'i' as std::ffi::c_char;
    // SAFETY: the datum is an array of a type that is passed by reference and of varying length; the copies live in
    // the current memory context.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let nulls_to = &raw mut nulls;
        pg_sys::deconstruct_array(
            array,
            element,
            -1,
            false,
            align,
            &raw mut values,
            nulls_to,
            &raw mut count,
        );
        (0..usize::try_from(count).unwrap_or(0)).map(|n| (!*nulls.add(n)).then(|| *values.add(n))).collect()
    }
}

/// A text, copied out of a datum.
pub(super) fn text_of(datum: pg_sys::Datum) -> String {
    // SAFETY: the datum is a text.
    unsafe { String::from_datum(datum, false) }.unwrap_or_default()
}
