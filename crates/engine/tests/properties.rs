//! Random workflows, random outcomes: every run ends, and every log replays.

mod common;

use common::Sim;
use meshhook_engine::definition::Workflow;
use meshhook_engine::json::Json;
use meshhook_engine::state::NodeStatus;
use proptest::prelude::*;

/// One node of a random workflow.
#[derive(Clone, Debug)]
struct Shape {
    kind: u8,
    any: bool,
    attempts: u8,
    /// Earlier nodes it follows, with a number that picks the port.
    after: Vec<(prop::sample::Index, u8)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    (0u8..6, any::<bool>(), 1u8..4, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4))
        .prop_map(|(kind, any, attempts, after)| Shape { kind, any, attempts, after })
}

/// The definition: node i follows earlier nodes only, so there is no cycle.
fn definition(shapes: &[Shape]) -> String {
    let mut nodes = Vec::new();
    let mut edges = std::collections::BTreeSet::new();
    for (i, shape) in shapes.iter().enumerate() {
        let join = if shape.any { "any" } else { "all" };
        let body = match shape.kind {
            0 | 1 => format!(r#""type":"task","retry":{{"max_attempts":{},"initial":"1s"}},"with":{{"input":{{"n":"{{{{ .input.n }}}}"}}}}"#, shape.attempts),
            2 => r#""type":"transform","with":{"output":{"n":"{{ .input.n * 2 }}","at":"{{ .now }}"}}"#.to_owned(),
            3 => r#""type":"branch","with":{"cases":[{"port":"odd","when":".input.n % 2 == 1"}],"default":"even"}"#.to_owned(),
            4 => r#""type":"delay","with":{"duration":"5s"}"#.to_owned(),
            _ => r#""type":"http","with":{"url":"http://localhost/"}"#.to_owned(),
        };
        nodes.push(format!(r#"{{"id":"n{i}","join":"{join}",{body}}}"#));
        for (index, pick) in shape.after.iter().filter(|_| i > 0) {
            let from = index.index(i);
            let port = match (shapes[from].kind, pick % 4) {
                (3, 0) => "odd",
                (3, 1 | 2) => "even",
                (_, 3) => "error",
                (0 | 1 | 5, 2) => "timeout",
                (3, _) => "error",
                _ => "out",
            };
            edges.insert(format!(r#"{{"from":"n{from}","port":"{port}","to":"n{i}"}}"#));
        }
    }
    let edges: Vec<_> = edges.into_iter().collect();
    format!(r#"{{"name":"w","nodes":[{}],"edges":[{}]}}"#, nodes.join(","), edges.join(","))
}

/// Carries a run on with one random outcome; false if nothing is open.
fn carry_on(run: &mut Sim, pick: usize, outcome: u8) -> bool {
    let open: Vec<(String, NodeStatus)> =
        run.state.open_work().map(|(id, node)| (id.to_string(), node.status)).collect();
    if open.is_empty() {
        return false;
    }
    let (id, status) = &open[pick % open.len()];
    match (status, outcome % 8) {
        (NodeStatus::Scheduled, 0) => run.fail(id, r#"{"class":"timeout","message":"slow"}"#),
        (NodeStatus::Scheduled, 1) => run.fail(id, r#"{"message":"no","retryable":false}"#),
        (NodeStatus::Scheduled, 2) => run.complete(id, r#"{"status":500}"#),
        (NodeStatus::Scheduled, _) => run.complete(id, r#"{"status":200,"body":{"n":1.50}}"#),
        _ => run.fire(id),
    }
    true
}

/// Cases per property: a number that suits `make test`, another if PROPTEST_CASES says so.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn every_run_ends_and_every_log_replays(
        shapes in prop::collection::vec(shape(), 1..12),
        input in 0i64..10,
        seed: u64,
        luck in prop::collection::vec((any::<usize>(), any::<u8>()), 0..200),
        cancel_at in prop::option::of(0usize..40),
    ) {
        let text = definition(&shapes);
        let workflow = match Workflow::compile(&Json::parse(&text).unwrap()) {
            Ok(workflow) => workflow,
            // A node that nothing leads to and that leads nowhere is refused; that is another test's matter.
            Err(problems) => {
                prop_assert!(problems.iter().all(|p| p.code == "unconnected"), "{problems:?}\n{text}");
                return Ok(());
            }
        };
        let mut run = Sim::of(workflow, Json::object([("n", Json::from(input))]), seed);
        let mut luck = luck.into_iter();
        for turn in 0..1_000 {
            if cancel_at == Some(turn) {
                run.cancel(None);
            }
            // Once the luck is used up everything succeeds.
            let (pick, outcome) = luck.next().unwrap_or((0, 7));
            if !carry_on(&mut run, pick, outcome) {
                break;
            }
        }
        prop_assert!(run.status().is_terminal(), "open: {:?}\n{text}", run.open());
        prop_assert!(run.error_class() != "internal", "{:?}\n{text}", run.state.error);
        run.verify();
    }
}
