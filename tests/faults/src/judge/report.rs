//! What the judge prints, and the search for the least that still fails.

use std::collections::BTreeSet;
use std::time::Duration;

use super::faults::{Fault, KINDS};
use super::round::{Court, Outcome, Round};
use super::verdict::Kind;

/// How many rounds are held at most to find a smaller one that fails.
const MAX_TRIALS: usize = 8;

/// How many faults are told of a round.
const MAX_TOLD: usize = 20;

/// What makes rounds what they are, besides their number.
#[derive(Debug)]
pub struct Asked {
    pub seed: u64,
    pub programs: usize,
    /// Settings and files of the cluster, as options.
    pub cluster: String,
}

impl Asked {
    /// The command that holds this round again.
    fn command(&self, round: &Round, program: Option<usize>) -> String {
        let program = program.map(|program| format!(" --program {program}")).unwrap_or_default();
        format!(
            "meshhook-faults judge --seed {} --round {} --programs {} --span {}{program}{} --schedule {}",
            self.seed,
            round.number,
            self.programs,
            round.span_ms / 1000,
            self.cluster,
            told(&round.schedule)
        )
    }
}

/// One line on how far it has come.
pub fn progress(elapsed: Duration, round: u64, total: &Outcome, faults_now: u64) {
    let faults = total.injected.values().sum::<u64>() + faults_now;
    println!(
        "{:>6.0} s  round {round}, {} programs and {} runs judged, {faults} faults, {} wrong",
        elapsed.as_secs_f64(),
        total.programs,
        total.runs,
        total.faults.len()
    );
}

/// A round as a test.
pub fn round(number: u64, outcome: &Outcome) {
    let word = if outcome.faults.is_empty() { "ok" } else { "FAILED" };
    println!(
        "round {number}: {} runs, {} faults, all had ended {:.1} s after the last",
        outcome.runs,
        outcome.injected.values().sum::<u64>(),
        outcome.tail.as_secs_f64()
    );
    println!("test judge::round_{number} ... {word}");
}

/// Everything about a round that failed.
pub fn failure(asked: &Asked, round: &Round, outcome: &Outcome) {
    println!("seed {}, round {}: {} faults", asked.seed, round.number, outcome.faults.len());
    for fault in outcome.faults.iter().take(MAX_TOLD) {
        println!("  {:?} {}: {}", fault.kind, fault.tag, fault.text);
    }
    for tag in tags(outcome) {
        if let Some(plan) = round.plan(tag) {
            let definitions = round.programs[plan.program].definitions.iter();
            let texts: Vec<String> = definitions.map(|definition| definition.json.to_string()).collect();
            println!(
                "program of {tag}, its input {}, canceled {:?}, paused {:?}:",
                plan.input, plan.cancel_ms, plan.pause_ms
            );
            println!("  {}", texts.join("\n  "));
        }
    }
    println!("faults were {}", told(&round.schedule));
    println!("repeat it: {}", asked.command(round, None));
}

/// Tries to make the first failure of a round smaller: its program alone, then with ever fewer faults.
pub fn shrink(asked: &Asked, court: &Court, round: &Round, outcome: &Outcome) {
    let Some(program) = tags(outcome).iter().find_map(|tag| round.plan(tag)).map(|plan| plan.program) else {
        return;
    };
    let mut least: Option<Round> = None;
    let mut trial = round.only(program);
    let mut parts = 1;
    let mut part = 0;
    for _ in 0..MAX_TRIALS {
        if !court.hold(&trial).faults.is_empty() {
            (parts, part) = (2, 0);
            least = Some(trial);
        } else if least.is_none() {
            println!(
                "the program alone, with the same faults, does not fail: it was a matter of luck or of the others"
            );
            return;
        } else {
            part += 1;
        }
        let Some(smallest) = &least else { return };
        if part >= parts {
            (parts, part) = (parts * 2, 0);
        }
        if smallest.schedule.is_empty() || parts > smallest.schedule.len() * 2 {
            break;
        }
        trial = Round { schedule: without(&smallest.schedule, part, parts), ..smallest.clone() };
    }
    if let Some(least) = least {
        println!("minimal schedule found: {}", told(&least.schedule));
        println!("repeat it: {}", asked.command(&least, Some(program)));
    }
}

/// A schedule without one of so many parts of it.
fn without(schedule: &[Fault], part: usize, parts: usize) -> Vec<Fault> {
    let size = schedule.len().div_ceil(parts).max(1);
    let chunks = schedule.chunks(size).enumerate();
    chunks.filter(|(index, _)| *index != part).flat_map(|(_, chunk)| chunk.to_vec()).collect()
}

/// The tags of the first runs that something is wrong with.
fn tags(outcome: &Outcome) -> BTreeSet<&str> {
    let tags: BTreeSet<&str> = outcome.faults.iter().map(|fault| &*fault.tag).collect();
    tags.into_iter().filter(|tag| !tag.is_empty()).take(3).collect()
}

fn told(schedule: &[Fault]) -> String {
    let texts: Vec<String> = schedule.iter().map(Fault::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(",") }
}

/// What all rounds came to.
pub fn table(seed: u64, elapsed: Duration, total: &Outcome) {
    println!("\njudge, seed {seed}, {:.1} min", elapsed.as_secs_f64() / 60.0);
    let line = |what: &str, count: u64| println!("  {what:<34} {count:>8}");
    line("rounds", total.rounds);
    line("programs", total.programs);
    line("runs, children included", total.runs);
    line("  of them failed as predicted", total.failed);
    line("  of them canceled", total.canceled);
    line("attempts made again", total.again);
    line("effects outside, done", total.outside);
    line("  deliveries of them", total.deliveries);
    line("effects in the database", total.inside);
    line("snapshots that turns wrote", total.snapshots);
    line("faults", total.injected.values().sum());
    for (kind, name, _) in KINDS {
        line(&format!("  {name}"), total.injected.get(&kind).copied().unwrap_or(0));
    }
    line("  answers lost after the commit", total.lost_answers);
    println!("  {:<34} {:>8.1}", "longest liveness tail, s", total.tail.as_secs_f64());
    for (kind, name) in [
        (Kind::Lost, "lost"),
        (Kind::Doubled, "doubled"),
        (Kind::Unexpected, "unexpected"),
        (Kind::AfterEnd, "after the end"),
        (Kind::Stuck, "stuck"),
        (Kind::Broken, "broken logs"),
    ] {
        println!("  {name:<34} {:>8}", total.count(kind));
    }
    let word = if total.wrong == 0 { "ok" } else { "FAILED" };
    let (passed, failed) = (total.rounds - total.wrong, total.wrong);
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
}

#[cfg(test)]
mod tests {
    use super::super::faults::Kind as Blow;
    use super::*;

    #[test]
    fn parts_of_a_schedule_are_left_out_one_by_one() {
        let schedule: Vec<Fault> = (0..5).map(|at_ms| Fault { at_ms, kind: Blow::Cut }).collect();
        let times =
            |part, parts| without(&schedule, part, parts).iter().map(|fault| fault.at_ms).collect::<Vec<_>>();
        assert_eq!((times(0, 1), times(0, 2), times(1, 2)), (vec![], vec![3, 4], vec![0, 1, 2]));
        assert_eq!((times(4, 8), times(7, 8)), (vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4]));
        assert_eq!(told(&schedule[..2]), "cut@0ms,cut@1ms");
    }
}
