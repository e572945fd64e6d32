//! What must hold in every state.

use crate::scenario::{Mutant, Op, Place, Register, Scenario};
use crate::state::{At, NONE, ReaderAt, State};
use crate::step;

/// What can be violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// A message that committed and survived lies at or below a reader's checkpoint, undelivered.
    Missed,
    /// A reader delivered a message twice, or out of order.
    Repeated,
    /// A message got a position that a reader had passed.
    Reissued,
    /// No open writer concerns a reader, and yet it cannot get to the last position.
    Held,
}

/// What a state violates. Repeats and reissued positions are noted by the steps that make them.
pub fn violated(scenario: &Scenario, state: &State) -> Option<Property> {
    if state.broken.is_some() {
        return state.broken;
    }
    let readers = scenario.readers.iter().enumerate().filter(|(_, spec)| spec.place != Place::SafeWorker);
    for (reader, _) in readers {
        if missed(scenario, state, reader) {
            return Some(Property::Missed);
        }
        if held(scenario, state, reader) {
            return Some(Property::Held);
        }
    }
    None
}

/// Only what is visible counts: a row whose transaction is still open will be missed later, or never have been.
fn missed(scenario: &Scenario, state: &State, reader: usize) -> bool {
    let me = &state.readers[reader];
    scenario.messages.iter().enumerate().any(|(index, message)| {
        let position = state.positions[index];
        position != 0
            && position <= me.checkpoint
            && me.delivered & (1 << index) == 0
            && state.visible & (1 << message.transaction) != 0
            && scenario.reads(reader, message.category)
    })
}

/// Liveness as a question to each state: with all others asleep, does one round bring the reader to the last position?
/// Asked only of readers that nothing else may hold: not inside a writer, not in an old transaction, not on a standby.
fn held(scenario: &Scenario, state: &State, reader: usize) -> bool {
    let spec = &scenario.readers[reader];
    let me = &state.readers[reader];
    let free =
        spec.inside.is_none() && !spec.repeatable && matches!(spec.place, Place::Primary | Place::Either);
    if !free || me.at != ReaderAt::Idle || me.checkpoint >= state.last || scenario.is(Mutant::NoHorizon) {
        return false;
    }
    let mask = spec.interest.map_or(u8::MAX, |category| scenario.bit(category));
    if (0..scenario.backends.len()).any(|backend| concerned(scenario, state, backend) & mask != 0) {
        return false;
    }
    step::round_alone(scenario, state, reader).readers[reader].checkpoint < state.last
}

/// Bits of the categories that an open transaction has appended to or is appending to, by its programme: not by what
/// the register says of it, which is on trial. A slot keeps those of a subtransaction that was rolled back until the
/// end, the lock table does not.
fn concerned(scenario: &Scenario, state: &State, backend: usize) -> u8 {
    let me = &state.backends[backend];
    let Some(transaction) = scenario.transaction(backend, me.transaction) else { return 0 };
    let locks = scenario.register != Register::Slots;
    let begun = me.at != At::Ready || locks && me.known != NONE;
    let done = usize::from(me.op);
    let (mut mask, mut sub_mask) = (0, 0);
    for (index, op) in transaction.ops.iter().enumerate().take(done + usize::from(begun)) {
        match op {
            Op::Append(category) => mask |= scenario.bit(*category),
            Op::SubAppend(category) => sub_mask |= scenario.bit(*category),
            Op::RollBack if locks && index < done => sub_mask = 0,
            Op::RollBack | Op::Read => {}
        }
    }
    mask | sub_mask
}
