//! What schema `message_store` calls: Message DB's contract, on the same store. Its functions there name the project
//! (sql/message_store/install.sql); here are the rules and the words, in the order Message DB checks them.

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};

use super::append::{Conflict, Id, NewMessage, append, column};
use super::horizon;
use super::name::{self, MAX_NAME_BYTES};
use super::native::check_reserved;
use super::read::{self, Filter};
use super::rows::{Call, Output, returns_rows};
use super::streams::Stream;
use super::table::Scan;
use crate::error::{Refusal, refuse};
use crate::guc;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{Opaque, RawJsonb};

/// An error as Message DB raises it: P0001, neither DETAIL nor HINT.
fn exception(message: String) -> Refusal {
    refuse(PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION, message)
}

/// A value as RAISE prints it.
fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "<NULL>".to_owned(), |value| value.to_string())
}

/// Shows arguments as Message DB does when it is asked to.
fn debug(setting: &pgrx::GucSetting<Option<std::ffi::CString>>, title: &str, lines: &[(&str, String)]) {
    let on = |setting| guc::text(setting).as_deref() == Some("on");
    if on(setting) || on(&guc::DEBUG) {
        pgrx::notice!("» {title}");
        lines.iter().for_each(|(name, value)| pgrx::notice!("{name}: {value}"));
    }
}

fn document(document: Option<RawJsonb>) -> String {
    shown(document.map(Opaque::text))
}

/// Appends a message; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.message_store_write(
    project integer, id varchar, stream_name varchar, type varchar, data jsonb, metadata jsonb, expected_version bigint)
RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn message_store_write(
    project: i32,
    id: Option<&str>,
    stream_name: Option<&str>,
    kind: Option<&str>,
    data: Option<RawJsonb>,
    metadata: Option<RawJsonb>,
    expected_version: Option<i64>,
) -> i64 {
    debug_lock(stream_name);
    let position = as_owner(|caller| {
        let project = project::numbered(project, caller);
        if let Some(stream) = stream_name {
            check_reserved(stream);
            check_length(stream);
        }
        let (Some(stream), Some(kind), Some(id)) = (stream_name, kind, id) else {
            refuse_null(project.0, id, stream_name, kind, expected_version)
        };
        let message = NewMessage {
            stream,
            kind,
            data: data.map(|data| data.0),
            metadata: metadata.map(|metadata| metadata.0),
            expected_version,
            id: Id::Text(id),
        };
        match append(project.0, &[message], false) {
            Ok(placed) => placed.first().map_or(-1, |placed| placed.position),
            Err(Conflict::Version { stream, expected, actual }) => {
                wrong_version(expected, Some(&stream), actual)
            }
            Err(Conflict::Id(id) | Conflict::ForeignId(id)) => refuse(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                "duplicate key value violates unique constraint \"messages_id\"",
            )
            .detail(format!("Key (id)=({id}) already exists."))
            .raise(),
        }
    });
    debug(
        &guc::DEBUG_WRITE,
        "write_message",
        &[
            ("id ($1)", shown(id)),
            ("stream_name ($2)", shown(stream_name)),
            ("type ($3)", shown(kind)),
            ("data ($4)", document(data)),
            ("metadata ($5)", document(metadata)),
            ("expected_version ($6)", shown(expected_version)),
            ("_stream_version", (position - 1).to_string()),
            ("_next_position", position.to_string()),
        ],
    );
    position
}

fn wrong_version(expected: i64, stream: Option<&str>, actual: i64) -> ! {
    exception(format!(
        "Wrong expected version: {expected} (Stream: {}, Stream Version: {actual})",
        shown(stream)
    ))
    .raise()
}

fn check_length(stream: &str) {
    if stream.len() > MAX_NAME_BYTES {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the name of the stream is too long")
            .detail(format!("It has {} bytes; the limit is {MAX_NAME_BYTES}.", stream.len()))
            .raise();
    }
}

/// What Message DB's table says of a null, which it meets after the version and the id.
fn refuse_null(
    project: i32,
    id: Option<&str>,
    stream: Option<&str>,
    kind: Option<&str>,
    expected: Option<i64>,
) -> ! {
    let actual = stream.and_then(|stream| read::version(project, stream)).unwrap_or(-1);
    if let Some(expected) = expected
        && expected != actual
    {
        wrong_version(expected, stream, actual);
    }
    if let Some(id) = id {
        super::append::read_id(Id::Text(id), &mut None);
    }
    let column = match (stream, kind) {
        (None, _) => "stream_name",
        (_, None) => "type",
        _ => "id",
    };
    let message =
        format!("null value in column \"{column}\" of relation \"messages\" violates not-null constraint");
    refuse(PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION, message).raise()
}

