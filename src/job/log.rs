//! What executors say while they work: lines in the run's log.

use meshhook_engine::journal::Level;
use pgrx::prelude::*;

use super::handle::Handles;
use super::refuse_if_dormant;
use crate::error::{bad_parameter, refuse};
use crate::owner::as_owner;
use crate::spi::{self, RawJsonb, arg};
use crate::{fault, guc, project, shmem};

/// Longest message of a line, in bytes.
const MAX_MESSAGE_BYTES: usize = 8 << 10;
/// Largest data of a line, in bytes.
const MAX_DATA_BYTES: usize = 64 << 10;
/// Lines take at most this part of the events that a run may have.
const SHARE: u64 = 2;

/// Adds a line to a run's log; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn log_job(
    job_id: String,
    token: i64,
    message: &str,
    level: default!(&str, "'info'"),
    data: default!(Option<RawJsonb>, "NULL"),
) -> &'static str {
    let level = checked(message, level, data);
    refuse_if_dormant();
    let handles = Handles::of(vec![Some(job_id)], &[Some(token)]);
    as_owner(|caller| {
        let mut args = handles.served_by(project::served(caller)).args();
        let room = guc::max_run_events().map(|most| i64::try_from(most / SHARE).unwrap_or(i64::MAX));
        args.extend([arg(level.as_str()), arg(message.to_owned()), arg(data), arg(room)]);
        fault::at_commit!("job.log_commit");
        fault::around!("job.log");
        let is_full = spi::run_one(
            "WITH mine AS MATERIALIZED (
                 SELECT j.project_id, j.run_id, j.node, j.attempt, j.executor,
                        coalesce($9 <= r.position + (SELECT count(*) FROM meshhook.inbox i
                                                     WHERE i.project_id = j.project_id AND i.run_id = j.run_id), false)
                            AS is_full
                 FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                      AS w (project_id, run_id, node, token, place)
                 JOIN meshhook.job j USING (project_id, run_id, node, token)
                 JOIN meshhook.run r ON r.project_id = j.project_id AND r.run_id = j.run_id AND r.finished_at IS NULL
                 WHERE j.executor IS NOT NULL),
             said AS (
                 INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
                 SELECT project_id, run_id, 'job.logged',
                        jsonb_build_object('node', node, 'attempt', attempt, 'level', $6, 'message', $7)
                            || CASE WHEN $8 IS NULL THEN '{}' ELSE jsonb_build_object('data', $8) END,
                        jsonb_build_object('executor', executor)
                 FROM mine WHERE NOT is_full)
             SELECT is_full FROM mine",
            &args,
            |row| row.must::<bool>(1),
        );
        match is_full {
            None => "stale",
            Some(true) => "full",
            Some(false) => {
                shmem::wake_on_commit();
                "accepted"
            }
        }
    })
}

/// The level, if the line can be taken.
fn checked(message: &str, level: &str, data: Option<RawJsonb>) -> Level {
    let levels = [Level::Info, Level::Warning, Level::Error];
    let Some(known) = levels.into_iter().find(|known| known.as_str() == level) else {
        bad_parameter(format!("\"{level}\" is not a level")).hint("info, warning or error.").raise()
    };
    let size = data.map_or(0, |data| data.size());
    if message.is_empty() {
        bad_parameter("message must not be empty").raise();
    }
    if message.len() > MAX_MESSAGE_BYTES || size > MAX_DATA_BYTES {
        refuse(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the line is too large for a log")
            .detail(format!(
                "Its message has {} bytes of at most {MAX_MESSAGE_BYTES}, its data {size} of {MAX_DATA_BYTES}.",
                message.len()
            ))
            .hint("Keep large data elsewhere and log a reference.")
            .raise();
    }
    known
}
