//! Signals, approvals, child runs, work in the database, time limits, pauses, redriving: rule by rule.

mod common;

use common::Sim;
use meshhook_engine::event::{Event, RunPaused, RunRedriven, RunResumed, SignalReceived};
use meshhook_engine::fact::{Cancel, Fact};
use meshhook_engine::json::Json;
use meshhook_engine::resume::{Standing, fill, standing};
use meshhook_engine::state::{NodeStatus, RunStatus};

const WAIT: &str = r#"{"name":"w","nodes":[{"id":"first","type":"task"},
    {"id":"paid","type":"wait","with":{"signal":"paid"},"timeout":"3d"},
    {"id":"late","type":"transform","with":{"output":"late"}}],
    "edges":[{"from":"first","to":"paid"},{"from":"paid","port":"timeout","to":"late"}]}"#;

#[test]
fn what_executors_say_is_in_the_log_and_decides_nothing() {
    let mut run = Sim::start(WAIT, "{}");
    let quiet = run.state.clone();
    run.say("first", 1, "half done");
    assert!(
        matches!(&run.log.last().unwrap().event, Event::NodeLogged(said) if &*said.message == "half done")
    );
    assert_eq!((run.state.position, &run.state.nodes), (quiet.position + 1, &quiet.nodes));
    run.take(&Fact::Pause(RunPaused::default()));
    run.say("first", 1, "still at it");
    assert!(matches!(&run.log.last().unwrap().event, Event::NodeLogged(_)), "also during a pause");
    run.take(&Fact::Resume(RunResumed::default()));
    let before = run.log.len();
    run.say("first", 2, "of another attempt");
    run.say("paid", 1, "of a node that has not begun");
    run.complete("first", "1");
    run.say("first", 1, "after its end");
    assert_eq!(run.log.iter().skip(before).filter(|e| matches!(e.event, Event::NodeLogged(_))).count(), 0);
    run.verify();
}

