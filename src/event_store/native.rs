//! The event store's own functions in schema `meshhook`. What each means stands in its COMMENT (sql/finalize.sql).
//!
//! None has a SET clause: it would cost more than the append. They run no statement whose meaning depends on the
//! search path.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgrx::{IntoDatum, Uuid};

use super::append::{Conflict, Id, NewMessage, Placed, append, column, elements, text_of};
use super::horizon::{self, Interest};
use super::name::{self, MAX_NAME_BYTES};
use super::read::{self, Array, Filter};
use super::rows::{Call, Output, returns_rows};
use super::runs;
use super::table::{Scan, Snapshot};
use crate::error::{Refusal, bad_parameter, refuse, required};
use crate::owner::as_owner;
use crate::project::{self, Project};
use crate::random::{PG_EPOCH_MICROS, timestamptz};
use crate::spi::{self, RawJsonb};

/// Most messages of one read.
const MAX_BATCH: i32 = 100_000;
/// Most messages of one append.
const MAX_APPEND: usize = 100_000;
/// Largest document of a message, in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Raises what a conflict is to users of these functions.
fn raise(conflict: Conflict) -> ! {
    match conflict {
        Conflict::Version { stream, expected, actual } => refuse(
            // Not 40001: whoever tries the same again by that code would do so for ever.
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("stream \"{stream}\" is not at the expected version"),
        )
        .detail(format!("Expected version {expected}, stream is at version {actual}."))
        .hint("Read the stream again, decide again, and append with the version found."),
        Conflict::Id(id) => taken(id)
            .hint("With idempotent => true a repetition succeeds and returns the first one's position."),
        Conflict::ForeignId(id) => taken(id).hint("It is in another stream: a new message needs a new id."),
    }
    .raise()
}

fn taken(id: Uuid) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, format!("a message with id \"{id}\" exists already"))
}

/// Checks the name of a stream that is appended to.
fn check_stream(stream: &str) {
    if stream.is_empty() || stream.len() > MAX_NAME_BYTES {
        bad_parameter(format!("a stream's name has 1 to {MAX_NAME_BYTES} bytes"))
            .detail(format!("This one has {}.", stream.len()))
            .raise();
    }
    check_reserved(stream);
}

/// Keeps users out of the categories that meshhook writes itself.
pub(super) fn check_reserved(stream: &str) {
    if stream.starts_with(name::RESERVED) {
        bad_parameter(format!("stream \"{stream}\" is in a category of meshhook's own"))
            .hint("Names that begin with \"meshhook:\" are reserved.")
            .raise();
    }
}

fn check_kind(kind: &str) {
    if kind.is_empty() {
        bad_parameter("a message's type is not empty").raise();
    }
}

fn check_document(what: &str, document: Option<pg_sys::Datum>) {
    let size = document.map_or(0, |document| spi::Opaque::<3802>(document).size());
    if size > MAX_DOCUMENT_BYTES {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("the message's {what} is too large"))
            .detail(format!("It has {size} bytes; the limit is {MAX_DOCUMENT_BYTES}."))
            .hint("Keep large data in a table or an object store and append a reference.")
            .raise();
    }
}

fn check_version(version: Option<i64>) {
    if let Some(version) = version
        && version < -1
    {
        bad_parameter(format!("expected_version cannot be {version}"))
            .hint("-1: the stream must not exist; 0 or more: the position of its last message; null: any.")
            .raise();
    }
}

/// Appends a message; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.append_message(
    stream text, type text, data jsonb, metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL,
    id uuid DEFAULT NULL, idempotent boolean DEFAULT false) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn append_message(
    stream: Option<&str>,
    kind: Option<&str>,
    data: Option<RawJsonb>,
    metadata: Option<RawJsonb>,
    expected_version: Option<i64>,
    id: Option<Uuid>,
    idempotent: Option<bool>,
) -> i64 {
    let (stream, kind) = (required("stream", stream), required("type", kind));
    check_stream(stream);
    check_kind(kind);
    check_version(expected_version);
    let (data, metadata) = (data.map(|data| data.0), metadata.map(|metadata| metadata.0));
    check_document("data", data);
    check_document("metadata", metadata);
    let message =
        NewMessage { stream, kind, data, metadata, expected_version, id: id.map_or(Id::New, Id::Given) };
    as_owner(|caller| {
        let project = project::current(caller);
        match append(project.0, &[message], idempotent.unwrap_or(false)) {
            Ok(placed) => placed.first().map_or(-1, |placed| placed.position),
            Err(conflict) => raise(conflict),
        }
    })
}

