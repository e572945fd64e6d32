//! Snapshots: which states are stored, and which stored state a replay may start from.
//!
//! A snapshot saves reading; nothing depends on one. A turn stores it in the transaction that appends its last event, so
//! its position is that event's, whatever the clock says.

use std::collections::HashMap;

use meshhook_engine::snapshot::{Snapshot, Unusable};
use meshhook_engine::state::RunState;
use pgrx::prelude::*;

use super::read;
use super::replay::{self, Start};
use super::turn::{RunKey, columns};
use crate::error::{refuse, required};
use crate::fault;
use crate::guc;
use crate::owner::as_owner;
use crate::project;
use crate::spi::{self, Row, arg};

/// Largest state that is stored, in bytes of text. A larger one is replayed from what there is.
pub const MAX_STATE_BYTES: usize = 64 << 20;

/// What is found for a run: where to go on from, and which snapshots were not fit for it.
#[derive(Debug, Default)]
pub struct Found {
    /// The state and its size as stored; `None`: from the first event.
    pub state: Option<(RunState, usize)>,
    /// Snapshots that were passed over, newest first.
    pub ignored: Vec<(u64, Unusable)>,
}

/// The newest usable snapshot of each run at or before a position. What cannot be used is reported.
///
/// `latest`: of all that has committed by now, as a turn needs it; else of what the calling statement sees.
pub fn newest(wanted: &[(RunKey, u64)], latest: bool) -> HashMap<RunKey, Found> {
    let mut found: HashMap<RunKey, Found> = HashMap::new();
    let mut wanted = wanted.to_vec();
    // Every pass goes further back, and there are few snapshots of a run.
    while !wanted.is_empty() {
        let mut unusable = Vec::new();
        for (key, snapshot) in stored(&wanted, latest) {
            let of_run = found.entry(key).or_default();
            match snapshot.open() {
                Ok(state) => of_run.state = Some((state, snapshot.bytes.len())),
                Err(why) => {
                    report(key, snapshot.position, &why);
                    of_run.ignored.push((snapshot.position, why));
                    unusable.push((key, snapshot.position - 1));
                }
            }
        }
        wanted = unusable;
    }
    found
}

/// Every snapshot of a run up to a position that a replay would start from, oldest first.
pub fn usable(key: RunKey, until: u64) -> Vec<RunState> {
    let stored = spi::read(
        "SELECT project_id, run_id, position, state_version, state_hash, state FROM meshhook.snapshot
         WHERE project_id = $1 AND run_id = $2 AND position <= $3 ORDER BY position",
        &[arg(key.project), arg(key.run), arg(until.cast_signed())],
        stored_row,
    );
    stored.into_iter().filter_map(|(_, snapshot)| snapshot.open().ok()).collect()
}

fn stored(wanted: &[(RunKey, u64)], latest: bool) -> Vec<(RunKey, Snapshot)> {
    static NEWEST: &str = "SELECT u.project_id, u.run_id, s.position, s.state_version, s.state_hash, s.state
         FROM unnest($1::integer[], $2::uuid[], $3::bigint[]) AS u (project_id, run_id, bound)
         CROSS JOIN LATERAL (
             SELECT position, state_version, state_hash, state FROM meshhook.snapshot
             WHERE project_id = u.project_id AND run_id = u.run_id AND position <= u.bound
             ORDER BY position DESC LIMIT 1) s";
    let keys: Vec<RunKey> = wanted.iter().map(|(key, _)| *key).collect();
    let (projects, runs) = columns(&keys);
    let bounds: Vec<i64> = wanted.iter().map(|(_, bound)| bound.cast_signed()).collect();
    let args = [arg(projects), arg(runs), arg(bounds)];
    if latest { spi::run(NEWEST, &args, stored_row) } else { spi::read(NEWEST, &args, stored_row) }
}

fn stored_row(row: &Row) -> (RunKey, Snapshot) {
    let hash: Vec<u8> = row.must(5);
    let snapshot = Snapshot {
        position: row.must::<i64>(3).cast_unsigned(),
        version: row.must::<i32>(4).cast_unsigned(),
        // A hash of another length is nobody's.
        hash: hash.try_into().unwrap_or_default(),
        bytes: row.must(6),
    };
    (RunKey { project: row.must(1), run: row.must(2) }, snapshot)
}

fn report(key: RunKey, position: u64, why: &Unusable) {
    refuse(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("the snapshot of run \"{}\" at position {position} is ignored: {why}", key.run),
    )
    .hint(
        "Nothing is lost: its events are read instead. SELECT meshhook.create_snapshot(run) makes a new one.",
    )
    .warn();
}

/// Stores a snapshot and forgets the oldest of the run. Waits for nobody: what another session is about to forget is
/// left to it.
pub fn store(key: &RunKey, snapshot: Snapshot) {
    fault::around!("snapshot.store", insert(key, snapshot));
    fault::around!("snapshot.forget", forget_oldest(key));
}

fn insert(key: &RunKey, snapshot: Snapshot) {
    spi::exec(
        "INSERT INTO meshhook.snapshot (project_id, run_id, position, state_version, state_hash, state, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp()) ON CONFLICT DO NOTHING",
        &[
            arg(key.project),
            arg(key.run),
            arg(snapshot.position.cast_signed()),
            arg(snapshot.version.cast_signed()),
            arg(snapshot.hash.to_vec()),
            arg(snapshot.bytes),
        ],
    );
}

fn forget_oldest(key: &RunKey) {
    spi::exec(
        "WITH old AS MATERIALIZED (
             SELECT position FROM meshhook.snapshot
             WHERE project_id = $1 AND run_id = $2 AND position <= (
                 SELECT position FROM meshhook.snapshot WHERE project_id = $1 AND run_id = $2
                 ORDER BY position DESC OFFSET $3 LIMIT 1)
             FOR UPDATE SKIP LOCKED)
         DELETE FROM meshhook.snapshot s USING old
         WHERE s.project_id = $1 AND s.run_id = $2 AND s.position = old.position",
        &[arg(key.project), arg(key.run), arg(guc::snapshots_kept())],
    );
}

/// A state as it is stored, or its size where that is more than may be.
pub fn of(state: &RunState) -> Result<Snapshot, usize> {
    let size = state.byte_size();
    if size > MAX_STATE_BYTES {
        return Err(size);
    }
    Ok(Snapshot::of(state))
}

/// Stores the state of a run; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_snapshot(run: Option<pgrx::Uuid>) -> i64 {
    let run = required("run", run);
    as_owner(|caller| {
        fault::at_commit!("snapshot.commit");
        let row = read::find(project::current(caller), run);
        row.must_have_begun();
        // From the first event: what is wrong with an earlier snapshot must not go into this one.
        let state = replay::replay(row.key, row.position, Start::First).state;
        let snapshot = of(&state).unwrap_or_else(|size| {
            refuse(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("the state of run \"{run}\" is too large for a snapshot"),
            )
            .detail(format!("It has about {size} bytes; the limit is {MAX_STATE_BYTES}."))
            .raise()
        });
        // One that is there already and is this one stays; another one is no good.
        spi::exec(
            "DELETE FROM meshhook.snapshot
             WHERE project_id = $1 AND run_id = $2 AND position = $3
               AND (state_version, state_hash, state) IS DISTINCT FROM ($4, $5, $6)",
            &[
                arg(row.key.project),
                arg(run),
                arg(snapshot.position.cast_signed()),
                arg(snapshot.version.cast_signed()),
                arg(snapshot.hash.to_vec()),
                arg(snapshot.bytes.clone()),
            ],
        );
        store(&row.key, snapshot);
        state.position.cast_signed()
    })
}
