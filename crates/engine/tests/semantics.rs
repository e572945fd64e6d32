//! The semantics table of the design, rule by rule: ports, joins, skipping, failure, output, retries.

mod common;

use common::Sim;
use meshhook_engine::decide::LIMIT_EVENTS;
use meshhook_engine::error::ErrorInfo;
use meshhook_engine::event::Event;
use meshhook_engine::fact::{Fact, Quarantine};
use meshhook_engine::json::Json;
use meshhook_engine::state::{RunState, RunStatus};

const DIAMOND: &str = r#"{"name":"w","nodes":[
    {"id":"a","type":"task"},{"id":"b","type":"task"},{"id":"c","type":"task"},{"id":"d","type":"task"}],
    "edges":[{"from":"a","to":"b"},{"from":"a","to":"c"},{"from":"b","to":"d"},{"from":"c","to":"d"}]}"#;

#[test]
fn join_all_waits_for_every_edge() {
    let mut run = Sim::start(DIAMOND, "{}");
    run.complete("a", "1");
    assert_eq!(run.open(), ["b", "c"]);
    run.complete("c", "3");
    assert_eq!(run.open(), ["b"]);
    run.complete("b", "2");
    assert_eq!(run.open(), ["d"]);
    run.complete("d", "4");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "4".into()));
    run.verify();
}

#[test]
fn the_order_of_independent_completions_does_not_change_the_outcome() {
    for order in [["b", "c"], ["c", "b"]] {
        let mut run = Sim::start(DIAMOND, "{}");
        run.complete("a", "1");
        order.iter().for_each(|node| run.complete(node, "2"));
        run.complete("d", "4");
        assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "4".into()));
        run.verify();
    }
}

#[test]
fn join_any_fires_at_the_first_edge_and_ignores_later_ones() {
    let text = DIAMOND.replace(r#"{"id":"d","type":"task"}"#, r#"{"id":"d","type":"task","join":"any"}"#);
    let mut run = Sim::start(&text, "{}");
    run.complete("a", "1");
    run.complete("b", "2");
    assert_eq!(run.open(), ["c", "d"]);
    run.complete("d", "4");
    assert_eq!(run.status(), RunStatus::Running, "the run waits for what is open");
    run.complete("c", "3");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "4".into()));
    run.verify();
}

const BRANCH: &str = r#"{"name":"w","nodes":[
    {"id":"big","type":"branch","with":{"cases":[{"port":"yes","when":".input.total > 100"}],"default":"no"}},
    {"id":"review","type":"task"},{"id":"file","type":"task"},{"id":"auto","type":"task"},
    {"id":"done","type":"transform","with":{"output":{"by":"{{ .nodes.review.output // .nodes.auto.output }}"}}}],
    "edges":[{"from":"big","port":"yes","to":"review"},{"from":"review","to":"file"},{"from":"big","port":"no","to":"auto"},
             {"from":"file","to":"done"},{"from":"auto","to":"done"}]}"#;

#[test]
fn dead_paths_are_skipped_onward_and_do_not_hang_a_join() {
    let mut run = Sim::start(BRANCH, r#"{"total":5}"#);
    assert_eq!(run.open(), ["auto"]);
    assert_eq!(run.events_of("node.skipped"), 2);
    run.complete("auto", r#""machine""#);
    assert_eq!(run.output(), r#"{"by":"machine"}"#);
    run.verify();

    let mut run = Sim::start(BRANCH, r#"{"total":500}"#);
    run.complete("review", r#""person""#);
    run.complete("file", "null");
    assert_eq!(run.output(), r#"{"by":"person"}"#);
    run.verify();
}

#[test]
fn a_join_of_either_kind_is_skipped_once_every_edge_is_dead() {
    for join in ["all", "any"] {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"b","type":"branch","with":{{"when":"false"}}}},{{"id":"x","type":"task"}},{{"id":"y","type":"task"}},
                {{"id":"j","type":"task","join":"{join}"}},{{"id":"end","type":"task"}}],"edges":[{{"from":"b","port":"true","to":"x"}},
                {{"from":"b","port":"true","to":"y"}},{{"from":"x","to":"j"}},{{"from":"y","to":"j"}},{{"from":"j","to":"end"}}]}}"#
        );
        let run = Sim::start(&text, "{}");
        assert_eq!(run.events_of("node.skipped"), 4);
        assert_eq!(
            (run.status(), run.output()),
            (RunStatus::Succeeded, "null".into()),
            "the only leaf was skipped"
        );
        run.verify();
    }
}

