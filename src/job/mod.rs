//! Jobs: claiming, renewing, reporting. Every report is checked against the lease's fencing token in the
//! statement that takes the row away (`report`), so that an attempt is reported on once.

mod handle;
mod log;
mod peers;

use std::cell::Cell;

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use crate::error::{bad_parameter, refuse, required};
use crate::guc::MAX_PAYLOAD_BYTES;
use crate::owner::as_owner;
use crate::project::Project;
use crate::random::{PG_EPOCH_MICROS, now_micros, timestamptz, unix_micros};
use crate::spi::{self, Arg, RawJsonb, RawJsonbArray, arg};
use crate::{fault, installation, project, resume, shmem};
use handle::Handles;
pub use handle::Held;

/// Most jobs in one call.
const MAX_BATCH: i32 = 1_000;
/// Longest lease, in microseconds: a day.
const MAX_LEASE_MICROS: i64 = 86_400_000_000;

/// Longest time a job that was given back may be kept from others, in microseconds: an hour.
const MAX_DELAY_MICROS: i64 = 3_600_000_000;

/// A job was taken in, or its lease was lost before.
const ACCEPTED: &str = "accepted";
const STALE: &str = "stale";

/// How often a claim hands out what a round has left over.
const MAX_ROUNDS: usize = 4;

/// What `claim_jobs` returns of a job.
type Claimed = (
    String,
    i64,
    String,
    pgrx::Uuid,
    String,
    i32,
    String,
    RawJsonb,
    Option<RawJsonb>,
    String,
    TimestampWithTimeZone,
);

/// Who claims, and for how long, in microseconds since 1970.
struct Lease {
    executor: String,
    from: i64,
    until: i64,
}

thread_local! {
    /// The project whose job this session claimed last: projects take turns.
    static LAST_SERVED: Cell<i32> = const { Cell::new(-1) };
}

fn lease_micros(lease: &Interval) -> i64 {
    let micros = lease.as_micros();
    match i64::try_from(micros) {
        Ok(micros) if (1_000..=MAX_LEASE_MICROS).contains(&micros) => micros,
        _ => bad_parameter("a lease lasts from 1 ms to 1 day").raise(),
    }
}

/// Claims jobs; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn claim_jobs(
    queue: default!(Option<&str>, "'default'"),
    executor: default!(Option<&str>, "NULL"),
    batch_size: default!(i32, 1),
    lease: default!(Interval, "'30 seconds'"),
) -> TableIterator<
    'static,
    (
        name!(job_id, String),
        name!(token, i64),
        name!(project, String),
        name!(run_id, pgrx::Uuid),
        name!(node, String),
        name!(attempt, i32),
        name!(kind, String),
        name!(payload, RawJsonb),
        name!(secrets, Option<RawJsonb>),
        name!(idempotency_key, String),
        name!(lease_expires_at, TimestampWithTimeZone),
    ),
> {
    if !(1..=MAX_BATCH).contains(&batch_size) {
        bad_parameter(format!("batch_size must be from 1 to {MAX_BATCH}")).raise();
    }
    let (queue, lease) = (required("queue", queue), lease_micros(&lease));
    let rows = as_owner(|caller| {
        let scope = project::served(caller);
        if !installation::active() {
            return Vec::new();
        }
        let executor = executor.map_or_else(|| caller.name(), str::to_owned);
        let now = now_micros();
        let mut rows = Vec::new();
        // Reading first: with an empty queue nothing takes an XID. What one round leaves over, because some project
        // had less than its share, the next one hands out.
        for _ in 0..MAX_ROUNDS {
            let wanted = batch_size - i32::try_from(rows.len()).unwrap_or(batch_size);
            let projects = projects_with_work(queue, scope, wanted, now);
            if wanted == 0 || projects.is_empty() {
                break;
            }
            let lease = Lease { executor: executor.clone(), from: now, until: now + lease };
            let round = claim_round(queue, &projects, wanted, lease);
            let took_all = round.is_empty() || projects.len() == 1;
            rows.extend(round);
            if took_all {
                break;
            }
        }
        let earliest = rows.iter().map(|row: &Claimed| unix_micros(row.10)).min();
        if let Some(earliest) = earliest {
            shmem::note_deadline_on_commit(earliest - PG_EPOCH_MICROS);
        }
        rows.into_iter().filter_map(with_resume_urls).collect()
    });
    TableIterator::new(rows)
}

