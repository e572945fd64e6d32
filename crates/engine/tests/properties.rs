//! Random workflows of every node kind, random outcomes, people who interfere: every run ends or waits for something
//! that is named, every log replays to the state held in memory, and what must not depend on an order does not.

mod common;

use std::sync::Arc;

use common::Sim;
use meshhook_engine::definition::Workflow;
use meshhook_engine::event::{
    Event, NodeOverridden, Recorded, RunEdited, RunPaused, RunRedriven, RunResumed, status_after,
};
use meshhook_engine::fact::{Cancel, Fact};
use meshhook_engine::json::Json;
use meshhook_engine::snapshot::Snapshot;
use meshhook_engine::state::{NodeState, NodeStatus, RunState, RunStatus};
use meshhook_engine::timeline::Timeline;
use proptest::prelude::*;

/// One node of a random workflow.
#[derive(Clone, Debug)]
struct Shape {
    kind: u8,
    any: bool,
    attempts: u8,
    /// A time limit, and something that undoes it.
    extras: u8,
    /// Earlier nodes it follows, with a number that picks the port.
    after: Vec<(prop::sample::Index, u8)>,
    /// The nodes of its body, where it has one.
    body: Vec<Shape>,
}

const KINDS: u8 = 15;

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = parts().prop_map(|mut shape| {
        // Outside of maps and repeats.
        shape.kind %= 12;
        shape
    });
    leaf.prop_recursive(2, 12, 3, |inner| {
        (parts(), prop::collection::vec(inner, 1..4)).prop_map(|(mut shape, body)| {
            shape.body = body;
            shape
        })
    })
}

fn parts() -> impl Strategy<Value = Shape> {
    let after = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    (0u8..KINDS, any::<bool>(), 1u8..4, any::<u8>(), after).prop_map(
        |(kind, any, attempts, extras, after)| Shape { kind, any, attempts, extras, after, body: Vec::new() },
    )
}

