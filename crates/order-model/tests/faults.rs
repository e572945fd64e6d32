//! Crashes, standbys and promotions: what a reader has passed stays passed.

use meshhook_order_model::check::{holds, refutes, violates};
use meshhook_order_model::property::Property::{Missed, Reissued};
use meshhook_order_model::scenario::Category::{A, B};
use meshhook_order_model::scenario::Op::{Append, Read};
use meshhook_order_model::scenario::{
    Category, Jump, Mutant, Place, ReaderSpec, Register, Scan, Scenario, Transaction,
};

fn sync(category: Category) -> Transaction {
    Transaction::new(&[Append(category)])
}

fn not_sync(category: Category) -> Transaction {
    Transaction::asynchronous(&[Append(category)])
}

/// Three transactions, two of them not flushed at commit. The jump is just as long as what can be lost.
fn crashing(name: &'static str, crashes: u8) -> Scenario {
    let scenario = Scenario::new(name, Register::Slots)
        .backend([not_sync(A), sync(A)])
        .backend([not_sync(A)])
        .reader(ReaderSpec::of(A));
    Scenario { crashes, kills: false, jump: Jump::By(3), ..scenario }
}

/// A standby nobody reads, which may take over.
fn failing_over(name: &'static str, crashes: u8, promotions: u8, jump: Jump) -> Scenario {
    let scenario =
        Scenario::new(name, Register::Slots).backend([sync(A)]).backend([sync(A)]).reader(ReaderSpec::of(A));
    Scenario { standby: true, crashes, promotions, kills: false, jump, ..scenario }
}

/// A worker on the primary, a reader on the standby.
fn read_on_standby(name: &'static str, place: Place) -> Scenario {
    let scenario = Scenario::new(name, Register::Slots)
        .backend([not_sync(A)])
        .backend([sync(B)])
        .reader(ReaderSpec::of_all().at(place))
        .reader(ReaderSpec::of_all().at(Place::SafeWorker));
    Scenario { standby: true, kills: false, jump: Jump::By(2), ..scenario }
}

#[test]
fn a_crash() {
    holds(&Scenario { kills: true, ..crashing("a crash", 1) });
}

#[test]
fn two_crashes() {
    holds(&Scenario { kills: true, ..crashing("two crashes", 2) });
}

#[test]
fn a_crash_around_a_reader_inside_a_writer() {
    let reading = [Transaction::asynchronous(&[Append(A), Read])];
    let scenario = Scenario::new("a crash, a reader inside a writer", Register::Slots)
        .backend(reading)
        .backend([not_sync(A), sync(A)])
        .reader(ReaderSpec::of(A).inside(0));
    holds(&Scenario { crashes: 1, jump: Jump::By(3), ..scenario });
}

#[test]
fn a_crash_with_the_lock_table() {
    holds(&Scenario { register: Register::Locks, ..crashing("a crash, locks", 1) });
}

#[test]
fn the_first_appenders_of_all_race_for_the_jump() {
    holds(&Scenario { fresh: true, kills: true, ..crashing("the first append", 1) });
}

#[test]
fn the_first_append_of_all_needs_no_jump_but_a_durable_mark() {
    let scenario = crashing("the first append does not jump", 1);
    holds(&Scenario { fresh: true, spares_first: true, ..scenario });
}

#[test]
fn mutant_no_jump() {
    refutes(crashing("a crash before a draw", 1), Mutant::NoJump, Reissued);
}

#[test]
fn mutant_jump_not_flushed() {
    // `two_crashes` holds.
    violates(&crashing("two crashes", 2).broken(Mutant::JumpNotFlushed), Reissued);
}

/// Two jumps that are not flushed are more than one jump makes up for.
#[test]
fn mutant_jump_interrupted() {
    let scenario = |name| Scenario { fresh: true, kills: true, ..crashing(name, 1) };
    violates(&scenario("the first append").broken(Mutant::JumpInterrupted), Reissued);
    let flushing = Scenario { flushes_first: true, ..scenario("a flush before the jump") };
    holds(&flushing.broken(Mutant::JumpInterrupted));
}

#[test]
fn a_jump_shorter_than_what_can_be_lost() {
    let scenario = crashing("a jump too short", 1);
    violates(&Scenario { jump: Jump::By(1), ..scenario }, Reissued);
}

#[test]
fn a_standby_reader() {
    holds(&read_on_standby("a reader on the standby", Place::Standby));
    holds(&read_on_standby("a reader on both servers", Place::Either));
}

#[test]
fn a_standby_reader_while_the_primary_crashes() {
    holds(&Scenario { crashes: 1, ..read_on_standby("a standby of a primary that crashes", Place::Standby) });
}

#[test]
fn a_standby_that_takes_over_while_it_is_read() {
    let scenario = read_on_standby("a standby takes over", Place::Either);
    holds(&Scenario { promotions: 1, scan: Scan::AtOnce, ..scenario });
}

#[test]
fn mutant_standby_snapshot_before_the_safe_position() {
    let scenario = read_on_standby("a reader on the standby", Place::Standby);
    refutes(scenario, Mutant::StandbySnapshotFirst, Missed);
}

#[test]
fn mutant_safe_position_without_a_scan() {
    let scenario = read_on_standby("a reader on the standby", Place::Standby);
    refutes(scenario, Mutant::SafeWithoutScan, Missed);
}

#[test]
fn a_failover() {
    holds(&Scenario { kills: true, ..failing_over("a failover", 0, 1, Jump::By(2)) });
}

/// A fixed distance is enough for draws that are lost, not for a lost jump: the new primary repeats the jump from the
/// same place and lands on the same positions.
#[test]
fn a_fixed_jump_does_not_outrun_a_jump_that_is_lost_with_the_primary() {
    violates(&failing_over("a crash, then a failover", 1, 1, Jump::By(2)), Reissued);
    violates(&failing_over("two failovers", 0, 2, Jump::By(2)), Reissued);
}

/// The same for the mark that stands for the first jump: the new primary believes to be the first.
#[test]
fn a_first_append_without_a_jump_is_repeated_if_it_is_lost_with_the_primary() {
    let scenario = failing_over("a failover from the first append", 0, 1, Jump::By(2));
    violates(&Scenario { fresh: true, spares_first: true, ..scenario }, Reissued);
}

/// What helps: positions of a timeline begin above all that earlier timelines could issue.
#[test]
fn a_jump_to_the_timeline_does() {
    let jump = Jump::ToTimeline { by: 2, stride: 20 };
    holds(&failing_over("a crash, then a failover, by timeline", 1, 1, jump));
    holds(&failing_over("two failovers, by timeline", 0, 2, jump));
    let first = failing_over("a failover from the first append, by timeline", 0, 1, jump);
    holds(&Scenario { fresh: true, spares_first: true, ..first });
}