#[test]
fn work_of_executors_is_tried_five_times_and_other_work_once_unless_the_definition_says_more() {
    for (node, attempts) in [
        (r#""type":"task""#, 5),
        (r#""type":"http","with":{"url":"http://x/"}"#, 5),
        (r#""type":"task","retry":{"max_attempts":2}"#, 2),
        (r#""type":"sql","with":{"function":"app.f"}"#, 1),
        (r#""type":"sql","with":{"function":"app.f"},"retry":{}"#, 5),
    ] {
        let mut run = Sim::start(&format!(r#"{{"name":"w","nodes":[{{"id":"a",{node}}}]}}"#), "{}");
        let mut made = 1;
        run.fail("a", r#""no""#);
        while !run.status().is_terminal() {
            run.fire("a");
            run.fail("a", r#""no""#);
            made += 1;
        }
        assert_eq!(made, attempts, "{node}");
        run.verify();
    }
}

#[test]
fn the_time_of_an_attempt_goes_with_its_job() {
    for (node, job, request) in [
        (r#""type":"task","timeout":"90s""#, Some(90_000), None),
        (r#""type":"task""#, None, None),
        (r#""type":"http","with":{"url":"http://x/"},"timeout":"10s""#, None, Some("10000")),
        (r#""type":"http","with":{"url":"http://x/"}"#, None, Some("30000")),
        (r#""type":"sql","with":{"function":"app.f"}"#, Some(5_000), None),
    ] {
        let run = Sim::start(&format!(r#"{{"name":"w","nodes":[{{"id":"a",{node}}}]}}"#), "{}");
        assert_eq!(run.state.nodes["a"].job.as_ref().unwrap().timeout_ms, job, "{node}");
        let input = Json::parse(&run.input_of("a")).unwrap();
        assert_eq!(input.get("timeout_ms").map(Json::to_string).as_deref(), request, "{node}");
    }
}

#[test]
fn a_branch_without_a_match_and_default_fails() {
    let text =
        BRANCH.replace(r#","default":"no""#, "").replace(r#"{"from":"big","port":"no","to":"auto"},"#, "");
    let run = Sim::start(&text, r#"{"total":5}"#);
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "branch.no_match".into()));
    run.verify();
}

#[test]
fn failure_without_an_edge_ends_the_run_and_cancels_what_is_open() {
    let mut run = Sim::start(DIAMOND, "{}");
    run.complete("a", "1");
    run.fail("b", r#"{"message":"no","retryable":false}"#);
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "task".into()));
    assert!(run.open().is_empty());
    run.verify();
}

const GUARDED: &str = r#"{"name":"w","nodes":[
    {"id":"charge","type":"task","retry":{"max_attempts":2,"initial":"1s","jitter":"none"}},
    {"id":"ship","type":"task"},
    {"id":"refund","type":"transform","with":{"output":{"why":"{{ .error.class }}: {{ .error.message }}"}}},
    {"id":"late","type":"transform","with":{"output":"late"}}],
    "edges":[{"from":"charge","to":"ship"},{"from":"charge","port":"error","to":"refund"},
             {"from":"charge","port":"timeout","to":"late"}]}"#;

#[test]
fn an_error_edge_handles_the_failure_once_attempts_are_used_up() {
    let mut run = Sim::start(GUARDED, "{}");
    run.fail("charge", r#"{"class":"card.declined","message":"first"}"#);
    assert_eq!(run.waiting(), ["charge"]);
    run.fire("charge");
    assert_eq!(run.attempt("charge"), 2);
    run.fail("charge", r#"{"class":"card.declined","message":"second"}"#);
    assert_eq!(run.status(), RunStatus::Succeeded);
    assert_eq!(run.output(), r#"{"refund":{"why":"card.declined: second"}}"#);
    run.verify();
}

#[test]
fn delays_are_waited_one_by_one_and_an_error_tells_how_long_its_peer_asked_for() {
    let text = GUARDED
        .replace(r#""max_attempts":2,"initial":"1s","jitter":"none""#, r#""delays":["5s","5m"]"#)
        .replace("{{ .error.class }}: {{ .error.message }}", "{{ .error.retry_after_ms }}");
    let mut run = Sim::start(&text, "{}");
    for delay in [5_000, 300_000] {
        run.fail("charge", r#"{"class":"busy","message":"later","retry_after_ms":1000}"#);
        assert_eq!(run.due_in_ms("charge"), delay);
        run.fire("charge");
    }
    run.fail("charge", r#"{"class":"busy","message":"later","retry_after_ms":7000}"#);
    assert_eq!(run.output(), r#"{"refund":{"why":7000}}"#);
    run.verify();
}

#[test]
fn a_timeout_takes_the_timeout_edge_if_there_is_one() {
    let mut run = Sim::start(GUARDED, "{}");
    run.fail("charge", r#"{"class":"timeout","message":"slow"}"#);
    run.fire("charge");
    run.fail("charge", r#"{"class":"timeout","message":"slow"}"#);
    assert_eq!(run.output(), r#"{"late":"late"}"#);
    run.verify();

    let text = GUARDED
        .replace(
            r#",
             {"from":"charge","port":"timeout","to":"late"}"#,
            "",
        )
        .replace(
            r#",
    {"id":"late","type":"transform","with":{"output":"late"}}"#,
            "",
        );
    let mut run = Sim::start(&text, "{}");
    run.fail("charge", r#"{"class":"timeout","message":"slow","retryable":false}"#);
    assert_eq!(run.output(), r#"{"refund":{"why":"timeout: slow"}}"#);
}

#[test]
fn a_report_on_another_attempt_changes_nothing() {
    let mut run = Sim::start(GUARDED, "{}");
    run.fail("charge", r#"{"message":"first"}"#);
    let before = run.log.len();
    run.complete_attempt("charge", 1, "1");
    assert_eq!(run.log.len(), before, "attempt 1 is over");
    run.fire("charge");
    run.complete_attempt("charge", 1, "1");
    assert_eq!(run.open(), ["charge"], "attempt 2 is not attempt 1");
    run.verify();
}

#[test]
fn terminate_ends_the_run_at_once() {
    let text = r#"{"name":"w","nodes":[{"id":"slow","type":"task"},
        {"id":"stop","type":"terminate","with":{"status":"STATUS","output":{"n":"{{ .input.n }}"},"reason":"enough"}}],
        "edges":[{"from":"slow","port":"error","to":"stop"}]}"#;
    for (status, expected) in [
        ("succeeded", RunStatus::Succeeded),
        ("failed", RunStatus::Failed),
        ("canceled", RunStatus::Canceled),
    ] {
        let mut run = Sim::start(&text.replace("STATUS", status), r#"{"n":7}"#);
        run.fail("slow", r#"{"message":"x","retryable":false}"#);
        assert_eq!((run.status(), run.output()), (expected, r#"{"n":7}"#.into()));
        run.verify();
    }
}

#[test]
fn the_output_is_the_only_leafs_or_an_object_of_all() {
    let one = r#"{"name":"w","nodes":[{"id":"a","type":"transform","with":{"output":null}}]}"#;
    assert_eq!(Sim::start(one, "{}").output(), "null");
    let two = r#"{"name":"w","nodes":[{"id":"s","type":"transform","with":{"output":1}},
        {"id":"a","type":"transform","with":{"output":"{{ .nodes.s.output + 1 }}"}},{"id":"b","type":"transform","with":{"output":[]}}],
        "edges":[{"from":"s","to":"a"},{"from":"s","to":"b"}]}"#;
    let run = Sim::start(two, "{}");
    assert_eq!(run.output(), r#"{"a":2,"b":[]}"#);
    run.verify();
    // What would have ended the run otherwise has no part in it.
    let or_end = r#"{"name":"w","nodes":[{"id":"a","type":"task"},{"id":"b","type":"transform","with":{"output":1}},
        {"id":"stop","type":"terminate","with":{"status":"failed"}}],
        "edges":[{"from":"a","to":"b"},{"from":"a","port":"error","to":"stop"}]}"#;
    let mut run = Sim::start(or_end, "{}");
    run.complete("a", "0");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "1".into()));
    run.verify();
}

#[test]
fn a_delay_waits_for_its_timer() {
    let text =
        r#"{"name":"w","nodes":[{"id":"wait","type":"delay","with":{"duration":"{{ .input.wait }}"}}]}"#;
    let mut run = Sim::start(text, r#"{"wait":"90m"}"#);
    assert_eq!(run.due_in_ms("wait"), 5_400_000);
    run.fire("wait");
    assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, "null".into()));
    run.verify();
    let run = Sim::start(text, r#"{"wait":"soon"}"#);
    assert_eq!(run.error_class(), "delay.duration");
    run.verify();
}

#[test]
fn http_judges_the_answer() {
    let text = r#"{"name":"w","nodes":[{"id":"call","type":"http","with":{"method":"POST","url":"http://x/{{ .input.id }}",
        "headers":{"x-n":"{{ .input.n }}"},"body":{"t":"{{ .input.t }}"}},"retry":{"jitter":"none"}}]}"#;
    let input = r#"{"id":"a b","n":1.5,"t":[1]}"#;
    let run = Sim::start(text, r#"{"id":"9","n":1.5,"t":[1]}"#);
    let request = run.input_of("call");
    assert_eq!(
        request,
        r#"{"body":{"t":[1]},"headers":{"x-n":"1.5"},"method":"POST","timeout_ms":30000,"url":"http://x/9"}"#
    );
    assert_eq!(Sim::start(text, input).error_class(), "http.url", "a URL with a blank in it is refused");
    for (answer, expected) in [
        (r#"{"status":204}"#, RunStatus::Succeeded),
        (r#"{"status":404,"body":"no"}"#, RunStatus::Failed),
        (r#"{"status":302}"#, RunStatus::Failed),
        (r#"{"status":503}"#, RunStatus::Running),
        (r#"{"status":429,"retry_after_ms":90000}"#, RunStatus::Running),
        (r#"{"nonsense":1}"#, RunStatus::Running),
    ] {
        let mut run = Sim::start(text, r#"{"id":"9"}"#.replace("}", r#","n":1}"#).as_str());
        run.complete("call", answer);
        assert_eq!(run.status(), expected, "{answer}");
        run.verify();
    }
    let mut run = Sim::start(text, r#"{"id":"9","n":1}"#);
    run.complete("call", r#"{"status":429,"retry_after_ms":90000}"#);
    assert_eq!(run.due_in_ms("call"), 90_000);
}

#[test]
fn http_requests_take_every_form() {
    let request = |with: &str| {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"call","type":"http","with":{{"url":"http://x",{with}}}}}]}}"#
        );
        Sim::start(&text, r#"{"n":1,"s":"a\nb","bytes":"aGk="}"#).input_of("call")
    };
    for (with, sent) in [
        (r#""form":{"a":"{{ .input.s }}","n":"{{ .input.n }}"}"#, r#""form":{"a":"a\nb","n":1}"#),
        (
            r#""multipart":[{"name":"f","filename":"x.bin","base64":"{{ .input.bytes }}"},{"name":"n","value":"{{ .input.n }}"}]"#,
            r#""multipart":[{"base64":"aGk=","filename":"x.bin","name":"f"},{"name":"n","value":1}]"#,
        ),
        (r#""body_base64":"{{ .input.bytes }}""#, r#""body_base64":"aGk=""#),
        (r#""redirects":3"#, r#""redirects":3"#),
        (r#""first_byte_timeout":"2s""#, r#""first_byte_timeout_ms":2000"#),
        (r#""response":"text""#, r#""response":"text""#),
    ] {
        assert!(request(with).contains(sent), "{with}: {}", request(with));
    }
    // What is as it is anyway is not written into every log.
    let plain = request(r#""redirects":0,"response":"auto""#);
    assert_eq!(plain, r#"{"method":"GET","timeout_ms":30000,"url":"http://x"}"#);
}

#[test]
fn a_body_that_is_too_large_for_the_log_lies_beside_it() {
    let call = |with: &str, count: u32| {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"call","type":"http","with":{{"url":"http://x","method":"POST",{with}}}}}]}}"#
        );
        Sim::start(&text, &format!(r#"{{"n":{count}}}"#)).input_of("call")
    };
    let list = r#""body":"{{ [range(.input.n)] }}""#;
    assert!(call(list, 10).contains(r#""body":[0,1,2"#));
    let large = call(list, 20_000);
    assert!(large.len() < 300, "{large}");
    assert!(large.contains(r#""body_blob":{"content_type":"application/json","sha256":""#), "{large}");
    assert!(large.contains(r#""size":108891"#), "{large}");
    // Whoever sends it has to put something in.
    let with_secret = r#""body":["{{ [range(.input.n)] | tojson }}","{{ $secrets.key }}"]"#;
    assert!(call(with_secret, 20_000).len() > 100_000);
}

#[test]
fn http_succeeds_by_the_nodes_own_rule() {
    for (rule, answer, expected) in [
        (r#"["2xx",404]"#, r#"{"status":404}"#, Ok(())),
        (r#"["2xx",404]"#, r#"{"status":200}"#, Ok(())),
        (r#"["2xx",404]"#, r#"{"status":403}"#, Err("http.status")),
        (r#"[404]"#, r#"{"status":200}"#, Err("http.success")),
        (r#"".status == 200 and .body.ok""#, r#"{"status":200,"body":{"ok":true}}"#, Ok(())),
        (r#"".status == 200 and .body.ok""#, r#"{"status":200,"body":{"ok":false}}"#, Err("http.success")),
        (r#"".status < 500""#, r#"{"status":404}"#, Ok(())),
        (r#"".body.n > 1 and (.body | error)""#, r#"{"status":200,"body":{"n":2}}"#, Err("expr.")),
    ] {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"call","type":"http","with":{{"url":"http://x","success":{rule}}},"retry":{{"max_attempts":1}}}}]}}"#
        );
        let mut run = Sim::start(&text, "{}");
        run.complete("call", answer);
        match expected {
            Ok(()) => assert_eq!(run.status(), RunStatus::Succeeded, "{rule} {answer}"),
            Err(class) => {
                assert!(run.error_class().starts_with(class), "{rule} {answer}: {}", run.error_class())
            }
        }
        run.verify();
    }
}

#[test]
fn http_requests_say_which_secrets_go_where_and_hold_none() {
    let text = r#"{"name":"w","nodes":[{"id":"call","type":"http","with":{"url":"{{ $secrets.base }}/x",
        "headers":{"authorization":"Bearer {{ $secrets.api }}","x-n":"{{ .input.n }}"},"form":{"a/b":"{{ $secrets.api }}"}}}]}"#;
    let run = Sim::start(text, r#"{"n":1,"secrets":["mine"]}"#);
    assert_eq!(
        run.input_of("call"),
        concat!(
            r#"{"form":{"a/b":null},"headers":{"authorization":null,"x-n":"1"},"method":"GET","#,
            r#""secrets":[{"at":"/url","parts":[{"secret":"base"},"/x"]},"#,
            r#"{"at":"/headers/authorization","parts":["Bearer ",{"secret":"api"}]},"#,
            r#"{"at":"/form/a~1b","parts":[{"secret":"api"}]}],"timeout_ms":30000,"url":null}"#
        )
    );
}

#[test]
fn http_auth_is_sent_without_its_secrets() {
    let call = |auth: &str| {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"call","type":"http","with":{{"url":"http://x","auth":{auth}}}}}]}}"#
        );
        Sim::start(&text, r#"{"whose":"hook_7"}"#)
    };
    let run = call(
        r#"{"oauth2":{"token_url":"https://id","client_id":"{{ .input.whose }}","client_secret":"{{ $secrets.s }}"}}"#,
    );
    assert_eq!(
        run.input_of("call"),
        concat!(
            r#"{"auth":{"oauth2":{"client_id":"hook_7","client_secret":null,"token_url":"https://id"}},"method":"GET","#,
            r#""secrets":[{"at":"/auth/oauth2/client_secret","parts":[{"secret":"s"}]}],"timeout_ms":30000,"url":"http://x"}"#
        )
    );
    let run = call(r#"{"standard_webhooks":{"secret_name":"{{ .input.whose }}"}}"#);
    assert_eq!(
        run.input_of("call"),
        concat!(
            r#"{"auth":{"standard_webhooks":{"secret":null}},"method":"GET","#,
            r#""secrets":[{"at":"/auth/standard_webhooks/secret","parts":[{"secret":"hook_7"}]}],"timeout_ms":30000,"url":"http://x"}"#
        )
    );
    for name in ["{{ 7 }}", "{{ null }}", "a-b", "{{ .input.whose * 20 }}", "{{ $secrets.s }}"] {
        let run = call(&format!(r#"{{"hmac":{{"secret_name":"{name}","header":"x-sig"}}}}"#));
        assert_eq!(run.error_class(), "http.auth", "{name}");
    }
}

#[test]
fn header_values_cannot_break_the_line() {
    let text = r#"{"name":"w","nodes":[{"id":"call","type":"http","with":{"url":"http://x","headers":{"x":"{{ .input.v }}"}}}]}"#;
    let run = Sim::start(text, r#"{"v":"a\r\nx-evil: 1"}"#);
    assert_eq!(run.error_class(), "http.value");
}

#[test]
fn a_cancel_is_recorded_and_final() {
    let mut run = Sim::start(DIAMOND, "{}");
    run.cancel(Some("changed my mind"));
    assert_eq!(run.status(), RunStatus::Canceled);
    let before = run.log.len();
    run.complete("a", "1");
    run.cancel(None);
    assert_eq!(run.log.len(), before, "nothing follows the end");
    run.verify();
}

#[test]
fn an_expression_bomb_ends_its_own_run_only() {
    for bomb in ["[range(1e12)]", "\\\"x\\\" * 1e9", "[limit(1e9; range(1e12))] | length"] {
        let text = format!(
            r#"{{"name":"w","nodes":[{{"id":"a","type":"transform","with":{{"output":"{{{{ {bomb} }}}}"}}}}]}}"#
        );
        let started = std::time::Instant::now();
        let run = Sim::start(&text, "{}");
        assert_eq!(run.status(), RunStatus::Failed, "{bomb}");
        assert!(run.error_class().starts_with("expr."), "{bomb}: {}", run.error_class());
        assert!(started.elapsed().as_millis() < 500, "{bomb} took {:?}", started.elapsed());
        run.verify();
    }
}

#[test]
fn a_forged_log_is_found_out() {
    let mut run = Sim::start(GUARDED, "{}");
    run.complete("charge", "1");
    run.complete("ship", "2");
    run.verify();
    for i in 0..run.log.len() {
        let mut without = run.log.clone();
        without.remove(i);
        assert!(run.differs(&without), "event {} removed", i + 1);
    }
    let mut changed = run.log.clone();
    let data = changed[1].event.data().replace("charge", "ship");
    changed[1].event = meshhook_engine::event::Event::from_parts("node.scheduled", &data).unwrap();
    assert!(run.differs(&changed));
    assert_eq!(Json::parse("1").unwrap().to_string(), "1");
}

#[test]
fn a_run_given_up_before_its_first_turn_keeps_its_start() {
    let mut run = Sim::start(DIAMOND, r#"{"n":1}"#);
    let Event::RunStarted(start) = run.log[0].event.clone() else { panic!("a run starts with its start") };
    (run.state, run.log) = (RunState::default(), Vec::new());
    let error = ErrorInfo::new("internal", "the engine gave up");
    run.take(&Fact::Quarantine(Quarantine { error, start: Some(start) }));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "quarantined".into()));
    assert_eq!(run.state.input.to_string(), r#"{"n":1}"#);
    run.verify();
}

#[test]
fn an_output_that_breaks_its_schema_fails_the_run() {
    let schema = r#""output_schema":{"type":"object","properties":{"n":{"type":"integer"}}}"#;
    let only_leaf = format!(r#"{{"name":"w","nodes":[{{"id":"a","type":"task"}}],{schema}}}"#);
    let end = r#"{"name":"w","nodes":[{"id":"a","type":"task"},
        {"id":"b","type":"terminate","with":{"output":"{{ .nodes.a.output }}"}}],"edges":[{"from":"a","to":"b"}],"#;
    let terminated = format!("{end}{schema}}}");
    for definition in [only_leaf, terminated] {
        let mut run = Sim::start(&definition, "{}");
        run.complete("a", r#"{"n":1}"#);
        assert_eq!((run.status(), run.output()), (RunStatus::Succeeded, r#"{"n":1}"#.into()));
        run.verify();
        let mut run = Sim::start(&definition, "{}");
        run.complete("a", r#"{"n":"1"}"#);
        assert_eq!((run.status(), run.output()), (RunStatus::Failed, r#"{"n":"1"}"#.into()));
        let error = run.state.error.clone().unwrap();
        assert_eq!((&*error.class, error.retryable), ("output_schema", Some(false)));
        let violations = error.details.unwrap().to_string();
        assert_eq!(
            violations,
            r#"{"violations":[{"message":"value is not of type \"integer\"","pointer":"/n"}]}"#
        );
        run.verify();
    }
}

#[test]
fn a_run_ended_for_the_length_of_its_log_says_so_and_replays() {
    let mut run = Sim::start(DIAMOND, r#"{"n":1}"#);
    let error = ErrorInfo::new(LIMIT_EVENTS, "too long").retryable(false);
    run.take(&Fact::Quarantine(Quarantine { error, start: None }));
    assert_eq!((run.status(), run.error_class()), (RunStatus::Failed, "limit.events".into()));
    run.verify();
}

#[test]
fn whatever_is_written_can_be_read_back() {
    let wrap =
        |levels: usize, value: &str| format!("{}{value}{}", r#"{"x":"#.repeat(levels), "}".repeat(levels));
    let text = format!(
        r#"{{"name":"w","nodes":[{{"id":"a","type":"task"}},
            {{"id":"b","type":"transform","with":{{"output":{}}}}},{{"id":"c","type":"task","with":{{"input":{}}}}}],
            "edges":[{{"from":"a","to":"b"}},{{"from":"b","to":"c"}}]}}"#,
        wrap(3, r#""{{ .nodes.a.output }}""#),
        wrap(3, r#""{{ .nodes.b.output }}""#)
    );
    for levels in [90, 94, 97, 98, 100, 101, 110] {
        let mut run = Sim::start(&text, "{}");
        run.complete("a", &wrap(levels, "1"));
        if run.open() == ["c"] {
            run.complete("c", "1");
        }
        assert!(run.status().is_terminal());
        run.verify();
        let class = if levels > 100 { "output_unreadable" } else { "expr.too_complex" };
        assert_eq!(run.error_class(), if levels > 94 { class } else { "none" }, "{levels} levels");
    }
}
