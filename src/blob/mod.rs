//! Bodies that are too large for a log. The log has a reference (`meshhook_engine::blob`); the bytes lie here once for a
//! project, for as long as a run refers to them.
//!
//! Nobody waits for anybody. Whoever puts or uses a blob locks it `FOR KEY SHARE`, which others may do at once, and takes one
//! that is being deleted for gone; whoever deletes takes one that is locked for used.

mod api;

use meshhook_engine::blob::{Blob, Hash};

use crate::spi::{self, arg};

/// Largest blob, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// Puts bytes into a project, unless it has them; the caller notes what they are used for. Called as the owner role.
fn put(project: i32, sha256: &Hash, bytes: &[u8]) {
    spi::exec(
        "WITH there AS MATERIALIZED (
             SELECT FROM meshhook.blob WHERE project_id = $1 AND sha256 = $2 LIMIT 1 FOR KEY SHARE SKIP LOCKED)
         INSERT INTO meshhook.blob (project_id, sha256, size, bytes)
         SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM there)",
        &[
            arg(project),
            arg(sha256.to_vec()),
            arg(i32::try_from(bytes.len()).unwrap_or(i32::MAX)),
            arg(bytes.to_vec()),
        ],
    );
}

/// Which runs refer to which blobs, as the statement takes it.
#[derive(Debug, Default)]
pub struct Uses {
    project: Vec<i32>,
    run: Vec<pgrx::Uuid>,
    sha256: Vec<String>,
}

impl Uses {
    /// Notes that a run refers to a blob.
    pub fn add(&mut self, project: i32, run: pgrx::Uuid, sha256: &Hash) {
        self.project.push(project);
        self.run.push(run);
        self.sha256.push(hex::encode(sha256));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// Keeps those that are there for as long as these runs. Called as the owner role.
    pub fn keep(&self) {
        if self.is_empty() {
            return;
        }
        spi::exec(
            "WITH wanted AS MATERIALIZED (
                 SELECT DISTINCT project_id, run_id, decode(hash, 'hex') AS sha256
                 FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS u (project_id, run_id, hash)),
             there AS MATERIALIZED (
                 SELECT w.* FROM wanted w JOIN meshhook.blob b USING (project_id, sha256) FOR KEY SHARE OF b SKIP LOCKED)
             INSERT INTO meshhook.blob_use (project_id, run_id, sha256)
             SELECT DISTINCT project_id, run_id, sha256 FROM there t
             WHERE NOT EXISTS (
                 SELECT FROM meshhook.blob_use u
                 WHERE u.project_id = t.project_id AND u.run_id = t.run_id AND u.sha256 = t.sha256)",
            &[arg(self.project.clone()), arg(self.run.clone()), arg(self.sha256.clone())],
        );
    }
}

/// Puts what the events of a turn refer to, each with the project that it is of. Called as the owner role.
pub fn put_all(blobs: &[(i32, Blob)]) {
    blobs.iter().for_each(|(project, blob)| put(*project, &blob.sha256, &blob.bytes));
}
