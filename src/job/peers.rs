//! What executors of one queue tell each other: that they are there, and which hosts do not answer.

use pgrx::prelude::*;

use crate::error::{bad_parameter, required};
use crate::owner::as_owner;
use crate::project;
use crate::random::{now_micros, timestamptz};
use crate::spi::{self, arg};

/// An executor that said nothing for so long is gone, in microseconds.
const ALIVE_MICROS: i64 = 15_000_000;
/// Most hosts that one executor tells of.
const MAX_PAUSES: usize = 1_000;
/// Longest name of a host, in bytes.
const MAX_HOST_BYTES: usize = 300;
/// Stands for an executor that serves every project.
const EVERY_PROJECT: i32 = -1;
/// Longest pause, in milliseconds: an executor that is gone must not keep others from a host.
const MAX_PAUSE_MS: i64 = 60_000;

/// A pause as it is told and heard: the project's name, the host, how much longer in milliseconds.
type Pause = (String, String, i64);

/// Says that an executor is there, and hears from the others; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns are the SQL contract")]
fn sync_executor(
    queue: Option<&str>,
    executor: Option<&str>,
    projects: Vec<Option<String>>,
    hosts: Vec<Option<String>>,
    pauses_ms: Vec<Option<i64>>,
) -> TableIterator<
    'static,
    (
        name!(executors, i64),
        name!(project, Option<String>),
        name!(host, Option<String>),
        name!(pause_ms, Option<i64>),
    ),
> {
    let (queue, executor) = (required("queue", queue), required("executor", executor));
    let told = pauses(projects, hosts, pauses_ms);
    let rows = as_owner(|caller| {
        // Whoever serves one project neither counts for the others nor tells or hears of theirs.
        let scope = project::served(caller);
        let place = scope.unwrap_or(EVERY_PROJECT);
        let now = now_micros();
        spi::exec(
            "INSERT INTO meshhook.executor (queue, project_id, name, seen_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (project_id, queue, name) DO UPDATE SET seen_at = excluded.seen_at",
            &[arg(queue.to_owned()), arg(place), arg(executor.to_owned()), arg(timestamptz(now))],
        );
        spi::exec(
            "DELETE FROM meshhook.executor WHERE seen_at < $1",
            &[arg(timestamptz(now - ALIVE_MICROS))],
        );
        tell(queue, executor, scope, now, told);
        let others = spi::read_one(
            "SELECT count(*) FROM meshhook.executor
             WHERE queue = $1 AND project_id IN ($2, $3) AND seen_at >= $5 AND (project_id, name) <> ($3, $4)",
            &[
                arg(queue.to_owned()),
                arg(EVERY_PROJECT),
                arg(place),
                arg(executor.to_owned()),
                arg(timestamptz(now - ALIVE_MICROS)),
            ],
            |row| row.must::<i64>(1),
        );
        let alive = others.unwrap_or(0) + 1;
        let heard = spi::run(
            "SELECT p.slug, h.host, max(ceil(extract(epoch FROM h.until - $4) * 1000))::bigint
             FROM meshhook.host_pause h JOIN meshhook.project p USING (project_id)
             WHERE h.queue = $1 AND h.executor <> $2 AND h.until > $4 AND h.project_id = coalesce($3, h.project_id)
             GROUP BY p.slug, h.host",
            &[arg(queue.to_owned()), arg(executor.to_owned()), arg(scope), arg(timestamptz(now))],
            |row| (alive, Some(row.must::<String>(1)), Some(row.must::<String>(2)), Some(row.must::<i64>(3))),
        );
        if heard.is_empty() { vec![(alive, None, None, None)] } else { heard }
    });
    TableIterator::new(rows)
}

fn pauses(
    projects: Vec<Option<String>>,
    hosts: Vec<Option<String>>,
    pauses_ms: Vec<Option<i64>>,
) -> Vec<Pause> {
    if projects.len() != hosts.len() || hosts.len() != pauses_ms.len() || hosts.len() > MAX_PAUSES {
        bad_parameter(format!("projects, hosts and pauses_ms must be equally long, up to {MAX_PAUSES}"))
            .raise();
    }
    let told = projects.into_iter().zip(hosts).zip(pauses_ms).map(|((project, host), pause_ms)| {
        let pause = (project?, host?, pause_ms?);
        (pause.1.len() <= MAX_HOST_BYTES && (0..=MAX_PAUSE_MS).contains(&pause.2)).then_some(pause)
    });
    let told: Option<Vec<Pause>> = told.collect();
    told.unwrap_or_else(|| {
        bad_parameter(format!(
            "a pause has a project, a host of at most {MAX_HOST_BYTES} bytes, and 0 to {MAX_PAUSE_MS} ms"
        ))
        .raise()
    })
}

/// Puts what an executor tells in the place of what it told before.
fn tell(queue: &str, executor: &str, scope: Option<i32>, now: i64, told: Vec<Pause>) {
    spi::exec(
        "DELETE FROM meshhook.host_pause
         WHERE until < $4 OR queue = $1 AND executor = $2 AND project_id = coalesce($3, project_id)",
        &[arg(queue.to_owned()), arg(executor.to_owned()), arg(scope), arg(timestamptz(now))],
    );
    if told.is_empty() {
        return;
    }
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (project, host, pause_ms) in told {
        columns.0.push(project);
        columns.1.push(host);
        columns.2.push(pause_ms);
    }
    spi::exec(
        "INSERT INTO meshhook.host_pause (queue, project_id, host, executor, until)
         SELECT DISTINCT ON (p.project_id, t.host) $1, p.project_id, t.host, $2, $4 + make_interval(secs => t.ms / 1000.0)
         FROM unnest($5::text[], $6::text[], $7::bigint[]) AS t (project, host, ms)
         JOIN meshhook.project p ON p.slug = t.project
         WHERE p.project_id = coalesce($3, p.project_id)
         ORDER BY p.project_id, t.host, t.ms DESC",
        &[
            arg(queue.to_owned()),
            arg(executor.to_owned()),
            arg(scope),
            arg(timestamptz(now)),
            arg(columns.0),
            arg(columns.1),
            arg(columns.2),
        ],
    );
}
