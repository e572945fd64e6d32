//! The hostile corpora: expressions and definitions that fail with the expected code, or end, within
//! 50 milliseconds of processor time and 16 MiB of memory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cpu_time::ThreadTime;
use meshhook_engine::definition::Workflow;
use meshhook_engine::expr::{Budget, Expr};
use meshhook_engine::json::Json;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts for the whole process: one measurement at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Processor time of one entry. Unoptimised builds (of this crate and of the regex crate) get more.
const TIME: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(1_000) } else { Duration::from_millis(50) };

/// What one entry may hold at a time, in bytes, besides its own text and the data it is given.
const SPACE: usize = 16 << 20;

/// What an entry came to.
struct Outcome {
    codes: Vec<&'static str>,
    offset: Option<usize>,
    took: Duration,
    peak: usize,
}

fn measured(run: impl FnOnce() -> (Vec<&'static str>, Option<usize>)) -> Outcome {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let started = ThreadTime::now();
    let (codes, offset) = run();
    let took = started.elapsed();
    Outcome { codes, offset, took, peak: MEMORY.peak_usage().saturating_sub(before) }
}

/// Runs all entries of a corpus: a line each, the expected code and the entry.
fn run(corpus: &str, at_least: usize, mut entry: impl FnMut(&str, &str) -> Outcome) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let entries = corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut count, mut failures) = (0, Vec::new());
    for line in entries {
        let (expected, source) = line.split_once(' ').expect("code and entry");
        let text = expand(source);
        let mut got = entry(&text, expected);
        // Other work on the machine makes processor time longer, never shorter.
        for _ in 0..4 {
            if got.took > TIME {
                got = entry(&text, expected);
            }
        }
        if !got.codes.contains(&expected) || got.took > TIME || got.peak > SPACE {
            let Outcome { mut codes, offset, took, peak } = got;
            codes.dedup();
            failures.push(format!(
                "{expected}, not {codes:?} ({offset:?}), in {took:?} and {} KiB: {source}",
                peak >> 10
            ));
        }
        count += 1;
    }
    assert!(count >= at_least, "only {count} entries");
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Replaces `<<text*n>>` by the text, n times, and in that text every `#` by the number of the time and `@` by the next.
fn expand(line: &str) -> String {
    let mut expanded = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("<<") {
        let (inside, after) = after.split_once(">>").expect("closed repetition");
        let (text, times) = inside.rsplit_once('*').expect("count");
        expanded += before;
        for time in 0..times.parse().expect("number") {
            expanded += &text.replace('#', &u32::to_string(&time)).replace('@', &u32::to_string(&(time + 1)));
        }
        rest = after;
    }
    expanded + rest
}

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

/// The code of the fault, or `ok`, with the place, and the steps used.
fn evaluate(text: &str, root: &Json) -> (&'static str, Option<usize>, u64) {
    let mut budget = Budget::node();
    let result = Expr::parse(text).and_then(|expr| expr.eval(root, &mut budget));
    let (code, offset) = match result {
        Ok(value) => {
            assert!(value.byte_size() <= 1 << 20);
            ("ok", None)
        }
        Err(error) => (error.code.as_str(), error.offset),
    };
    (code, offset, budget.used_steps())
}

#[test]
fn expressions() {
    let root = root();
    run(include_str!("corpus/hostile.txt"), 200, |text, expected| {
        let mut first = None;
        let outcome = measured(|| {
            let (code, offset, steps) = evaluate(text, &root);
            first = Some((code, offset, steps));
            (vec![code], offset)
        });
        // The same again: what a budget allows does not depend on anything else.
        let (code, offset, steps) = evaluate(text, &root);
        assert_eq!(first, Some((code, offset, steps)), "{text}");
        assert!(steps <= 100_000, "{text}");
        let placeless = ["ok", "expr.budget", "expr.empty", "expr.many", "expr.too_complex"];
        assert!(offset.is_some() || code != expected || placeless.contains(&code), "no place: {text}");
        outcome
    });
}

#[test]
fn definitions() {
    run(include_str!("corpus/hostile_definitions.txt"), 60, |text, _| {
        measured(|| {
            let problems = match Workflow::from_text(text) {
                Ok(_) => return (vec!["ok"], None),
                Err(problems) => problems,
            };
            // What is told of them is bounded as well.
            let told: usize = problems.iter().map(|p| p.pointer.len() + p.message.len()).sum();
            if told > 1 << 20 {
                return (vec!["too many words"], Some(told));
            }
            (problems.iter().map(|problem| problem.code).collect(), None)
        })
    });
}
