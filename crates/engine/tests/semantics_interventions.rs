//! What people change by hand: editing, skipping, going on from a node, forking: rule by rule.

mod common;

use std::sync::Arc;

use common::Sim;
use meshhook_engine::decide::refusal;
use meshhook_engine::event::{Event, NodeOverridden, RunEdited, RunPaused, RunRedriven, RunResumed};
use meshhook_engine::fact::Fact;
use meshhook_engine::json::Json;
use meshhook_engine::state::{NodeStatus, RunStatus};

const CHAIN: &str = r#"{"name":"w","vars":{"limit":1,"unit":"kg"},"nodes":[
    {"id":"a","type":"task","retry":{"max_attempts":1}},
    {"id":"b","type":"task","retry":{"max_attempts":1},"with":{"input":"{{ .nodes.a.output }}/{{ .vars.limit }}{{ .vars.unit }}"}},
    {"id":"c","type":"task","with":{"input":"{{ .input }}-{{ .nodes.b.output }}"}},
    {"id":"aside","type":"task"},{"id":"end","type":"transform","with":{"output":"done"}}],
    "edges":[{"from":"a","to":"b"},{"from":"b","to":"c"},{"from":"c","to":"end"},{"from":"aside","to":"end"}]}"#;

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn edit(vars: Option<&str>, outputs: &[(&str, &str)]) -> Fact {
    let outputs = outputs.iter().map(|(path, output)| (Arc::from(*path), json(output))).collect();
    Fact::Edit(RunEdited { reason: Some("because".into()), vars: vars.map(json), outputs })
}

fn skip(node: &str, port: Option<&str>, output: &str) -> Fact {
    let (node, port, output) = (Arc::from(node), port.map(Arc::from), json(output));
    Fact::Override(NodeOverridden { node, port, output, reason: Some("because".into()) })
}

fn from(node: &str) -> Fact {
    Fact::Redrive(RunRedriven { from: Some(node.into()), ..RunRedriven::default() })
}

/// Hands over an intervention that must be refused, and says why it was.
fn refused(run: &mut Sim, fact: &Fact) -> String {
    let reason = refusal(&run.workflow, &run.state, fact).expect("it is refused");
    let before = run.log.len();
    run.take(fact);
    assert_eq!(run.log.len(), before, "what is refused leaves no event");
    reason
}

/// The input of a node's newest job.
fn last_input(run: &Sim, id: &str) -> String {
    let scheduled = run.log.iter().rev().find_map(|event| match &event.event {
        Event::NodeScheduled(scheduled) if &*scheduled.node == id => scheduled.input.clone(),
        _ => None,
    });
    scheduled.unwrap().to_string()
}