returns_rows! {
    /// `append_messages(streams, types, data, metadata, expected_versions, ids, idempotent)`; see the COMMENT.
    pg_finfo_meshhook_append_messages, meshhook_append_messages, append_messages
}

fn append_messages(call: Call) {
    let streams = must_texts("streams", call.arg(0));
    let types = must_texts("types", call.arg(1));
    let count = types.len();
    if count > MAX_APPEND {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many messages in one call")
            .detail(format!("There are {count}; the limit is {MAX_APPEND}."))
            .raise();
    }
    if streams.len() != count && streams.len() != 1 {
        bad_parameter(format!("streams has {} elements for {count} messages", streams.len()))
            .hint("One stream for each message, or one for all.")
            .raise();
    }
    streams.iter().for_each(|stream| check_stream(stream));
    types.iter().for_each(|kind| check_kind(kind));
    let data = documents("data", Some(required("data", call.arg(2))), count);
    let metadata = documents("metadata", call.arg(3), count);
    let versions = one_each("expected_versions", call.arg::<Vec<Option<i64>>>(4), count);
    versions.iter().for_each(|version| check_version(*version));
    let ids = one_each("ids", call.arg::<Vec<Option<Uuid>>>(5), count);
    let one = |n: usize| {
        Some(NewMessage {
            stream: streams.get(n).or(streams.first())?,
            kind: types.get(n)?,
            data: *data.get(n)?,
            metadata: *metadata.get(n)?,
            expected_version: *versions.get(n)?,
            id: ids.get(n)?.map_or(Id::New, Id::Given),
        })
    };
    let messages: Vec<NewMessage> = (0..count).filter_map(one).collect();
    let idempotent = call.arg(6).unwrap_or(false);
    let mut output = call.output();
    let placed = as_owner(|caller| {
        let project = project::current(caller);
        append(project.0, &messages, idempotent).unwrap_or_else(|conflict| raise(conflict))
    });
    for (message, Placed { position, global_position, id }) in messages.iter().zip(placed) {
        let columns = [
            message.stream.into_datum(),
            position.into_datum(),
            global_position.into_datum(),
            id.into_datum(),
        ];
        output.push(&columns.map(|datum| (datum.unwrap_or(pg_sys::Datum::from(0)), datum.is_none())));
    }
}

/// The texts of an array in which nothing may be null.
fn must_texts(what: &str, array: Option<Array>) -> Vec<String> {
    let texts = elements(required(what, array).0, pg_sys::TEXTOID);
    texts.into_iter().map(|text| text_of(required(&format!("an element of {what}"), text))).collect()
}

/// An array of documents with one element for each message, or null for none.
fn documents(what: &str, array: Option<Array>, count: usize) -> Vec<Option<pg_sys::Datum>> {
    let Some(array) = array else { return vec![None; count] };
    let documents = elements(array.0, pg_sys::JSONBOID);
    if documents.len() != count {
        bad_parameter(format!("{what} has {} elements for {count} messages", documents.len()))
            .hint("Every array has one element for each message; leave it out for none.")
            .raise();
    }
    documents.iter().for_each(|document| check_document(what, *document));
    documents
}

/// An array with one element for each message; left out: none for any. One alone is the first message's, for the
/// others follow from it.
fn one_each<T: Copy>(what: &str, array: Option<Vec<Option<T>>>, count: usize) -> Vec<Option<T>> {
    let mut array = array.unwrap_or_default();
    if array.len() > 1 && array.len() != count {
        bad_parameter(format!("{what} has {} elements for {count} messages", array.len()))
            .hint("Every array has one element for each message; leave it out for none.")
            .raise();
    }
    array.resize(count, None);
    array
}

/// How many messages a read returns.
pub(super) fn batch(size: Option<i32>) -> usize {
    let size = size.unwrap_or(1_000);
    usize::try_from(size).ok().filter(|_| (1..=MAX_BATCH).contains(&size)).unwrap_or_else(|| {
        bad_parameter(format!("batch_size must be from 1 to {MAX_BATCH}"))
            .detail(format!("It is {size}."))
            .raise()
    })
}

