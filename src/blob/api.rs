//! Blobs for users, who name them, and for executors, who bring and fetch them for the jobs they hold.

use meshhook_engine::blob::{Hash, hash};
use pgrx::prelude::*;
use sha2::{Digest, Sha256};

use super::{MAX_BYTES, Uses, put};
use crate::error::{bad_parameter, refuse, required};
use crate::job::Held;
use crate::owner::as_owner;
use crate::spi::{self, RawJsonb, arg};
use crate::{fault, installation, project};

/// Longest content type, in bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Keeps bytes for runs to refer to; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_blob(bytes: Option<&[u8]>, content_type: default!(Option<&str>, "NULL")) -> RawJsonb {
    let bytes = required("bytes", bytes);
    check_size(bytes);
    if let Some(content_type) = content_type
        && (content_type.is_empty()
            || content_type.len() > MAX_CONTENT_TYPE_BYTES
            || !content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
    {
        bad_parameter(format!("content_type has 1 to {MAX_CONTENT_TYPE_BYTES} printable ASCII characters"))
            .raise();
    }
    let sha256: Hash = Sha256::digest(bytes).into();
    as_owner(|caller| {
        let project = project::current(caller);
        installation::ensure();
        put(project.0, &sha256, bytes);
        spi::exec(
            "INSERT INTO meshhook.blob_check (project_id, sha256, due_at) VALUES ($1, $2, now() + interval '1 day')",
            &[arg(project.0), arg(sha256.to_vec())],
        );
    });
    let mut reference = serde_json::json!({"sha256": hex::encode(sha256), "size": bytes.len()});
    if let Some(content_type) = content_type {
        reference["content_type"] = content_type.into();
    }
    RawJsonb::of_text(&reference.to_string())
}

/// The bytes of a blob; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn read_blob(sha256: Option<&str>) -> Vec<u8> {
    let text = required("sha256", sha256);
    let sha256 = checked(text);
    as_owner(|caller| {
        let project = project::current(caller);
        read(project.0, &sha256).unwrap_or_else(|| missing(text))
    })
}

/// Keeps a body for the run of a job; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn put_job_blob(job_id: Option<&str>, token: Option<i64>, bytes: Option<&[u8]>) -> Option<String> {
    let (job_id, bytes) = (required("job_id", job_id), required("bytes", bytes));
    check_size(bytes);
    let sha256: Hash = Sha256::digest(bytes).into();
    as_owner(|caller| {
        let job = Held::find(job_id, token, project::served(caller))?;
        fault::around!("job.blob");
        fault::at_commit!("job.blob_commit");
        put(job.project, &sha256, bytes);
        let mut uses = Uses::default();
        uses.add(job.project, job.run, &sha256);
        uses.keep();
        Some(hex::encode(sha256))
    })
}

/// A body that a job refers to; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn read_job_blob(job_id: Option<&str>, token: Option<i64>, sha256: Option<&str>) -> Option<Vec<u8>> {
    let (job_id, text) = (required("job_id", job_id), required("sha256", sha256));
    let sha256 = checked(text);
    as_owner(|caller| {
        let job = Held::find(job_id, token, project::served(caller))?;
        Some(read(job.project, &sha256).unwrap_or_else(|| missing(text)))
    })
}

fn read(project: i32, sha256: &Hash) -> Option<Vec<u8>> {
    spi::run_one(
        "SELECT bytes FROM meshhook.blob WHERE project_id = $1 AND sha256 = $2 LIMIT 1",
        &[arg(project), arg(sha256.to_vec())],
        |row| row.must(1),
    )
}

/// Raises 54000 for what is too large.
fn check_size(bytes: &[u8]) {
    if bytes.len() > MAX_BYTES {
        refuse(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a blob has at most {MAX_BYTES} bytes, this one {}", bytes.len()),
        )
        .hint("Keep it elsewhere and pass on where it is.")
        .raise();
    }
}

/// Raises 22023 for what is no hash.
fn checked(sha256: &str) -> Hash {
    hash(sha256).unwrap_or_else(|| {
        bad_parameter("sha256 is not 64 hexadecimal digits")
            .hint("A reference to a blob has it: reference ->> 'sha256'.")
            .raise()
    })
}

/// Raises P0002 for a blob that the project does not have.
fn missing(sha256: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("blob {sha256} does not exist"))
        .hint(
            "A blob is kept as long as a run that refers to it, one made by create_blob for a day at least.",
        )
        .raise()
}
