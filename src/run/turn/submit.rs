//! A turn of one run at once, in the caller's transaction: for what people change by hand, and for an event whose
//! outcome the caller wants to see.

use meshhook_engine::decide::refusal;
use meshhook_engine::fact::Fact;
use meshhook_engine::state::{RunState, RunStatus};
use pgrx::prelude::*;
use serde_json::json;

use super::batch::Batch;
use super::{Moved, RunKey, Turns, database, load, redrive, unbegun, write};
use crate::error::{bug, refuse, unknown_run};
use crate::owner::Role;
use crate::{fault, random, shmem};

/// Decides what lies in a run's inbox and then `fact`, and writes what follows; the caller's commit counts. Called as
/// the owner role.
///
/// Answers with the state after it. Waits for a turn in progress, and until the commit no other turn takes the run. What is due of a user's function is
/// left to the orchestrator, which runs it alone. Raises P0002 for an unknown run, 55000 where the fact would change
/// nothing, where the run's log is not what the engine decides, or where the caller is a function that a turn is
/// calling: that turn has a state of its own.
pub fn submit(key: RunKey, fact: &Fact, actor: Role) -> RunState {
    take(key, fact, actor).unwrap_or_else(|Refused { reason, status }| {
        refuse(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, reason)
            .detail(format!("Run \"{}\" is {}.", key.run, status.as_str()))
            .raise()
    })
}

/// Like [`submit`], for a fact that only counts for a run that has not ended: false where it has, also by what lay in
/// its inbox before, and where there is none.
pub fn offer(key: RunKey, fact: &Fact, actor: Role) -> bool {
    load::wait_for(key).is_some_and(|run| !run.finished) && take(key, fact, actor).is_ok()
}

/// Why a fact would change nothing.
struct Refused {
    reason: String,
    status: RunStatus,
}

/// What lies in the inbox is decided in any case; the fact where it changes something.
fn take(key: RunKey, fact: &Fact, actor: Role) -> Result<RunState, Refused> {
    if database::is_calling() {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a function of an sql node cannot change runs at once",
        )
        .hint("signal_run and enqueue_event tell a run something for its next turn.")
        .raise();
    }
    let Some(run) = load::wait_for(key) else { unknown_run(key.run).raise() };
    let had_ended = run.finished;
    let is_redriven = matches!(fact, Fact::Redrive(_));
    if had_ended || is_redriven {
        redrive::wait_for_work(&run);
    }
    let mut turns = Turns::of(Some(key.project));
    // Also of a run that is over: it is to be known how it stands.
    let is_verified = matches!(fact, Fact::Fork(_));
    let run = super::LockedRun { finished: false, is_verified, ..run };
    let facts = load::facts(&[key]);
    let mut out = Batch::default();
    let mut works = load::with_states(vec![run], facts, &mut turns.cache, &mut turns.cache_bytes);
    let Some(mut work) = works.pop() else { bug("a run that was locked is not there") };
    redrive::sort_out(&mut work, had_ended, is_redriven);
    turns.leave_functions(&mut work);
    if !unbegun::join_start(&mut work) {
        work.facts.clear();
    }
    if let Some(difference) = &work.divergence {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the log of run \"{}\" is not what this release decides", key.run),
        )
        .detail(format!("They part at position {}, \"{}\".", difference.position, difference.path))
        .hint("SELECT * FROM meshhook.verify_run(run) shows where; meshhook.kill_run(run, reason) ends it.")
        .raise();
    }
    let load::Work { run, held, facts, .. } = work;
    let now = random::now_micros();
    let mut moved = Moved::new(&run, held.unwrap_or_default(), &out);
    moved.take(facts, now, &mut out);
    let is_over = moved.state.status.is_terminal() && !is_redriven;
    let reason = is_over.then(|| "the run has ended".to_owned());
    let reason = reason.or_else(|| refusal(&moved.workflow, &moved.state, fact));
    if reason.is_none() {
        moved.record(fact, now, Some(&json!({ "actor": actor.name() }).to_string()), &mut out);
    }
    let state = moved.state.clone();
    moved.settle(&mut out);
    fault::at_commit!("hand.commit");
    write::all(&mut out);
    out.tell_waiters();
    // Work of the database, other runs that hear of it, slots that were freed, and what was left here are the
    // orchestrator's.
    shmem::wake_on_commit();
    match reason {
        None => Ok(state),
        Some(reason) => Err(Refused { reason, status: state.status }),
    }
}