/// Adds a message in Message DB's types: texts, and the time in UTC.
fn push(output: &mut Output, row: &Scan, stream: &Stream) {
    let id: pgrx::Uuid = row.must(column::ID);
    let document = |column| {
        let (datum, is_null) = row.datum(column);
        text((!is_null).then(|| Opaque::<3802>(datum).text()))
    };
    output.push(&[
        text(Some(id.to_string())),
        text(Some(stream.name.clone())),
        row.datum(column::TYPE),
        row.datum(column::POSITION),
        row.datum(column::GLOBAL_POSITION),
        document(column::DATA),
        document(column::METADATA),
        // A timestamptz counts from 2000 in UTC; so does a timestamp that means UTC.
        row.datum(column::TIME),
    ]);
}

fn text(text: Option<String>) -> (pg_sys::Datum, bool) {
    let datum = text.and_then(IntoDatum::into_datum);
    (datum.unwrap_or(pg_sys::Datum::from(0)), datum.is_none())
}

// A read with a condition asks twice: once with it, for what is checked and shown before Message DB's query is parsed,
// and then for each part of the rows that the condition is applied to.

/// How many rows a batch size stands for; checked last, where Message DB's LIMIT is.
fn limit(batch_size: i64) -> u64 {
    match batch_size {
        -1 => u64::MAX,
        size => u64::try_from(size).unwrap_or_else(|_| {
            refuse(PgSqlErrorCode::ERRCODE_INVALID_ROW_COUNT_IN_LIMIT_CLAUSE, "LIMIT must not be negative")
                .raise()
        }),
    }
}

/// Refuses a condition unless an administrator allows them.
fn check_condition(condition: Option<&str>) {
    let setting = guc::SQL_CONDITION.get();
    if condition.is_some() && setting.is_none_or(|setting| setting.as_c_str() == c"off") {
        exception("Retrieval with SQL condition is not activated".to_owned()).raise();
    }
}

returns_rows! {
    /// `message_store_stream(project, stream_name, position, batch_size, condition, part)`; see the COMMENT.
    pg_finfo_meshhook_message_store_stream, meshhook_message_store_stream, stream_messages
}

fn stream_messages(call: Call) {
    let stream: Option<String> = call.arg(1);
    if stream.as_deref().is_none_or(name::is_category) {
        exception(format!("Must be a stream name: {}", shown(stream))).raise();
    }
    let position = call.arg::<i64>(2).unwrap_or(0);
    let batch_size = call.arg::<i64>(3).unwrap_or(1_000);
    let condition: Option<String> = call.arg(4);
    check_condition(condition.as_deref());
    let mut output = call.output();
    if !call.arg::<bool>(5).unwrap_or(false) {
        debug(
            &guc::DEBUG_GET,
            "get_stream_messages",
            &[
                ("stream_name ($1)", shown(stream.as_deref())),
                ("position ($2)", position.to_string()),
                ("batch_size ($3)", batch_size.to_string()),
                ("condition ($4)", shown(condition.as_deref())),
            ],
        );
    }
    if condition.is_some() {
        return;
    }
    let mut left = limit(batch_size);
    as_owner(|caller| {
        let project = project::numbered(call.arg(0).unwrap_or(-1), caller).0;
        let stream = stream.unwrap_or_default();
        if left > 0 {
            read::walk_stream(project, &stream, position, &mut |row: &Scan, known| {
                push(&mut output, row, known);
                left -= 1;
                left > 0
            });
        }
    });
}

returns_rows! {
    /// `message_store_category(project, category, position, batch_size, correlation, member, size, condition, part)`;
    /// see the COMMENT.
    pg_finfo_meshhook_message_store_category, meshhook_message_store_category, category_messages
}