/// `"nodes":[…],"edges":[…]` of a graph: node i follows earlier nodes only, so there is no cycle.
fn graph(shapes: &[Shape], prefix: &str, in_body: bool) -> String {
    let (mut nodes, mut edges) = (Vec::new(), std::collections::BTreeSet::new());
    for (i, shape) in shapes.iter().enumerate() {
        let id = format!("{prefix}n{i}");
        let join = if shape.any { "any" } else { "all" };
        let body = || graph(&shape.body, &format!("{id}_"), true);
        let item = if in_body { "{{ .index }}" } else { "none" };
        let retry = format!(r#""retry":{{"max_attempts":{},"initial":"1s"}}"#, shape.attempts);
        let what = match kind_of(shape) {
            0 => format!(r#""type":"task",{retry},"with":{{"input":{{"n":"{{{{ .input.n }}}}","item":"{item}"}}}}"#),
            1 => r#""type":"transform","with":{"output":{"n":"{{ .input.n * 2 }}","at":"{{ .now }}"}}"#.to_owned(),
            2 => r#""type":"branch","with":{"cases":[{"port":"odd","when":".input.n % 2 == 1"}],"default":"even"}"#.to_owned(),
            3 => r#""type":"delay","with":{"duration":"5s"}"#.to_owned(),
            4 => format!(r#""type":"http",{retry},"with":{{"url":"http://localhost/"}}"#),
            5 => r#""type":"wait","with":{"signal":"go"},"timeout":"1h""#.to_owned(),
            6 => r#""type":"wait","with":{"approval":{"approvers":2}},"timeout":"1h""#.to_owned(),
            7 => format!(r#""type":"workflow",{retry},"with":{{"workflow":"child"}}"#),
            8 => format!(r#""type":"sql",{retry},"with":{{"function":"app.f"}}"#),
            9 => r#""type":"emit","with":{"stream":"s-1","message_type":"T"}"#.to_owned(),
            10 => r#""type":"respond","with":{"body":1}"#.to_owned(),
            11 => r#""type":"task","total_timeout":"3s","retry":{"max_attempts":9,"initial":"2s","jitter":"none"}"#.to_owned(),
            12 => format!(
                r#""type":"map","timeout":"2h","with":{{"items":[7,8,9],"concurrency":2,"body":{{{}}}{}}}"#,
                body(),
                if shape.any { r#","tolerance":{"count":1}"# } else { "" }
            ),
            13 => format!(r#""type":"repeat","with":{{"until":".index >= .input.n","max_iterations":4,"body":{{{}}}}}"#, body()),
            _ => format!(r#""type":"repeat","with":{{"until":"true","max_iterations":1,"delay":"1s","body":{{{}}}}}"#, body()),
        };
        let undo = if shape.extras.is_multiple_of(4) {
            r#","compensate":{"type":"task","retry":{"max_attempts":2,"initial":"1s"}}"#
        } else {
            ""
        };
        nodes.push(format!(r#"{{"id":"{id}","join":"{join}",{what}{undo}}}"#));
        for (index, pick) in shape.after.iter().filter(|_| i > 0) {
            let from = index.index(i);
            let port = match (kind_of(&shapes[from]), pick % 4) {
                (2, 0) => "odd",
                (2, 1 | 2) => "even",
                (6, 0 | 1) => "approved",
                (6, 2) => "rejected",
                (0 | 4 | 5 | 7 | 8 | 9 | 11..=14, 2) => "timeout",
                (_, 3) => "error",
                _ => "out",
            };
            edges.insert(format!(r#"{{"from":"{prefix}n{from}","port":"{port}","to":"{id}"}}"#));
        }
    }
    let edges: Vec<_> = edges.into_iter().collect();
    format!(r#""nodes":[{}],"edges":[{}]"#, nodes.join(","), edges.join(","))
}

/// A body is needed where the kind has one.
fn kind_of(shape: &Shape) -> u8 {
    if shape.body.is_empty() { shape.kind % 12 } else { 12 + shape.kind % 3 }
}

/// Lets something random happen; false if nothing is open.
fn carry_on(run: &mut Sim, pick: usize, outcome: u8) -> bool {
    let open: Vec<(String, NodeState)> = run
        .state
        .open_work()
        // A body is given the time it may take, but for once in a while.
        .filter(|(_, node)| {
            node.scope.is_none()
                || node.due_at.is_some()
                || (outcome.is_multiple_of(8) && node.deadline.is_some())
        })
        .map(|(path, node)| (path.to_string(), node.clone()))
        .collect();
    if open.is_empty() {
        return false;
    }
    let (path, node) = &open[pick % open.len()];
    if outcome >= 224 {
        run.say(path, node.attempt, "so far so good");
    }
    match (node.status, outcome % 8) {
        (NodeStatus::Scheduled, 0) => run.fail(path, r#"{"class":"timeout","message":"slow"}"#),
        (NodeStatus::Scheduled, 1) => run.fail(path, r#"{"message":"no","retryable":false}"#),
        (NodeStatus::Scheduled, 2) => run.complete(path, r#"{"status":500}"#),
        (NodeStatus::Scheduled, _) => run.complete(path, r#"{"status":200,"body":{"n":1.50}}"#),
        (NodeStatus::Running, 0) if node.child.is_some() => run.child_ended(path, RunStatus::Failed, None),
        (NodeStatus::Running, 1) if node.child.is_some() => run.child_ended(path, RunStatus::Canceled, None),
        (NodeStatus::Running, _) if node.child.is_some() => {
            run.child_ended(path, RunStatus::Succeeded, Some("1"))
        }
        (NodeStatus::Waiting, n) if node.signal.is_some() && n > 1 => run.signal("go", "1"),
        (NodeStatus::Waiting, n) if node.approvals.is_some() && n > 1 => {
            let before = run.state.nodes[&**path].approvals.as_ref().map_or(0, Vec::len);
            run.approve(path, ["ann", "bob"][before % 2], n > 2);
        }
        _ if node.timer().is_some() => run.fire(path),
        _ => return carry_on_any(run, &open),
    }
    true
}

/// Gives something open its best outcome.
fn carry_on_any(run: &mut Sim, open: &[(String, NodeState)]) -> bool {
    let Some((path, _)) = open.iter().find(|(_, node)| node.timer().is_some()) else { return false };
    run.fire(path);
    true
}

/// Somebody interferes.
fn interfere(run: &mut Sim, how: u8) {
    let any = |paths: Vec<&Arc<str>>| Some(Arc::clone(paths.get(usize::from(how) % paths.len().max(1))?));
    match how % 12 {
        0 => run.cancel(None),
        1 => run.take(&Fact::Cancel(Cancel { reason: None, kill: true, start: None })),
        2 | 3 => run.take(&Fact::Pause(RunPaused::default())),
        4 => run.signal("go", "2"),
        5 => run.take(&Fact::Redrive(RunRedriven::default())),
        6 => {
            let from = any(run.state.nodes.keys().collect());
            run.take(&Fact::Redrive(RunRedriven { from, ..RunRedriven::default() }));
        }
        7 => {
            let outputs = any(run.state.nodes.keys().collect()).map(|path| (path, Json::from(7)));
            let outputs = outputs.into_iter().collect();
            run.take(&Fact::Edit(RunEdited { outputs, ..RunEdited::default() }));
        }
        8 => {
            let outputs = run.state.broken().into_iter().map(|path| (path, Json::from(8))).collect();
            run.take(&Fact::Redrive(RunRedriven { outputs, ..RunRedriven::default() }));
        }
        9 | 10 => {
            let Some(node) = any(run.state.open.iter().collect()) else { return };
            let port = run.workflow.locate(&node).and_then(|(_, node)| node.node.ports().first().cloned());
            let by_hand = NodeOverridden { node, port, output: Json::from(9), reason: None };
            run.take(&Fact::Override(by_hand));
        }
        _ => run.fork(Some(1 + u64::from(how) * run.state.position / 256), Some(r#"{"n":3}"#)),
    }
}

/// Lets a run go on to its end.
fn live(run: &mut Sim, luck: Vec<(usize, u8)>, interventions: &[(usize, u8)]) {
    let mut luck = luck.into_iter();
    for turn in 0..3_000 {
        for (_, how) in interventions.iter().filter(|(when, _)| *when == turn) {
            interfere(run, *how);
        }
        if run.status() == RunStatus::Paused && (turn.is_multiple_of(3) || turn > 100) {
            run.take(&Fact::Resume(RunResumed {}));
        }
        // Once the luck is used up everything succeeds.
        let (pick, outcome) = luck.next().unwrap_or((turn, 7));
        if !carry_on(run, pick, outcome) && run.status() != RunStatus::Paused && turn > 60 {
            break;
        }
    }
}

/// Cases per property: a number that suits `make test`, another if PROPTEST_CASES says so.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000)
}

fn compiled(shapes: &[Shape]) -> (Option<Workflow>, String) {
    let text = format!(r#"{{"name":"w","on_failure":"alarm","timeout":"90d",{}}}"#, graph(shapes, "", false));
    match Workflow::compile(&Json::parse(&text).unwrap()) {
        Ok(workflow) => (Some(workflow), text),
        // A node that nothing leads to and that leads nowhere is refused; that is another test's matter.
        Err(problems) => {
            assert!(problems.iter().all(|p| p.code == "unconnected"), "{problems:?}\n{text}");
            (None, text)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn every_run_ends_and_every_log_replays(
        shapes in prop::collection::vec(shape(), 1..10),
        input in 0i64..5,
        seed: u64,
        luck in prop::collection::vec((any::<usize>(), any::<u8>()), 0..120),
        interventions in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
    ) {
        let (Some(workflow), text) = compiled(&shapes) else { return Ok(()) };
        let mut run = Sim::of(workflow, Json::object([("n", Json::from(input))]), seed);
        live(&mut run, luck, &interventions);
        prop_assert!(run.status().is_terminal(), "{:?} open: {:?}\n{text}\n{}", run.status(), run.state.open, tail(&run));
        prop_assert!(run.error_class() != "internal", "{:?}\n{text}", run.state.error);
        prop_assert!(run.state.open.is_empty(), "{:?} left open\n{text}", run.state.open);
        run.verify();
    }

    #[test]
    fn the_order_of_independent_outcomes_does_not_matter(
        shapes in prop::collection::vec(shape(), 1..8),
        input in 0i64..5,
        orders in prop::collection::vec(prop::collection::vec(any::<usize>(), 0..60), 2..4),
    ) {
        // Joins of kind "any", and whoever answers first, are about order: they are left out.
        fn calm(shape: &Shape) -> Shape {
            let kind = if shape.kind % 12 == 10 { 1 } else { shape.kind };
            Shape { any: false, extras: 1, kind, body: shape.body.iter().map(calm).collect(), ..shape.clone() }
        }
        let shapes: Vec<Shape> = shapes.iter().map(calm).collect();
        let mut seen: Option<(RunStatus, String)> = None;
        for order in orders {
            let (Some(workflow), text) = compiled(&shapes) else { return Ok(()) };
            let mut run = Sim::of(workflow, Json::object([("n", Json::from(input))]), 1);
            let mut order = order.into_iter();
            for _ in 0..3_000 {
                if !carry_on(&mut run, order.next().unwrap_or(0), 7) {
                    break;
                }
            }
            // Times differ, and so do ids of child runs; what else came out must not.
            let outcome = (run.status(), skip_times(&run.output()));
            prop_assert_eq!(seen.get_or_insert_with(|| outcome.clone()), &outcome, "{}", text);
            run.verify();
        }
    }

    #[test]
    fn a_run_that_failed_can_go_on_until_it_succeeds(
        shapes in prop::collection::vec(shape(), 1..8),
        luck in prop::collection::vec((any::<usize>(), any::<u8>()), 0..60),
    ) {
        fn without_undo(shape: &Shape) -> Shape {
            let kind = if shape.kind % 12 == 10 { 1 } else { shape.kind };
            Shape { extras: 1, kind, body: shape.body.iter().map(without_undo).collect(), ..shape.clone() }
        }
        let shapes: Vec<Shape> = shapes.iter().map(without_undo).collect();
        let (Some(workflow), text) = compiled(&shapes) else { return Ok(()) };
        let mut run = Sim::of(workflow, Json::object([("n", Json::from(2))]), 3);
        let (mut luck, mut redriven) = (luck.into_iter(), 0);
        for turn in 0..3_000 {
            let (pick, outcome) = luck.next().unwrap_or((turn, 7));
            if carry_on(&mut run, pick, outcome) {
                continue;
            }
            let before = run.log.len();
            run.take(&Fact::Redrive(RunRedriven::default()));
            redriven += 1;
            if run.log.len() == before || redriven > 30 {
                break;
            }
        }
        let exhausted = matches!(run.log.last().map(|last| &last.event), Some(Event::RunFailed(_)));
        prop_assert!(run.status() == RunStatus::Succeeded || exhausted, "{:?}\n{text}\n{}", run.status(), tail(&run));
        prop_assert!(!exhausted || ["repeat.exhausted", "branch.no_match"].contains(&&*run.error_class()), "{:?}\n{text}", run.state.error);
        run.verify();
    }
}

proptest! {
    // Each case is a whole history: a fifth of the others' number is 1,000 in `make test`, 20,000 in `make test-long`.
    #![proptest_config(ProptestConfig::with_cases(cases().div_ceil(5)))]

    #[test]
    fn a_snapshot_anywhere_gives_the_state_of_the_whole_log(
        shapes in prop::collection::vec(shape(), 1..10),
        number in prop::sample::select(NUMBERS),
        luck in prop::collection::vec((any::<usize>(), any::<u8>()), 0..120),
        interventions in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let (Some(workflow), text) = compiled(&shapes) else { return Ok(()) };
        let exact = Json::parse(number).unwrap();
        let mut run = Sim::of(workflow, Json::object([("n", Json::from(1)), ("exact", exact)]), 5);
        live(&mut run, luck, &interventions);
        // What a replay reads is text.
        let log: Vec<Recorded> = run.log.iter().map(reread).collect();
        for (a, b) in cuts {
            let (a, b) = (a.index(log.len() + 1), b.index(log.len() + 1));
            let (cut, bound) = (a.min(b), a.max(b));
            let stored = Snapshot::of(&RunState::fold(&log[..cut]).unwrap());
            let mut state = stored.open().unwrap();
            prop_assert_eq!(&Snapshot::of(&state), &stored, "read back at {} of\n{}", cut, text);
            for event in &log[cut..bound] {
                state.apply(event).unwrap();
            }
            let from_zero = Snapshot::of(&RunState::fold(&log[..bound]).unwrap());
            prop_assert_eq!(&Snapshot::of(&state), &from_zero, "from {} to {} of\n{}", cut, bound, text);
        }
        // What the turns held in memory is the same again.
        prop_assert_eq!(Snapshot::of(&run.state), Snapshot::of(&RunState::fold(&log).unwrap()));
    }

    #[test]
    fn the_status_of_a_run_is_told_by_its_events_types(
        shapes in prop::collection::vec(shape(), 1..10),
        luck in prop::collection::vec((any::<usize>(), any::<u8>()), 0..60),
        interventions in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
    ) {
        let (Some(workflow), _) = compiled(&shapes) else { return Ok(()) };
        let mut run = Sim::of(workflow, Json::object([("n", Json::from(1))]), 5);
        live(&mut run, luck, &interventions);
        let (mut state, mut timeline, mut told) = (RunState::default(), Timeline::default(), RunStatus::Queued);
        for event in &run.log {
            state.apply(event).unwrap();
            timeline.take(event).unwrap();
            told = status_after(event.event.type_name()).unwrap_or(told);
            prop_assert_eq!(state.status, told, "after {}", event.event.type_name());
        }
        prop_assert!(timeline.spans().iter().all(|span| span.outcome.is_some()), "a run that has ended has no open span");
    }
}

/// Numbers that are kept in different ways.
const NUMBERS: &[&str] = &[
    "0",
    "-1.5",
    "1e-7",
    "0.1000000000000000000001",
    "9223372036854775807",
    "123456789012345678901234567890.123456789",
    "1.7976931348623157e308",
    "1e400",
];

/// An event as it is read from the log.
fn reread(recorded: &Recorded) -> Recorded {
    let event = Event::from_parts(recorded.event.type_name(), &recorded.event.data()).unwrap();
    Recorded { event, ..recorded.clone() }
}

/// The end of the log, for a failure's message.
fn tail(run: &Sim) -> String {
    let line = |r: &Recorded| format!("{} {} {}", r.position, r.event.type_name(), r.event.data());
    let lines: Vec<String> = run.log.iter().map(line).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// The text without what looks like a time of the runs here.
fn skip_times(text: &str) -> String {
    text.split('"')
        .map(|part| if part.starts_with("20") && part.ends_with('Z') { "time" } else { part })
        .collect()
}
