//! Three bugs, of the kinds that durable engines have had, which the sweep must find. The name of the one that is
//! planted stands in `meshhook_bug` in the data directory.
//!
//! * `unfenced_completion`: a report is taken whatever its fencing token says.
//! * `snapshot_by_clock`: a snapshot is filed under the newest position there is when it is written, and holds the
//!   state from before; what lies in between is lost to whoever begins behind it.
//! * `torn_turn`: the jobs of a turn are written by the transaction after it.

use std::cell::RefCell;
use std::fs;

use meshhook_engine::state::RunState;

use crate::spi::{self, Arg, arg};

const PLANTED: &str = "meshhook_bug";

type Write = Box<dyn FnOnce()>;

thread_local! {
    /// The state of the run that is being moved, from before.
    static BEFORE: RefCell<RunState> = RefCell::default();
    /// What turns that have committed have left to be written.
    static HELD_BACK: RefCell<Vec<Write>> = const { RefCell::new(Vec::new()) };
}

fn is_planted(bug: &str) -> bool {
    fs::read_to_string(PLANTED).is_ok_and(|planted| planted.trim() == bug)
}

/// Puts the tokens in force in the place of those that a report came with.
pub fn unfenced_completion(report: &mut [Arg]) {
    if !is_planted("unfenced_completion") {
        return;
    }
    let [project, run, node, token, ..] = report else { return };
    let in_force: Vec<i64> = spi::run(
        "SELECT coalesce(j.token, -1) FROM unnest($1::integer[], $2::uuid[], $3::text[])
             WITH ORDINALITY AS w (project_id, run_id, node, n)
         LEFT JOIN meshhook.job j USING (project_id, run_id, node) ORDER BY n",
        &[*project, *run, *node],
        |row| row.must(1),
    );
    *token = arg(in_force);
}

/// Remembers the state of a run before it is moved.
pub fn note_before(state: &RunState) {
    BEFORE.set(state.clone());
}

/// The state that goes into a snapshot.
pub fn snapshot_by_clock(after: &RunState) -> RunState {
    let before = BEFORE.take();
    if is_planted("snapshot_by_clock") && before.position > 0 {
        return RunState { position: after.position, ..before };
    }
    after.clone()
}

/// Leaves a write to the next transaction, or does it.
pub fn torn_turn(write: impl FnOnce() + 'static) {
    if is_planted("torn_turn") {
        return HELD_BACK.with_borrow_mut(|held| held.push(Box::new(write)));
    }
    write();
}

/// Writes what was left. Called at the beginning of a turn.
pub fn catch_up() {
    HELD_BACK.take().into_iter().for_each(|write| write());
}
