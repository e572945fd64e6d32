//! What happens to the server: crash and recovery, replay on the standby, promotion.

use super::{Actor, Steps};
use crate::scenario::{Place, Scenario};
use crate::state::{At, NONE, ReaderAt, State, Sum};

pub(super) fn steps(scenario: &Scenario, state: &State, steps: &mut Steps) {
    if state.crashes < scenario.crashes {
        // Whatever is not flushed is lost from some record on.
        for kept in state.wal.flushed..=state.wal.len {
            crash(scenario, state, kept, false, steps);
            if state.readers.iter().any(|reader| reader.pending != NONE) {
                crash(scenario, state, kept, true, steps);
            }
        }
    }
    if scenario.standby && state.wal.len > 0 {
        let mut to = *state;
        // Only flushed records are sent: what the standby has, a crash of the primary cannot take back.
        to.wal.flushed = to.wal.flushed.max(1);
        to.wal.replay(1);
        steps.add(Actor::Server, "replays a record on the standby; left are", to.wal.len, to);
    }
    if state.promotions < scenario.promotions {
        promote(scenario, state, steps);
    }
}

/// A transaction whose commit record survives has committed, although nobody was told. What a reader did in it counts
/// if its checkpoint is kept in the database (`stored`), and not if it is kept by who waits for the answer.
fn crash(scenario: &Scenario, state: &State, kept: u8, stored: bool, steps: &mut Steps) {
    let mut to = *state;
    to.crashes += 1;
    to.wal.cut(kept);
    if !scenario.standby {
        to.wal.replay(kept);
    }
    let sum = to.wal.sum(to.wal.len);
    for (index, writer) in state.backends.iter().enumerate() {
        let transaction = scenario.transaction(index, writer.transaction);
        if stored && transaction.is_some_and(|own| sum.committed & (1 << own.id) != 0) {
            to.accept_pending(scenario, index);
        }
    }
    restart(scenario, &mut to, sum);
    for (index, spec) in scenario.readers.iter().enumerate() {
        // A round on the standby goes on.
        if to.readers[index].at != ReaderAt::Standby {
            to.readers[index].disconnect();
        }
        if spec.place == Place::SafeWorker {
            to.readers[index].checkpoint = sum.safe;
        }
    }
    steps.add(
        Actor::Server,
        "crashes and recovers; unflushed records that survive:",
        kept - state.wal.flushed,
        to,
    );
}

/// The standby becomes the primary; another standby has come as far as it. What was not replayed is lost. A round on
/// the standby ends: if it went on, it would take its snapshot later and see no less.
fn promote(scenario: &Scenario, state: &State, steps: &mut Steps) {
    let mut to = *state;
    let lost = to.wal.len;
    to.promotions += 1;
    to.wal.cut(0);
    let sum = to.wal.base;
    restart(scenario, &mut to, sum);
    for (index, spec) in scenario.readers.iter().enumerate() {
        to.readers[index].disconnect();
        if spec.place == Place::SafeWorker {
            to.readers[index].checkpoint = sum.safe;
        }
    }
    steps.add(Actor::Server, "is replaced by the standby; records lost:", lost, to);
}

/// A server starts from what its WAL adds up to: nothing is registered, nobody is at work, the mark is gone.
fn restart(scenario: &Scenario, to: &mut State, sum: Sum) {
    to.last = sum.last;
    to.visible = sum.committed;
    to.recovered = false;
    for (index, transactions) in scenario.backends.iter().enumerate() {
        let me = to.backends[index];
        for transaction in transactions {
            let committed = sum.committed & (1 << transaction.id) != 0;
            if !committed {
                to.forget(scenario, transaction.id);
            }
        }
        let begun = me.op > 0 || me.at != At::Ready || me.known != NONE;
        if begun && usize::from(me.transaction) < transactions.len() {
            to.backends[index].finish();
        }
        to.backends[index].mask = 0;
    }
}
