//! Runs that go on after their end: what is left of the life before must not be taken for the new one's.
//!
//! The turn that ends a run passes over a job or timer that another session holds (an executor that is just claiming or
//! reporting), and attempts are counted anew after a redrive. So before a redriven run's facts are read, such rows are
//! taken back; where one is still held the redrive waits; and what the facts say of work is of the life before.

use std::collections::HashSet;

use meshhook_engine::fact::Fact;

use super::load::{self, Incoming, Work};
use super::{LockedRun, RunKey, write};
use crate::spi::{self, arg};

/// Takes back what is left of runs that have ended; returns those of which another session holds something.
pub(super) fn take_back_left(locked: &[LockedRun]) -> HashSet<RunKey> {
    let ended: Vec<RunKey> = locked.iter().filter(|run| run.finished).map(|run| run.key).collect();
    if ended.is_empty() {
        return HashSet::new();
    }
    let (projects, runs) = load::columns(&ended);
    write::take_back_work(&projects, &runs);
    let left = spi::run(
        "SELECT u.project_id, u.run_id FROM unnest($1::integer[], $2::uuid[]) AS u (project_id, run_id)
         WHERE EXISTS (SELECT FROM meshhook.job j WHERE j.project_id = u.project_id AND j.run_id = u.run_id)
            OR EXISTS (SELECT FROM meshhook.timer t WHERE t.project_id = u.project_id AND t.run_id = u.run_id)",
        &[arg(projects), arg(runs)],
        |row| RunKey { project: row.must(1), run: row.must(2) },
    );
    left.into_iter().collect()
}

/// Waits until nobody else holds work of a run, and takes it back if the run has ended. For the caller's own session,
/// which may wait.
pub(super) fn wait_for_work(run: &LockedRun) {
    let key = [arg(run.key.project), arg(run.key.run)];
    spi::exec("SELECT FROM meshhook.job WHERE project_id = $1 AND run_id = $2 FOR UPDATE", &key);
    spi::exec("SELECT FROM meshhook.timer WHERE project_id = $1 AND run_id = $2 FOR UPDATE", &key);
    if run.finished {
        write::take_back_work(&[run.key.project], &[run.key.run]);
    }
}

/// Drops what facts say of work done before the redrive: it changes nothing. Leaves a redrive that other facts go before
/// to the next turn, for those may end the run now, and what is held of it cannot be told before.
///
/// `by_hand`: whether somebody redrives the run in this turn.
pub(super) fn sort_out(work: &mut Work, had_ended: bool, by_hand: bool) {
    let is_redrive = |fact: &Incoming| matches!(fact.fact, Ok(Fact::Redrive(_)));
    let place = work.facts.iter().position(is_redrive);
    if had_ended && (by_hand || place.is_some()) {
        let further = load::further_reports(work);
        work.facts.iter_mut().filter(|fact| is_of_work(fact)).for_each(|fact| {
            (fact.fact, fact.due) = (Err(String::new()), None);
        });
        work.facts.extend(further);
    } else if let Some(place @ 1..) = place {
        work.facts.truncate(place);
    }
}

fn is_of_work(fact: &Incoming) -> bool {
    fact.due.is_some()
        || matches!(
            fact.fact,
            Ok(Fact::JobCompleted(_) | Fact::JobFailed(_) | Fact::JobLogged(_) | Fact::TimerDue(_))
        )
}