fn category_messages(call: Call) {
    let category: Option<String> = call.arg(1);
    if let Some(category) = &category
        && !name::is_category(category)
    {
        exception(format!("Must be a category: {category}")).raise();
    }
    let position = call.arg::<i64>(2).unwrap_or(1);
    let batch_size = call.arg::<i64>(3).unwrap_or(1_000);
    let correlation: Option<String> = call.arg(4);
    if let Some(correlation) = &correlation
        && !name::is_category(correlation)
    {
        exception(format!("Correlation must be a category (Correlation: {correlation})")).raise();
    }
    let (member, size) = (call.arg::<i64>(5), call.arg::<i64>(6));
    let group = check_group(member, size);
    let condition: Option<String> = call.arg(7);
    check_condition(condition.as_deref());
    let mut output = call.output();
    if !call.arg::<bool>(8).unwrap_or(false) {
        debug(
            &guc::DEBUG_GET,
            "get_category_messages",
            &[
                ("category ($1)", shown(category.as_deref())),
                ("position ($2)", position.to_string()),
                ("batch_size ($3)", batch_size.to_string()),
                ("correlation ($4)", shown(correlation.as_deref())),
                ("consumer_group_member ($5)", shown(member)),
                ("consumer_group_size ($6)", shown(size)),
                ("condition", shown(condition.as_deref())),
            ],
        );
    }
    if size.is_some_and(|size| i16::try_from(size).is_err()) {
        refuse(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "smallint out of range").raise();
    }
    if condition.is_some() {
        return;
    }
    let mut left = limit(batch_size);
    let filter = Filter { types: None, correlation, member: group };
    as_owner(|caller| {
        let project = project::numbered(call.arg(0).unwrap_or(-1), caller).0;
        let Some(category) = category.filter(|_| left > 0) else { return };
        read::walk(project, Some(&category), position, &filter, u64::MAX, &mut |row: &Scan, stream| {
            push(&mut output, row, stream);
            left -= 1;
            left > 0
        });
    });
}

fn check_group(member: Option<i64>, size: Option<i64>) -> Option<(i64, i64)> {
    let fault = match (member, size) {
        (None, None) => return None,
        (Some(_), Some(size)) if size < 1 => "Consumer group size must not be less than 1",
        (Some(member), Some(_)) if member < 0 => "Consumer group member must not be less than 0",
        (Some(member), Some(size)) if member >= size => {
            "Consumer group member must be less than the group size"
        }
        (Some(member), Some(size)) => return Some((member, size)),
        _ => "Consumer group member and size must be specified",
    };
    let given = format!("(Consumer Group Member: {}, Consumer Group Size: {})", shown(member), shown(size));
    exception(format!("{fault} {given}")).raise()
}

returns_rows! {
    /// `message_store_last(project, stream_name, type)`; see the COMMENT.
    pg_finfo_meshhook_message_store_last, meshhook_message_store_last, last_message
}

fn last_message(call: Call) {
    let stream: Option<String> = call.arg(1);
    let kind: Option<String> = call.arg(2);
    debug(
        &guc::DEBUG_GET,
        "get_last_message",
        &[("stream_name ($1)", shown(stream.as_deref())), ("type ($2)", shown(kind.as_deref()))],
    );
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::numbered(call.arg(0).unwrap_or(-1), caller).0;
        let Some(stream) = stream else { return };
        read::last(project, &stream, kind.as_deref(), &mut |row: &Scan, known| {
            push(&mut output, row, known);
            false
        });
    });
}

/// A stream's version; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.message_store_stream_version(project integer, stream_name varchar) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn message_store_stream_version(project: i32, stream_name: Option<&str>) -> Option<i64> {
    as_owner(|caller| {
        let project = project::numbered(project, caller).0;
        stream_name.and_then(|stream| read::version(project, stream))
    })
}

/// Shows what Message DB shows when it takes a lock, which a write begins with.
fn debug_lock(stream: Option<&str>) {
    let category = stream.map(name::category);
    debug(
        &guc::DEBUG_WRITE,
        "acquire_lock",
        &[
            ("stream_name", shown(stream)),
            ("_category", shown(category)),
            ("_category_name_hash", shown(category.map(name::hash_64))),
        ],
    );
}

/// Takes a category's lock; see the COMMENT.
#[pg_extern(sql = r#"
CREATE FUNCTION meshhook.message_store_lock(project integer, stream_name varchar) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn message_store_lock(project: i32, stream_name: Option<&str>) -> Option<i64> {
    let category = stream_name.map(name::category);
    let hash = category.map(name::hash_64);
    as_owner(|caller| {
        let project = project::numbered(project, caller).0;
        if let Some(stream) = stream_name {
            check_reserved(stream);
        }
        if let Some(hash) = hash {
            horizon::exclude(project, hash);
        }
    });
    debug_lock(stream_name);
    hash
}
