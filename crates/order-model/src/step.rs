//! What can happen next, in any state.
//!
//! A step is what nothing else can come between. Two steps of the protocol are one here only where nobody else could
//! tell the difference:
//!
//! - draw and insert: a row is seen by nobody before its transaction ends;
//! - flush of the commit record and leaving the proc array: a crash between them is a crash before both that happens
//!   to keep the whole WAL, and a crash may keep any part of what is not flushed;
//! - taking the jump lock and moving the sequence, flushing and setting the mark: others wait for the lock meanwhile;
//! - snapshot and delivery: what is delivered depends on nothing that changes between them.

mod reader;
mod server;
mod writer;

use std::fmt;

use crate::scenario::Scenario;
use crate::state::{ReaderAt, State};

/// Who makes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A backend.
    Writer(u8),
    /// A reader, or the worker that logs safe positions.
    Reader(u8),
    /// Nobody in particular.
    Server,
}

/// What is done, and with which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// Who.
    pub actor: Actor,
    /// What.
    pub deed: &'static str,
    /// The number that `deed` speaks of.
    pub number: u8,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.actor {
            Actor::Writer(index) => write!(f, "writer {index} ")?,
            Actor::Reader(index) => write!(f, "reader {index} ")?,
            Actor::Server => write!(f, "server ")?,
        }
        write!(f, "{} {}", self.deed, self.number)
    }
}

/// The steps possible in a state, with the states they lead to.
#[derive(Debug, Default)]
pub struct Steps {
    /// In no particular order.
    pub all: Vec<(Action, State)>,
}

impl Steps {
    fn add(&mut self, actor: Actor, deed: &'static str, number: u8, to: State) {
        self.all.push((Action { actor, deed, number }, to));
    }
}

/// Everything that can happen next.
pub fn steps(scenario: &Scenario, state: &State, steps: &mut Steps) {
    for index in 0..scenario.backends.len() {
        writer::steps(scenario, state, index, steps);
    }
    for index in 0..scenario.readers.len() {
        reader::steps(scenario, state, index, steps);
    }
    server::steps(scenario, state, steps);
}

/// What one round of a reader on the primary leads to while all others stand still.
pub fn round_alone(scenario: &Scenario, state: &State, reader: usize) -> State {
    let mut to = *state;
    let mut steps = Steps::default();
    // Two words a slot, the last position, the snapshot: it is over long before.
    for _ in 0..4 * (scenario.backends.len() + 1) {
        steps.all.clear();
        reader::on_primary(scenario, &to, reader, &mut steps);
        let Some((_, next)) = steps.all.first() else { return to };
        to = *next;
        if to.readers[reader].at == ReaderAt::Idle {
            return to;
        }
    }
    to
}
