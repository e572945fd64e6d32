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

/// Who tells, where, and when, in microseconds since 1970.
struct Teller<'a> {
    queue: &'a str,
    executor: &'a str,
    /// The only project that it serves.
    scope: Option<i32>,
    now: i64,
}

/// What is told, as parallel columns: the project's name, the host, how much longer in milliseconds.
struct Pauses {
    projects: Vec<Option<String>>,
    hosts: Vec<Option<String>>,
    left_ms: Vec<Option<i64>>,
}

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
    let told = Pauses { projects, hosts, left_ms: pauses_ms };
    told.check();
    let rows = as_owner(|caller| {
        // Whoever serves one project neither counts for the others nor tells or hears of theirs.
        let teller = Teller { queue, executor, scope: project::served(caller), now: now_micros() };
        teller.appear();
        teller.tell(told);
        let (executors, heard) = (teller.others() + 1, teller.hear());
        teller.forget();
        let row = |(project, host, left_ms)| (executors, Some(project), Some(host), Some(left_ms));
        if heard.is_empty() {
            vec![(executors, None, None, None)]
        } else {
            heard.into_iter().map(row).collect()
        }
    });
    TableIterator::new(rows)
}

impl Pauses {
    /// Raises 22023 for what is no pause.
    fn check(&self) {
        let count = self.hosts.len();
        if self.projects.len() != count || self.left_ms.len() != count || count > MAX_PAUSES {
            bad_parameter(format!("projects, hosts and pauses_ms must be equally long, up to {MAX_PAUSES}"))
                .raise();
        }
        let is_host = |host: &Option<String>| host.as_ref().is_some_and(|host| host.len() <= MAX_HOST_BYTES);
        let is_pause = |left: &Option<i64>| left.is_some_and(|left| (0..=MAX_PAUSE_MS).contains(&left));
        if !(self.projects.iter().all(Option::is_some)
            && self.hosts.iter().all(is_host)
            && self.left_ms.iter().all(is_pause))
        {
            bad_parameter(format!(
                "a pause has a project, a host of at most {MAX_HOST_BYTES} bytes, and 0 to {MAX_PAUSE_MS} ms"
            ))
            .raise();
        }
    }
}

impl Teller<'_> {
    fn place(&self) -> i32 {
        self.scope.unwrap_or(EVERY_PROJECT)
    }

    fn appear(&self) {
        spi::exec(
            "INSERT INTO meshhook.executor (queue, project_id, name, seen_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (project_id, queue, name) DO UPDATE SET seen_at = excluded.seen_at",
            &[
                arg(self.queue.to_owned()),
                arg(self.place()),
                arg(self.executor.to_owned()),
                arg(timestamptz(self.now)),
            ],
        );
    }

    /// Puts what it tells in the place of what it told before.
    fn tell(&self, told: Pauses) {
        spi::exec(
            "DELETE FROM meshhook.host_pause
             WHERE queue = $1 AND executor = $2 AND project_id = coalesce($3, project_id)",
            &[arg(self.queue.to_owned()), arg(self.executor.to_owned()), arg(self.scope)],
        );
        if told.hosts.is_empty() {
            return;
        }
        spi::exec(
            "INSERT INTO meshhook.host_pause (queue, project_id, host, executor, until)
             SELECT DISTINCT ON (p.project_id, t.host) $1, p.project_id, t.host, $2, $4 + make_interval(secs => t.ms / 1000.0)
             FROM unnest($5::text[], $6::text[], $7::bigint[]) AS t (project, host, ms)
             JOIN meshhook.project p ON p.slug = t.project
             WHERE p.project_id = coalesce($3, p.project_id)
             ORDER BY p.project_id, t.host, t.ms DESC",
            &[
                arg(self.queue.to_owned()),
                arg(self.executor.to_owned()),
                arg(self.scope),
                arg(timestamptz(self.now)),
                arg(told.projects),
                arg(told.hosts),
                arg(told.left_ms),
            ],
        );
    }

    /// How many others are there.
    fn others(&self) -> i64 {
        let others = spi::read_one(
            "SELECT count(*) FROM meshhook.executor
             WHERE queue = $1 AND project_id IN ($2, $3) AND seen_at >= $5 AND (project_id, name) <> ($3, $4)",
            &[
                arg(self.queue.to_owned()),
                arg(EVERY_PROJECT),
                arg(self.place()),
                arg(self.executor.to_owned()),
                arg(timestamptz(self.now - ALIVE_MICROS)),
            ],
            |row| row.must::<i64>(1),
        );
        others.unwrap_or(0)
    }

    /// What the others leave alone.
    fn hear(&self) -> Vec<(String, String, i64)> {
        spi::run(
            "SELECT p.slug, h.host, max(ceil(extract(epoch FROM h.until - $4) * 1000))::bigint
             FROM meshhook.host_pause h JOIN meshhook.project p USING (project_id)
             WHERE h.queue = $1 AND h.executor <> $2 AND h.until > $4 AND h.project_id = coalesce($3, h.project_id)
             GROUP BY p.slug, h.host",
            &[
                arg(self.queue.to_owned()),
                arg(self.executor.to_owned()),
                arg(self.scope),
                arg(timestamptz(self.now)),
            ],
            |row| (row.must(1), row.must(2), row.must(3)),
        )
    }

    /// Takes away what those left who are gone. Last, and passing over what is locked: whoever holds a row of somebody
    /// else's must not wait for anybody.
    fn forget(&self) {
        spi::exec(
            "DELETE FROM meshhook.executor WHERE (project_id, queue, name) IN (
                 SELECT project_id, queue, name FROM meshhook.executor WHERE seen_at < $1 FOR UPDATE SKIP LOCKED)",
            &[arg(timestamptz(self.now - ALIVE_MICROS))],
        );
        spi::exec(
            "DELETE FROM meshhook.host_pause WHERE (project_id, queue, host, executor) IN (
                 SELECT project_id, queue, host, executor FROM meshhook.host_pause
                 WHERE until < $1 FOR UPDATE SKIP LOCKED)",
            &[arg(timestamptz(self.now))],
        );
    }
}
