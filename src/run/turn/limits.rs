//! How long a run's log may grow.

use meshhook_engine::decide::LIMIT_EVENTS;
use meshhook_engine::error::ErrorInfo;
use meshhook_engine::fact::{Fact, Quarantine};
use meshhook_engine::state::RunState;

use crate::guc;

/// What ends a run whose log has reached the limit. The step that took it there is complete: what an executor
/// brought is recorded.
pub(super) fn too_many_events(state: &RunState) -> Option<Fact> {
    let limit = guc::max_run_events()?;
    if state.status.is_terminal() || state.position < limit {
        return None;
    }
    let message = format!("the run has {} events; meshhook.max_run_events is {limit}", state.position);
    let error = ErrorInfo::new(LIMIT_EVENTS, message).retryable(false);
    Some(Fact::Quarantine(Quarantine { error, start: None }))
}
