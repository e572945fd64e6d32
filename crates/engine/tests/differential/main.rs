//! The profile against jq and jaq: the same expressions on the same inputs, and every difference explained.
//!
//! `corpus/differences.txt` lists the differences that are meant, each with its reason; any other fails the test.
//! `MESHHOOK_DIFFERENTIAL_CASES` says how many cases to try (default 5,000), `MESHHOOK_DIFFERENTIAL_FROM` the number of
//! the first one (default 0).

mod generate;
mod peers;

use std::collections::BTreeMap;

use generate::Case;
use meshhook_engine::expr::{Budget, Expr, ExprCode};
use meshhook_engine::json::Json;
use peers::{Outcome, Peer};
use regex::Regex;

/// A difference that is meant.
struct Rule {
    peer: String,
    expr: Regex,
    ours: Regex,
    theirs: Regex,
    line: usize,
}

/// Reads the list: blocks of `peer`, `expr`, `ours`, `theirs` and `why`.
fn rules() -> Vec<Rule> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/differences.txt");
    let text = std::fs::read_to_string(path).expect(path);
    let mut rules = Vec::new();
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    for (number, line) in text.lines().chain([""]).enumerate() {
        if line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = line.split_once(": ") {
            fields.insert(name, value);
            continue;
        }
        assert!(line.is_empty(), "line {}: {line}", number + 1);
        if fields.is_empty() {
            continue;
        }
        assert!(fields.get("why").is_some_and(|why| why.len() > 20), "line {number}: a rule needs a reason");
        let pattern = |name: &str| Regex::new(fields.get(name).copied().unwrap_or("")).expect(name);
        let peer = fields.get("peer").copied().expect("a rule names its peer");
        rules.push(Rule {
            peer: peer.to_owned(),
            expr: pattern("expr"),
            ours: pattern("ours"),
            theirs: pattern("theirs"),
            line: number,
        });
        fields.clear();
    }
    rules
}

/// What this engine makes of a case: its outputs, and an error if it ends with one.
fn ours(case: &Case) -> Result<Outcome, ExprCode> {
    let input = Json::parse(&case.input).expect("generated JSON");
    let expr = Expr::parse(&peers::caught(&case.expr)).map_err(|error| error.code)?;
    let outputs = expr.eval(&input, &mut Budget::node()).map_err(|error| error.code)?;
    Ok(Outcome::of_json(&outputs))
}

/// What a peer says, compared with ours; `None` if it is the same.
fn difference(peer: &str, case: &Case, ours: &Outcome, theirs: &Outcome) -> Option<String> {
    (ours != theirs)
        .then(|| format!("{peer}: {} | {}\n    ours   {ours}\n    theirs {theirs}", case.input, case.expr))
}

#[test]
fn differences_are_listed() {
    let setting = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
    };
    let count = setting("MESHHOOK_DIFFERENTIAL_CASES", 5_000);
    let from = setting("MESHHOOK_DIFFERENTIAL_FROM", 0);
    let rules = rules();
    let mut used = vec![0_u32; rules.len()];
    let (mut compared, mut failed, mut left_out) = ([0_u32; 2], Vec::new(), 0);
    for batch in (from..from + count).step_by(peers::BATCH) {
        let upto = (from + count).min(batch + peers::BATCH);
        let cases: Vec<Case> = (batch..upto).map(|number| generate::case(number as u64)).collect();
        let cases = cases.into_iter().filter_map(|case| match ours(&case) {
            Ok(ours) => Some((case, ours)),
            // Peers have no budget and may not end.
            Err(ExprCode::Budget | ExprCode::TooComplex) => {
                left_out += 1;
                None
            }
            Err(code) => panic!("{code}: {} | {}", case.input, case.expr),
        });
        let cases: Vec<(Case, Outcome)> = cases.collect();
        for (index, peer) in [Peer::Jq, Peer::Jaq].into_iter().enumerate() {
            let asked: Vec<_> = cases.iter().filter(|(case, _)| peer.knows(&case.expr)).collect();
            let programs: Vec<&Case> = asked.iter().map(|(case, _)| case).collect();
            for ((case, ours), theirs) in asked.into_iter().zip(peer.run(&programs)) {
                compared[index] += 1;
                let Some(text) = difference(peer.name(), case, ours, &theirs) else { continue };
                let (mine, other) = (ours.to_string(), theirs.to_string());
                let asked = format!("{} | {}", case.input, case.expr);
                let rule = rules.iter().position(|rule| {
                    (rule.peer == "both" || rule.peer == peer.name())
                        && rule.expr.is_match(&asked)
                        && rule.ours.is_match(&mine)
                        && rule.theirs.is_match(&other)
                });
                match rule {
                    Some(rule) => used[rule] += 1,
                    None => failed.push(text),
                }
            }
        }
    }
    let [jq, jaq] = compared;
    println!("{jq} cases compared with jq, {jaq} with jaq; {left_out} left out for the budget");
    for (rule, used) in rules.iter().zip(&used) {
        println!("differences by the rule before line {}: {used}", rule.line + 1);
    }
    failed.sort_by_key(String::len);
    let shown = failed.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failed.is_empty(), "{} differences that are not listed, such as\n{shown}", failed.len());
    assert!(u64::from(jq) * 10 > count as u64 * 8 && u64::from(jaq) * 10 > count as u64 * 7);
}
