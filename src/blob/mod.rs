//! Bodies that are too large for a log. The log has a reference (`meshhook_engine::blob`); the bytes lie here once for a
//! project, for as long as a run refers to them.
//!
//! Nobody waits for anybody. Whoever puts or uses a blob locks it `FOR KEY SHARE`, which others may do at once, and makes
//! another one where it may be about to be deleted; whoever deletes takes one that is locked for used.

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

    /// Notes that a run refers to what another one refers to. Called as the owner role.
    pub fn add_all_of(&mut self, project: i32, other: pgrx::Uuid, run: pgrx::Uuid) {
        let hashes = spi::run(
            "SELECT encode(sha256, 'hex') FROM meshhook.blob_use WHERE project_id = $1 AND run_id = $2",
            &[arg(project), arg(other)],
            |row| row.must::<String>(1),
        );
        for sha256 in hashes {
            self.project.push(project);
            self.run.push(run);
            self.sha256.push(sha256);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// Keeps the blobs that are there for as long as these runs, of those that there are. Called as the owner role.
    pub fn keep(&self) {
        if self.is_empty() {
            return;
        }
        spi::exec(
            "WITH wanted AS MATERIALIZED (
                 SELECT DISTINCT project_id, run_id, decode(hash, 'hex') AS sha256
                 FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS u (project_id, run_id, hash)
                 JOIN meshhook.run r USING (project_id, run_id)),
             held AS MATERIALIZED (
                 SELECT w.project_id, w.sha256 FROM wanted w JOIN meshhook.blob b USING (project_id, sha256)
                 FOR KEY SHARE OF b SKIP LOCKED),
             copied AS (
                 INSERT INTO meshhook.blob (project_id, sha256, size, bytes)
                 SELECT DISTINCT ON (project_id, sha256) project_id, sha256, b.size, b.bytes
                 FROM wanted w JOIN meshhook.blob b USING (project_id, sha256)
                 WHERE NOT EXISTS (
                     SELECT FROM held h WHERE h.project_id = w.project_id AND h.sha256 = w.sha256)
                 RETURNING project_id, sha256)
             INSERT INTO meshhook.blob_use (project_id, run_id, sha256)
             SELECT w.project_id, w.run_id, w.sha256 FROM wanted w
             JOIN (SELECT * FROM held UNION SELECT * FROM copied) t USING (project_id, sha256)
             WHERE NOT EXISTS (
                 SELECT FROM meshhook.blob_use u
                 WHERE u.project_id = w.project_id AND u.run_id = w.run_id AND u.sha256 = w.sha256)",
            &[arg(self.project.clone()), arg(self.run.clone()), arg(self.sha256.clone())],
        );
    }
}

/// Puts what the events of a turn refer to, each with the project that it is of. Called as the owner role.
pub fn put_all(blobs: &[(i32, Blob)]) {
    blobs.iter().for_each(|(project, blob)| put(*project, &blob.sha256, &blob.bytes));
}