/// The projects that have ready jobs of a queue, beginning behind the one this session served last; at most as many
/// as there are jobs wanted. Hops from project to project along the index, whatever backlog lies in between.
fn projects_with_work(queue: &str, scope: Option<i32>, wanted: i32, now: i64) -> Vec<i32> {
    if let Some(project) = scope {
        let ready = spi::read_one(
            "SELECT 1 FROM meshhook.job
             WHERE queue = $1 AND executor IS NULL AND project_id = $2 AND ready_at <= $3 LIMIT 1",
            &[arg(queue.to_owned()), arg(project), arg(timestamptz(now))],
            |_| project,
        );
        return ready.into_iter().collect();
    }
    let after = LAST_SERVED.get();
    let hop = |low: i32, high: i32, most: i32| {
        spi::run(
            "WITH RECURSIVE hop AS (
                 (SELECT project_id FROM meshhook.job
                  WHERE queue = $1 AND executor IS NULL AND project_id > $2 AND project_id <= $3
                  ORDER BY project_id LIMIT 1)
                 UNION ALL
                 SELECT n.project_id FROM hop h CROSS JOIN LATERAL (
                     SELECT j.project_id FROM meshhook.job j
                     WHERE j.queue = $1 AND j.executor IS NULL AND j.project_id > h.project_id AND j.project_id <= $3
                     ORDER BY j.project_id LIMIT 1) n)
             SELECT h.project_id FROM hop h CROSS JOIN LATERAL (
                 SELECT FROM meshhook.job j
                 WHERE j.queue = $1 AND j.executor IS NULL AND j.project_id = h.project_id AND j.ready_at <= $5
                 LIMIT 1) ready
             LIMIT $4",
            &[arg(queue.to_owned()), arg(low), arg(high), arg(i64::from(most)), arg(timestamptz(now))],
            |row| row.must::<i32>(1),
        )
    };
    let mut projects = hop(after, i32::MAX, wanted);
    let left = wanted - i32::try_from(projects.len()).unwrap_or(wanted);
    if left > 0 {
        projects.extend(hop(-1, after, left));
    }
    projects
}

