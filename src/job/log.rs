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
        let position = spi::read_one(
            "SELECT r.position + (SELECT count(*) FROM meshhook.inbox i
                                   WHERE i.project_id = j.project_id AND i.run_id = j.run_id)
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                  AS w (project_id, run_id, node, token, place)
             JOIN meshhook.job j USING (project_id, run_id, node, token)
             JOIN meshhook.run r ON r.project_id = j.project_id AND r.run_id = j.run_id AND r.finished_at IS NULL
             WHERE j.executor IS NOT NULL",
            &args,
            |row| row.must::<i64>(1),
        );
        let Some(position) = position else { return "stale" };
        let room = guc::max_run_events().map(|most| i64::try_from(most / SHARE).unwrap_or(i64::MAX));
        if room.is_some_and(|room| position >= room) {
            return "full";
        }
        args.extend([arg(level.as_str()), arg(message.to_owned()), arg(data)]);
        fault::at_commit!("job.log_commit");
        fault::around!("job.log");
        let taken = spi::exec(
            "INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
             SELECT j.project_id, j.run_id, 'job.logged',
                    jsonb_build_object('node', j.node, 'attempt', j.attempt, 'level', $6, 'message', $7)
                        || CASE WHEN $8 IS NULL THEN '{}' ELSE jsonb_build_object('data', $8) END,
                    jsonb_build_object('executor', j.executor)
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                  AS w (project_id, run_id, node, token, place)
             JOIN meshhook.job j USING (project_id, run_id, node, token)
             WHERE j.executor IS NOT NULL",
            &args,
        );
        if taken == 0 {
            return "stale";
        }
        shmem::wake_on_commit();
        "accepted"
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
