//! Forgetting messages: administrators only, audited. Positions that were given are never given again.

use pgrx::prelude::*;

use super::streams;
use super::table::Snapshot;
use super::{held, native, read};
use crate::error::{bad_parameter, refuse, required};
use crate::owner::{Role, as_owner};
use crate::project::{self, Project};
use crate::spi::{self, arg};

/// Removes a stream's messages before a position; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn purge_stream(stream: Option<&str>, before: Option<i64>) -> i64 {
    let (stream, before) = (required("stream", stream), required("before", before));
    as_owner(|caller| {
        let project = project::current(caller);
        let id = locked(project, stream);
        let version = read::version(project.0, stream);
        if before > version.unwrap_or(-1) {
            bad_parameter(format!("stream \"{stream}\" would lose its newest message"))
                .detail(match version {
                    Some(version) => format!("It is at position {version}; before is {before}."),
                    None => "It is empty.".to_owned(),
                })
                .hint("A purge leaves it; SELECT meshhook.delete_stream(stream) removes all.")
                .raise();
        }
        cut(project, caller, stream, id, before, "stream.purged")
    })
}

/// Removes all of a stream's messages; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn delete_stream(stream: Option<&str>) -> i64 {
    let stream = required("stream", stream);
    as_owner(|caller| {
        let project = project::current(caller);
        let id = locked(project, stream);
        let next = read::version(project.0, stream).map_or(0, |version| version + 1);
        cut(project, caller, stream, id, next, "stream.deleted")
    })
}

/// The number of a stream that nobody appends to until the transaction ends.
fn locked(project: Project, stream: &str) -> i64 {
    native::check_reserved(stream);
    held::lock_stream(streams::known(project.0, stream).lock_key);
    streams::id(&Snapshot::latest(), project.0, stream).unwrap_or_else(|| {
        refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("stream \"{stream}\" does not exist")).raise()
    })
}

/// Removes what lies before a position and notes that the stream begins there.
fn cut(project: Project, actor: Role, stream: &str, id: i64, first: i64, action: &str) -> i64 {
    let begins = first.max(streams::floor(&Snapshot::latest(), project.0, id));
    let key = [arg(project.0), arg(id), arg(begins)];
    spi::exec(
        "INSERT INTO meshhook.stream_floor (project_id, stream_id, first_position) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
        &key,
    );
    let removed = spi::exec(
        "DELETE FROM meshhook.message WHERE project_id = $1 AND stream_id = $2 AND position < $3",
        &key,
    );
    let details = serde_json::json!({ "first_position": begins, "messages": removed });
    project::audit(project, actor, action, stream, Some(details.to_string()));
    removed.cast_signed()
}