#[test]
fn an_edit_counts_for_what_is_rendered_after_it() {
    let mut run = Sim::start(CHAIN, "1");
    run.complete("a", "10");
    assert_eq!(run.input_of("b"), r#""10/1kg""#);
    let seen = run.state.clone();
    run.take(&edit(Some(r#"{"limit":2}"#), &[("a", "20")]));
    assert_eq!(run.input_of("b"), r#""10/1kg""#, "a job under way keeps its input");
    assert_eq!(run.state.nodes["a"].output, Some(json("20")));
    assert_eq!(run.state.vars, Some(json(r#"{"limit":2,"unit":"kg"}"#)), "the other variables stay");
    run.fail("b", r#""no""#);
    run.take(&Fact::Redrive(RunRedriven::default()));
    assert_eq!(last_input(&run, "b"), r#""20/2kg""#);
    run.verify();
    // To either side of it the log gives what was seen then.
    let edited = run.log.iter().position(|event| matches!(event.event, Event::RunEdited(_))).unwrap();
    assert_eq!(meshhook_engine::state::RunState::fold(&run.log[..edited]).unwrap(), seen);
}

#[test]
fn an_edit_that_could_change_nothing_is_refused() {
    let mut run = Sim::start(CHAIN, "1");
    assert_eq!(refused(&mut run, &edit(None, &[])), "there is nothing to change");
    assert_eq!(refused(&mut run, &edit(Some("3"), &[])), "variables are an object");
    assert_eq!(refused(&mut run, &edit(None, &[("a", "1")])), "node \"a\" has no output");
    assert_eq!(
        refused(&mut run, &edit(None, &[("b", "1")])),
        "node \"b\" has not been reached, or its item is done"
    );
    run.complete("a", "1");
    run.cancel(None);
    assert_eq!(refused(&mut run, &edit(None, &[("a", "1")])), "the run has ended");
}

#[test]
fn a_node_settled_by_hand_takes_its_port_and_drops_its_work() {
    let mut run = Sim::start(CHAIN, "1");
    run.take(&skip("a", None, "5"));
    assert_eq!(run.dropped, ["a"], "nobody has to do it any more");
    assert_eq!(run.input_of("b"), r#""5/1kg""#);
    run.complete_attempt("a", 1, "6");
    assert_eq!(run.state.nodes["a"].output, Some(json("5")), "the report comes too late");
    assert_eq!(refused(&mut run, &skip("a", None, "7")), "node \"a\" is not open");
    assert_eq!(refused(&mut run, &skip("c", None, "7")), "node \"c\" is not open");
    assert_eq!(
        refused(&mut run, &skip("b", Some("left"), "7")),
        "node \"b\" has no port \"left\", but \"out\""
    );
    run.verify();
}

#[test]
fn an_approval_and_a_map_can_be_settled_by_hand() {
    let definition = r#"{"name":"w","nodes":[{"id":"ask","type":"wait","with":{"approval":{}}},
        {"id":"each","type":"map","with":{"items":"{{ [1,2] }}","body":{"nodes":[{"id":"do","type":"task"}]}}},
        {"id":"yes","type":"task"},{"id":"end","type":"transform","with":{"output":"{{ .nodes.each.output }}"}}],
        "edges":[{"from":"ask","port":"approved","to":"yes"},{"from":"yes","to":"end"},{"from":"each","to":"end"}]}"#;
    let mut run = Sim::start(definition, "1");
    assert!(refused(&mut run, &skip("ask", None, "1")).contains("\"approved\""));
    run.take(&skip("ask", Some("approved"), "1"));
    run.take(&skip("each", None, "[]"));
    assert_eq!(run.open(), ["yes"], "what the body was doing is over");
    let mut dropped = run.dropped.clone();
    dropped.sort();
    dropped.retain(|path| path.starts_with("each/"));
    assert_eq!(dropped, ["each/0/do", "each/1/do"]);
    run.complete("yes", "1");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
}

#[test]
fn what_cannot_be_undone_can_be_called_undone() {
    let definition = r#"{"name":"w","nodes":[
        {"id":"pay","type":"task","compensate":{"type":"task"}},{"id":"ship","type":"task","retry":{"max_attempts":1}}],
        "edges":[{"from":"pay","to":"ship"}]}"#;
    let mut run = Sim::start(definition, "1");
    run.complete("pay", "1");
    run.fail("ship", r#""no""#);
    assert_eq!(run.open(), ["pay/compensate"]);
    run.take(&skip("pay/compensate", None, r#""done by phone""#));
    assert_eq!((run.status(), run.state.uncompensated.len()), (RunStatus::Failed, 0));
    run.verify();
}

#[test]
fn during_a_pause_an_intervention_counts_at_once_and_what_follows_waits() {
    let mut run = Sim::start(CHAIN, "1");
    run.take(&Fact::Pause(RunPaused::default()));
    run.take(&skip("a", None, "5"));
    run.take(&edit(Some(r#"{"limit":9}"#), &[]));
    assert!(!run.state.nodes.contains_key("b"));
    run.take(&Fact::Resume(RunResumed {}));
    assert_eq!(run.input_of("b"), r#""5/9kg""#);
    run.verify();
}

#[test]
fn a_run_goes_on_from_a_node_with_all_that_follows_from_it() {
    let mut run = Sim::start(CHAIN, "1");
    run.complete("aside", "0");
    run.complete("a", "1");
    assert!(refused(&mut run, &from("a")).starts_with("the run is running"));
    run.fail("b", r#""no""#);
    assert_eq!(refused(&mut run, &from("x")), "there is no node \"x\" outside of bodies");
    assert_eq!(refused(&mut run, &from("c")), "node \"c\" has not been reached");
    run.take(&from("a"));
    assert_eq!(run.open(), ["a"], "what does not follow from it is kept");
    run.complete("a", "2");
    assert_eq!(last_input(&run, "b"), r#""2/1kg""#);
    run.complete("b", "3");
    run.complete("c", "4");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
}

#[test]
fn a_run_goes_on_with_an_output_given_by_hand() {
    let mut run = Sim::start(CHAIN, "1");
    run.complete("aside", "0");
    run.complete("a", "1");
    run.fail("b", r#""no""#);
    let outputs = [(Arc::from("b"), json("7"))].into_iter().collect();
    run.take(&Fact::Redrive(RunRedriven { outputs, ..RunRedriven::default() }));
    assert_eq!((run.open(), run.input_of("c")), (vec!["c"], r#""1-7""#.into()));
    run.complete("c", "4");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
}

#[test]
fn an_answer_that_was_given_does_not_stop_a_run_that_goes_on_from_before_it() {
    let definition = r#"{"name":"w","nodes":[{"id":"check","type":"task"},{"id":"answer","type":"respond","with":{"body":1}},
        {"id":"work","type":"task","retry":{"max_attempts":1}}],
        "edges":[{"from":"check","to":"answer"},{"from":"answer","to":"work"}]}"#;
    let mut run = Sim::start(definition, "1");
    run.complete("check", "1");
    run.fail("work", r#""no""#);
    run.take(&from("check"));
    run.complete("check", "2");
    run.complete("work", "3");
    assert_eq!((run.status(), run.events_of("run.responded")), (RunStatus::Succeeded, 1));
    run.verify();
}

#[test]
fn an_output_given_by_hand_is_kept_although_its_node_follows_from_another() {
    let mut run = Sim::start(CHAIN, "1");
    run.complete("aside", "0");
    run.complete("a", "1");
    run.fail("b", r#""no""#);
    let outputs = [(Arc::from("b"), json("7"))].into_iter().collect();
    run.take(&Fact::Redrive(RunRedriven { outputs, from: Some("a".into()), ..RunRedriven::default() }));
    assert_eq!((run.open(), run.input_of("c")), (vec!["a", "c"], r#""1-7""#.into()));
    run.cancel(None);
    let outputs = [(Arc::from("each/0/x"), json("7"))].into_iter().collect();
    let in_body = Fact::Redrive(RunRedriven { outputs, ..RunRedriven::default() });
    assert!(refused(&mut run, &in_body).contains("stands in a body"));
    let vars = Fact::Redrive(RunRedriven { vars: Some(json("[1]")), ..RunRedriven::default() });
    assert_eq!(refused(&mut run, &vars), "variables are an object");
    run.verify();
}

#[test]
fn a_run_that_was_undone_does_not_go_on_from_a_node() {
    let definition = r#"{"name":"w","nodes":[
        {"id":"pay","type":"task","compensate":{"type":"task"}},{"id":"ship","type":"task","retry":{"max_attempts":1}}],
        "edges":[{"from":"pay","to":"ship"}]}"#;
    let mut run = Sim::start(definition, "1");
    run.complete("pay", "1");
    run.cancel(None);
    run.complete("pay/compensate", "1");
    assert_eq!(refused(&mut run, &from("pay")), "what the run did has been undone");
    run.verify();
}

#[test]
fn a_fork_begins_anew_what_was_under_way() {
    let mut run = Sim::start(CHAIN, r#""old""#);
    run.complete("a", "1");
    run.fail("b", r#""no""#);
    assert_eq!(run.status(), RunStatus::Failed);
    let source = run.log.clone();
    run.fork(None, Some(r#""new""#));
    assert_eq!(run.open(), ["aside", "b"], "the attempt that failed the run is made again");
    assert_eq!(run.state.forked_from.as_deref(), Some(common::RUN));
    run.complete("aside", "0");
    run.complete("b", "2");
    assert_eq!(run.input_of("c"), r#""new-2""#);
    run.complete("c", "3");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
    let copied = run.log.iter().position(|event| matches!(event.event, Event::RunForked(_))).unwrap();
    assert_eq!(run.log[..copied], source[..copied]);
    // A fork of a fork.
    run.fork(Some(3), None);
    assert_eq!(run.open(), ["a", "aside"]);
    run.verify();
}

#[test]
fn a_fork_of_a_run_that_went_on_after_its_end_is_cut_where_it_stands() {
    let mut run = Sim::start(CHAIN, "1");
    run.fail("a", r#""no""#);
    run.take(&Fact::Redrive(RunRedriven::default()));
    run.complete("a", "1");
    run.fork(None, None);
    assert_eq!(run.open(), ["aside", "b"], "what was done since is not done again");
    run.verify();
}

#[test]
fn a_fork_of_a_paused_run_leaves_behind_what_was_reported_to_the_other() {
    let mut run = Sim::start(CHAIN, "1");
    run.take(&Fact::Pause(RunPaused::default()));
    run.fail("a", r#""no""#);
    run.signal("kept", "1");
    run.fork(None, None);
    assert_eq!(run.state.deferred.len(), 1, "a signal is no report");
    run.take(&Fact::Resume(RunResumed {}));
    assert_eq!((run.status(), run.open()), (RunStatus::Running, vec!["a", "aside"]));
    run.complete("a", "1");
    assert_eq!(run.open(), ["aside", "b"]);
    run.verify();
}

#[test]
fn a_fork_is_cut_between_two_facts() {
    let mut run = Sim::start(CHAIN, "1");
    run.complete("a", "1");
    // The report of a is event 4; that b follows from it is event 5.
    assert_eq!(run.log[3].event.type_name(), "node.succeeded");
    run.fork(Some(4), None);
    assert_eq!(run.open(), ["a", "aside"]);
    assert_eq!(run.log[3].event.type_name(), "run.forked");
    run.verify();
}

#[test]
fn a_fork_waits_for_its_own_children_and_nobody_waits_for_it() {
    let definition = r#"{"name":"w","nodes":[{"id":"sub","type":"workflow","with":{"workflow":"other","input":1}},
        {"id":"nap","type":"delay","with":{"duration":"1h"}},{"id":"end","type":"transform","with":{"output":1}}],
        "edges":[{"from":"sub","to":"end"},{"from":"nap","to":"end"}]}"#;
    let mut run = Sim::start(definition, "1");
    let child = run.state.nodes["sub"].child.clone().unwrap();
    let due = run.state.nodes["nap"].due_at;
    run.fork(None, None);
    let own = run.state.nodes["sub"].child.clone().unwrap();
    assert_ne!(child.run, own.run);
    assert_eq!(run.state.nodes["nap"].due_at, due, "a time that was set stays");
    assert_eq!(run.state.nodes["nap"].status, NodeStatus::Waiting);
    run.child_ended("sub", RunStatus::Succeeded, Some("2"));
    run.fire("nap");
    assert_eq!(run.status(), RunStatus::Succeeded);
    run.verify();
}
