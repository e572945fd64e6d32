//! Maps and repeats, rule by rule.

mod common;

use common::Sim;
use meshhook_engine::state::RunStatus;

fn map(with: &str) -> String {
    format!(
        r#"{{"name":"w","nodes":[{{"id":"each","type":"map","with":{{"items":"{{{{ .input }}}}",{with}
            "body":{{"nodes":[{{"id":"call","type":"task","with":{{"input":{{"n":"{{{{ .item }}}}","i":"{{{{ .index }}}}"}}}},"retry":{{"max_attempts":1}}}},
                              {{"id":"double","type":"transform","with":{{"output":"{{{{ .nodes.call.output * 2 }}}}"}}}}],
                    "edges":[{{"from":"call","to":"double"}}]}}}}}}]}}"#
    )
}

#[test]
fn a_map_gathers_results_in_the_order_of_its_items() {
    let mut run = Sim::start(&map(""), "[10,20,30]");
    assert_eq!(run.open(), ["each/0/call", "each/1/call", "each/2/call"]);
    assert_eq!(run.input_of("each/1/call"), r#"{"i":1,"n":20}"#);
    for (item, output) in [("each/2/call", "3"), ("each/0/call", "1"), ("each/1/call", "2")] {
        run.complete(item, output);
        run.verify();
    }
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "[2,4,6]".into()));
    assert!(!run.state.nodes.contains_key("each/0/call"), "what a body did is forgotten");
}

#[test]
fn a_map_of_nothing_succeeds_at_once() {
    let run = Sim::start(&map(""), "[]");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "[]".into()));
    run.verify();
    assert_eq!(Sim::start(&map(""), "{}").error_class(), "map.items");
}

#[test]
fn no_more_items_are_under_way_than_the_concurrency_says() {
    let mut run = Sim::start(&map(r#""concurrency":2,"#), "[1,2,3,4]");
    assert_eq!(run.open(), ["each/0/call", "each/1/call"]);
    run.complete("each/1/call", "1");
    assert_eq!(run.open(), ["each/0/call", "each/2/call"]);
    run.verify();
}

#[test]
fn an_item_that_fails_fails_the_map_and_cancels_the_others() {
    let mut run = Sim::start(&map(""), "[1,2,3]");
    run.fail("each/1/call", r#""broken""#);
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "map.failed".into()));
    assert_eq!(run.dropped, ["each/0/call", "each/2/call"].map(String::from).to_vec().as_slice());
    run.verify();
}

#[test]
fn a_map_tolerates_as_many_failures_as_it_says() {
    for (tolerance, ends) in [
        (r#""tolerance":{"count":1},"#, [false, true, true]),
        (r#""tolerance":{"percentage":50},"#, [false, true, true]),
    ] {
        let mut run = Sim::start(&map(tolerance), "[1,2,3]");
        run.fail("each/0/call", r#""broken""#);
        assert_eq!(run.status().is_terminal(), ends[0], "{tolerance}");
        run.fail("each/1/call", r#""broken""#);
        assert_eq!(
            (run.status(), run.error_class()),
            (RunStatus::Failed, "map.failed".into()),
            "{tolerance}"
        );
        run.verify();
    }
    let mut run = Sim::start(&map(r#""tolerance":{"count":1},"#), "[1,2]");
    run.fail("each/0/call", r#""broken""#);
    run.complete("each/1/call", "4");
    assert_eq!(run.status(), RunStatus::Succeeded);
    assert!(
        run.output().ends_with(r#","status":"failed"},{"output":8,"status":"succeeded"}]"#),
        "{}",
        run.output()
    );
    run.verify();
}

#[test]
fn bodies_may_be_nested_and_see_what_is_around_them() {
    let text = r#"{"name":"w","nodes":[{"id":"base","type":"transform","with":{"output":100}},
        {"id":"rows","type":"map","with":{"items":"{{ .input }}","body":{"nodes":[
            {"id":"first","type":"transform","with":{"output":"{{ .item[0] }}"}},
            {"id":"cells","type":"map","with":{"items":"{{ .item }}","body":{"nodes":[
                {"id":"sum","type":"transform","with":{"output":"{{ .item + .index + .nodes.base.output + .nodes.first.output }}"}}]}}}],
            "edges":[{"from":"first","to":"cells"}]}}}],
        "edges":[{"from":"base","to":"rows"}]}"#;
    let run = Sim::start(text, "[[1,2],[3]]");
    assert_eq!(
        run.output(),
        r#"[{"cells":[102,104]},{"cells":[106]}]"#.replace(r#"{"cells":"#, "").replace("}", "")
    );
    run.verify();
}

#[test]
fn a_map_may_start_a_workflow_for_each_item() {
    let text = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":"{{ .input }}","body":{"workflow":"child","input":{"n":"{{ .item }}"}}}}]}"#;
    let mut run = Sim::start(text, "[5]");
    run.child_ended("each/0/workflow", RunStatus::Succeeded, Some("6"));
    assert_eq!(run.output(), "[6]");
    run.verify();
}

#[test]
fn ten_thousand_items_let_others_have_their_turn() {
    let text = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":"{{ .input }}","body":{"nodes":[{"id":"t","type":"transform","with":{"output":"{{ .item }}"}}]}}}]}"#;
    let items: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let mut run = Sim::start(text, &format!("[{}]", items.join(",")));
    let mut turns = 0;
    while !run.status().is_terminal() {
        assert_eq!(run.waiting(), ["each"]);
        run.fire("each");
        turns += 1;
    }
    assert!((20..60).contains(&turns), "{turns} turns");
    assert_eq!(run.output().len(), items.join(",").len() + 2);
    run.verify();
}

fn repeat(with: &str) -> String {
    format!(
        r#"{{"name":"w","nodes":[{{"id":"poll","type":"repeat","with":{{"until":".nodes.ask.output.done and .item.done",{with}
            "body":{{"nodes":[{{"id":"ask","type":"task","with":{{"input":{{"i":"{{{{ .index }}}}","before":"{{{{ .item }}}}"}}}},"retry":{{"max_attempts":1}}}}]}}}}}}]}}"#
    )
}

