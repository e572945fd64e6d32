//! Job handles: the opaque text an executor holds, and the columns a statement takes.

use std::str::FromStr;

use pgrx::prelude::*;

use super::{ACCEPTED, STALE};
use crate::error::bad_parameter;
use crate::spi::{self, Arg, arg};

/// The jobs of a call. Sorted by key for the statement, so that two calls lock rows in the same order.
#[derive(Debug)]
pub(super) struct Handles {
    /// As the caller gave them.
    pub ids: Vec<String>,
    rows: Vec<Handle>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Handle {
    project: i32,
    run: [u8; 16],
    node: String,
    token: i64,
    place: i64,
}

impl Handles {
    /// Reads ids and tokens. Raises 22023 for what never was a job id.
    pub fn of(ids: Vec<Option<String>>, tokens: &[Option<i64>]) -> Self {
        if ids.len() != tokens.len() {
            bad_parameter("the arrays have different lengths")
                .hint("Give one job id and one token for each job.")
                .raise();
        }
        let ids: Vec<String> = ids.into_iter().map(Option::unwrap_or_default).collect();
        let mut rows: Vec<Handle> = (0i64..)
            .zip(ids.iter().zip(tokens))
            .map(|(place, (id, token))| {
                let (project, run, node) = parse(id).unwrap_or_else(|| {
                    bad_parameter(format!("\"{id}\" is not a job id"))
                        .hint("Pass on job_id as claim_jobs gave it.")
                        .raise()
                });
                // A missing token matches no lease.
                Handle { project, run, node, token: token.unwrap_or(-1), place }
            })
            .collect();
        rows.sort();
        Self { ids, rows }
    }

    /// Only the jobs of projects this caller serves; the rest is stale to it.
    pub fn served_by(&self, scope: Option<i32>) -> Self {
        let rows =
            self.rows.iter().filter(|row| scope.is_none_or(|scope| scope == row.project)).cloned().collect();
        Self { ids: Vec::new(), rows }
    }

    /// Columns: project, run, node, token, place in the call.
    pub fn args(&self) -> Vec<Arg> {
        let runs: Vec<pgrx::Uuid> = self.rows.iter().map(|row| pgrx::Uuid::from_bytes(row.run)).collect();
        vec![
            arg(self.rows.iter().map(|row| row.project).collect::<Vec<_>>()),
            arg(runs),
            arg(self.rows.iter().map(|row| row.node.clone()).collect::<Vec<_>>()),
            arg(self.rows.iter().map(|row| row.token).collect::<Vec<_>>()),
            arg(self.rows.iter().map(|row| row.place).collect::<Vec<_>>()),
        ]
    }

    /// What became of each job, in the caller's order.
    pub fn outcomes(
        &self,
        accepted: &[usize],
    ) -> TableIterator<'static, (name!(job_id, String), name!(outcome, String))> {
        let accepted: std::collections::HashSet<usize> = accepted.iter().copied().collect();
        let outcome = |i| if accepted.contains(&i) { ACCEPTED } else { STALE };
        let rows: Vec<_> =
            self.ids.iter().enumerate().map(|(i, id)| (id.clone(), outcome(i).to_owned())).collect();
        TableIterator::new(rows)
    }
}

/// A job that its executor holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its project.
    pub project: i32,
    /// Its run.
    pub run: pgrx::Uuid,
}

impl Held {
    /// The job of an id, if its token still holds and the caller serves its project. Called as the owner role.
    pub fn find(job_id: &str, token: Option<i64>, scope: Option<i32>) -> Option<Self> {
        let handles = Handles::of(vec![Some(job_id.to_owned())], &[token]).served_by(scope);
        spi::read_one(
            "SELECT j.project_id, j.run_id
             FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
                  AS w (project_id, run_id, node, token, place)
             JOIN meshhook.job j USING (project_id, run_id, node, token)
             WHERE j.executor IS NOT NULL",
            &handles.args(),
            |row| Self { project: row.must(1), run: row.must(2) },
        )
    }
}

/// `<project>/<run>/<node>`, as `claim_jobs` writes it.
pub(super) fn parse(id: &str) -> Option<(i32, [u8; 16], String)> {
    let mut parts = id.splitn(3, '/');
    let project = i32::from_str(parts.next()?).ok()?;
    let run = uuid::Uuid::from_str(parts.next()?).ok()?;
    let node = parts.next().filter(|node| !node.is_empty())?;
    Some((project, *run.as_bytes(), node.to_owned()))
}