/// Checks the name of a category.
pub(super) fn check_category<'a>(what: &str, category: Option<&'a str>) -> &'a str {
    let category = required(what, category);
    if !name::is_category(category) {
        bad_parameter(format!("\"{category}\" is a stream, not a category"))
            .hint("A category is what stands before the first \"-\" of its streams' names.")
            .raise();
    }
    category
}

/// A member of a group from its two arguments.
pub(super) fn check_member(member: Option<i32>, size: Option<i32>) -> Option<(i64, i64)> {
    match (member, size) {
        (None, None) => None,
        (Some(member), Some(size)) if (0..size).contains(&member) => {
            Some((i64::from(member), i64::from(size)))
        }
        _ => bad_parameter("consumer_group_member and consumer_group_size do not fit")
            .hint("Give both: the size is 1 or more, the member from 0 to size - 1.")
            .raise(),
    }
}

returns_rows! {
    /// `read_stream(stream, from_position, batch_size, types)`; see the COMMENT.
    pg_finfo_meshhook_read_stream, meshhook_read_stream, read_stream
}

fn read_stream(call: Call) {
    let stream: String = required("stream", call.arg(0));
    let from = call.arg::<i64>(1).unwrap_or(0);
    let size = batch(call.arg(2));
    let types = read::texts(call.arg(3));
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::current(caller);
        if let Some(run) = runs::run_of(&stream) {
            let events = runs::of_run(project.0, run, from, types, size);
            return events.iter().for_each(|event| output.push(&event.columns));
        }
        let (mut left, mut first) = (size, None);
        read::walk_stream(project.0, &stream, from, &mut |row: &Scan, known| {
            first.get_or_insert_with(|| row.must::<i64>(column::POSITION));
            if read::has_type(row, types.as_deref()) {
                output.push_message(row, known);
                left -= 1;
            }
            left > 0
        });
        note_floor(project, &stream, from, first);
    });
}

/// Positions are gapless: whoever asks for one and finds a later one first is told that the stream was purged.
fn note_floor(project: Project, stream: &str, from: i64, first: Option<i64>) {
    let begins = match first {
        Some(first) if first > from.max(0) => first,
        Some(_) => return,
        None => read::floor(project.0, stream),
    };
    if begins > from.max(0) {
        pgrx::notice!("stream \"{stream}\" begins at position {begins}: earlier messages were purged");
    }
}

returns_rows! {
    /// `read_category(category, from_position, batch_size, types, correlation, member, size)`; see the COMMENT.
    pg_finfo_meshhook_read_category, meshhook_read_category, read_category
}

fn read_category(call: Call) {
    let category: Option<String> = call.arg(0);
    let category = check_category("category", category.as_deref());
    let from = call.arg::<i64>(1).unwrap_or(1);
    let size = batch(call.arg(2));
    let correlation: Option<String> = call.arg(4);
    let correlation = correlation.map(|name| check_category("correlation", Some(&name)).to_owned());
    let filter = Filter {
        types: read::texts(call.arg(3)),
        correlation,
        member: check_member(call.arg(5), call.arg(6)),
    };
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::current(caller).0;
        if category == name::RUNS {
            if filter.correlation.is_some() || filter.member.is_some() {
                bad_parameter("runs have no correlation and no consumer groups").raise();
            }
            let events = runs::of_all(project, from, filter.types, size);
            return events.iter().for_each(|event| output.push(&event.columns));
        }
        let mut left = size;
        read::walk(project, Some(category), from, &filter, u64::MAX, &mut |row: &Scan, stream| {
            output.push_message(row, stream);
            left -= 1;
            left > 0
        });
    });
}

returns_rows! {
    /// `read_all(from_position, batch_size, types, include_runs)`; see the COMMENT.
    pg_finfo_meshhook_read_all, meshhook_read_all, read_all
}

fn read_all(call: Call) {
    let from = call.arg::<i64>(0).unwrap_or(1);
    let size = batch(call.arg(1));
    let types = read::texts(call.arg(2));
    let include_runs = call.arg::<bool>(3).unwrap_or(false);
    let filter = Filter { types, ..Filter::default() };
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::current(caller).0;
        if include_runs {
            return with_runs(project, from, size, &filter, &mut output);
        }
        let mut left = size;
        read::walk(project, None, from, &filter, u64::MAX, &mut |row: &Scan, stream| {
            output.push_message(row, stream);
            left -= 1;
            left > 0
        });
    });
}

