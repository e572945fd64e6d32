//! What tests call. Each prints how much was explored: `cargo test -p meshhook-order-model -- --nocapture`.

use crate::explore::{Counterexample, explore};
use crate::property::Property;
use crate::scenario::{Mutant, Place, Scenario};

/// States that a test may explore: ten seconds without optimisation. A larger scenario has to be made smaller.
pub const STATES_MAX: usize = 1_000_000;

/// Explores all of a scenario.
///
/// # Panics
/// If a property is violated, and if a reader never delivers anything: then nothing was checked.
pub fn holds(scenario: &Scenario) {
    let outcome = explore(scenario, STATES_MAX);
    println!("{outcome}");
    assert!(outcome.counterexample.is_none(), "{outcome}");
    for (spec, delivered) in scenario.readers.iter().zip(outcome.delivered) {
        assert!(delivered != 0 || spec.place == Place::SafeWorker, "{}: {spec:?} is idle", outcome.name);
    }
}

/// Explores a scenario that violates a property.
///
/// # Panics
/// If none is violated, or another one first.
pub fn violates(scenario: &Scenario, property: Property) -> Counterexample {
    let outcome = explore(scenario, STATES_MAX);
    println!("{outcome}");
    match outcome.counterexample {
        Some(found) if found.property == property => found,
        _ => panic!("{property:?} was to be violated: {outcome}"),
    }
}

/// A scenario holds, and with the mutant it violates a property: so the mutant is what breaks it.
///
/// # Panics
/// If not so.
pub fn refutes(scenario: Scenario, mutant: Mutant, property: Property) {
    holds(&scenario);
    violates(&scenario.broken(mutant), property);
}