#[test]
fn a_repeat_goes_on_until_its_condition_holds() {
    let mut run = Sim::start(&repeat(r#""max_iterations":5,"delay":"10s","#), "{}");
    run.complete("poll/0/ask", r#"{"done":false}"#);
    assert_eq!(run.due_in_ms("poll"), 10_000);
    run.fire("poll");
    assert_eq!(run.input_of("poll/1/ask"), r#"{"before":{"done":false},"i":1}"#);
    run.complete("poll/1/ask", r#"{"done":true}"#);
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"done":true}"#.into()));
    run.verify();
}

#[test]
fn a_repeat_that_never_succeeds_fails_with_what_came_last() {
    let mut run = Sim::start(&repeat(r#""max_iterations":2,"#), "{}");
    run.complete("poll/0/ask", r#"{"done":false}"#);
    run.complete("poll/1/ask", r#"{"done":false}"#);
    assert_eq!(run.error_class(), "repeat.exhausted");
    run.verify();
    let mut run = Sim::start(&repeat(r#""max_iterations":2,"#), "{}");
    run.fail("poll/0/ask", r#"{"class":"gone","message":"x"}"#);
    assert_eq!(run.error_class(), "gone", "a repeat fails with the error of its body");
    run.verify();
}

#[test]
fn a_repeat_that_does_nothing_but_count_does_not_hold_up_others() {
    let text = r#"{"name":"w","nodes":[{"id":"spin","type":"repeat","with":{"until":"false","max_iterations":100000,
        "body":{"nodes":[{"id":"t","type":"transform","with":{"output":1}}]}}}]}"#;
    let mut run = Sim::start(text, "{}");
    assert!(run.log.len() < 1_100);
    assert_eq!(run.waiting(), ["spin"]);
    run.fire("spin");
    run.verify();
}

#[test]
fn a_body_that_takes_too_long_in_all_is_canceled() {
    let text = map("").replace(r#""type":"map","#, r#""type":"map","timeout":"1h","#);
    let mut run = Sim::start(&text, "[1,2]");
    run.fire("each");
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "timeout".into()));
    run.verify();
}

#[test]
fn a_failure_handled_in_a_body_is_the_bodys_own_matter() {
    let text = r#"{"name":"w","nodes":[{"id":"each","type":"map","with":{"items":[1,2],"body":{"nodes":[
        {"id":"call","type":"task","retry":{"max_attempts":1}},{"id":"instead","type":"transform","with":{"output":"{{ .error.class }}"}}],
        "edges":[{"from":"call","port":"error","to":"instead"}]}}}]}"#;
    let mut run = Sim::start(text, "{}");
    run.fail("each/0/call", r#"{"class":"gone","message":"x"}"#);
    run.complete("each/1/call", "5");
    assert_eq!(
        (run.status(), run.output()),
        (RunStatus::Succeeded, r#"[{"instead":"gone"},{"call":5}]"#.into())
    );
    run.verify();
}

#[test]
fn a_map_that_fails_may_be_handled_too() {
    let handler = r#",{"id":"sorry","type":"transform","with":{"output":"{{ .error.details.index }}"}}],
        "edges":[{"from":"each","port":"error","to":"sorry"}]}"#;
    let text = format!("{}{handler}", map("").strip_suffix("]}").unwrap());
    let mut run = Sim::start(&text, "[1,2]");
    run.fail("each/1/call", r#""broken""#);
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"sorry":1}"#.into()));
    run.verify();
}
