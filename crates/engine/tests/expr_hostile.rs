//! The hostile corpus: every entry fails with the expected code, or ends, within milliseconds and
//! within its budget.

use std::time::{Duration, Instant};

use meshhook_engine::expr::{Budget, Expr};
use meshhook_engine::json::Json;

/// What one entry may take. Unoptimised builds (of this crate and of the regex crate) get more.
const LIMIT: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(1_000) } else { Duration::from_millis(50) };

fn root() -> Json {
    let mut deep = Json::from(1);
    for _ in 0..126 {
        deep = Json::array([deep]);
    }
    Json::object([
        ("s", Json::from("a".repeat(64 * 1024))),
        ("n", Json::from(7)),
        ("items", Json::array((0..5_000).map(|n: i64| n * 7_919 % 5_000))),
        ("words", Json::array((0..2_000).map(|n: i64| format!("word {}", n * 7_919 % 2_000)))),
        ("deep", deep),
        ("obj", Json::object((0..1_000).map(|n: i64| (format!("key {n}"), n)))),
    ])
}

/// Replaces `<<text*n>>` by the text, n times.
fn expand(line: &str) -> String {
    let mut expanded = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("<<") {
        let (inside, after) = after.split_once(">>").expect("closed repetition");
        let (text, times) = inside.rsplit_once('*').expect("count");
        expanded += before;
        expanded += &text.repeat(times.parse().expect("number"));
        rest = after;
    }
    expanded + rest
}

fn code_of(text: &str, root: &Json) -> (&'static str, Option<usize>) {
    let expr = match Expr::parse(text) {
        Ok(expr) => expr,
        Err(error) => return (error.code.as_str(), error.offset),
    };
    let mut budget = Budget::node();
    let result = expr.eval(root, &mut budget);
    assert!(budget.used_steps() <= 100_000, "{text}");
    // The same again: what a budget allows does not depend on anything else.
    let mut second = Budget::node();
    assert_eq!(expr.eval(root, &mut second).map_err(|e| e.code), result.clone().map_err(|e| e.code));
    assert_eq!(second.used_steps(), budget.used_steps(), "{text}");
    match result {
        Ok(value) => {
            assert!(value.byte_size() <= 1 << 20);
            ("ok", Some(0))
        }
        Err(error) => (error.code.as_str(), error.offset),
    }
}

#[test]
fn corpus() {
    let root = root();
    let corpus = include_str!("corpus/hostile.txt");
    let entries = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    let mut failures = Vec::new();
    for line in entries {
        let (expected, source) = line.split_once(' ').expect("code and expression");
        let text = expand(source);
        let start = Instant::now();
        let (code, offset) = code_of(&text, &root);
        // Evaluated twice.
        let took = start.elapsed() / 2;
        if code != expected || took > LIMIT {
            failures.push(format!("{expected}, not {code} ({offset:?}), in {took:?}: {source}"));
        }
        if expected != "ok" && code == expected && offset.is_none() {
            let placeless = ["expr.budget", "expr.empty", "expr.many", "expr.too_complex"];
            if !placeless.contains(&code) {
                failures.push(format!("{code} without a place: {source}"));
            }
        }
        count += 1;
    }
    assert!(count >= 60, "only {count} entries");
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}