#[test]
fn a_signal_is_consumed_by_the_node_that_waits() {
    let mut run = Sim::start(WAIT, "{}");
    run.complete("first", "1");
    assert_eq!(run.waiting(), ["paid"]);
    run.signal("other", "1");
    assert_eq!(run.waiting(), ["paid"]);
    run.signal("paid", r#"{"by":"card"}"#);
    assert_eq!(run.status(), RunStatus::Succeeded);
    assert_eq!(run.output(), r#"{"paid":{"by":"card"}}"#);
    assert_eq!(run.dropped, ["paid"], "its timer is taken back");
    run.verify();
}

#[test]
fn a_signal_that_comes_too_early_is_kept() {
    let mut run = Sim::start(WAIT, "{}");
    run.signal("paid", "1");
    run.signal("paid", "2");
    run.complete("first", "1");
    assert_eq!(run.output(), r#"{"paid":1}"#, "first in, first out");
    assert_eq!(run.state.signals.len(), 1);
    run.verify();
}

#[test]
fn a_signal_for_one_node_passes_the_others_by() {
    let text = r#"{"name":"w","nodes":[{"id":"first","type":"task"},
        {"id":"a","type":"wait","with":{"signal":"paid"}},{"id":"b","type":"wait","with":{"signal":"paid"}},
        {"id":"c","type":"wait","with":{"signal":"paid"}}],"edges":[{"from":"first","to":"c"},{"from":"a","to":"c"},{"from":"b","to":"c"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.signal_for(Some("c"), "paid", "3");
    run.signal_for(Some("b"), "paid", "2");
    assert_eq!(run.waiting(), ["a"]);
    run.signal("paid", "1");
    assert_eq!((run.waiting(), run.state.signals.len()), (vec![], 1), "what is for c is kept for it");
    run.complete("first", "0");
    assert_eq!((run.output(), run.state.nodes["b"].output.clone()), ("3".into(), Some(Json::from(2))));
    run.verify();
}

#[test]
fn a_repeated_signal_is_ignored_by_its_id() {
    let mut run = Sim::start(WAIT, "{}");
    let signal = SignalReceived { name: "x".into(), payload: Json::Null, id: Some("a".into()), node: None };
    run.take(&Fact::Signal(signal.clone()));
    run.take(&Fact::Signal(signal));
    assert_eq!(run.events_of("signal.received"), 1);
    run.verify();
}

#[test]
fn a_wait_that_takes_too_long_goes_on_at_its_timeout_port() {
    let mut run = Sim::start(WAIT, "{}");
    run.complete("first", "1");
    run.fire("paid");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"late":"late"}"#.into()));
    run.verify();
}

const APPROVAL: &str = r#"{"name":"w","nodes":[{"id":"ok","type":"wait","with":{"approval":{"approvers":2}}},
    {"id":"yes","type":"transform","with":{"output":"{{ .nodes.ok.output.voices | length }}"}},{"id":"no","type":"transform","with":{"output":"no"}}],
    "edges":[{"from":"ok","port":"approved","to":"yes"},{"from":"ok","port":"rejected","to":"no"}]}"#;

#[test]
fn an_approval_needs_so_many_people_and_one_rejection_ends_it() {
    let mut run = Sim::start(APPROVAL, "{}");
    run.approve("ok", "ann", true);
    run.approve("ok", "ann", true);
    assert_eq!(run.waiting(), ["ok"], "one voice each");
    run.approve("ok", "bob", true);
    assert_eq!(run.output(), r#"{"yes":2}"#);
    run.verify();
    let mut run = Sim::start(APPROVAL, "{}");
    run.approve("ok", "ann", true);
    run.approve("ok", "bob", false);
    assert_eq!(run.output(), r#"{"no":"no"}"#);
    run.verify();
}

#[test]
fn a_voice_for_a_node_that_does_not_wait_is_not_kept() {
    let text = APPROVAL
        .replace(r#""nodes":["#, r#""nodes":[{"id":"first","type":"task"},"#)
        .replace(r#""edges":["#, r#""edges":[{"from":"first","to":"ok"},"#);
    let mut run = Sim::start(&text, "{}");
    run.approve("ok", "ann", true);
    run.complete("first", "1");
    run.approve("ok", "bob", true);
    assert_eq!((run.waiting(), run.events_of("approval.given")), (vec!["ok"], 1));
    run.verify();
}

#[test]
fn a_signal_goes_to_the_node_that_has_waited_longest() {
    let text = r#"{"name":"w","nodes":[{"id":"t","type":"task"},{"id":"z","type":"wait","with":{"signal":"go"}},
        {"id":"a","type":"wait","with":{"signal":"go"}},{"id":"end","type":"task"}],
        "edges":[{"from":"t","to":"a"},{"from":"z","to":"end"},{"from":"a","to":"end"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.complete("t", "1");
    assert_eq!(run.waiting(), ["a", "z"]);
    run.signal("go", "1");
    assert_eq!(run.waiting(), ["a"], "z waits since the run began");
    run.signal("go", "2");
    assert_eq!(run.open(), ["end"]);
    run.verify();
}

#[test]
fn a_time_out_that_no_timeout_port_takes_is_a_failure_like_any_other() {
    let text = r#"{"name":"w","nodes":[{"id":"paid","type":"wait","with":{"signal":"paid"},"timeout":"3d"},
        {"id":"other","type":"transform","with":{"output":"{{ .error.class }}"}}],"edges":[{"from":"paid","port":"error","to":"other"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.fire("paid");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"other":"timeout"}"#.into()));
    run.verify();
}

const CHILD: &str = r#"{"name":"w","nodes":[{"id":"ship","type":"workflow","with":{"workflow":"ship","input":{"n":"{{ .input.n }}"}},"retry":{"max_attempts":2,"initial":"1s","jitter":"none"}}]}"#;

#[test]
fn a_child_run_gives_its_output_or_its_error() {
    let mut run = Sim::start(CHILD, r#"{"n":1}"#);
    let first = run.state.nodes["ship"].child.clone().unwrap();
    assert_eq!(
        (run.state.nodes["ship"].status, run.input_of("ship")),
        (NodeStatus::Running, r#"{"n":1}"#.into())
    );
    run.child_ended("ship", RunStatus::Failed, None);
    assert_eq!(run.due_in_ms("ship"), 1_000);
    run.fire("ship");
    let second = run.state.nodes["ship"].child.clone().unwrap();
    assert_ne!(first.run, second.run, "each attempt is a run of its own");
    run.child_ended("ship", RunStatus::Succeeded, Some("7"));
    assert_eq!(run.output(), "7");
    run.verify();

    let mut run = Sim::start(CHILD, r#"{"n":1}"#);
    run.child_ended("ship", RunStatus::Canceled, None);
    run.fire("ship");
    run.child_ended("ship", RunStatus::Canceled, None);
    assert_eq!(run.error_class(), "workflow.canceled");
    run.verify();
}

#[test]
fn a_detached_child_is_not_waited_for_and_a_waited_one_is_canceled_with_its_parent() {
    let run = Sim::start(
        &CHILD.replace(r#""workflow":"ship","#, r#""workflow":"ship","detached":true,"#),
        r#"{"n":1}"#,
    );
    assert_eq!(run.status(), RunStatus::Succeeded);
    assert!(run.output().starts_with(r#"{"run":""#));
    run.verify();
    let mut run = Sim::start(CHILD, r#"{"n":1}"#);
    run.cancel(None);
    assert_eq!((run.status(), run.dropped.as_slice()), (RunStatus::Canceled, ["ship".to_owned()].as_slice()));
    run.verify();
}

#[test]
fn work_in_the_database_is_an_attempt_that_the_database_reports() {
    let text = r#"{"name":"w","nodes":[{"id":"reserve","type":"sql","with":{"function":"app.reserve","input":{"n":1}}},
        {"id":"tell","type":"emit","with":{"stream":"order-{{ .input.id }}","message_type":"Reserved","data":"{{ .nodes.reserve.output }}"}}],
        "edges":[{"from":"reserve","to":"tell"}]}"#;
    let mut run = Sim::start(text, r#"{"id":7}"#);
    assert_eq!(run.input_of("reserve"), r#"{"argument":{"n":1},"function":"app.reserve"}"#);
    run.complete("reserve", r#"{"left":3}"#);
    assert_eq!(run.input_of("tell"), r#"{"data":{"left":3},"message_type":"Reserved","stream":"order-7"}"#);
    run.complete("tell", "null");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
    let mut run = Sim::start(text, r#"{"id":7}"#);
    run.fail("reserve", r#"{"class":"sql.error","message":"none left"}"#);
    assert_eq!(
        (run.status(), run.error_class()),
        (RunStatus::Failed, "sql.error".into()),
        "not retried by default"
    );
}

#[test]
fn only_the_first_answer_counts() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"respond","with":{"status":201,"headers":{"x-n":"{{ .input.n }}"},"body":{"n":"{{ .input.n }}"}}},
        {"id":"b","type":"respond","with":{}}],"edges":[{"from":"a","to":"b"}]}"#;
    let run = Sim::start(text, r#"{"n":1}"#);
    let response = run.state.response.clone().unwrap();
    assert_eq!((response.status, response.headers.unwrap().to_string()), (201, r#"{"x-n":"1"}"#.into()));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "respond.twice".into()));
    run.verify();
}

#[test]
fn all_attempts_together_are_bounded_by_the_total_timeout() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"task","total_timeout":"90s",
        "retry":{"max_attempts":10,"initial":"1m","jitter":"none"}},{"id":"late","type":"transform","with":{"output":"late"}}],
        "edges":[{"from":"a","port":"timeout","to":"late"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.fail("a", r#""x""#);
    assert_eq!(run.due_in_ms("a"), 60_000);
    run.fire("a");
    assert_eq!(run.open(), ["a"]);
    run.fire("a");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"late":"late"}"#.into()));
    assert_eq!(run.dropped, ["a"], "the job is taken back");
    run.verify();
}

#[test]
fn no_attempt_begins_after_the_time_for_retries_or_for_the_node() {
    for limit in [r#""total_timeout":"30s","retry":{"#, r#""retry":{"max_elapsed":"30s","#] {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"task",{limit}"max_attempts":10,"initial":"1m","jitter":"none"}}}}]}}"#
        );
        let mut run = Sim::start(&text, "{}");
        run.fail("a", r#"{"class":"gone","message":"x"}"#);
        assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "gone".into()), "{limit}");
        run.verify();
    }
}

#[test]
fn retries_can_be_limited_to_some_errors() {
    let text = |retry: &str| {
        format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"http","with":{{"url":"http://x/"}},"retry":{{"max_attempts":3,{retry}}}}}]}}"#
        )
    };
    for (retry, answer, expected) in [
        (r#""only_on":["5xx"]"#, r#"{"status":500}"#, RunStatus::Running),
        (r#""only_on":["5xx"]"#, r#"{"status":429}"#, RunStatus::Failed),
        (r#""only_on":[404]"#, r#"{"status":404}"#, RunStatus::Running),
        (r#""never_on":["http.*"]"#, r#"{"status":500}"#, RunStatus::Failed),
        (r#""never_on":["timeout"]"#, r#"{"status":500}"#, RunStatus::Running),
    ] {
        let mut run = Sim::start(&text(retry), "{}");
        run.complete("a", answer);
        assert_eq!(run.status(), expected, "{retry} {answer}");
        run.verify();
    }
}

#[test]
fn a_run_that_takes_too_long_fails() {
    let text = WAIT.replace(r#""name":"w","#, r#""name":"w","timeout":"1h","#);
    let mut run = Sim::start(&text, "{}");
    run.fire("");
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "timeout".into()));
    run.verify();
}

#[test]
fn a_delay_until_a_time_waits_for_it() {
    let text = r#"{"name":"w","nodes":[{"id":"d","type":"delay","with":{"until":"{{ .input.at }}"}}]}"#;
    let mut run = Sim::start(text, r#"{"at":"2030-01-01T00:00:00Z"}"#);
    assert_eq!(run.state.nodes["d"].due_at.unwrap().to_string(), "2030-01-01T00:00:00.000000Z");
    run.fire("d");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
    assert_eq!(Sim::start(text, r#"{"at":"soon"}"#).error_class(), "delay.until");
}

#[test]
fn a_branch_may_be_a_condition() {
    let text = r#"{"name":"w","nodes":[{"id":"b","type":"branch","with":{"when":".input.n > 1"}},{"id":"y","type":"transform","with":{"output":"y"}},
        {"id":"n","type":"transform","with":{"output":"n"}}],"edges":[{"from":"b","port":"true","to":"y"},{"from":"b","port":"false","to":"n"}]}"#;
    assert_eq!(Sim::start(text, r#"{"n":2}"#).output(), r#"{"y":"y"}"#);
    assert_eq!(Sim::start(text, r#"{"n":1}"#).output(), r#"{"n":"n"}"#);
}

#[test]
fn what_happens_during_a_pause_counts_when_the_run_goes_on() {
    let mut run = Sim::start(WAIT, "{}");
    run.take(&Fact::Pause(RunPaused { reason: Some("hold".into()) }));
    assert_eq!(run.status(), RunStatus::Paused);
    run.complete("first", "1");
    run.signal("paid", "9");
    assert_eq!((run.status(), run.open()), (RunStatus::Paused, vec!["first"]), "nothing is decided");
    assert_eq!(run.events_of("fact.deferred"), 2);
    run.take(&Fact::Resume(RunResumed {}));
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"paid":9}"#.into()));
    run.verify();

    let mut run = Sim::start(WAIT, "{}");
    run.take(&Fact::Pause(RunPaused::default()));
    run.complete("first", "1");
    run.cancel(None);
    assert_eq!(run.status(), RunStatus::Canceled);
    run.verify();
}

#[test]
fn a_redriven_run_does_again_what_failed_and_keeps_what_succeeded() {
    let text = r#"{"name":"w","nodes":[{"id":"a","type":"task"},{"id":"each","type":"map","with":{"items":[1,2,3],
        "body":{"nodes":[{"id":"call","type":"task","retry":{"max_attempts":1}}]}}}],"edges":[{"from":"a","to":"each"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.complete("a", "1");
    run.complete("each/0/call", "10");
    run.fail("each/1/call", r#""x""#);
    assert_eq!(run.status(), RunStatus::Failed);
    run.take(&Fact::Redrive(RunRedriven::default()));
    assert_eq!(run.open(), ["each/1/call", "each/2/call"]);
    run.complete("each/1/call", "20");
    run.complete("each/2/call", "30");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "[10,20,30]".into()));
    run.verify();
    let before = run.log.len();
    run.take(&Fact::Redrive(RunRedriven::default()));
    assert_eq!(run.log.len(), before, "a run that succeeded has nothing to do again");
}

const SAGA: &str = r#"{"name":"w","on_failure":"alarm","nodes":[
    {"id":"reserve","type":"task","compensate":{"type":"task","with":{"input":{"undo":"{{ .nodes.reserve.output }}","why":"{{ .error.class }}"}}}},
    {"id":"charge","type":"task","compensate":{"type":"task","retry":{"max_attempts":2,"initial":"1s"}}},
    {"id":"side","type":"task"},
    {"id":"ship","type":"task","retry":{"max_attempts":1}}],
    "edges":[{"from":"reserve","to":"charge"},{"from":"charge","to":"ship"},{"from":"reserve","to":"side"}]}"#;

#[test]
fn a_failure_undoes_what_was_done_in_reverse_order() {
    let mut run = Sim::start(SAGA, "{}");
    run.complete("reserve", "11");
    run.complete("charge", "22");
    run.fail("ship", r#"{"class":"lost","message":"x"}"#);
    assert_eq!((run.status(), run.open()), (RunStatus::Running, vec!["charge/compensate"]));
    assert_eq!(run.dropped, ["side"], "what is open is canceled first");
    run.complete("side", "1");
    run.fail("charge/compensate", r#""not now""#);
    run.fire("charge/compensate");
    run.complete("charge/compensate", "null");
    assert_eq!(run.input_of("reserve/compensate"), r#"{"undo":11,"why":"lost"}"#);
    assert_eq!(run.events_of("run.failed"), 0);
    run.complete("reserve/compensate", "null");
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "lost".into()));
    assert_eq!(run.events_of("run.handler_started"), 1);
    run.verify();
}

#[test]
fn what_cannot_be_undone_is_said_and_does_not_hide_the_error() {
    let mut run = Sim::start(SAGA, "{}");
    run.complete("reserve", "11");
    run.complete("charge", "22");
    run.fail("ship", r#"{"class":"lost","message":"x"}"#);
    run.fail("charge/compensate", r#"{"message":"never","retryable":false}"#);
    run.complete("reserve/compensate", "null");
    assert_eq!(run.error_class(), "lost");
    let Event::RunFailed(failed) = &run.log.last().unwrap().event else { panic!("not failed") };
    assert_eq!(failed.uncompensated, ["charge".into()]);
    run.verify();
}

#[test]
fn a_cancel_waits_for_what_has_to_be_undone_and_a_kill_does_not() {
    let mut run = Sim::start(SAGA, "{}");
    run.complete("reserve", "11");
    run.cancel(Some("changed"));
    assert_eq!(run.open(), ["charge"], "whether it took effect must be known");
    run.complete("charge", "22");
    assert_eq!(run.open(), ["charge/compensate"]);
    run.complete("charge/compensate", "null");
    run.complete("reserve/compensate", "null");
    assert_eq!(run.status(), RunStatus::Canceled);
    run.verify();

    let mut run = Sim::start(SAGA, "{}");
    run.complete("reserve", "11");
    run.cancel(None);
    run.fail("charge", r#""no""#);
    assert_eq!(run.open(), ["reserve/compensate"], "what failed is not undone, nor tried again");
    run.take(&Fact::Cancel(Cancel { reason: None, kill: true, start: None }));
    assert_eq!(run.status(), RunStatus::Canceled);
    let Event::RunCanceled(canceled) = &run.log.last().unwrap().event else { panic!("not canceled") };
    assert_eq!(canceled.uncompensated, ["reserve".into()]);
    run.take(&Fact::Redrive(RunRedriven::default()));
    assert_eq!(run.status(), RunStatus::Canceled, "a killed run stays so");
    run.verify();
}

#[test]
fn bodies_are_undone_item_by_item() {
    let text = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":["x","y"],"body":{"nodes":[
        {"id":"book","type":"task","compensate":{"type":"task","with":{"input":["{{ .item }}","{{ .nodes.book.output }}"]}}}]}}},
        {"id":"pay","type":"task","retry":{"max_attempts":1}}],"edges":[{"from":"each","to":"pay"}]}"#;
    let mut run = Sim::start(text, "{}");
    run.complete("each/1/book", "1");
    run.complete("each/0/book", "0");
    run.fail("pay", r#""no""#);
    assert_eq!(run.input_of("each/0/book/compensate"), r#"["x",0]"#);
    run.complete("each/0/book/compensate", "null");
    assert_eq!(run.input_of("each/1/book/compensate"), r#"["y",1]"#);
    run.complete("each/1/book/compensate", "null");
    assert_eq!(run.status(), RunStatus::Failed);
    run.verify();
}

const ASK: &str = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":"{{ .input }}","body":{"nodes":[
    {"id":"ask","type":"task","with":{"input":{"to":"{{ .item }}","url":"{{ $resume.ok }}"}}},
    {"id":"ok","type":"wait","with":{"approval":{}}}],"edges":[{"from":"ask","to":"ok"}]}}}]}"#;

#[test]
fn a_resume_url_stands_as_a_placeholder_of_the_items_own_wait() {
    let first = Sim::start(ASK, r#"["a","b"]"#);
    let inputs: Vec<String> = (0..2).map(|i| first.input_of(&format!("each/{i}/ask"))).collect();
    let filled = |input: &str, seed: u64| fill(input, seed, |path| format!("<{path}>"));
    assert_eq!(filled(&inputs[0], 42), r#"{"to":"a","url":"<each/0/ok>"}"#);
    assert_eq!(filled(&inputs[1], 42), r#"{"to":"b","url":"<each/1/ok>"}"#);
    first.verify();
    // What comes in from outside stays what it is, even where it was a placeholder of another run.
    let placeholder = inputs[0].rsplit('"').nth(1).unwrap().to_owned();
    let workflow = first.workflow;
    let input = Json::array([Json::from(placeholder.as_str())]);
    let second = Sim::of(workflow, input, 43);
    let asked = second.input_of("each/0/ask");
    assert_eq!(filled(&asked, 43), format!(r#"{{"to":"{placeholder}","url":"<each/0/ok>"}}"#));
    second.verify();
}

#[test]
fn a_wait_takes_answers_while_it_waits_and_is_past_after_its_end() {
    let mut run = Sim::start(ASK, r#"["a","b"]"#);
    let stand = |run: &Sim, path: &str| standing(&run.state, path);
    assert_eq!(stand(&run, "each/0/ok"), Standing::Ahead);
    assert_eq!(stand(&run, "each/2/ok"), Standing::Past, "there is no such item");
    run.complete("each/0/ask", "1");
    assert_eq!(stand(&run, "each/0/ok"), Standing::Waiting);
    run.approve("each/0/ok", "anna", true);
    assert_eq!(stand(&run, "each/0/ok"), Standing::Past);
    assert_eq!(stand(&run, "each/1/ok"), Standing::Ahead);
    run.fail("each/1/ask", r#"{"class":"gone","message":"x","retryable":false}"#);
    assert_eq!((run.status(), stand(&run, "each/1/ok")), (RunStatus::Failed, Standing::Past));
    run.take(&Fact::Redrive(RunRedriven::default()));
    assert_eq!(stand(&run, "each/1/ok"), Standing::Ahead);
    run.verify();
}
