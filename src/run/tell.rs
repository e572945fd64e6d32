//! Sending a run a signal and knowing that it came before the run's end.
//!
//! What lies in an inbox may still end the run before the signal's turn comes, and then the signal leaves no event. Whoever
//! must not lose one has it decided at once.

use meshhook_engine::fact::Fact;

use super::post;
use super::turn::{self, RunKey};
use crate::error::bug;
use crate::flow::waiting::{self, Full};
use crate::owner::Role;
use crate::project::Project;
use crate::spi::RawJsonb;
use crate::subtransaction;

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The run has it.
    Taken,
    /// There is no such run, or it has ended.
    Over,
    /// The run waits to begin and has been sent as much as is kept.
    Full,
}

/// Sends a signal, as `signal_data` writes it, in the caller's transaction. Waits for a turn in progress. Called as the
/// owner role.
pub fn tell(project: Project, run: pgrx::Uuid, signal: &str, actor: Role) -> Told {
    const KIND: &str = "run.signal";
    let data = RawJsonb::of_text(signal);
    match waiting::try_keep(project, run, KIND, data, actor) {
        Ok(true) => return Told::Taken,
        Ok(false) => {}
        Err(Full) => return Told::Full,
    }
    let fact = Fact::from_parts(KIND, signal).unwrap_or_else(|message| bug(&message));
    let key = RunKey { project: project.0, run };
    match subtransaction::attempt_on_data(|| turn::offer(key, &fact, actor)) {
        Ok(true) => Told::Taken,
        Ok(false) => Told::Over,
        // A turn that fails on its data is the run's affair and not the sender's: the orchestrator's turns see to it,
        // this signal included. Whatever else went wrong undoes the delivery, and it comes again.
        Err(_) => {
            post(project, run, KIND, data, actor);
            Told::Taken
        }
    }
}
