//! The register in the lock table, where the library is not preloaded.

use meshhook_order_model::check::{holds, refutes};
use meshhook_order_model::property::Property::{Held, Missed};
use meshhook_order_model::scenario::Category::{A, B};
use meshhook_order_model::scenario::Op::{self, Append, Read, RollBack, SubAppend};
use meshhook_order_model::scenario::{Mutant, ReaderSpec, Register, Scenario, Transaction};

fn doing(ops: &[Op]) -> [Transaction; 1] {
    [Transaction::new(ops)]
}

/// A writer that does this, and another that appends to `B`.
fn beside(name: &'static str, ops: &[Op], reader: ReaderSpec) -> Scenario {
    Scenario::new(name, Register::Locks).backend(doing(ops)).backend(doing(&[Append(B)])).reader(reader)
}

#[test]
fn nobody_misses_and_nobody_is_held() {
    let ops = [Append(A), Append(B)];
    holds(&beside("locks, reader of the first category", &ops, ReaderSpec::of(A)));
    holds(&beside("locks, reader of the second category", &ops, ReaderSpec::of(B)));
    holds(&beside("locks, reader of everything", &ops, ReaderSpec::of_all()));
    let twice = [Transaction::new(&[Append(A)]), Transaction::new(&[Append(B)])];
    let scenario = Scenario::new("locks, two transactions of one process", Register::Locks).backend(twice);
    holds(&scenario.backend(doing(&[Append(B), Append(B)])).reader(ReaderSpec::of(B)));
}

#[test]
fn categories_that_share_a_key_only_delay() {
    let scenario = beside("locks, one key for both", &[Append(A), Append(B)], ReaderSpec::of(A));
    holds(&Scenario { colliding: true, ..scenario });
}

#[test]
fn a_subtransaction_that_is_rolled_back() {
    holds(&beside("locks, rolled back first", &[SubAppend(B), RollBack, Append(B)], ReaderSpec::of(B)));
    holds(&beside(
        "locks, rolled back between",
        &[Append(B), SubAppend(A), RollBack, Append(B)],
        ReaderSpec::of(B),
    ));
    let again = [SubAppend(B), RollBack, SubAppend(A), RollBack, Append(B)];
    holds(&beside("locks, rolled back twice", &again, ReaderSpec::of(B)));
}

/// The server shows its lock table at one instant. Nothing depends on it: as with slots, what a reader has to see
/// stands from before it asks for the last position until after its snapshot would show the row.
#[test]
fn category_and_bound_may_be_looked_at_one_after_the_other() {
    let ops = [SubAppend(B), RollBack, Append(A), Append(B)];
    let scenario = beside("locks, two looks", &ops, ReaderSpec::of(B));
    holds(&Scenario { register: Register::LocksInTwoLooks, ..scenario });
}

#[test]
fn a_reader_inside_a_writer() {
    let reader = ReaderSpec::of_all().inside(0);
    holds(&beside("locks, inside a writer", &[Append(A), Read, Append(A)], reader));
}

#[test]
fn mutant_bound_not_taken_again_after_a_roll_back() {
    let scenario = beside("locks, bound given back", &[SubAppend(B), RollBack, Append(B)], ReaderSpec::of(B));
    refutes(scenario, Mutant::BoundNotRetaken, Missed);
}

#[test]
fn mutant_category_not_taken_again_after_a_roll_back() {
    let scenario =
        beside("locks, category given back", &[SubAppend(B), RollBack, Append(B)], ReaderSpec::of(B));
    refutes(scenario, Mutant::CategoryNotRetaken, Missed);
}

#[test]
fn mutant_released_before_visible() {
    refutes(beside("locks, commit", &[Append(B)], ReaderSpec::of(B)), Mutant::ClearBeforeVisible, Missed);
}

#[test]
fn mutant_snapshot_before_the_look() {
    refutes(beside("locks, snapshot", &[Append(B)], ReaderSpec::of(B)), Mutant::SnapshotBeforeScan, Missed);
}

#[test]
fn mutant_last_position_after_the_look() {
    refutes(beside("locks, last position", &[Append(B)], ReaderSpec::of(B)), Mutant::LastAfterScan, Missed);
}

#[test]
fn mutant_category_ignored() {
    refutes(beside("locks, another's category", &[Append(A)], ReaderSpec::of(B)), Mutant::MaskIgnored, Held);
}
