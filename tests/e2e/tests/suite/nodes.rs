//! Nodes that need more of the database than a job: functions, messages, child runs, signals, bodies.

use meshhook_e2e::{APP, Database, claim_one, complete, counted, ended, fail, publish, start, wait_status};
use meshhook_testkit::{Session, history, wait};
use serde_json::json;
use std::time::Duration;

/// A table with two of something, and functions that an `sql` node may call.
fn stock(admin: &mut Session) {
    admin.exec(&format!(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {APP};
         CREATE TABLE app.stock (n integer CHECK (n >= 0)); INSERT INTO app.stock VALUES (2);
         CREATE TABLE app.orders (id integer PRIMARY KEY);
         CREATE TABLE app.lines (id integer REFERENCES app.orders DEFERRABLE INITIALLY DEFERRED);
         GRANT SELECT, UPDATE ON app.stock TO {APP}; GRANT SELECT, INSERT ON app.lines TO {APP};
         CREATE FUNCTION app.reserve(a jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             DECLARE remains integer;
             BEGIN UPDATE app.stock SET n = n - (a ->> 'n')::integer RETURNING n INTO remains;
             RETURN jsonb_build_object('left', remains, 'as', current_user); END $$;
         CREATE FUNCTION app.slow(a jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(pg_sleep(60)::text)';
         CREATE FUNCTION app.dangling(a jsonb) RETURNS jsonb LANGUAGE sql
             AS 'INSERT INTO app.lines VALUES (7) RETURNING ''true''::jsonb';"
    ));
}

fn sql(function: &str) -> serde_json::Value {
    json!({"name": "w", "nodes": [
        {"id": "call", "type": "sql", "with": {"function": function, "input": {"n": "{{ .input.n }}"}}, "timeout": "1s"}]})
}

#[test]
fn a_function_commits_with_the_event_that_says_so_or_not_at_all() {
    for db in [Database::preloaded("sql_node"), Database::plain("sql_node")] {
        let (mut app, mut admin) = (db.app(), db.admin());
        stock(&mut admin);
        publish(&mut app, &sql("app.reserve"));
        let good = start(&mut app, "w", &json!({"n": 2}));
        tick(&mut app);
        assert_eq!(ended(&mut app, good).output, Some(json!({"left": 0, "as": APP})));
        let bad = start(&mut app, "w", &json!({"n": 1}));
        tick(&mut app);
        let error = ended(&mut app, bad).error.expect("it failed");
        assert_eq!(error["class"], "sql.23514");
        assert_eq!(counted(&mut admin, "SELECT n::bigint FROM app.stock"), 0, "what failed left nothing");
    }
}

/// Databases without an orchestrator are moved by hand.
fn tick(session: &mut Session) {
    while session.value::<i32>("SELECT meshhook.tick()", &[]) > 0 {}
}

#[test]
fn a_function_that_takes_too_long_or_breaks_a_deferred_rule_fails_its_node_and_nothing_else() {
    let db = Database::preloaded("sql_limits");
    let (mut app, mut admin) = (db.app(), db.admin());
    stock(&mut admin);
    publish(&mut app, &sql("app.slow"));
    let slow = start(&mut app, "w", &json!({"n": 1}));
    assert_eq!(ended(&mut app, slow).error.expect("it failed")["class"], "timeout");
    publish(&mut app, &sql("app.dangling"));
    let dangling = start(&mut app, "w", &json!({"n": 1}));
    assert_eq!(ended(&mut app, dangling).error.expect("it failed")["class"], "sql.23503");
}

#[test]
fn a_function_that_a_turn_calls_takes_no_turn_itself() {
    for db in [Database::preloaded("sql_meddles"), Database::plain("sql_meddles")] {
        let (mut app, mut admin) = (db.app(), db.admin());
        stock(&mut admin);
        admin.exec(
            "CREATE FUNCTION app.meddle(a jsonb) RETURNS jsonb LANGUAGE sql
                 AS 'SELECT meshhook.submit_event((a ->> ''n'')::uuid, ''x'')';
             CREATE FUNCTION app.turn(a jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(meshhook.tick())'",
        );
        for function in ["app.meddle", "app.turn"] {
            let mut definition = sql(function);
            definition["nodes"][0]["with"]["input"]["n"] = json!("{{ .run.id }}");
            publish(&mut app, &definition);
            let run = start(&mut app, "w", &json!({}));
            tick(&mut app);
            assert_eq!(ended(&mut app, run).error.expect("it failed")["class"], "sql.55000");
        }
    }
}

/// Two projects of the application's role, and functions that say where they work.
fn places(admin: &mut Session) {
    stock(admin);
    admin.exec(&format!(
        "SELECT meshhook.create_project('here'), meshhook.create_project('there');
         SELECT meshhook.add_member('here', '{APP}'), meshhook.add_member('there', '{APP}');
         CREATE FUNCTION app.place(a jsonb) RETURNS jsonb LANGUAGE sql AS
             'SELECT to_jsonb(p.slug) FROM meshhook.project p WHERE p.project_id = meshhook.current_project_id()';
         CREATE FUNCTION app.leave(a jsonb) RETURNS jsonb LANGUAGE sql AS
             'SELECT to_jsonb(set_config(''meshhook.project'', ''there'', false) || set_config(''statement_timeout'', ''7'', false))'"
    ));
}

#[test]
fn what_a_function_sets_ends_with_it_and_it_works_in_its_runs_project() {
    for db in [Database::preloaded("sql_places"), Database::plain("sql_places")] {
        let (mut app, mut admin) = (db.app(), db.admin());
        places(&mut admin);
        app.exec("SET meshhook.project = 'here'");
        let mut call = |function: &str| {
            publish(&mut app, &sql(function));
            let run = start(&mut app, "w", &json!({"n": 1}));
            // By somebody who has chosen another project where nobody else takes turns; no more of it than the turns.
            app.exec("RESET meshhook.project");
            admin.exec("SET meshhook.project = 'here'");
            tick(&mut admin);
            let settings: Vec<String> = ["meshhook.project", "statement_timeout"]
                .map(|name| admin.value("SELECT current_setting($1)", &[&name]))
                .to_vec();
            assert_eq!(settings, ["here", "0"]);
            app.exec("SET meshhook.project = 'here'");
            ended(&mut app, run).output.expect("it succeeded")
        };
        assert_eq!(call("app.place"), json!("here"));
        assert_eq!(call("app.leave"), json!("there7ms"));
        assert_eq!(call("app.place"), json!("here"));
    }
}

#[test]
fn a_turn_that_is_cancelled_in_a_function_leaves_no_project_behind() {
    let db = Database::plain("sql_cancelled");
    let (mut app, mut admin) = (db.app(), db.admin());
    places(&mut admin);
    app.exec("SET meshhook.project = 'here'");
    let mut definition = sql("app.slow");
    definition["nodes"][0]["timeout"] = json!("15s");
    publish(&mut app, &definition);
    start(&mut app, "w", &json!({"n": 1}));
    // The first turn finds out that the function is due.
    admin.value::<i32>("SELECT meshhook.tick()", &[]);
    admin.exec("SET statement_timeout = '1s'");
    assert_eq!(admin.error("SELECT meshhook.tick()", &[]).code().code(), "57014");
    admin.exec("RESET statement_timeout");
    assert_eq!(admin.value::<i32>("SELECT meshhook.current_project_id()", &[]), 0);
}

#[test]
fn what_follows_from_a_decision_at_once_is_not_left_lying() {
    let db = Database::preloaded("at_once");
    let mut app = db.app();
    publish(
        &mut app,
        &json!({"name": "child", "nodes": [{"id": "x", "type": "transform", "with": {"output": 1}}]}),
    );
    publish(
        &mut app,
        &json!({"name": "parent", "nodes": [{"id": "ask", "type": "wait", "with": {"signal": "go"}},
            {"id": "sub", "type": "workflow", "with": {"workflow": "child"}}],
            "edges": [{"from": "ask", "to": "sub"}]}),
    );
    let run = start(&mut app, "parent", &json!({}));
    wait_status(&mut app, run, &["running"], Duration::from_secs(20));
    // The orchestrator has gone to sleep by then.
    std::thread::sleep(Duration::from_secs(1));
    let begun = std::time::Instant::now();
    app.value::<serde_json::Value>("SELECT meshhook.skip_node($1, 'ask')", &[&run]);
    assert_eq!(ended(&mut app, run).output, Some(json!(1)));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "the child was started by the poll, after {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_function_has_the_rights_of_who_published_and_no_more() {
    let db = Database::preloaded("sql_rights");
    let (mut app, mut admin) = (db.app(), db.admin());
    stock(&mut admin);
    admin.exec("REVOKE UPDATE ON app.stock FROM shop");
    publish(&mut app, &sql("app.reserve"));
    let run = start(&mut app, "w", &json!({"n": 1}));
    assert_eq!(ended(&mut app, run).error.expect("it failed")["class"], "sql.42501");
    let refused = admin.error("SELECT meshhook.publish_workflow($1)", &[&sql("app.reserve")]);
    assert!(refused.detail().unwrap_or_default().contains("bypasses row security"), "{refused:?}");
    let missing = app.error("SELECT meshhook.publish_workflow($1)", &[&sql("app.nothing")]);
    assert!(missing.detail().unwrap_or_default().contains("/nodes/0/with/function"), "{missing:?}");
}

#[test]
fn a_message_is_appended_with_the_event_and_waits_for_no_writer() {
    let db = Database::preloaded("emit_node");
    let mut app = db.app();
    publish(
        &mut app,
        &json!({"name": "w", "nodes": [{"id": "tell", "type": "emit", "with": {
            "stream": "order-{{ .input.id }}", "message_type": "Shipped", "data": {"n": "{{ .input.id }}"}}}]}),
    );
    let mut writer = db.app();
    writer.exec("BEGIN; SELECT meshhook.append_message('order-1', 'Placed', '{}')");
    let (held, free) = (start(&mut app, "w", &json!({"id": 1})), start(&mut app, "w", &json!({"id": 2})));
    assert_eq!(ended(&mut app, free).status, "succeeded");
    assert_eq!(meshhook_e2e::run(&mut app, held).status, "running", "its stream is held");
    writer.exec("COMMIT");
    let output = ended(&mut app, held).output.expect("it succeeded");
    assert_eq!((&output["stream"], &output["position"]), (&json!("order-1"), &json!(1)));
    assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.read_stream('order-1')"), 2);
}

#[test]
fn a_child_brings_its_output_up_and_is_canceled_with_its_parent() {
    let db = Database::preloaded("child_runs");
    let mut app = db.app();
    publish(&mut app, &json!({"name": "child", "nodes": [{"id": "work", "type": "task"}]}));
    publish(
        &mut app,
        &json!({"name": "parent", "nodes": [{"id": "each", "type": "map", "with": {
            "items": "{{ .input }}", "body": {"workflow": "child", "input": {"n": "{{ .item }}"}}}}]}),
    );
    let parent = start(&mut app, "parent", &json!([1, 2]));
    for n in 0..2 {
        let job = claim_one(&mut db.executor(), "default");
        complete(&mut db.executor(), &job, &json!(n));
    }
    let mut outputs =
        ended(&mut app, parent).output.expect("it succeeded").as_array().expect("a list").clone();
    outputs.sort_by_key(|output| output.as_i64());
    assert_eq!(outputs, [json!(0), json!(1)]);
    let second = start(&mut app, "parent", &json!([1]));
    let children = "SELECT count(*) FROM meshhook.runs WHERE workflow = 'child' AND status = 'running'";
    wait::wait_for("the child to run", Duration::from_secs(20), || counted(&mut app, children) == 1);
    app.exec(&format!("SELECT meshhook.cancel_run('{second}')"));
    assert_eq!(ended(&mut app, second).status, "canceled");
    wait::wait_for("the child to end", Duration::from_secs(20), || counted(&mut app, children) == 0);
}

#[test]
fn a_repeat_asks_again_after_its_delay_until_it_is_content() {
    let db = Database::preloaded("repeats");
    let mut app = db.app();
    publish(
        &mut app,
        &json!({"name": "w", "nodes": [{"id": "poll", "type": "repeat", "with": {
            "until": ".item.ready", "max_iterations": 5, "delay": "200ms",
            "body": {"nodes": [{"id": "ask", "type": "task", "with": {"input": {"before": "{{ .item.n }}"}}}]}}}]}),
    );
    let id = start(&mut app, "w", &json!({}));
    let mut executor = db.executor();
    let mut keys = Vec::new();
    for n in 1..=3 {
        let job = claim_one(&mut executor, "default");
        assert_eq!(job.payload, json!({"before": if n == 1 { json!(null) } else { json!(n - 1) }}));
        keys.push(job.idempotency_key.clone());
        complete(&mut executor, &job, &json!({"n": n, "ready": n == 3}));
    }
    assert_eq!(ended(&mut app, id).output, Some(json!({"n": 3, "ready": true})));
    assert_eq!(keys, [0, 1, 2].map(|index| format!("{id}/poll/{index}/ask")));
    let rests: Vec<bool> = app.values(
        "SELECT s.\"time\" - e.\"time\" >= interval '200 ms'
         FROM meshhook.run_history($1) e JOIN meshhook.run_history($1) s
              ON s.type = 'item.started' AND (s.data ->> 'index')::integer = (e.data ->> 'index')::integer + 1
         WHERE e.type = 'item.succeeded'",
        &[&id],
    );
    assert_eq!(rests, [true, true]);
}

#[test]
fn a_run_that_is_short_need_not_wait_for_the_end_of_a_long_map() {
    let db = Database::preloaded("long_map");
    let mut app = db.app();
    let item = json!({"id": "n", "type": "transform", "with": {"output": "{{ .item * 2 }}"}});
    publish(
        &mut app,
        &json!({"name": "long", "nodes": [{"id": "each", "type": "map", "with": {
            "items": "{{ [range(.input.items)] }}", "body": {"nodes": [item]}}}]}),
    );
    // Both in one commit, the long one first: a turn that did it to its end would hold up the other.
    app.exec("BEGIN");
    let (long, short) =
        (start(&mut app, "long", &json!({"items": 5000})), start(&mut app, "long", &json!({"items": 1})));
    app.exec("COMMIT");
    assert_eq!(ended(&mut app, short).output, Some(json!([0])));
    let output = ended(&mut app, long).output.expect("it succeeded");
    assert_eq!((output.as_array().map(Vec::len), &output[4999]), (Some(5000), &json!(9998)));
    let sql = "SELECT (SELECT finished_at FROM meshhook.runs WHERE run_id = $1)
                    < (SELECT finished_at FROM meshhook.runs WHERE run_id = $2)";
    assert!(app.value::<bool>(sql, &[&short, &long]), "the short one ended first");
}

#[test]
fn signals_approvals_pauses_and_retries_reach_a_run() {
    let db = Database::preloaded("interventions");
    let mut app = db.app();
    publish(
        &mut app,
        &json!({"name": "w", "nodes": [
            {"id": "paid", "type": "wait", "with": {"signal": "paid"}},
            {"id": "ok", "type": "wait", "with": {"approval": {"approvers": 1}}, "timeout": "1h"},
            {"id": "work", "type": "task", "retry": {"max_attempts": 1}}],
            "edges": [{"from": "paid", "to": "ok"}, {"from": "ok", "port": "approved", "to": "work"}]}),
    );
    let id = start(&mut app, "w", &json!({}));
    app.exec(&format!("SELECT meshhook.signal_run('{id}', 'paid', '{{\"by\": \"card\"}}')"));
    wait_waiting(&mut app, id, "ok");
    assert_eq!(
        counted(&mut app, "SELECT count(*) FROM meshhook.stuck_runs"),
        0,
        "waiting for people is not stuck"
    );
    app.exec(&format!("SELECT meshhook.pause_run('{id}', 'audit')"));
    wait_status(&mut app, id, &["paused"], Duration::from_secs(20));
    app.exec(&format!("SELECT meshhook.decide_approval('{id}', 'ok', true)"));
    let deferred = format!("SELECT count(*) FROM meshhook.run_history('{id}') WHERE type = 'fact.deferred'");
    wait::wait_for("the approval to be put off", Duration::from_secs(20), || {
        counted(&mut app, &deferred) == 1
    });
    history::check_run(&mut app, id);
    app.exec(&format!("SELECT meshhook.resume_run('{id}')"));
    let job = claim_one(&mut db.executor(), "default");
    fail(&mut db.executor(), &job, &json!("no"));
    assert_eq!(ended(&mut app, id).status, "failed");
    assert_eq!(
        app.value::<String>(&format!("SELECT meshhook.retry_run('{id}') ->> 'status'"), &[]),
        "running"
    );
    let job = claim_one(&mut db.executor(), "default");
    complete(&mut db.executor(), &job, &json!(5));
    wait_status(&mut app, id, &["succeeded"], Duration::from_secs(20));
    assert_eq!(ended(&mut app, id).output, Some(json!(5)));
    let over = app.error(&format!("SELECT meshhook.signal_run('{id}', 'paid')"), &[]);
    assert_eq!(over.code().code(), "55000");
}

fn wait_waiting(session: &mut Session, id: uuid::Uuid, node: &str) {
    let sql = format!(
        "SELECT count(*) FROM meshhook.run_steps WHERE run_id = '{id}' AND node = '{node}' AND status = 'waiting'"
    );
    wait::wait_for(node, Duration::from_secs(20), || counted(session, &sql) == 1);
}

#[test]
fn a_simulation_tells_what_would_happen_and_writes_nothing() {
    let db = Database::preloaded("simulations");
    let mut app = db.app();
    let definition = json!({"name": "w", "nodes": [
        {"id": "call", "type": "task", "retry": {"initial": "1m", "jitter": "none"}}, {"id": "wait", "type": "delay", "with": {"duration": "30d"}}],
        "edges": [{"from": "call", "to": "wait"}]});
    let sql =
        "SELECT type FROM meshhook.simulate_run($1, '{}', $2, '2026-01-01T00:00:00Z') ORDER BY position";
    let mocks = json!({"call": [{"error": "no"}, {"output": 1}]});
    let types: Vec<String> = app.values(sql, &[&definition, &mocks]);
    assert_eq!(types.last().map(String::as_str), Some("run.succeeded"), "{types:?}");
    let types: Vec<String> = app.values(sql, &[&definition, &json!({})]);
    assert_eq!(types.last().map(String::as_str), Some("simulation.waits"), "{types:?}");
    assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.runs"), 0);
}
