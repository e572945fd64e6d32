//! The register in shared memory: one slot a process, read word by word.

use meshhook_order_model::check::{holds, refutes};
use meshhook_order_model::property::Property::{Held, Missed};
use meshhook_order_model::scenario::Category::{A, B};
use meshhook_order_model::scenario::Op::{Append, Read, RollBack, SubAppend};
use meshhook_order_model::scenario::{Mutant, ReaderSpec, Register, Scan, Scenario, Transaction};

fn slots(name: &'static str) -> Scenario {
    Scenario::new(name, Register::Slots)
}

fn doing(ops: &[meshhook_order_model::scenario::Op]) -> [Transaction; 1] {
    [Transaction::new(ops)]
}

/// The smallest scenario in which anything can be missed.
fn pair() -> Scenario {
    slots("a pair of writers")
        .backend(doing(&[Append(A)]))
        .backend(doing(&[Append(A)]))
        .reader(ReaderSpec::of(A))
}

/// One writer appends to two categories, the other works twice in one slot.
fn two_categories(name: &'static str, reader: ReaderSpec) -> Scenario {
    let twice = [Transaction::new(&[Append(A)]), Transaction::new(&[Append(B)])];
    slots(name).backend(twice).backend(doing(&[Append(A), Append(B)])).reader(reader)
}

fn two_categories_small() -> Scenario {
    slots("a writer of two categories")
        .backend(doing(&[Append(A), Append(B)]))
        .backend(doing(&[Append(B)]))
        .reader(ReaderSpec::of(B))
}

#[test]
fn nobody_misses_and_nobody_is_held() {
    holds(&two_categories("reader of the first category", ReaderSpec::of(A)));
    holds(&two_categories("reader of the second category", ReaderSpec::of(B)));
    holds(&two_categories("reader of everything", ReaderSpec::of_all()));
}

#[test]
fn the_order_in_which_a_slot_is_read_does_not_matter() {
    for (name, reader) in
        [("mask first, first category", ReaderSpec::of(A)), ("mask first, all", ReaderSpec::of_all())]
    {
        holds(&Scenario { scan: Scan::MaskFirst, ..two_categories(name, reader) });
    }
}

#[test]
fn three_writers() {
    let three = slots("three writers").backend(doing(&[Append(A)])).backend(doing(&[Append(B)]));
    holds(&three.backend(doing(&[Append(A)])).reader(ReaderSpec::of(A)));
}

#[test]
fn a_slot_used_by_three_transactions() {
    let often = [A, B, A].map(|category| Transaction::new(&[Append(category)]));
    holds(
        &slots("a slot used three times")
            .backend(often)
            .backend(doing(&[Append(A)]))
            .reader(ReaderSpec::of(A)),
    );
}

#[test]
fn categories_that_share_a_bit_only_delay() {
    holds(&Scenario { colliding: true, ..two_categories("one bit for both", ReaderSpec::of(A)) });
}

#[test]
fn a_subtransaction_that_is_rolled_back() {
    let late = [Append(A), SubAppend(B), RollBack, Append(A)];
    holds(
        &slots("rolled back later")
            .backend(doing(&late))
            .backend(doing(&[Append(A)]))
            .reader(ReaderSpec::of(A)),
    );
    let first = [SubAppend(A), RollBack, Append(B)];
    holds(
        &slots("rolled back first")
            .backend(doing(&first))
            .backend(doing(&[Append(B)]))
            .reader(ReaderSpec::of(B)),
    );
}

#[test]
fn a_reader_inside_a_writer() {
    let scenario = |name, reader: ReaderSpec| {
        let others = [Transaction::new(&[Append(A)]), Transaction::new(&[Append(A)])];
        slots(name).backend(doing(&[Append(A), Read, Append(A)])).backend(others).reader(reader.inside(0))
    };
    holds(&scenario("inside a writer", ReaderSpec::of(A)));
    holds(&scenario("inside a repeatable read writer", ReaderSpec::of(A).repeatable()));
}

#[test]
fn a_repeatable_read_reader() {
    holds(&two_categories("repeatable read", ReaderSpec::of(A).repeatable()));
}

#[test]
fn mutant_no_horizon() {
    refutes(pair(), Mutant::NoHorizon, Missed);
}

#[test]
fn mutant_draw_before_publish() {
    refutes(pair(), Mutant::DrawBeforePublish, Missed);
}

/// The order of the two stores is no question of safety: both are done before the draw, and a reader asks for the last
/// position first, so it never has to heed a slot that is still being filled. But while the bound stands beside the
/// mask of the slot's last owner, a writer that stalls there holds readers that it does not concern.
#[test]
fn mutant_bound_before_mask() {
    let reused = two_categories("a reused slot", ReaderSpec::of(A));
    refutes(reused, Mutant::BoundBeforeMask, Held);
}

/// With the question of liveness left out, the same mutant holds: every writer concerns a reader of everything.
#[test]
fn bound_before_mask_misses_nothing() {
    holds(&two_categories("all", ReaderSpec::of_all()).broken(Mutant::BoundBeforeMask));
    let shared = Scenario { colliding: true, ..two_categories("one bit", ReaderSpec::of(A)) };
    holds(&shared.broken(Mutant::BoundBeforeMask));
}

#[test]
fn mutant_bound_renewed_by_a_later_append() {
    let twice = slots("a writer of two messages").backend(doing(&[Append(A), Append(A)]));
    refutes(twice.backend(doing(&[Append(A)])).reader(ReaderSpec::of(A)), Mutant::BoundRenewed, Missed);
}

#[test]
fn mutant_second_category_added_after_the_draw() {
    refutes(two_categories_small(), Mutant::OrAfterDraw, Missed);
}

#[test]
fn mutant_mask_replaced() {
    let scenario = slots("a writer of two categories").backend(doing(&[Append(A), Append(B)]));
    let scenario = scenario.backend(doing(&[Append(A)])).reader(ReaderSpec::of(A));
    refutes(scenario, Mutant::MaskReplaced, Missed);
}

#[test]
fn mutant_clear_before_visible() {
    refutes(pair(), Mutant::ClearBeforeVisible, Missed);
}

#[test]
fn mutant_abort_clears_nothing() {
    refutes(pair(), Mutant::NotClearedByAbort, Held);
}

#[test]
fn mutant_cleared_when_a_subtransaction_is_rolled_back() {
    let ops = [Append(A), SubAppend(A), RollBack];
    let scenario = slots("a roll-back behind a row").backend(doing(&ops)).backend(doing(&[Append(A)]));
    refutes(scenario.reader(ReaderSpec::of(A)), Mutant::ClearAtRollBack, Missed);
}

#[test]
fn mutant_mask_ignored() {
    refutes(two_categories("another's category", ReaderSpec::of(A)), Mutant::MaskIgnored, Held);
}

#[test]
fn mutant_snapshot_before_the_scan() {
    refutes(pair(), Mutant::SnapshotBeforeScan, Missed);
}

#[test]
fn mutant_last_position_after_the_scan() {
    refutes(pair(), Mutant::LastAfterScan, Missed);
}

#[test]
fn mutant_repeatable_read_that_runs_on() {
    let scenario = Scenario { readers: vec![ReaderSpec::of(A).repeatable()], ..pair() };
    refutes(scenario, Mutant::RepeatableReadRunsOn, Missed);
}