/// Claims the oldest jobs of each project, to each an equal share of what is wanted.
fn claim_round(queue: &str, projects: &[i32], wanted: i32, lease: Lease) -> Vec<Claimed> {
    let share = (wanted / i32::try_from(projects.len()).unwrap_or(1)).max(1);
    LAST_SERVED.set(projects.last().copied().unwrap_or(-1));
    fault::around!("job.claim");
    fault::at_commit!("job.claim_commit");
    spi::run(
        "WITH picked AS MATERIALIZED (
             SELECT j.project_id, j.run_id, j.node FROM unnest($2::integer[]) AS p (project_id)
             CROSS JOIN LATERAL (
                 SELECT project_id, run_id, node FROM meshhook.job
                 WHERE queue = $1 AND executor IS NULL AND project_id = p.project_id AND ready_at <= $5
                 ORDER BY ready_at LIMIT $3 FOR UPDATE SKIP LOCKED) j),
         claimed AS (
             UPDATE meshhook.job j
             SET executor = $4, token = j.token + 1, claimed_at = $5,
                 lease_expires_at = least($6, $5 + make_interval(secs => j.timeout_ms / 1000.0))
             FROM picked p WHERE j.project_id = p.project_id AND j.run_id = p.run_id AND j.node = p.node
             RETURNING j.*)
         SELECT c.project_id || '/' || c.run_id || '/' || c.node, c.token,
                (SELECT slug FROM meshhook.project WHERE project_id = c.project_id), c.run_id, c.node, c.attempt, c.kind,
                coalesce(e.input, 'null'), s.sealed, c.run_id || '/' || c.node, c.lease_expires_at
         FROM claimed c
         JOIN LATERAL (
             -- A job given back while its run ended is nobody's any more; its lease runs out.
             SELECT FROM meshhook.run
             WHERE project_id = c.project_id AND run_id = c.run_id AND finished_at IS NULL OFFSET 0) open_run ON true
         CROSS JOIN LATERAL (
             SELECT data -> 'input' AS input FROM meshhook.run_event
             WHERE project_id = c.project_id AND run_id = c.run_id AND position = c.input_position OFFSET 0) e
         CROSS JOIN LATERAL (
             SELECT CASE WHEN c.kind = 'http' AND e.input ? 'secrets' THEN
                 (SELECT coalesce(jsonb_object_agg(s.name, s.sealed), '{}') FROM meshhook.secret s
                  WHERE s.project_id = c.project_id
                    AND s.name IN (SELECT jsonb_path_query(e.input, '$.secrets[*].parts[*].secret') #>> '{}'))
                 END AS sealed) s",
        &[
            arg(queue.to_owned()),
            arg(projects.to_vec()),
            arg(i64::from(share)),
            arg(lease.executor),
            arg(timestamptz(lease.from)),
            arg(timestamptz(lease.until)),
        ],
        |row| {
            let payload = row.raw_jsonb(8).unwrap_or_else(|| RawJsonb::of_text("null"));
            (
                row.must(1),
                row.must(2),
                row.must(3),
                row.must(4),
                row.must(5),
                row.must(6),
                row.must(7),
                payload,
                row.raw_jsonb(9),
                row.must(10),
                row.must(11),
            )
        },
    )
}

/// Puts resume URLs into a job's input, where it has any. A job whose URLs cannot be signed is not handed out: its lease
/// runs out, and it is tried again.
fn with_resume_urls(mut claimed: Claimed) -> Option<Claimed> {
    if !resume::is_in(claimed.7) {
        return Some(claimed);
    }
    let (project, ..) = handle::parse(&claimed.0)?;
    match resume::fill(Project(project), claimed.3, &claimed.4, claimed.7) {
        Ok(filled) => {
            claimed.7 = filled;
            Some(claimed)
        }
        Err(error) => {
            pgrx::warning!(
                "job {} is not handed out, for resume URLs cannot be signed: {}",
                claimed.0,
                error.0
            );
            None
        }
    }
}

/// Renews leases; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn heartbeat_jobs(
    job_ids: Vec<Option<String>>,
    tokens: Vec<Option<i64>>,
    lease: default!(Interval, "'30 seconds'"),
) -> TableIterator<'static, (name!(job_id, String), name!(lease_expires_at, Option<TimestampWithTimeZone>))> {
    let lease = lease_micros(&lease);
    let handles = Handles::of(job_ids, &tokens);
    let renewed: Vec<(usize, TimestampWithTimeZone)> = as_owner(|caller| {
        let mine = handles.served_by(project::served(caller));
        let mut args = mine.args();
        args.push(arg(timestamptz(now_micros() + lease)));
        fault::around!("job.renew");
        fault::at_commit!("job.renew_commit");
        spi::run(
            "UPDATE meshhook.job j
             SET lease_expires_at = least($6, j.claimed_at + make_interval(secs => j.timeout_ms / 1000.0))
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                  AS w (project_id, run_id, node, token, place)
             WHERE j.project_id = w.project_id AND j.run_id = w.run_id AND j.node = w.node AND j.token = w.token
               AND j.executor IS NOT NULL
             RETURNING w.place, j.lease_expires_at",
            &args,
            |row| (place(row.must(1)), row.must(2)),
        )
    });
    let expiry = |i: usize| renewed.iter().find(|(place, _)| *place == i).map(|(_, at)| *at);
    let rows: Vec<_> = handles.ids.iter().enumerate().map(|(i, id)| (id.clone(), expiry(i))).collect();
    TableIterator::new(rows)
}

/// Reports results; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn complete_jobs(
    job_ids: Vec<Option<String>>,
    tokens: Vec<Option<i64>>,
    outputs: RawJsonbArray,
) -> TableIterator<'static, (name!(job_id, String), name!(outcome, String))> {
    fault::around!("job.complete");
    report("job.completed", "output", &Handles::of(job_ids, &tokens), outputs)
}

/// Reports failures; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn fail_jobs(
    job_ids: Vec<Option<String>>,
    tokens: Vec<Option<i64>>,
    errors: RawJsonbArray,
) -> TableIterator<'static, (name!(job_id, String), name!(outcome, String))> {
    fault::around!("job.fail");
    report("job.failed", "error", &Handles::of(job_ids, &tokens), errors)
}

/// Gives jobs back; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn release_jobs(
    job_ids: Vec<Option<String>>,
    tokens: Vec<Option<i64>>,
    delay: default!(Interval, "'0'"),
) -> TableIterator<'static, (name!(job_id, String), name!(outcome, String))> {
    let handles = Handles::of(job_ids, &tokens);
    let delay = match i64::try_from(delay.as_micros()) {
        Ok(micros) if (0..=MAX_DELAY_MICROS).contains(&micros) => micros,
        _ => bad_parameter("delay must be from 0 to 1 hour").raise(),
    };
    let places = as_owner(|caller| {
        fault::around!("job.release");
        fault::at_commit!("job.report_commit");
        let mut args = handles.served_by(project::served(caller)).args();
        // Its place in the queue is kept where it may be claimed at once.
        args.push(arg((delay > 0).then(|| timestamptz(now_micros() + delay))));
        let places = spi::run(
            "UPDATE meshhook.job j SET executor = NULL, claimed_at = NULL, lease_expires_at = NULL,
                                       ready_at = coalesce($6, j.ready_at)
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                  AS w (project_id, run_id, node, token, place)
             WHERE j.project_id = w.project_id AND j.run_id = w.run_id AND j.node = w.node AND j.token = w.token
               AND j.executor IS NOT NULL
             RETURNING w.place",
            &args,
            |row| place(row.must(1)),
        );
        if !places.is_empty() && delay == 0 {
            spi::exec("SELECT pg_notify('meshhook_jobs', '')", &[]);
        }
        places
    });
    handles.outcomes(&places)
}

