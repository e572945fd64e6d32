//! Ends and what comes after them: redriving, pausing, undoing, handlers, depth: rule by rule.

mod common;

use common::Sim;
use meshhook_engine::event::{Event, RunPaused, RunRedriven, RunResumed};
use meshhook_engine::fact::{Cancel, Fact, JobCompleted, Parent, Quarantine, Start};
use meshhook_engine::json::Json;
use meshhook_engine::state::{RunState, RunStatus};

const TWO: &str = r#"{"name":"w","timeout":"1h","nodes":[{"id":"a","type":"task","retry":{"max_attempts":1}},{"id":"b","type":"task"},
    {"id":"c","type":"task"}],"edges":[{"from":"a","to":"c"},{"from":"b","to":"c"}]}"#;

/// The same run from its start on, with a run above it.
fn below(mut run: Sim, parent: Parent) -> Sim {
    let Event::RunStarted(start) = run.log[0].event.clone() else { panic!("a run starts with its start") };
    (run.state, run.log) = (RunState::default(), Vec::new());
    run.take(&Fact::Start(Start { parent: Some(parent), ..start }));
    run
}

fn parent(node: Option<&str>, depth: u32) -> Parent {
    Parent {
        run: "01890000-0000-7000-8000-00000000000f".into(),
        node: node.map(Into::into),
        detached: false,
        depth,
    }
}

fn redrive(run: &mut Sim) {
    run.take(&Fact::Redrive(RunRedriven::default()));
}

#[test]
fn nothing_happens_to_a_run_before_it_begins_or_twice() {
    let mut run = Sim::start(TWO, "{}");
    let Event::RunStarted(start) = run.log[0].event.clone() else { panic!("a run starts with its start") };
    let before = run.log.len();
    run.take(&Fact::Start(start));
    assert_eq!(run.log.len(), before);
    (run.state, run.log) = (RunState::default(), Vec::new());
    run.cancel(None);
    run.signal("x", "1");
    assert_eq!((run.status(), run.log.len()), (RunStatus::Queued, 0));
}

#[test]
fn what_was_put_off_by_a_pause_does_not_follow_the_end() {
    let mut run = Sim::start(TWO, "{}");
    run.take(&Fact::Pause(RunPaused::default()));
    run.fail("a", r#""no""#);
    run.signal("late", "1");
    run.fire("");
    run.take(&Fact::Resume(RunResumed {}));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "task".into()));
    assert!(run.log.last().unwrap().event.is_terminal(), "{:?}", run.log.last());
    assert_eq!((run.events_of("signal.received"), run.events_of("run.failed")), (0, 1));
    run.verify();
}

#[test]
fn a_pause_of_a_paused_run_and_a_resume_of_a_running_one_change_nothing() {
    let mut run = Sim::start(TWO, "{}");
    run.take(&Fact::Resume(RunResumed {}));
    run.take(&Fact::Pause(RunPaused::default()));
    run.take(&Fact::Pause(RunPaused::default()));
    assert_eq!((run.events_of("run.resumed"), run.events_of("run.paused")), (0, 1));
    let error = meshhook_engine::error::ErrorInfo::new("internal", "no turn of it can be stored");
    run.take(&Fact::Quarantine(Quarantine { error, start: None }));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "quarantined".into()));
    run.verify();
}

#[test]
fn a_redriven_run_gets_its_time_again() {
    let mut run = Sim::start(TWO, "{}");
    run.fire("");
    assert_eq!(run.error_class(), "timeout");
    redrive(&mut run);
    assert_eq!(run.open(), ["a", "b"]);
    let left = run.state.deadline.unwrap().as_micros() - run.state.last_at.unwrap().as_micros();
    assert_eq!(left, 3_600_000_000, "an hour from now, not from the first start");
    run.verify();
}

#[test]
fn a_run_that_succeeded_or_was_terminated_is_not_redriven() {
    for status in ["succeeded", "failed", "canceled"] {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"task"}},{{"id":"side","type":"task"}},
                {{"id":"stop","type":"terminate","with":{{"status":"{status}"}}}},{{"id":"after","type":"task"}}],
                "edges":[{{"from":"a","to":"stop"}},{{"from":"side","to":"after"}}]}}"#
        );
        let mut run = Sim::start(&text, "{}");
        run.complete("a", "1");
        let (before, ended) = (run.log.len(), run.status());
        redrive(&mut run);
        assert_eq!((run.log.len(), run.status()), (before, ended), "the definition says that it ends here");
        run.verify();
    }
}

