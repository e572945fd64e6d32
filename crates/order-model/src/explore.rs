//! Every reachable state, breadth first, so that a counterexample is a shortest one.
//!
//! Written here rather than taken from `stateright`: that crate (MIT) would bring 40 others, a web server among them,
//! for what are 100 lines, and it recognises states by a 64-bit fingerprint where this compares them whole.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use crate::property::{self, Property};
use crate::scenario::{READERS, Scenario};
use crate::state::State;
use crate::step::{self, Steps};

const NOWHERE: u32 = u32::MAX;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario's name, and how it is broken.
    pub name: String,
    /// States found; all there are, unless there is a counterexample.
    pub states: usize,
    /// Steps taken.
    pub steps: usize,
    /// How long it took.
    pub time: Duration,
    /// Messages that each reader delivered in some state, as a set.
    pub delivered: [u8; READERS],
    /// What went wrong first.
    pub counterexample: Option<Counterexample>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f32();
        let verdict: &dyn fmt::Display = self.counterexample.as_ref().map_or(&"holds", |found| found);
        write!(f, "{}: {} states, {} steps, {seconds:.2} s: {verdict}", self.name, self.states, self.steps)
    }
}

/// A way to a state that violates a property.
#[derive(Debug)]
pub struct Counterexample {
    /// The property.
    pub property: Property,
    /// Each step, with what matters of the state after it.
    pub trace: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {} steps", self.property, self.trace.len())?;
        self.trace.iter().enumerate().try_for_each(|(n, line)| write!(f, "\n  {:>2}. {line}", n + 1))
    }
}

/// Explores a scenario until something is violated or nothing is new.
///
/// # Panics
/// If there are more than `states_max` states.
pub fn explore(scenario: &Scenario, states_max: usize) -> Outcome {
    let began = Instant::now();
    let mut found = Found::default();
    let mut steps = Steps::default();
    let mut taken = 0;
    let mut delivered = [0; READERS];
    let mut bad = None;
    found.add(State::start(scenario), NOWHERE);
    let mut at = 0;
    while at < found.states.len() && bad.is_none() {
        let state = found.states[at];
        steps.all.clear();
        step::steps(scenario, &state, &mut steps);
        taken += steps.all.len();
        for (_, to) in &steps.all {
            if !found.add(*to, at as u32) {
                continue;
            }
            delivered.iter_mut().zip(&to.readers).for_each(|(all, reader)| *all |= reader.delivered);
            if let Some(property) = property::violated(scenario, to) {
                bad = Some((property, found.states.len() - 1));
                break;
            }
        }
        assert!(found.states.len() <= states_max, "{}: more than {states_max} states", scenario.name);
        at += 1;
    }
    let counterexample =
        bad.map(|(property, end)| Counterexample { property, trace: found.trace(scenario, end) });
    let name =
        scenario.mutant.map_or(scenario.name.to_owned(), |mutant| format!("{}, {mutant:?}", scenario.name));
    Outcome {
        name,
        states: found.states.len(),
        steps: taken,
        time: began.elapsed(),
        delivered,
        counterexample,
    }
}

/// The states found so far: a hash table of indices beside the queue, so that each state is kept once.
#[derive(Default)]
struct Found {
    states: Vec<State>,
    /// The state each was first reached from.
    parents: Vec<u32>,
    hashes: Vec<u64>,
    table: Vec<u32>,
}

impl Found {
    /// Adds a state; false if it is known.
    fn add(&mut self, state: State, parent: u32) -> bool {
        if self.table.len() < 2 * (self.states.len() + 1) {
            self.grow();
        }
        let mut mix = Mix(0);
        state.hash(&mut mix);
        let hash = mix.finish();
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        while self.table[place] != NOWHERE {
            let known = self.table[place] as usize;
            if self.hashes[known] == hash && self.states[known] == state {
                return false;
            }
            place = (place + 1) & mask;
        }
        self.table[place] = self.states.len() as u32;
        self.states.push(state);
        self.parents.push(parent);
        self.hashes.push(hash);
        true
    }

    fn grow(&mut self) {
        let size = (self.table.len() * 2).max(1024);
        self.table.clear();
        self.table.resize(size, NOWHERE);
        for (index, hash) in self.hashes.iter().enumerate() {
            let mut place = *hash as usize & (size - 1);
            while self.table[place] != NOWHERE {
                place = (place + 1) & (size - 1);
            }
            self.table[place] = index as u32;
        }
    }

    /// The steps from the start to a state. Which step led from one to the next was not kept: it is found again.
    fn trace(&self, scenario: &Scenario, end: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut at = end;
        while self.parents[at] != NOWHERE {
            let parent = self.parents[at] as usize;
            let mut steps = Steps::default();
            step::steps(scenario, &self.states[parent], &mut steps);
            let to = &self.states[at];
            let action = steps.all.iter().find(|(_, state)| state == to).map(|(action, _)| *action);
            let readers: Vec<u8> =
                to.readers.iter().take(scenario.readers.len()).map(|reader| reader.checkpoint).collect();
            let action = action.map_or_else(String::new, |action| action.to_string());
            lines.push(format!("{action}  [last {}, checkpoints {readers:?}]", to.last));
            at = parent;
        }
        lines.reverse();
        lines
    }
}

/// A hash that is fast without optimisation; states are compared, so it need not be strong.
struct Mix(u64);

impl Mix {
    fn take(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.take(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.take(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Category, Op, Register, Transaction};

    #[test]
    fn states_are_all_found_and_counted_once() {
        let alone = |name, writers: usize| {
            let append = || [Transaction::new(&[Op::Append(Category::A)])];
            let scenario = Scenario { kills: false, ..Scenario::new(name, Register::Slots) };
            explore(&(0..writers).fold(scenario, |scenario, _| scenario.backend(append())), 1_000).states
        };
        // Ready, bound read, mask, bound, drawn, committing, visible, over.
        assert_eq!(alone("one writer", 1), 8);
        assert!(alone("two writers", 2) > 8 * 8);
    }
}