/// Takes the jobs whose token still holds and puts what was reported into the inbox, in one statement.
fn report(
    kind: &'static str,
    field: &'static str,
    handles: &Handles,
    documents: RawJsonbArray,
) -> TableIterator<'static, (name!(job_id, String), name!(outcome, String))> {
    check_documents(handles, documents);
    refuse_if_dormant();
    let places = as_owner(|caller| {
        let mut args: Vec<Arg> = handles.served_by(project::served(caller)).args();
        args.extend([arg(documents), arg(kind), arg(field)]);
        #[cfg(feature = "faults")]
        fault::bugs::unfenced_completion(&mut args);
        fault::at_commit!("job.report_commit");
        spi::run(
            "WITH gone AS (
                 DELETE FROM meshhook.job j
                 USING unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                       AS w (project_id, run_id, node, token, place)
                 WHERE j.project_id = w.project_id AND j.run_id = w.run_id AND j.node = w.node AND j.token = w.token
                   AND j.executor IS NOT NULL
                 RETURNING j.project_id, j.run_id, j.node, j.attempt, j.executor, j.claimed_at, w.place),
             posted AS (
                 INSERT INTO meshhook.inbox (project_id, run_id, kind, data, metadata)
                 SELECT project_id, run_id, $7,
                        jsonb_build_object('node', node, 'attempt', attempt, $8, coalesce(($6::jsonb[])[place + 1], 'null')),
                        jsonb_build_object('executor', executor, 'claimed_at',
                            to_char(claimed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))
                 FROM gone ORDER BY place)
             SELECT place FROM gone",
            &args,
            |row| place(row.must(1)),
        )
    });
    if !places.is_empty() {
        shmem::wake_on_commit();
    }
    handles.outcomes(&places)
}

/// One document a job, none too large; the whole call is refused before anything is written.
fn check_documents(handles: &Handles, documents: RawJsonbArray) {
    let length = spi::read_one(
        "SELECT CASE WHEN cardinality(d) = 0 THEN 0 WHEN array_ndims(d) = 1 AND array_lower(d, 1) = 1 THEN cardinality(d) END
         FROM (SELECT $1::jsonb[] AS d) x",
        &[arg(documents)],
        |row| row.get::<i32>(1),
    )
    .flatten();
    if length.and_then(|n| usize::try_from(n).ok()) != Some(handles.ids.len()) {
        bad_parameter("the arrays have different lengths")
            .hint("Give one job id, one token and one document for each job, in arrays of one dimension that begin at 1.")
            .raise();
    }
    if documents.size() <= MAX_PAYLOAD_BYTES {
        return;
    }
    let too_large = spi::read_one(
        "SELECT n::integer, pg_column_size(d)::bigint FROM unnest($1::jsonb[]) WITH ORDINALITY AS u (d, n)
         WHERE pg_column_size(d) > $2 ORDER BY n LIMIT 1",
        &[arg(documents), arg(i64::try_from(MAX_PAYLOAD_BYTES).unwrap_or(i64::MAX))],
        |row| (row.must::<i32>(1), row.must::<i64>(2)),
    );
    if let Some((n, size)) = too_large {
        let job = handles.ids.get(place(i64::from(n) - 1)).map_or("", String::as_str);
        refuse(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("the document for job \"{job}\" is too large"),
        )
        .detail(format!(
            "It has {size} bytes; the limit is {MAX_PAYLOAD_BYTES}. Nothing of this call was taken."
        ))
        .hint("Keep large data in a table or an object store and report a reference.")
        .raise();
    }
}

/// A copy has the original's leases and tokens; a report meant for the original must not be taken here.
fn refuse_if_dormant() {
    if as_owner(|_| installation::active()) {
        return;
    }
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this database is a dormant copy and takes no reports",
    )
    .hint("SELECT meshhook.activate() makes it the one that acts.")
    .raise();
}

fn place(n: i64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