/// Messages and events of runs in one order: one horizon and one snapshot for both, so that nothing between two of
/// either kind is missed.
fn with_runs(project: i32, from: i64, size: usize, filter: &Filter, output: &mut Output) {
    let safe = horizon::safe(Some(project), Interest::All);
    let snapshot = Snapshot::latest();
    let (events, through) = runs::up_to(project, from, safe, &snapshot, filter.types.clone(), size);
    let mut events = events.into_iter().peekable();
    let mut left = size;
    let mut emit_below = |limit: i64, output: &mut Output, left: &mut usize| {
        while *left > 0
            && let Some(event) = events.next_if(|event| event.global_position < limit)
        {
            output.push(&event.columns);
            *left -= 1;
        }
    };
    let walked = read::walk_to(
        project,
        None,
        from,
        safe.min(through),
        &snapshot,
        filter,
        u64::MAX,
        &mut |row: &Scan, stream| {
            emit_below(row.must(column::GLOBAL_POSITION), output, &mut left);
            if left > 0 {
                output.push_message(row, stream);
                left -= 1;
            }
            left > 0
        },
    );
    emit_below(walked.through.saturating_add(1), output, &mut left);
}

returns_rows! {
    /// `last_message(stream, type)`; see the COMMENT.
    pg_finfo_meshhook_last_message, meshhook_last_message, last_message
}

fn last_message(call: Call) {
    let stream: String = required("stream", call.arg(0));
    let kind: Option<String> = call.arg(1);
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::current(caller).0;
        if let Some(run) = runs::run_of(&stream) {
            let last = runs::last_of_run(project, run, kind.as_deref());
            return last.iter().for_each(|event| output.push(&event.columns));
        }
        read::last(project, &stream, kind.as_deref(), &mut |row: &Scan, known| {
            output.push_message(row, known);
            false
        });
    });
}

/// The position of a stream's last message; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.stream_version(stream text) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn stream_version(stream: Option<&str>) -> Option<i64> {
    let stream = required("stream", stream);
    as_owner(|caller| {
        let project = project::current(caller).0;
        match runs::run_of(stream) {
            Some(run) => runs::last_of_run(project, run, None).map(|event| event.position),
            None => read::version(project, stream),
        }
    })
}

/// Up to where everything is decided; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.safe_position(category text DEFAULT NULL) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn safe_position(category: Option<&str>) -> i64 {
    let interest =
        category.map_or(Interest::Users, |name| Interest::of(check_category("category", Some(name))));
    as_owner(|caller| horizon::safe(Some(project::current(caller).0), interest))
}

/// Who holds readers back; see the COMMENT of the view `position_holders`.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.holders_of_positions(category text)
RETURNS TABLE (pid integer, safe_position bigint, open_since timestamptz)
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn holders_of_positions(
    category: Option<&str>,
) -> TableIterator<
    'static,
    (name!(pid, i32), name!(safe_position, i64), name!(open_since, Option<TimestampWithTimeZone>)),
> {
    let interest =
        category.map_or(Interest::All, |name| Interest::of(check_category("category", Some(name))));
    let holders = as_owner(|caller| horizon::holders(project::served(caller), interest));
    let since = |at: i64| timestamptz(at.saturating_add(PG_EPOCH_MICROS));
    TableIterator::new(
        holders.into_iter().map(move |holder| (holder.pid, holder.bound, holder.since.map(since))),
    )
}

/// The category of a stream; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.stream_category(stream text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn stream_category(stream: &str) -> String {
    name::category(stream).to_owned()
}

/// The id of a stream; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.stream_id(stream text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn stream_id(stream: &str) -> Option<String> {
    name::id(stream).map(str::to_owned)
}

/// The cardinal id of a stream; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.stream_cardinal_id(stream text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn stream_cardinal_id(stream: &str) -> Option<String> {
    name::cardinal_id(stream).map(str::to_owned)
}

/// The hash of a text; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.hash_64(value text) RETURNS bigint
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn hash_64(value: &str) -> i64 {
    name::hash_64(value)
}