#[test]
fn a_redrive_leaves_alone_what_a_handled_failure_left_behind() {
    let text = r#"{"name":"w","nodes":[{"id":"rows","type":"map","with":{"items":[[1],[2]],"body":{"nodes":[
        {"id":"cells","type":"map","with":{"items":"{{ .item }}","body":{"nodes":[{"id":"call","type":"task","retry":{"max_attempts":1}}]}}}]}}},
        {"id":"next","type":"task","retry":{"max_attempts":1}}],"edges":[{"from":"rows","port":"error","to":"next"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.fail("rows/0/cells/0/call", r#""no""#);
    run.fail("next", r#""no""#);
    redrive(&mut run);
    assert_eq!(run.open(), ["next"]);
    run.complete("next", "7");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
}

#[test]
fn a_run_that_was_undone_is_not_redriven() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"task","compensate":{"type":"task"}},{"id":"b","type":"task","retry":{"max_attempts":1}}],
        "edges":[{"from":"a","to":"b"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.complete("a", "1");
    run.fail("b", r#""no""#);
    run.cancel(None);
    assert_eq!(
        (run.events_of("run.cancel_requested"), run.open()),
        (0, vec!["a/compensate"]),
        "it ends already"
    );
    run.complete("a/compensate", "null");
    let before = run.log.len();
    redrive(&mut run);
    assert_eq!((run.log.len(), run.status()), (before, RunStatus::Failed));
    run.verify();
}

#[test]
fn a_run_that_succeeds_undoes_nothing_and_one_that_terminates_as_failed_does() {
    let text = |status: &str| {
        format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"task","compensate":{{"type":"sql","with":{{"function":"app.undo"}}}}}},
                {{"id":"stop","type":"terminate","with":{{"status":"{status}","output":9}}}}],"edges":[{{"from":"a","to":"stop"}}]}}"#
        )
    };
    let mut run = Sim::start(&text("succeeded"), "{}");
    run.complete("a", "1");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "9".into()));
    run.verify();
    for (status, ended) in [("failed", RunStatus::Failed), ("canceled", RunStatus::Canceled)] {
        let mut run = Sim::start(&text(status), "{}");
        run.complete("a", "1");
        assert_eq!(run.open(), ["a/compensate"]);
        run.complete("a/compensate", "null");
        assert_eq!((run.status(), run.output()), (ended, "9".into()));
        run.verify();
    }
}

#[test]
fn a_terminate_in_a_body_ends_the_run() {
    let text = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":[1,2],"body":{"nodes":[{"id":"call","type":"task"},
        {"id":"stop","type":"terminate","with":{"output":"{{ .item }}"}}],"edges":[{"from":"call","to":"stop"}]}}}]}"#;
    let mut run = Sim::start(text, "{}");
    run.complete("each/1/call", "null");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "2".into()));
    assert_eq!(run.dropped, ["each/0/call"]);
    run.verify();
}

#[test]
fn only_a_failure_starts_the_handler_and_a_handler_starts_none() {
    let text = TWO.replace(r#""name":"w""#, r#""name":"w","on_failure":"alarm""#);
    let mut run = Sim::start(&text, r#"{"n":1}"#);
    run.fail("a", r#""no""#);
    let Event::RunHandlerStarted(handler) = &run.log[run.log.len() - 2].event else { panic!("no handler") };
    assert_eq!(
        (&*handler.child.workflow, handler.child.newest, handler.child.detached),
        ("alarm", true, true)
    );
    for (field, expected) in [("workflow", r#""w""#), ("input", r#"{"n":1}"#), ("version", "1")] {
        assert_eq!(handler.input.get(field).map(Json::to_string).as_deref(), Some(expected));
    }
    run.verify();
    let mut run = Sim::start(&text, "{}");
    run.cancel(None);
    assert_eq!(run.events_of("run.handler_started"), 0);
    let mut run = below(Sim::start(&text, "{}"), parent(None, 1));
    run.fail("a", r#""no""#);
    assert_eq!((run.status(), run.events_of("run.handler_started")), (RunStatus::Failed, 0));
    run.verify();
}

#[test]
fn runs_start_runs_sixteen_deep() {
    let text = r#"{"name":"w","nodes":[{"id":"down","type":"workflow","with":{"workflow":"w"}}]}"#;
    let run = below(Sim::start(text, "{}"), parent(Some("down"), 15));
    assert_eq!(run.state.nodes["down"].child.as_ref().map(|child| child.depth), Some(16));
    let run = below(Sim::start(text, "{}"), parent(Some("down"), 16));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "workflow.depth".into()));
    run.verify();
}

#[test]
fn a_child_has_the_version_that_the_definition_says() {
    for (version, number, newest) in
        [("", None, false), (r#","version":"latest""#, None, true), (r#","version":3"#, Some(3), false)]
    {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"s","type":"workflow","with":{{"workflow":"x"{version}}}}}]}}"#
        );
        let run = Sim::start(&text, "{}");
        let child = run.state.nodes["s"].child.as_ref().unwrap();
        assert_eq!((child.version, child.newest), (number, newest));
        let again = Sim::start(&text, "{}");
        assert_eq!(
            again.state.nodes["s"].child.as_ref().unwrap().run,
            child.run,
            "its id follows from the log"
        );
    }
}

#[test]
fn a_kill_leaves_an_awaited_attempt_without_effect() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"task","compensate":{"type":"task"}}]}"#;
    let mut run = Sim::start(text, "{}");
    run.cancel(None);
    assert_eq!((run.status(), run.open()), (RunStatus::Running, vec!["a"]));
    run.take(&Fact::Cancel(Cancel { reason: Some("enough".into()), kill: true, start: None }));
    let before = run.log.len();
    run.take(&Fact::JobCompleted(JobCompleted { node: "a".into(), attempt: 1, output: Json::Null }));
    assert_eq!((run.status(), run.log.len()), (RunStatus::Canceled, before));
    run.verify();
}
