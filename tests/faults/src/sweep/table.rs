//! What a sweep says in the end.

use super::Outcome;
use super::play::Kind;
use super::stage::Scenario;

/// One row a point, then what it all came to.
pub fn print(points: &[String], scenarios: &[Scenario], outcomes: &[Outcome], unswept: &[&String]) {
    println!("\n{:<28} {:>5} {:>5} {:>8} {:>6}  under", "point", "runs", "lost", "doubled", "stuck");
    for point in points {
        let rows: Vec<&Outcome> =
            outcomes.iter().filter(|o| o.case.crash.point == *point && !o.is_unreached()).collect();
        let under: Vec<&str> = rows.iter().map(|o| scenarios[o.case.scenario].name).collect();
        let [lost, doubled, stuck] = counts(&rows);
        println!(
            "{point:<28} {:>5} {lost:>5} {doubled:>8} {stuck:>6}  {}",
            rows.len(),
            if under.is_empty() { "NOT REACHED".to_owned() } else { under.join(" ") }
        );
    }
    let runs: Vec<&Outcome> = outcomes.iter().filter(|o| !o.is_unreached()).collect();
    let [lost, doubled, stuck] = counts(&runs);
    println!(
        "\npoints swept {} of {}, runs {}, lost {lost}, doubled {doubled}, stuck {stuck}",
        points.iter().filter(|point| runs.iter().any(|o| o.case.crash.point == **point)).count(),
        points.len(),
        runs.len()
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
