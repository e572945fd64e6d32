//! What a sweep says in the end.

use super::Outcome;
use super::play::Kind;
use super::stage::Scenario;

/// One row a point, then what it all came to.
pub fn print(points: &[String], scenarios: &[Scenario], outcomes: &[Outcome], unswept: &[&String]) {
    println!("\n{:<28} {:>5} {:>5} {:>8} {:>6}  under", "point", "runs", "lost", "doubled", "stuck");
    let mut swept = 0;
    for point in points {
        let rows: Vec<&Outcome> = outcomes.iter().filter(|o| o.case.crash.point == *point).collect();
        let under: Vec<&str> = rows.iter().map(|o| scenarios[o.case.scenario].name).collect();
        swept += usize::from(!rows.is_empty());
        let [lost, doubled, stuck] = counts(&rows);
        println!(
            "{point:<28} {:>5} {lost:>5} {doubled:>8} {stuck:>6}  {}",
            rows.len(),
            if under.is_empty() { "NOT REACHED".to_owned() } else { under.join(" ") }
        );
    }
    let all: Vec<&Outcome> = outcomes.iter().collect();
    let [lost, doubled, stuck] = counts(&all);
    let unreached =
        all.iter().filter(|o| o.trouble.as_ref().is_some_and(|t| t.kind == Kind::Unreached)).count();
    println!(
        "\npoints swept {swept} of {}, runs {}, crashes {}, lost {lost}, doubled {doubled}, stuck {stuck}",
        points.len(),
        all.len(),
        all.len() - unreached
    );
    for point in unswept {
        println!("test sweep::{point} ... FAILED: nothing reaches it");
    }
}

/// The line that is counted.
pub fn result(passed: usize, failed: usize) -> bool {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    failed == 0
}

fn counts(outcomes: &[&Outcome]) -> [usize; 3] {
    [Kind::Lost, Kind::Doubled, Kind::Stuck]
        .map(|kind| outcomes.iter().filter(|o| o.trouble.as_ref().is_some_and(|t| t.kind == kind)).count())
}
