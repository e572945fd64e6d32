//! Ending a run that has not begun: its start still waits for admission, or came into the inbox behind the cancel.

use meshhook_engine::fact::Fact;

use super::load::{Incoming, Work};
use crate::error::bug;
use crate::flow::waiting;
use crate::project::Project;

/// Gives a cancel that comes before the start what the run would have started from, so that its log can tell.
///
/// False where the start is on its way or held by another session: the facts stay for a later turn.
pub(super) fn join_start(work: &mut Work) -> bool {
    if work.run.position > 0 || work.run.finished {
        return true;
    }
    let first = work.facts.iter().position(|fact| is_start(fact) || is_bare_cancel(fact));
    let Some(cancel) = first.filter(|first| work.facts.get(*first).is_some_and(is_bare_cancel)) else {
        return true;
    };
    let start = match work.facts.iter_mut().find(|fact| is_start(fact)) {
        Some(behind) => std::mem::replace(&mut behind.fact, Err(String::new())),
        None => match waiting::take(Project(work.run.key.project), work.run.key.run) {
            Some(start) => Fact::from_parts("run.start", &start),
            None => return false,
        },
    };
    let start = match start {
        Ok(Fact::Start(start)) => start,
        Ok(_) => return true,
        Err(message) => bug(&message),
    };
    if let Some(Incoming { fact: Ok(Fact::Cancel(cancel)), .. }) = work.facts.get_mut(cancel) {
        cancel.start = Some(start);
    }
    true
}

fn is_start(fact: &Incoming) -> bool {
    matches!(fact.fact, Ok(Fact::Start(_)))
}

fn is_bare_cancel(fact: &Incoming) -> bool {
    matches!(&fact.fact, Ok(Fact::Cancel(cancel)) if cancel.start.is_none())
}
