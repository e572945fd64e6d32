//! Snapshots: the bytes of a state are those of its version, whatever is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use meshhook_engine::error::ErrorInfo;
use meshhook_engine::event::{ApprovalGiven, Child, FactDeferred, RunResponded, RunUnwinding};
use meshhook_engine::fact::Parent;
use meshhook_engine::json::Json;
use meshhook_engine::snapshot::{ENGINE_STATE_VERSION, Snapshot};
use meshhook_engine::state::{
    ItemResult, JobOrigin, KeptSignal, NodeState, NodeStatus, RunState, RunStatus, Scope,
};
use meshhook_engine::time::Timestamp;

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

fn error() -> ErrorInfo {
    let mut error = ErrorInfo::new("http.status", "500").at_node(&Arc::from("call")).retryable(true);
    (error.status, error.retry_after_ms, error.details) = (Some(500), Some(250), Some(Json::Null));
    error
}

fn child() -> Child {
    Child {
        run: "01890000-0000-7000-8000-000000000001".into(),
        workflow: "child".into(),
        version: Some(3),
        newest: true,
        detached: true,
        depth: 2,
    }
}

/// A node with everything there is; no node of a real run has all of it.
fn node(status: NodeStatus) -> NodeState {
    let results = [(0, ItemResult::Succeeded(json("0.1"))), (10, ItemResult::Failed(error()))];
    NodeState {
        status,
        attempt: 2,
        port: Some("out".into()),
        output: Some(Json::Null),
        error: Some(error()),
        job: Some(JobOrigin {
            kind: "http".into(),
            queue: Some("http".into()),
            timeout_ms: Some(30_000),
            input_position: 4,
        }),
        due_at: Some(at(1)),
        deadline: Some(at(2)),
        signal: Some("go".into()),
        approvals: Some(vec![ApprovalGiven {
            node: "call".into(),
            approved: true,
            by: "ann".into(),
            payload: Some(Json::Null),
        }]),
        child: Some(child()),
        scope: Some(Scope {
            items: Some(json("[1,null,123456789012345678901234567890]")),
            next: 11,
            again: BTreeSet::from([3]),
            running: BTreeSet::from([4, 5]),
            results: BTreeMap::from(results),
            failed: 1,
        }),
        scheduled_at: Some(at(0)),
        finished_at: Some(at(3)),
    }
}

/// A state with everything there is: a new field does not compile until it stands here.
fn sample() -> RunState {
    let nodes =
        [("bare", bare()), ("call", node(NodeStatus::Running)), ("é/0/x", node(NodeStatus::Retrying))];
    RunState {
        position: 42,
        status: RunStatus::Running,
        workflow: "order".into(),
        version: 7,
        seed: u64::MAX,
        input: json(r#"{"b":1,"a":[1.5,1e400,-0.1000000000000000000001,"\u0001\"é\ud83d\ude00"]}"#),
        trigger: json(r#"{"type":"test"}"#),
        parent: Some(Parent {
            run: "01890000-0000-7000-8000-000000000000".into(),
            node: Some("start".into()),
            detached: true,
            depth: 1,
        }),
        forked_from: Some("01890000-0000-7000-8000-000000000001".into()),
        vars: Some(Json::Null),
        nodes: nodes.into_iter().map(|(path, node)| (Arc::from(path), node)).collect(),
        open: BTreeSet::from(["call".into(), "é/0/x".into()]),
        undo: vec!["call".into()],
        unwinding: Some(RunUnwinding {
            outcome: RunStatus::Failed,
            error: Some(error()),
            reason: Some("why".into()),
            output: Some(Json::Null),
            awaited: vec!["call".into()],
        }),
        uncompensated: vec!["other".into()],
        signals: vec![KeptSignal {
            position: 9,
            name: "go".into(),
            payload: Json::Null,
            node: Some("call".into()),
        }],
        signal_ids: BTreeSet::from(["s-1".into()]),
        deferred: vec![FactDeferred { kind: "timer.due".into(), data: json(r#"{"node":"call"}"#) }],
        response: Some(RunResponded {
            node: "answer".into(),
            status: 201,
            headers: Some(json(r#"{"x":"y"}"#)),
            body: Some(Json::Null),
        }),
        killed: true,
        output: Some(Json::Null),
        error: Some(error()),
        reason: Some("withdrawn".into()),
        cancel_requested: true,
        started_at: Some(at(0)),
        deadline: Some(at(90)),
        finished_at: Some(at(80)),
        last_at: Some(at(80)),
    }
}

/// A node with nothing that can be absent.
fn bare() -> NodeState {
    NodeState {
        status: NodeStatus::Skipped,
        attempt: 0,
        port: None,
        output: None,
        error: None,
        job: None,
        due_at: None,
        deadline: None,
        signal: None,
        approvals: None,
        child: None,
        scope: None,
        scheduled_at: None,
        finished_at: None,
    }
}

#[test]
fn the_shape_of_a_state_is_that_of_its_version() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/states/v{ENGINE_STATE_VERSION}.json"));
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let bytes = String::from_utf8(Snapshot::of(&sample()).bytes).unwrap();
    assert_eq!(
        bytes,
        golden.trim_end(),
        "the state has another shape than version {ENGINE_STATE_VERSION} had. Raise ENGINE_STATE_VERSION and put the \
         new bytes beside the old ones; a file that is there already is never changed, for databases hold such bytes"
    );
}

#[test]
fn every_field_comes_back_as_it_was() {
    for state in [sample(), RunState::default()] {
        let snapshot = Snapshot::of(&state);
        let back = snapshot.open().unwrap();
        assert_eq!(back, state);
        assert_eq!(Snapshot::of(&back), snapshot);
    }
}

#[test]
fn a_node_is_shown_as_it_is_stored() {
    for node in sample().nodes.values().chain([&bare()]) {
        assert_eq!(node.to_json(), meshhook_engine::to_json(node));
        assert!(node.output.is_none() || node.to_json().get("output") == node.output.as_ref());
    }
}
