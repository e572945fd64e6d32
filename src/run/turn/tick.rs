//! `tick()`: a turn in the caller's session, for when no orchestrator serves the database and for tests.

use pgrx::prelude::*;

use super::{Turns, database};
use crate::error::{bad_parameter, refuse};
use crate::owner::as_owner;
use crate::subtransaction::attempt;
use crate::{installation, project, shmem};

/// One turn in the caller's session; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn tick(batch_size: default!(i32, 512)) -> i32 {
    let Some(batch) = usize::try_from(batch_size).ok().filter(|n| (1..=10_000).contains(n)) else {
        bad_parameter("batch_size must be from 1 to 10000").raise()
    };
    if database::is_calling() {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a function of an sql node cannot take a turn",
        )
        .raise();
    }
    as_owner(|caller| {
        if !installation::active() {
            refuse(PgSqlErrorCode::ERRCODE_WARNING, "this database is a dormant copy: no turn was taken")
                .hint("SELECT meshhook.activate() makes it the one that acts.")
                .warn();
            return 0;
        }
        let mut turns = Turns::of(project::served(caller));
        // What an orchestrator passed over because this session holds it is to be looked at again.
        shmem::wake_on_commit();
        let mut moved = 0;
        loop {
            // The subtransaction keeps one bad run from taking the caller's transaction along.
            match attempt(|| turns.turn(batch)) {
                Ok(report) => {
                    turns.committed();
                    moved += report.runs;
                    // What was left alone must not hide what lies behind it.
                    if !turns.is_taking_apart() && (report.stopped == 0 || moved > 0) {
                        return i32::try_from(moved).unwrap_or(i32::MAX);
                    }
                }
                Err(caught) => {
                    turns.rolled_back();
                    if !crate::error::may_be_a_runs_fault(caught.sqlstate) {
                        refuse(caught.sqlstate, caught.message).raise();
                    }
                    turns.failed(&caught.message);
                }
            }
        }
    })
}
